"""Pictures that a pretraining takes of its predictions as it goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks
from training_fixtures import tiny_run

from shared.drawing import HIDDEN_RGB
from train.pictures.snapshots import read_snapshots, shown_epochs
from train.pretrain import pretrain
from train.report import main
from train.running.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """3 epochs of 3 steps."""
    out = tmp_path_factory.mktemp("out")
    write_moving_squares(out)
    return pretrain(tiny_run(out, epochs=3), "mofo")


def test_epochs_that_are_shown() -> None:
    assert shown_epochs(1) == [1]
    assert shown_epochs(10) == [1, 2, 5, 10]
    assert shown_epochs(12) == [1, 2, 5, 10, 12]
    assert shown_epochs(800) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 800]


def test_pictures_keep_what_is_visible_and_change_as_it_learns(run: RunFolder) -> None:
    found = read_snapshots(run.snapshots, side=32)
    assert list(found) == ["input", "masked", "step-00000003", "step-00000006", "step-00000009"]
    pictures = {name: np.array(clips) for name, clips in found.items()}
    assert all(each.shape == (2, 4, 32, 32, 3) for each in pictures.values())
    hidden = (pictures["masked"] == HIDDEN_RGB).all(axis=-1)
    assert hidden.mean() == pytest.approx(0.5, abs=0.01)  # of the recipe's mask
    for name in found:
        shown, given = pictures[name][~hidden], pictures["input"][~hidden]
        assert np.abs(shown.astype(int) - given).max() <= 1
    steps = [pictures[name][hidden].astype(int) for name in found if name.startswith("step")]
    assert np.abs(steps[0] - steps[2]).max() > 0
    assert all(np.abs(each - pictures["input"][hidden]).max() > 5 for each in steps)


def test_other_targets_have_no_pictures(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path)
    add_tracks(layout)
    common = tiny_run(tmp_path, "target=trajectories", "mask.kind=tube", epochs=1, run="tracks")
    assert not pretrain(common, "videomae").snapshots.exists()


def test_the_report_shows_them(run: RunFolder) -> None:
    out = run.path.parents[2]
    result = CliRunner().invoke(main, ["--dataset", "squares", "--out", str(out)])
    assert result.exit_code == 0, result.output
    html = (out / "squares" / "report.html").read_text()
    part = html[html.index("Predictions during training") : html.index('id="finetuning"')]
    assert part.count("<img") == 2 * 5 * 4  # clips; input, masked and three times; frames
    assert all(f"after epoch {epoch}, training loss" in part for epoch in (1, 2, 3))


def test_damaged_pictures_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.png").write_bytes(b"no picture")
    assert read_snapshots(tmp_path, 32) == {}
    assert read_snapshots(tmp_path / "nothing", 32) == {}
