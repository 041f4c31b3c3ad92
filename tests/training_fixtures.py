"""A model small enough to train in a test, and how to train it on the moving squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from shared.run_record import read_jsonl
from train.running.command import Common

TINY_RECIPE = """
[model]
image_size = 32
num_frames = 4
tubelet_size = 2
width = 24
depth = 2
num_heads = 2
decoder_width = 12
decoder_depth = 1
decoder_heads = 2
positions = "sincos-3d"

[loader]
workers = 0
log_steps = 1

[pretrain]
epochs = 2
batch_size = 4
frames = {kind = "dense", stride = 2}
crop = {kind = "multi_scale", scales = [1.0, 0.875, 0.75, 0.66]}
flips = ["x"]

[pretrain.optim]
base_learning_rate = 0.1
betas = [0.9, 0.95]
weight_decay = 0.05
warmup_epochs = 0.5

[pretrain.mofo]
mask = {kind = "motion_tube", mask_ratio = 0.5, inside_ratio = 0.75}

[pretrain.videomae]
mask = {kind = "tube", mask_ratio = 0.5}

[finetune]
epochs = 2
batch_size = 4
frames = {kind = "segments"}
crop = {kind = "random_resized", area = [0.5, 1.0], aspect = [0.75, 1.333]}
flips = ["x"]

[finetune.model]
drop_path = 0.1

[finetune.optim]
base_learning_rate = 0.1
betas = [0.9, 0.999]
weight_decay = 0.05
warmup_epochs = 0.5
layer_decay = 0.75

[finetune.augment]
mixup_alpha = 0.8
cutmix_alpha = 1.0
label_smoothing = 0.1
erase_probability = 0.25
rand_layers = 2

[evaluate]
segments = 2
crops = 3
"""
DESCRIPTORS_RECIPE = (
    TINY_RECIPE
    + """
[pretrain.descriptors]
target = {kind = "descriptors", points = 4, cells = 2, steps = 2, stabilised = false}
mask = {kind = "random", mask_ratio = 0.25}
flips = ["x", "y"]
"""
)


def tiny_run(out: Path, *settings: str, **options: Any) -> Common:
    """Options of a run on the squares below `out` with the tiny recipe; settings as for --set."""
    recipe = out / "tiny.toml"
    recipe.write_text(TINY_RECIPE)
    return Common("squares", out, recipe, settings, device="cpu", **options)


def losses(log: Path) -> dict[int, float]:
    """The loss of each step; of a step logged twice, the last."""
    return {event["step"]: event["loss"] for event in read_jsonl(log) if event["event"] == "train"}


def assert_same_weights(one: Path, other: Path) -> None:
    """Two safetensors files hold the same weights.

    Not the same bits: a kernel's sums depend on how its memory happens to be aligned, which a
    second process need not repeat. Losses are compared to six decimals beside this.
    """
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name in first:
        apart = torch.linalg.vector_norm(first[name] - second[name])
        assert apart <= 1e-5 * (1 + torch.linalg.vector_norm(first[name])), (name, float(apart))
