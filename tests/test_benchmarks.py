"""What benchmarks say: ratios, a table beside earlier results; that peers see the same clips."""

import json
import os
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from errors import refused, refuses
from video_fixtures import moving_picture, render_video

from benchmarks import ablation, ablation_rows, data_wait, mask_overlap, plan, suite
from benchmarks.ablation_rows import Row
from benchmarks.flows import SUMMARY, plain_seconds
from benchmarks.record import Figure, fastest, text_of, write_record
from benchmarks.step_contenders import Contender, kept_gigabytes
from benchmarks.suite import change, last_results
from benchmarks.video_peers import available, pillow_transform, pyav
from preprocess import flows
from preprocess.flow.options import read_flow_options
from preprocess.flow_run.messages import StageTimes
from preprocess.flows import print_times
from train.options.recipe import finetune_config, parse_changes, pretrain_config, read_recipe


def test_ratios_say_how_many_times_better():
    assert Figure("rate", "clips/s", 6.0, "peer", 2.0).ratio == 3
    assert Figure("time", "s", 2.0, "peer", 6.0, more_is_better=False).ratio == 3
    assert Figure("no peer", "s", 2.0).ratio is None
    assert Figure("not measured", "s", None, "peer", 2.0).ratio is None


def test_a_line_tells_ours_theirs_and_what_was_missed():
    line = text_of(Figure("rate", "clips/s", 6.0, "peer", 4.0, target=2.0, note="per core"))
    assert "6 clips/s" in line and "peer: 4, 1.50 times better" in line
    assert "target 2, missed" in line and line.endswith("; per core")
    assert "missed" not in text_of(Figure("rate", "clips/s", 9.0, "peer", 4.0, target=2.0))
    assert "peer: not measured" in text_of(Figure("rate", "clips/s", 6.0, "peer", None))
    assert text_of(Figure("GPU", "clips/s", None, note="not run on a GPU")) == "not run on a GPU"


def test_contenders_take_turns():
    turns = []
    works = {name: lambda name=name: turns.append(name) for name in "ab"}
    assert set(fastest(works, 2)) == {"a", "b"} and turns == ["a", "b", "a", "b"]


def test_results_are_compared_with_those_before(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "host_kind", lambda: "2core-x86")
    older, newest = tmp_path / "2026-01-02-2core-x86.json", tmp_path / "2026-01-03-2core-x86.json"
    assert last_results(newest) is None
    write_record(older, [Figure("rate", "clips/s", 8.0, "peer", 4.0), Figure("size", "GB", 10.0)])
    (tmp_path / "2026-01-02-64core-x86.json").write_text("another machine's")
    (tmp_path / "loader-2core-x86.json").write_text("not of the suite")
    before = {row["name"]: row for row in last_results(newest)["figures"]}
    slower = Figure("rate", "clips/s", 4.0, "peer", 1.0)  # both are: the ratio has doubled
    assert change(slower, before["rate"]) == " [before: 2.00 times, +100%]"
    assert change(Figure("size", "GB", 9.0), before["size"]) == " [before: 10, -10%]"
    assert change(Figure("size", "GB", None), before["size"]) == ""
    assert change(Figure("new", "GB", 1.0), None) == ""


def test_the_suite_measures_writes_and_says_what_it_left_out(tmp_path, monkeypatch):
    def measured(scratch, samples):
        return [Figure("rate", "clips/s", 6.0, "peer", 4.0, target=2.0)]

    def lacking(scratch, samples):
        return [Figure("camera", "px", suite._needed(samples))]

    monkeypatch.setattr(suite, "parts", lambda only: {"loader": measured, "camera": lacking})
    out = tmp_path / "results.json"
    arguments = ["--samples", str(tmp_path / "none"), "--out", str(out)]
    done = CliRunner().invoke(suite.main, arguments)
    assert done.exit_code == 0, done.output
    assert "below target: rate" in done.output and "no sample clips" in done.output
    found = json.loads(out.read_text())
    assert found["figures"][0]["ratio"] == 1.5 and found["figures"][1]["ours"] is None
    assert {"machine", "versions", "git_commit", "parts"} <= set(found)
    done = CliRunner().invoke(suite.main, [*arguments, "--minutes", "0"])
    assert "skipped, because 0 minutes are over" in done.output


