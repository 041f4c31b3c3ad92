"""The benchmark of descriptors without an error of prediction."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks
from training_fixtures import DESCRIPTORS_RECIPE

from benchmarks import true_descriptors
from shared.layout import DatasetLayout
from train.clips.table import read_clip_table
from train.options.recipe import loader_config, pretrain_config, read_recipe


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    """Squares that move in the direction of their class."""
    layout = write_moving_squares(tmp_path_factory.mktemp("squares"), num_clips=80)
    add_tracks(layout, length=1, points=24, cell=0)
    (layout.out / "recipe.toml").write_text(DESCRIPTORS_RECIPE)
    return layout


def test_the_motion_of_the_squares_tells_their_classes(squares):
    options = [
        *("--dataset", "squares", "--out", str(squares.out), "--split", "test"),
        *("--recipe", str(squares.out / "recipe.toml"), "--labels", "0"),
    ]
    shown = CliRunner().invoke(true_descriptors.main, options)
    assert shown.exit_code == 0, shown.output
    title, figures = shown.stdout.splitlines()
    assert "Fisher vectors" in title and figures.startswith("all labels")
    means, vectors = map(float, figures.split()[2:])
    assert means >= 75 and 0 <= vectors <= 100  # chance is 25
    assert CliRunner().invoke(true_descriptors.main, options).stdout == shown.stdout


def test_tokens_are_those_of_the_target_and_unknown_numbers_are_zero(squares):
    tables = read_recipe("squares", squares.out / "recipe.toml")
    config = pretrain_config(tables, "descriptors")
    table = read_clip_table(squares, ["val"], False, config.needed_motion)
    found = true_descriptors.descriptors(table, config, loader_config(tables))
    shape = (len(table), config.model.num_tokens, config.model.output_dim)
    assert found.shape == shape and found.dtype == np.float16 and np.isfinite(found).all()
    assert (found != 0).any(axis=2).any()
