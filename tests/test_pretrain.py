"""Pretraining end to end on small shards: it learns, stops, continues exactly, refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from errors import refused, refuses
from shard_fixtures import write_moving_squares
from training_fixtures import assert_same_weights, losses, tiny_run

import train.objectives.pixels
from shared.run_record import RunLock, read_jsonl
from train.pretrain import main, pretrain
from train.running.checkpoints import complete_checkpoints
from train.running.run_folder import RunFolder
from train.weights.exchange import import_weights
from train.weights.own_runs import import_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_moving_squares(folder, num_clips=40)
    return folder


@pytest.fixture(scope="module")
def whole(out):
    """An undisturbed run: 2 epochs of 6 steps."""
    return pretrain(tiny_run(out, run="whole"), "mofo")


def command(out: Path, run: str, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "train.pretrain", "--dataset", "squares", "--out", str(out)),
        *("--recipe", str(out / "tiny.toml"), "--device", "cpu", "--run-name", run, *more),
    ]


# ---------------------------------------------------------------------------------------------
# What a run leaves
# ---------------------------------------------------------------------------------------------


def test_a_run_leaves_its_record_and_weights(whole):
    assert whole.is_finished
    events = read_jsonl(whole.log)
    assert [event["step"] for event in events] == list(range(1, 13))
    assert events[-1]["epoch"] == 2.0 and 0.9 < events[-1]["mean_predictor_loss"] < 1.0
    assert events[0]["learning_rate"] == 0.0 < events[3]["learning_rate"]
    assert {"clips_per_second", "data_wait_share", "seconds"} <= set(events[0])
    options = whole.read_options()
    assert options["config"]["mask"] == {
        "kind": "motion_tube", "mask_ratio": 0.5, "inside_ratio": 0.75, "inside": "box",
    }  # fmt: skip
    weights = import_weights(whole.weights)
    assert weights.kind == "pretraining" and weights.config.width == 24


def test_it_learns(out):
    settings = ("optim.base_learning_rate=0.3", "loader.log_steps=30", "model.decoder_width=24")
    run = tiny_run(out, *settings, run="longer", batch_size=8, epochs=40)
    last = read_jsonl(pretrain(run, "videomae").log)[-1]
    assert last["loss"] < 0.98 * last["mean_predictor_loss"]


def test_a_finished_run_is_used_as_it_is(whole, out, capsys):
    before = whole.log.read_bytes(), whole.weights.read_bytes()
    pretrain(tiny_run(out, run="whole"), "mofo")
    assert f"{whole.path} is finished" in capsys.readouterr().out
    assert (whole.log.read_bytes(), whole.weights.read_bytes()) == before


def test_the_same_seed_gives_the_same_run(whole, out):
    again = pretrain(tiny_run(out, run="again"), "mofo")
    assert_same_weights(again.weights, whole.weights)
    other = pretrain(tiny_run(out, run="other-seed", seed=1), "mofo")
    assert losses(other.log) != losses(whole.log)


def test_accumulation_changes_nothing_but_rounding(whole, out):
    parts = pretrain(tiny_run(out, "loader.micro_batch_size=1", run="parts"), "mofo")
    expected = losses(whole.log)
    assert losses(parts.log) == pytest.approx(expected, abs=1e-5)


def test_init_takes_other_weights(whole, out):
    run = tiny_run(out, run="continued", epochs=1)
    assert losses(pretrain(run, "mofo", init=whole.weights).log)[1] < losses(whole.log)[1]
    with refuses("other-model", "width 24 in the weights, 48 here"):
        pretrain(tiny_run(out, "model.width=48", run="wider"), "mofo", init=whole.weights)


# ---------------------------------------------------------------------------------------------
# Stop and continue
# ---------------------------------------------------------------------------------------------


def test_a_run_stopped_after_each_step_continues_exactly(whole, out):
    for _ in range(12):
        folder = pretrain(tiny_run(out, run="in-steps", stop_after=0.0), "mofo")
    assert folder.is_finished
    assert losses(folder.log) == pytest.approx(losses(whole.log), abs=1e-6)
    assert_same_weights(folder.weights, whole.weights)
    steps = [
        int(tag.name.removeprefix("step-")) for tag in complete_checkpoints(folder.checkpoints)
    ]
    assert steps == [10, 11, 12]


def test_another_number_of_workers_may_go_on(whole, out):
    pretrain(tiny_run(out, run="workers", stop_after=0.0), "mofo")
    folder = pretrain(tiny_run(out, run="workers", workers=2), "mofo")
    assert losses(folder.log) == pytest.approx(losses(whole.log), abs=1e-6)


def kill_at(out: Path, run: str, steps: int) -> None:
    """Start a run and kill -9 it once it has logged `steps` steps."""
    settings = ("--set", "loader.checkpoint_minutes=0.0")
    process = subprocess.Popen(
        command(out, run, *settings), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = out / "squares" / "runs" / run / "log.jsonl"
    while len(read_jsonl(log)) < steps and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_killed_run_continues_exactly(whole, out):
    kill_at(out, "killed", 5)
    assert complete_checkpoints(out / "squares" / "runs" / "killed" / "checkpoints")
    folder = pretrain(tiny_run(out, run="killed"), "mofo")
    assert losses(folder.log) == pytest.approx(losses(whole.log), abs=1e-6)
    assert_same_weights(folder.weights, whole.weights)


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_continues_exactly(whole, out):
    for number in range(20):
        kill_at(out, f"killed-{number}", 1 + number % 10)
        folder = pretrain(tiny_run(out, run=f"killed-{number}"), "mofo")
        assert losses(folder.log) == pytest.approx(losses(whole.log), abs=1e-6)
        assert_same_weights(folder.weights, whole.weights)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(out, stop):
    tiny_run(out)  # writes the recipe
    process = subprocess.Popen(
        command(out, stop.name, "--workers", "1", "--epochs", "500"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    folder = RunFolder(out / "squares" / "runs" / stop.name)
    while len(read_jsonl(folder.log)) < 2 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, stop)  # as a terminal does, to the loader's workers too
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"{stop.name} stopped the run" in output and "run the same command again" in errors
    assert "Traceback" not in errors
    [saved] = complete_checkpoints(folder.checkpoints)
    assert saved.name == f"step-{max(losses(folder.log)):08d}"


# ---------------------------------------------------------------------------------------------
# Refusals
# ---------------------------------------------------------------------------------------------


def test_a_run_with_other_options_is_refused_with_both_values(whole, out):
    with refuses("other-options", "config.mask.inside_ratio", 0.75, 0.25):
        pretrain(tiny_run(out, "mask.inside_ratio=0.25", run="whole"), "mofo")
    with refuses("other-options", "method", "'mofo'", "'videomae'"):
        pretrain(tiny_run(out, run="whole"), "videomae")


def test_overwrite_starts_again(out):
    pretrain(tiny_run(out, run="overwritten", epochs=1), "mofo")
    folder = pretrain(tiny_run(out, run="overwritten", epochs=2, overwrite=True), "mofo")
    assert len(losses(folder.log)) == 12 and folder.is_finished


def test_a_run_in_use_is_refused(out):
    busy = out / "squares" / "runs" / "busy"
    busy.mkdir(parents=True)
    with RunLock(busy / ".lock"), refuses("locked", busy):
        pretrain(tiny_run(out, run="busy"), "mofo")


def test_what_a_run_prints_before_it_trains(out, capsys):
    """At most 12 lines, one fact a line; --verbose adds all resolved options."""
    run = tiny_run(out, run="printed", epochs=1)
    folder = pretrain(run, "mofo")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12 and all(line[0].isupper() and line.endswith(".") for line in lines)
    printed, data = " ".join(lines), folder.read_options()["data"]
    assert data not in printed and "inside_ratio" not in printed
    for fact in (folder.path, "24 clips", "6 steps", "0.00156 = 0.1 * 4 / 256", "CPU in fp32"):
        assert str(fact) in printed
    pretrain(replace(run, verbose=True), "mofo")
    verbose = capsys.readouterr().out
    assert data in verbose and "config.mask.inside_ratio" in verbose


def test_dry_run_prints_and_writes_nothing(out, capsys):
    folder = pretrain(tiny_run(out, run="dry", batch_size=8, dry_run=True), "mofo")
    printed = capsys.readouterr().out
    assert "config.mask.inside_ratio" in printed and "0.00313 = 0.1 * 8 / 256" in printed
    assert not folder.path.exists()


def test_a_loss_that_is_not_finite_names_step_rate_and_clips(out, monkeypatch):
    real, calls = train.objectives.pixels.masked_loss, []

    def sometimes_nan(*tensors):  # called once a step
        calls.append(1)
        return real(*tensors) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(train.objectives.pixels, "masked_loss", sometimes_nan)
    with refuses("not-finite", "loss nan", "step 3", 0.00104) as caught:
        pretrain(tiny_run(out, "loader.log_steps=5", run="diverged"), "mofo")
    assert caught.value.message.count("square-") == 4
    assert not complete_checkpoints(out / "squares" / "runs" / "diverged" / "checkpoints")


def test_users_see_one_line(out, tmp_path):
    tiny_run(out)  # writes the recipe
    arguments = ["--dataset", "squares", "--out", str(out), "--recipe", str(out / "tiny.toml")]
    for more, code, *named in (
        (["--method", "mae"], "unknown-name", "mae", "mofo, videomae"),
        (["--init", str(tmp_path / "no.pth")], "missing-file", "--init", tmp_path / "no.pth"),
        (["--out", str(tmp_path)], "missing-file", tmp_path, "make manifest"),
    ):
        refused(CliRunner().invoke(main, [*arguments, *more]), code, *named)
    assert CliRunner().invoke(main, [*arguments, "--epochs", "0"]).exit_code == 2


# ---------------------------------------------------------------------------------------------
# Several processes
# ---------------------------------------------------------------------------------------------


def launch(out: Path, run: str, processes: int, *more: str) -> dict[int, float]:
    arguments = command(out, run, *more)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    done = subprocess.run(
        [*arguments[:2], *launcher, *arguments[2:]],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(out / "squares" / "runs" / run / "log.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stage"), [(2, 0), (2, 1), (2, 2), (4, 1)])
def test_several_processes_lose_what_one_loses(whole, out, processes, stage):
    """Gradients are averaged as in one process with all clips, whatever ZeRO shares out."""
    stage_option = f"loader.zero_stage={stage}"
    run = f"{processes}-stage-{stage}"
    found = launch(out, run, processes, "--set", stage_option)
    assert found == pytest.approx(losses(whole.log), abs=1e-5)
    folder = RunFolder(whole.path.parent / run)
    exported, saved = (
        read.state_dict for read in (import_weights(folder.weights), import_run(folder.path))
    )
    assert exported.keys() == saved.keys()
    assert all(torch.equal(exported[name], saved[name]) for name in saved)


@pytest.mark.slow
def test_two_processes_stop_and_go_on(whole, out):
    launch(out, "two-stopped", 2, "--stop-after", "0")
    assert not (out / "squares" / "runs" / "two-stopped" / "finished").exists()
    found = launch(out, "two-stopped", 2)
    assert found == pytest.approx(losses(whole.log), abs=1e-5)


def test_half_a_launch_is_refused(out, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    with refuses("other-processes", "RANK", "WORLD_SIZE"):
        pretrain(tiny_run(out, run="half"), "mofo")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(out):
    run = tiny_run(out, run="gpu")
    with refuses("no-gpu", "--device cuda", "--device cpu"):
        pretrain(type(run)(**{**vars(run), "device": "cuda"}), "mofo")


def test_options_are_recorded_with_versions(whole):
    record = json.loads(whole.options.read_text())
    assert {"command", "options", "versions", "git_commit"} <= set(record)
    assert record["options"]["device"] == {"kind": "cpu", "processes": 1}
