"""Histograms of oriented gradients: against a slow loop, on edges that are known, and in a run."""

from __future__ import annotations

import math

import numpy as np
import torch
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks
from training_fixtures import losses, tiny_run

from train.network.autoencoder import split_mask
from train.network.model_config import ModelConfig
from train.objectives.orientations import (
    BINS,
    DIRECTIONS,
    FLAT,
    GREY,
    SCALE,
    gradient_shares,
    oriented_gradients,
)
from train.objectives.target import ClipCut
from train.objectives.velocity import Velocity
from train.pretrain import pretrain
from train.tables.typed import Choice

CONFIG = ModelConfig.from_dict(
    {"image_size": 32, "num_frames": 8, "tubelet_size": 4, "patch_size": 16, "width": 12,
     "num_heads": 2}
)  # fmt: skip


def slow_histogram(grey: np.ndarray, top: int, left: int) -> np.ndarray:
    """Pixel by pixel, of a cell of 8 x 8 pixels of frames [T, H, W]."""
    found = np.zeros(BINS)
    last = grey.shape[1] - 1
    for frame in grey:
        for y in range(top, top + 8):
            for x in range(left, left + 8):
                dx = frame[y, min(x + 1, last)] - frame[y, max(x - 1, 0)]
                dy = frame[min(y + 1, last), x] - frame[max(y - 1, 0), x]
                turn = (math.atan2(dy, dx) % math.pi) * BINS / math.pi
                lower = math.floor(turn)
                found[lower % BINS] += math.hypot(dx, dy) * (1 - (turn - lower))
                found[(lower + 1) % BINS] += math.hypot(dx, dy) * (turn - lower)
    found /= len(grey) * 64
    shape = found / (np.linalg.norm(found) + FLAT)
    return SCALE * (shape - shape.mean())


def test_histograms_are_those_of_a_loop_over_pixels():
    clips = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    found = oriented_gradients(clips, CONFIG)
    assert found.shape == (1, 8, 4 * BINS)
    grey = (clips[0] * torch.tensor(GREY)[:, None, None, None]).sum(0).double().numpy()
    for step, row, column, cell in ((0, 0, 0, 0), (0, 1, 0, 3), (1, 1, 1, 2)):
        token = step * 4 + row * 2 + column
        top, left = 16 * row + 8 * (cell // 2), 16 * column + 8 * (cell % 2)
        expected = slow_histogram(grey[4 * step : 4 * step + 4 : 2], top, left)
        assert np.allclose(found[0, token].view(4, BINS)[cell], expected, atol=1e-4)


def test_shares_of_gradients_are_those_of_a_loop_over_pixels():
    clips = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(2))
    found = gradient_shares(clips, CONFIG, cells=2, steps=2).view(8, 4, 2, DIRECTIONS)
    grey = (clips[0] * torch.tensor(GREY)[:, None, None, None]).sum(0).double().numpy()
    for time, row, column in ((0, 0, 0), (1, 1, 0)):
        expected = np.zeros((4, 2, DIRECTIONS))
        for cell in range(4):
            for step in range(2):
                frame = grey[4 * time + 2 * step]  # the first one of the step
                for y in range(16 * row + 8 * (cell // 2), 16 * row + 8 * (cell // 2) + 8):
                    for x in range(16 * column + 8 * (cell % 2), 16 * column + 8 * (cell % 2) + 8):
                        dx = frame[y, min(x + 1, 31)] - frame[y, max(x - 1, 0)]
                        dy = frame[min(y + 1, 31), x] - frame[max(y - 1, 0), x]
                        turn = (math.atan2(dy, dx) % (2 * math.pi)) * DIRECTIONS / (2 * math.pi)
                        lower, length = math.floor(turn), math.hypot(dx, dy) / 64
                        expected[cell, step, lower % 8] += length * (1 - (turn - lower))
                        expected[cell, step, (lower + 1) % 8] += length * (turn - lower)
        shares = expected / (expected.sum() + FLAT * 8)
        wanted = np.sqrt(shares) * math.sqrt(8 * DIRECTIONS) - 1
        assert np.allclose(found[4 * time + 2 * row + column], wanted, atol=1e-4)
    assert torch.all(gradient_shares(torch.zeros_like(clips), CONFIG, 1, 1) == -1)  # no edge


def test_a_vertical_edge_fills_the_first_bin_and_a_flat_clip_none():
    ramp = torch.arange(32.0).expand(1, 3, 8, 32, 32)
    shape = oriented_gradients(ramp, CONFIG).view(1, 8, 4, BINS)[0, 0, 0]
    assert shape.argmax() == 0 and torch.allclose(shape[1:], shape[1:].mean(), atol=1e-4)
    assert oriented_gradients(torch.full_like(ramp, 0.7), CONFIG).abs().max() == 0


def test_brightness_does_not_change_them():
    clips = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    found, brighter = (oriented_gradients(each, CONFIG) for each in (clips, clips + 3))
    assert torch.allclose(found, brighter, atol=1e-4)


def test_velocities_with_shape_are_in_the_order_of_the_predictions_and_weigh_the_same():
    cut = ClipCut(CONFIG, 1, Choice("centre", {}))
    target = Velocity(points=4, steps=2, shape=True)
    plain = Velocity(points=4, steps=2)
    assert target.num_values(cut) == (24 + 36,) and plain.num_values(cut) == (24,)
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 1, 0]], dtype=torch.bool)
    order = torch.cat(split_mask(mask), dim=1)
    batch = {"clips": clips, "mask": mask, "token": order, "target": torch.randn(2, 8, 24),
             "counts": torch.ones(2, 8, 4, 2, dtype=torch.bool)}  # fmt: skip
    values, weight = target.of_batch(batch, 2, cut)
    assert torch.equal(values[..., :24], batch["target"])
    every = oriented_gradients(clips, CONFIG)
    for clip, tokens in enumerate(order):
        assert torch.equal(values[clip, :, 24:], every[clip, tokens])
    halves = weight[..., :24].sum(), weight[..., 24:].sum()
    assert torch.allclose(*halves) and torch.isclose(weight.mean(), torch.tensor(1.0))


def test_a_run_learns_both(tmp_path):
    layout = write_moving_squares(tmp_path, num_clips=16)
    add_tracks(layout)
    target = 'target={kind = "velocity", points = 4, steps = 2, stabilised = false, shape = true}'
    mask = "mask={kind = 'random', mask_ratio = 0.5}"
    common = tiny_run(tmp_path, target, mask, "flips=['x']", epochs=6)
    found = losses(pretrain(common, "videomae").log)
    assert found[max(found)] < found[min(found)]