def test_parts_measured_again_leave_the_others(tmp_path, monkeypatch):
    out = tmp_path / "results.json"

    def run(value: float, *names: str) -> dict[str, float]:
        def part(scratch, samples):
            return [Figure(f"rate {len(names)}", "clips/s", value)]

        monkeypatch.setattr(suite, "parts", lambda only: dict.fromkeys(names, part))
        done = CliRunner().invoke(suite.main, ["--only", "x", "--out", str(out)])
        assert done.exit_code == 0, done.output
        return {row["part"]: row["ours"] for row in json.loads(out.read_text())["figures"]}

    assert run(1.0, "loader", "flows") == {"loader": 1.0, "flows": 1.0}
    assert run(2.0, "flows") == {"loader": 1.0, "flows": 2.0}
    assert set(json.loads(out.read_text())["parts"]) == {"loader", "flows"}


def test_unknown_parts_are_named():
    done = CliRunner().invoke(suite.main, ["--only", "loader,lunch"])
    refused(done, "unknown-name", "'lunch'", "loader, ")


def test_peers_see_the_frames_that_were_chosen(tmp_path):
    video = render_video(tmp_path / "clip.mp4", num_frames=20)
    chosen = np.array([3, 5, 5, 11])
    peers, missing = available(video)
    assert set(peers) | set(missing) == {"PyAV", "decord", "torchcodec"} and peers["PyAV"] is pyav
    for name, decode in peers.items():
        frames = decode(video, lambda length: chosen)
        assert frames.shape == (4, 48, 64, 3) and frames.dtype == np.uint8
        for frame, number in zip(frames, chosen, strict=True):
            difference = np.abs(frame.astype(int) - moving_picture(number)).mean()
            assert difference < 8, (name, number)


def test_videomaes_transforms_standardise():
    frames = np.full((4, 48, 64, 3), 255, np.uint8)
    clip = pillow_transform(frames, (1.0, 0.875), 32, np.random.default_rng(0))
    assert clip.shape == (1, 3, 4, 32, 32) and clip.dtype == torch.float32
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(clip[0].mean(dim=(1, 2, 3)), expected, rtol=1e-4)


def test_the_summary_of_flows_is_read(capsys):
    times = StageTimes(1, 2, decode_busy=3.0, flow_busy=16.0)
    print_times(times, 10.0, 7)
    found = SUMMARY.search(capsys.readouterr().out)
    assert [float(value) for value in found.groups()] == [3.0, 1, 8.0, 2, 10.0, 0.8]


def test_the_plain_way_counts_all_frames(tmp_path):
    videos = [render_video(tmp_path / f"{i}.mp4", num_frames=n) for i, n in enumerate((6, 9))]
    seconds, num_frames = plain_seconds(videos, pairs=1)
    assert num_frames == 15 and seconds > 0


def test_memory_kept_for_the_backward_pass_is_counted_once():
    model = torch.nn.Linear(1000, 1000, bias=False)
    inputs = torch.randn(500, 1000)

    def loss() -> torch.Tensor:
        hidden = model(inputs)  # keeps inputs
        return (hidden * hidden).sum()  # keeps hidden, twice

    assert kept_gigabytes(Contender(model, loss)) == pytest.approx(2 * 4 * 500_000 / 1e9)


def test_the_plan_rests_on_the_results(tmp_path):
    path = tmp_path / "results.json"
    flows = Figure("flows, ssv2: end to end", "frames/s", 40.0)
    views = Figure("loader, ssv2: views as bytes, 4 of one read", "views/s", 200.0, "one", 125.0)
    boxes = Figure("boxes, ssv2: end to end", "frames/s", 1000.0)
    write_record(path, [flows, boxes, views])
    done = CliRunner().invoke(plan.main, [str(path), "--tflops", "1000", "--share", "0.4"])
    assert done.exit_code == 0, done.output
    lines = {line.split(" | ")[0]: line for line in done.output.splitlines()}
    # 220,847 clips of 45 frames at 40 frames/s on 16 cores: 15,528 s.
    assert lines["| flows on 16 cores a GPU"].endswith("| 4.3 h | 1.1 h | 4 min |")
    assert "flows: 69 core-hours" in lines
    # 400 TFLOP/s over 0.2023 TFLOP a clip; a core gives 125 clips/s, or 200 views/s.
    assert "| 1,977 | 7,909 | 126,548 |" in lines["| pretraining, clips/s"]
    assert "| 15.8 |" in lines["| loader cores a GPU, one view a read"]
    assert "| 9.9 |" in lines["| loader cores a GPU, four views a read"]
    write_record(path, [views])
    done = CliRunner().invoke(plan.main, [str(path)])
    refused(done, "not-finished", path, "flows", "make bench")


