"""What a dataset gives for a key, pinned: masks, targets, boxes and labels to the bit.

The digests were written before datasets were taken apart, and hold for recipes and seeds in use:
where one changes, a run that is continued sees other clips than it would have. Pixels are compared
by their mean, because libjpeg and OpenCV round as the processor lets them; targets are floats,
rounded to 1/1024 for the same reason.
"""

import hashlib

import numpy as np
import pytest
import torch
from shard_fixtures import write_moving_squares
from test_targets_motion import MME_RECIPE, add_tracks
from training_fixtures import TINY_RECIPE

from shared.manifest import read_classes
from train.clips.table import MotionNeeds, read_clip_table
from train.options.config import EvaluateConfig, LoaderConfig
from train.options.recipe import finetune_config, pretrain_config, read_recipe
from train.samples.datasets import EvaluateDataset, FinetuneDataset, PretrainDataset

MGM_RECIPE = """
[pretrain.mgm]
mask = {kind = "mgm", mask_ratio = 0.5}
repeats = 2
flips = ["x", "time"]
"""
LOADER = LoaderConfig(workers=0)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    layout = write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=20, still=(0,))
    add_tracks(layout)
    return layout


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE + MGM_RECIPE + MME_RECIPE)
    return read_recipe("squares", path)


def digest(samples: list[dict[str, torch.Tensor]]) -> str:
    """Twelve hex digits of everything but the pixels, in order of names."""
    hashed = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample.keys() - {"pixels"}):
            values = sample[name].numpy()
            if values.dtype.kind == "f":
                values = np.rint(values * 1024).astype(np.int64)
            hashed.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
    return hashed.hexdigest()[:12]


def mean_pixel(samples: list[dict[str, torch.Tensor]]) -> float:
    return float(np.mean([sample["pixels"].float().mean() for sample in samples]))


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        ("mofo", {}, ("9bc21a5a18e0", 91.8)),
        ("mgm", {}, ("918660b4fd25", 91.84)),
        ("mme", {}, ("1ee012a8f803", 91.8)),
        ("mme", {"trajectories": {"kind": "mbh", "length": 3}}, ("5d6741b27e03", 91.8)),
        ("mme", {"trajectories": {"kind": "hog", "interpolate": False}}, ("80e483aed31f", 91.8)),
    ],
)
def test_batches_of_pretraining(squares, recipe, method, changes, expected):
    config = pretrain_config(recipe, method, changes)
    table = read_clip_table(squares, ["train"], config.needs_boxes, config.needed_motion)
    dataset = PretrainDataset(table, config, LOADER, seed=3)
    samples = [dataset[epoch, index] for epoch in range(3) for index in range(len(table))]
    assert digest(samples) == expected[0]
    assert mean_pixel(samples) == pytest.approx(expected[1], abs=0.5)


@pytest.mark.parametrize(
    ("box", "expected"), [("clip", ("6cdb0362513d", 113.47)), ("tubelet", ("2318d3562301", 113.47))]
)
def test_batches_of_finetuning(squares, recipe, box, expected):
    changes = {"head": {"box": box}, "repeats": 2, "flips": ["x"]}
    config = finetune_config(recipe, "mca", changes)
    table = read_clip_table(squares, ["train"], boxes=True)
    dataset = FinetuneDataset(table, read_classes(squares.classes), config, LOADER, seed=3)
    samples = [dataset[epoch, index] for epoch in range(3) for index in range(len(table))]
    assert digest(samples) == expected[0]
    assert mean_pixel(samples) == pytest.approx(expected[1], abs=0.5)


def test_batches_of_evaluation(squares, recipe):
    config = finetune_config(recipe, "mca")
    table = read_clip_table(squares, ["test"], boxes=True, motion=MotionNeeds())
    views = EvaluateConfig(segments=2, crops=3)
    dataset = EvaluateDataset(table, config.model, config.frames, views, LOADER)
    samples = [dataset[index] for index in range(len(table))]
    assert digest(samples) == "cc6714994c10"
    assert mean_pixel(samples) == pytest.approx(91.02, abs=0.5)
