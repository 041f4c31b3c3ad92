"""`--like RUN` begins the same run again, and refuses what would make it another one."""

import json
from importlib import metadata

import pytest
from click.testing import CliRunner
from errors import refused
from shard_fixtures import write_moving_squares
from training_fixtures import assert_same_weights, losses, tiny_run

from train import finetune, pretrain
from train.running.run_folder import RunFolder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    write_moving_squares(folder)
    changed = "optim.weight_decay=0.1", "loader.prefetch=2"
    pretrain.pretrain(tiny_run(folder, *changed, run="first", epochs=1, seed=7), "videomae")
    (folder / "tiny.toml").unlink()  # a run needs no recipe to be run again
    return folder


@pytest.fixture(scope="module")
def tuned(out):
    folder = finetune.finetune(tiny_run(out, run="tuned", epochs=1, seed=3), "mca", "first")
    (out / "tiny.toml").unlink()
    return folder


def again(command, out, *more, status=0):
    arguments = ["--dataset", "squares", "--out", str(out), "--device", "cpu", *more]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == status, result.output
    return result.output


def test_a_pretraining_is_run_again_to_the_same_weights(out):
    printed = again(pretrain, out, "--like", "first")
    first, second = (RunFolder(out / "squares" / "runs" / n) for n in ("first", "first-again"))
    assert second.is_finished and "first:" not in printed
    assert first.read_options() == second.read_options()
    assert losses(second.log) == pytest.approx(losses(first.log), abs=1e-6)
    assert_same_weights(first.weights, second.weights)


@pytest.mark.slow
def test_a_finetuning_is_run_again_to_the_same_weights(out, tuned):
    again(finetune, out, "--like", str(tuned.path), "--run", "second")
    second = RunFolder(out / "squares" / "runs" / "second")
    assert tuned.read_options() == second.read_options()
    assert_same_weights(tuned.weights, second.weights)
    printed = again(pretrain, out, "--like", "tuned", status=1)
    refused(printed, "other-kind", tuned.path, "train.finetune", "train.pretrain")


def test_a_finetuning_with_the_mean_head_is_run_again(out):
    mean = finetune.finetune(tiny_run(out, run="mean", epochs=1), "mean", "none")
    (out / "tiny.toml").unlink()
    again(finetune, out, "--like", "mean", "--run", "mean-again")
    second = RunFolder(out / "squares" / "runs" / "mean-again")
    assert mean.read_options() == second.read_options()
    printed = again(finetune, out, "--like", "mean", "--mca-heads", "2", status=1)
    refused(printed, "option-unused", "--mca-heads")


def test_changes_are_laid_over_the_earlier_options(out):
    printed = again(
        *(pretrain, out, "--like", "first", "--run", "other", "--dry-run", "--seed", "8"),
        *("--set", "mask={kind='motion_tube', mask_ratio=0.5, inside_ratio=0.6}", "--epochs", "3"),
    )
    for line in ("seed 8", "config.epochs 3", "config.mask.inside_ratio 0.6"):
        assert line in " ".join(printed.split())
    assert "config.optim.weight_decay 0.1" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("more", "code", "named"),
    [
        (["--like", "nothing"], "unknown-name", ["nothing", "squares/runs", "first"]),
        (
            ["--like", "first", "--method", "mofo"],
            "option-conflict",
            ["--method", "mofo", "videomae"],
        ),
        (["--like", "first", "--recipe", "a.toml"], "option-conflict", ["--recipe", "--like"]),
    ],
)
def test_contradictions_are_refused(out, more, code, named):
    printed = again(pretrain, out, *more, status=1)
    assert len(printed.splitlines()) == 1
    refused(printed, code, *named)


def test_other_data_is_refused_with_both_digests(out, tmp_path):
    write_moving_squares(tmp_path, num_clips=25)
    run = out / "squares" / "runs" / "first"
    printed = again(pretrain, tmp_path, "--like", str(run), "--dry-run", status=1)
    refused(printed, "other-inputs", "data", RunFolder(run).read_options()["data"])


def test_other_programs_are_reported(out):
    folder = RunFolder(out / "squares" / "runs" / "first")
    record = folder.read_record()
    assert record["command"] and record["git_commit"] is not False
    assert {"python", "torch", "deepspeed"} <= record["versions"].keys()
    options = record["options"]
    assert options["seed"] == 7 and len(options["manifest"]) == 64 and options["data"]
    older = out / "squares" / "runs" / "older"
    older.mkdir()
    record["versions"]["torch"] = "1.0"
    (older / "options.json").write_text(json.dumps(record))
    printed = again(pretrain, out, "--like", "older", "--dry-run")
    [line] = [line for line in printed.splitlines() if "torch 1.0" in line]
    assert "older" in line and metadata.version("torch") in line
