"""One registry of what is predicted: options, width, needs, and records of earlier runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from errors import refuses
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE

from train.clips.table import MotionNeeds, read_clip_table
from train.objectives.registry import TARGETS, build_target, loss_words, recorded_target
from train.objectives.target import LossWords, NormalisedPixels, Target
from train.objectives.trajectories import Trajectories
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe, recorded_pretrain_config
from train.samples.datasets import PretrainDataset
from train.tables.nested import flatten
from train.tables.typed import to_table


@dataclass(frozen=True)
class Speed(Target):
    """How much moves in each patch, by powers."""

    name = "speed"
    needs_flows = True
    words = LossWords("speed", "that nothing moves", "rest")

    powers: int = 2

    def num_values(self, cut):
        return (self.powers,)

    def needed_motion(self, cut):
        return MotionNeeds()

    def of_view(self, shown, cut):
        motion = shown.motion().reshape(-1, 1)
        return {"speed": motion ** np.arange(1, self.powers + 1, dtype=np.float32)}

    def of_batch(self, batch, num_masked, cut):
        return batch["speed"], None


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.setitem(TARGETS, "speed", Speed)
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE + '[pretrain.speed]\nmask = {kind = "tube", mask_ratio = 0.5}\n')
    return read_recipe("squares", path)


def test_a_target_of_ones_own_needs_no_other_file(tables, tmp_path):
    """Its options, its width, what it reads and what it computes all come from its class."""
    config = pretrain_config(tables, "speed", {"target": {"kind": "speed", "powers": 3}})
    assert config.model.prediction_dim == 3 and config.needed_motion == MotionNeeds()
    layout = write_moving_squares(tmp_path, num_clips=8)
    table = read_clip_table(layout, ["train"], False, config.needed_motion)
    sample = PretrainDataset(table, config, LoaderConfig(workers=0), seed=0)[0, 1]
    assert sample["speed"].shape == (1, int(sample["mask"].sum()), 3)
    assert sample["speed"].max() > 0
    torch.testing.assert_close(sample["speed"][..., 2], sample["speed"][..., 0] ** 3)
    recorded = to_table(config)
    assert recorded["target"] == {"kind": "speed", "powers": 3}
    assert recorded_pretrain_config(recorded) == config
    assert loss_words(recorded).zeros == "that nothing moves"


@pytest.mark.parametrize(
    ("target", "code", "named"),
    [
        ({"kind": "speed", "power": 3}, "unknown-key", ["pretrain.target", "power", "powers"]),
        (
            {"kind": "speed", "powers": "many"},
            "wrong-type",
            ["pretrain.target.powers", "'many'", "int"],
        ),
        (
            {"kind": "flow"},
            "unknown-name",
            [
                "target",
                "'flow'",
                "normalised_pixels, trajectories, velocity",
                "speed",
            ],
        ),
        ({"powers": 3}, "unknown-name", ["target", "'None'"]),
        (
            "nope",
            "unknown-name",
            [
                "target",
                "'nope'",
                "normalised_pixels, trajectories, velocity",
                "speed",
            ],
        ),
        ({"kind": "normalised_pixels", "powers": 3}, "unknown-key", ["powers", "none"]),
        ({"kind": "trajectories", "length": 3}, "unknown-key", ["pretrain.target", "length"]),
    ],
)
def test_options_of_another_target_are_refused(tables, target, code, named):
    with refuses(code, *named):
        pretrain_config(tables, "speed", {"target": target})


@pytest.mark.parametrize(
    ("method", "target"), [("mofo", NormalisedPixels()), ("mme", Trajectories())]
)
def test_a_record_of_an_earlier_version_is_the_same_run(method, target):
    """It had `trajectories` beside every target, null where there were none."""
    config = pretrain_config(read_recipe("toy", None), method)
    assert config.target == target
    now = to_table(config)
    before = {"trajectories": None, **now}
    assert before["target"] == target.name
    assert recorded_pretrain_config(before) == config
    keys = flatten(before).keys() | flatten(now).keys()
    assert all(flatten(before).get(key) == flatten(now).get(key) for key in keys)


def test_a_target_of_another_version_is_still_named():
    assert recorded_target({"target": "next_frame"}) is None
    assert loss_words({"target": "next_frame"}) == LossWords("next frame", "zeros", "zeros")
    assert loss_words({"target": {"kind": "next_frame"}}).target == "next frame"


def test_targets_are_listed_by_their_own_name():
    assert all(TARGETS[name].name == name for name in TARGETS)
    assert build_target({}) == NormalisedPixels()
