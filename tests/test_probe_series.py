"""--probe-every: probes during pretraining change nothing, are logged, and are drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from errors import refused
from shard_fixtures import write_moving_squares
from training_fixtures import assert_same_weights, losses, tiny_run

import train.pretrain
from shared.layout import DatasetLayout
from shared.manifest import read_manifest, write_manifest
from shared.run_record import read_jsonl
from train.pretrain import pretrain
from train.probe import main as probe_command
from train.report_sections.runs import read_runs
from train.report_sections.training import pretraining_section
from train.running.run_folder import RunFolder


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    return write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=60)


@pytest.fixture(scope="module")
def run(layout: DatasetLayout) -> RunFolder:
    """2 epochs, probed every 3 steps and at the end."""
    common = tiny_run(layout.out, run="probed", epochs=2, batch_size=8)
    return pretrain(common, "mofo", probe_every=3)


def test_probes_come_at_their_steps_and_after_the_last(run: RunFolder) -> None:
    events = [line for line in read_jsonl(run.log) if line["event"] == "probe"]
    steps = json.loads(run.finished.read_text())["steps"]
    assert [event["step"] for event in events] == sorted({*range(3, steps + 1, 3), steps})
    assert all(event["clips"] == 8 * event["step"] for event in events)
    assert all(0 <= event[key] <= 100 for event in events for key in ("linear_top1", "knn_top1"))


def test_the_training_is_that_without_probes(run: RunFolder, layout: DatasetLayout) -> None:
    plain = pretrain(tiny_run(layout.out, run="plain", epochs=2, batch_size=8), "mofo")
    assert losses(plain.log) == pytest.approx(losses(run.log), abs=1e-6)
    assert_same_weights(plain.weights, run.weights)


def test_the_last_probe_says_what_the_command_says(run: RunFolder, layout: DatasetLayout) -> None:
    """`train.probe` on the same split; both choose the penalty by cross-validation."""
    recipe = layout.out / "probe.toml"
    text = (layout.out / "tiny.toml").read_text()
    recipe.write_text(text.replace('frames = {kind = "segments"}',
                                   'frames = {kind = "dense", stride = 2}'))  # fmt: skip
    arguments = ["--dataset", "squares", "--out", str(layout.out), "--from", "probed",
                 "--recipe", str(recipe), "--split", "val", "--pool", "steps", "--workers", "0",
                 "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(probe_command, arguments)
    assert done.exit_code == 0, done.output
    last = [line for line in read_jsonl(run.log) if line["event"] == "probe"][-1]
    assert f"linear probe: val top-1 {last['linear_top1']:.1f} %" in done.output
    assert f"k-NN: val top-1 {last['knn_top1']:.1f} %" in done.output


def test_the_report_draws_them_beside_the_loss(run: RunFolder, layout: DatasetLayout) -> None:
    [found] = [each for each in read_runs(layout.runs)[0] if each.name == "probed"]
    titles = [chart.title for chart, _ in pretraining_section(layout, found)["charts"]]
    assert titles[:2] == ["Pretraining loss", "Probes of the features"]


def test_clips_without_labels_are_refused(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path)
    relabel(layout, val=None)
    refused(pretrain_command(tmp_path), "missing-label", "--probe-every", "val")


def test_too_few_clips_and_classes_are_refused_before_training(tmp_path: Path) -> None:
    few, alike = write_moving_squares(tmp_path / "few", num_clips=12), tmp_path / "alike"
    refused(pretrain_command(few.out), "too-few-clips", "--probe-every", "8 clips", "10 clips")
    relabel(write_moving_squares(alike), train=2)
    refused(pretrain_command(alike), "too-few-clips", "12 clips of 1 class;", "two classes")
    assert not few.runs.exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_that_are_no_class_are_refused_before_training(tmp_path: Path, split: str) -> None:
    relabel(write_moving_squares(tmp_path), **{split: 4})
    refused(pretrain_command(tmp_path), "other-classes", "label 4", "has 4 classes")


def relabel(layout: DatasetLayout, **labels: int | None) -> None:
    """Give all clips of a split the same label."""
    clips = read_manifest(layout.manifest)
    changed = [dataclasses.replace(c, label=labels.get(c.split, c.label)) for c in clips]
    write_manifest(layout.manifest, changed)


def pretrain_command(out: Path) -> Result:
    """The command with --probe-every on the squares below `out`."""
    tiny_run(out)  # writes the recipe
    arguments = ["--dataset", "squares", "--out", str(out), "--probe-every", "1",
                 "--recipe", str(out / "tiny.toml"), "--device", "cpu"]  # fmt: skip
    return CliRunner().invoke(train.pretrain.main, arguments)
