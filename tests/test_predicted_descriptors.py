"""The benchmark of how well descriptors of unseen clips are predicted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from errors import refused
from track_fixtures import squares_with_descriptors
from training_fixtures import tiny_run

from benchmarks import predicted_descriptors
from benchmarks.predicted_descriptors import Tokens, read_tokens, shares_of_loss
from shared.layout import DatasetLayout
from train.clips.table import read_clip_table
from train.options.recipe import pretrain_config, read_recipe
from train.pretrain import pretrain


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    return squares_with_descriptors(tmp_path_factory.mktemp("squares"))


def test_a_short_run_predicts_better_than_the_mean(squares):
    recipe = squares.out / "recipe.toml"
    common = replace(tiny_run(squares.out, epochs=30, run="some"), recipe=recipe)
    pretrain(common, "descriptors")
    options = ["--dataset", "squares", "--out", str(squares.out), "--run", "some"]
    shown = CliRunner().invoke(predicted_descriptors.main, options)
    assert shown.exit_code == 0, shown.output
    title, *rows = shown.stdout.splitlines()
    assert title.split()[-4:] == ["all", "HOF", "MBH", "HOG"]
    assert [row.split()[0] for row in rows] == ["train", "test"]
    for row in rows:  # of which HOF is the easiest
        assert 5 < float(row.split()[2]) < 95, shown.stdout


def test_other_runs_are_refused(squares):
    pretrain(tiny_run(squares.out, epochs=1, run="other"), "videomae")
    options = ["--dataset", "squares", "--out", str(squares.out), "--run", "other"]
    shown = CliRunner().invoke(predicted_descriptors.main, options)
    refused(shown, "other-kind", "normalised pixels, not descriptors")


def test_predictions_are_those_of_the_tokens_of_the_target(squares):
    config = pretrain_config(read_recipe("squares", squares.out / "recipe.toml"), "descriptors")
    table = read_clip_table(squares, ["val"], False, config.needed_motion)
    number = config.model.num_tokens

    class Numbers(torch.nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return torch.arange(float(number))[None, :, None].expand(len(clips), -1, 1)

    target = config.target

    def of_batch(self, batch, num_decoded, cut):
        return batch["token"][..., None].float(), torch.ones(1, number, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(target), "of_batch", of_batch)
        tokens = read_tokens(table, config, Numbers())
    assert len(tokens.target) == number * len(table)
    np.testing.assert_array_equal(tokens.predicted, tokens.target)
    assert not np.array_equal(tokens.target[:number, 0], np.arange(number))  # masked ones are last


def test_shares_of_the_loss_are_those_of_the_parts():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(50, 5)).astype(np.float32)
    weight = (rng.random((50, 5)) < 0.8).astype(np.float32)
    mean = Tokens(target, weight, target).mean()
    np.testing.assert_allclose(mean[0], target[weight[:, 0] > 0, 0].mean(), rtol=1e-5)
    predicted = np.concatenate([target[:, :2], np.tile(mean[2:], (50, 1))], axis=1)
    whole, exact, average, none = shares_of_loss(Tokens(target, weight, predicted), mean, (2, 3, 0))
    assert exact == 0.0 and average == pytest.approx(1.0) and math.isnan(none)
    assert 0.3 < whole < 0.9
