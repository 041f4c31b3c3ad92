"""The benchmark of descriptors without an error of prediction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from track_fixtures import squares_with_descriptors

from benchmarks import true_descriptors
from shared.layout import DatasetLayout
from train.clips.table import read_clip_table
from train.objectives.descriptors import Descriptors
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.samples.datasets import PretrainDataset
from train.tables.typed import Choice


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    return squares_with_descriptors(tmp_path_factory.mktemp("squares"))


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
    assert means >= 75 and vectors >= 50  # chance is 25
    assert CliRunner().invoke(true_descriptors.main, options).stdout == shown.stdout


def test_tokens_are_those_of_the_target(squares):
    tables = read_recipe("squares", squares.out / "recipe.toml")
    config = pretrain_config(tables, "descriptors")
    table = read_clip_table(squares, ["val"], False, config.needed_motion)
    found = true_descriptors.descriptors(table, config)
    shape = (len(table), config.model.num_tokens, config.model.output_dim)
    assert found.shape == shape and found.dtype == np.float16 and np.isfinite(found).all()
    # Without flips and with the centre crop of the recipe, this is the sample of pretraining.
    plain = replace(config, crop=Choice("centre", {}), flips=())
    sample = PretrainDataset(table, plain, LoaderConfig(workers=0), 0)[0, 1]
    known = sample["counts"][0].numpy()
    motion = known.shape[1]
    wanted = np.where(known, sample["target"][0].numpy(), 0.0).astype(np.float16)
    np.testing.assert_array_equal(found[1, :, :motion], wanted)
    assert wanted.any() and found[1, :, motion:].any()


def test_unknown_numbers_are_zero(squares, monkeypatch):
    tables = read_recipe("squares", squares.out / "recipe.toml")
    config = pretrain_config(tables, "descriptors")
    table = read_clip_table(squares, ["val"], False, config.needed_motion).take([0])

    def of_batch(self, batch, num_decoded, cut):
        target = torch.ones(1, num_decoded, 3)
        return target, torch.tensor([0.0, 0.5, 2.0]).expand_as(target)

    monkeypatch.setattr(Descriptors, "of_batch", of_batch)
    found = true_descriptors.descriptors(table, config)
    assert (found == [0, 1, 1]).all()