@pytest.mark.parametrize("part", ablation_rows.PARTS)
def test_every_row_of_the_ablation_can_be_trained(part):
    tables = read_recipe("toy", None)
    names = set()
    for row in ablation_rows.PARTS[part]:
        changes = parse_changes(tuple(f"{k}={v}" for k, v in row.pretraining.items()))
        if row.method != "none":
            pretrain_config(tables, row.method, changes)
        changes = parse_changes(tuple(f"{k}={v}" for k, v in row.finetuning.items()))
        finetune_config(tables, row.head, changes)
        names.add(row.run_name)
        given = ["--dataset", "toy", "--trajectories", *row.flows.split()]
        options = flows.main.make_context("flows", given).params
        assert read_flow_options(options).tracks
    assert len(names) == len(ablation_rows.PARTS[part])


def test_rows_with_other_flows_have_a_dataset_of_their_own():
    plain, colour = Row("a", "mme"), Row("b", "mme", flows="--track-channels rgb --track-cells 2")
    assert plain.run_name == "mme-mean" and colour.run_name != plain.run_name
    folders = [ablation.folder_of(Path("out"), row.flows) for row in (plain, colour)]
    assert folders == [Path("out"), Path("out/track-channels_rgb_track-cells_2")]


def test_rows_of_one_pretraining_are_trained_one_after_the_other():
    jobs = list(ablation.jobs_of(ablation_rows.PARTS, [0, 1]))
    assert len({(rows[0].pretrained_name, seed) for rows, seed in jobs}) == len(jobs)
    for rows, _ in jobs:
        assert len({row.pretrained_name for row in rows}) == 1
    trained = [(row.run_name, seed) for rows, seed in jobs for row in rows]
    assert len(set(trained)) == len(trained)
    probed = {row.run_name for rows, _ in jobs for row in rows if row.is_probed}
    rows = [row for part in ablation_rows.PARTS.values() for row in part]
    assert probed == {row.run_name for row in rows if row.is_probed}
    assert {row.run_name for row in ablation_rows.PARTS["methods"] if row.head == "mean"} <= probed


def test_a_row_is_finetuned_or_probed_as_it_says():
    class Commands:
        asked: ClassVar[list[str]] = []

        def __getattr__(self, name):
            def command(*arguments):
                self.asked.append(name)
                return 50.0 if name.endswith("top1") else "run"

            return command

    budget = ablation.Budget(24, 1, 1, "fp32")
    probed = Row("a", "mgm", is_probed=True, is_finetuned=False)
    assert ablation.train_row(Commands(), probed, 0, budget) == {"probe": 50.0}
    assert Commands.asked == ["pretrain", "probed_top1"]
    assert ablation.train_row(Commands(), Row("a", "none"), 0, budget) == {"finetuned": 50.0}
    both = {"finetuned": 50.0, "probe": 50.0}
    [([row], _)] = ablation.jobs_of({"x": [probed], "y": [Row("b", "mgm")]}, [0])
    assert ablation.train_row(Commands(), row, 0, budget) == both


def test_rows_that_are_left_end_with_the_first_that_fails(monkeypatch):
    rows, ended, trained = list(ablation_rows.PARTS["mme"]), threading.Event(), []

    def train_row(trainer, row, seed, budget):
        trained.append(row)
        if len(trained) == 2:
            ended.set()
        return {"finetuned": 50.0}

    monkeypatch.setattr(ablation, "train_row", train_row)
    assert len(ablation.train_rows({"": None}, rows, 0, None, ended)) == len(trained) == 2


def test_a_part_is_complete_seed_by_seed():
    rows = ablation_rows.PARTS["methods"]
    figures = {(row.run_name, seed): {"finetuned": 50.0} for row in rows for seed in (0, 2)}
    assert ablation.complete_seeds(rows, [0, 1, 2], figures) == [0, 2]
    del figures[rows[-1].run_name, 2]
    assert ablation.complete_seeds(rows, [0, 1, 2], figures) == [0]


def test_single_rows_are_chosen_by_their_names():
    texts = ("trackmae", "RANDOM weights")
    chosen = ablation.chosen_rows(("methods", "trackmae", "mme"), texts)
    names = {part: [row.name for row in rows] for part, rows in chosen.items()}
    assert names["methods"] == [ablation_rows.FROM_RANDOM.name, ablation_rows.TRACKMAE.name]
    assert len(names["trackmae"]) == 5 and names["mme"] == [ablation_rows.FROM_RANDOM.name]
    assert list(ablation.chosen_rows(("methods", "mme"), ("TrackMAE",))) == ["methods"]
    assert ablation.chosen_rows(("mme",), ())["mme"] == ablation_rows.PARTS["mme"]
    with refuses("unknown-name", "TrackMAV", ablation_rows.TRACKMAE.name):
        ablation.chosen_rows(("methods",), ("TrackMAV",))


def test_single_rows_have_a_results_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "prepare", lambda layout, clips, flows: layout)
    monkeypatch.setattr(ablation, "WHOLE_PARTS", tmp_path / "ablation.json")
    monkeypatch.setattr(ablation, "SINGLE_ROWS", tmp_path / "ablation_rows.json")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    top1 = {"mme": 60.0, "none": 70.0}
    monkeypatch.setattr(
        ablation,
        "train_row",
        lambda trainer, row, seed, budget: {"finetuned": top1[row.method] + seed},
    )
    asked = ["--out", str(tmp_path), "--part", "interpolation", "--seeds", "0,2"]
    done = CliRunner().invoke(ablation.main, [*asked, "--rows", "random", "--rows", "not inter"])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "ablation.json").exists()
    part = json.loads((tmp_path / "ablation_rows.json").read_text())["interpolation"]
    assert part["seeds"] == [0, 2] and list(part["top1"]) == [
        "from random weights",
        "MME, not interpolated",
    ]
    assert "| MME, not interpolated | 61.0 +- 1.4 |" in (tmp_path / "ablation_rows.md").read_text()
    assert "deviation over seeds 0, 2:" in (tmp_path / "ablation_rows.md").read_text()
    one_seed = [*asked[:-1], "2", "--rows", "random"]
    assert CliRunner().invoke(ablation.main, one_seed).exit_code == 0
    assert "in percent, seed 2: pretrained" in (tmp_path / "ablation_rows.md").read_text()
    done = CliRunner().invoke(ablation.main, asked)
    assert done.exit_code == 0
    whole = json.loads((tmp_path / "ablation.json").read_text())["interpolation"]
    assert len(whole["top1"]) == len(ablation_rows.PARTS["interpolation"])


def test_threads_that_the_environment_asks_for_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "prepare", lambda layout, clips, flows: layout)
    monkeypatch.setattr(ablation, "SINGLE_ROWS", tmp_path / "ablation_rows.json")
    monkeypatch.setattr(ablation.os, "cpu_count", lambda: 8)
    threads = []

    def train_row(trainer, row, seed, budget):
        threads.append(os.environ["OMP_NUM_THREADS"])
        return {"finetuned": 50.0}

    monkeypatch.setattr(ablation, "train_row", train_row)
    asked = ["--out", str(tmp_path), "--part", "mme", "--rows", "random", "--seeds", "0"]
    for given, workers in (("3", "2"), (None, "2")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        done = CliRunner().invoke(ablation.main, [*asked, "--workers", workers])
        assert done.exit_code == 0, done.output
    assert threads == ["3", "4"]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_training_that_waits_for_data_is_vit_b_on_a_gpu():
    """What no machine without a GPU runs: its options at least are a training's."""
    changes = parse_changes(data_wait.VIT_B)
    loader = changes.pop("loader")
    config = pretrain_config(read_recipe("toy", None), "videomae", changes)
    model = config.model
    assert (model.width, model.depth, model.image_size, model.tubelet_size) == (768, 12, 224, 2)
    assert (model.decoder_width, model.decoder_depth, model.decoder_heads) == (384, 4, 6)
    assert config.crop.kind == "multi_scale" and loader["workers"] == 8


def test_equal_masks_are_counted_against_a_row_of_the_part():
    masks = np.array([[True, False], [False, True], [True, True]])
    assert mask_overlap.same_masks(masks, masks) == 100
    others = np.array([[True, False], [True, False], [True, False]])
    assert mask_overlap.same_masks(masks, others) == pytest.approx(100 / 3)
    for part, reference in mask_overlap.REFERENCES.items():
        assert reference in {row.name for row in ablation_rows.PARTS[part]}
