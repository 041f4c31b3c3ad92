"""Crops, resizes and flips frames in PyTorch on any device, as `cut` of views.py does with OpenCV.

Interpolation and copies have the bits of OpenCV: the weights are the same integers, and integer
arithmetic is exact on every device. Averages differ by at most one grey value, because floating
point sums are rounded in another order.

Letters: T frames, H, W their size, S output pixels a side, L side of the crop.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from train.clips.view_rules import Box
from train.samples.views import SHRINK_LINEAR

WEIGHT_BITS = 11  # the weights of OpenCV's interpolation of bytes are integers, 2048 is 1.0
LEAST_OVERLAP = 1e-3  # pixels; OpenCV leaves out pixels that an average covers less than this


def reduce_frames(frames: Tensor, reduction: int) -> Tensor:
    """Frames uint8 [T, 3, H, W], smaller by a factor of 1, 2, 4 or 8; sizes are rounded up.

    The mean of a block of pixels stands for what libjpeg computes from the low frequencies alone.
    """
    if reduction == 1:
        return frames
    means = F.avg_pool2d(frames.float(), reduction, ceil_mode=True, count_include_pad=False)
    return means.round_().to(torch.uint8)


def cut_frames(frames: Tensor, crop: Box, size: int, flip_x: bool, flip_y: bool) -> Tensor:
    """Crop, resize and flip frames uint8 [T, 3, H, W]; returns uint8 [T, 3, S, S].

    The crop is in pixels of the frames. Outside of the frames the border is repeated.
    """
    x1, y1, x2, y2 = crop
    sides = (y2 - y1, x2 - x1)
    if sides == (size, size):
        found = _take(_take(frames, 2, y1, _range(size, frames.device)), 3, x1,
                      _range(size, frames.device))  # fmt: skip
    elif min(sides) / size > SHRINK_LINEAR:
        found = _average(frames, crop, size)
    else:
        found = _interpolate(frames, crop, size)
    flipped = [dim for dim, flips in ((2, flip_y), (3, flip_x)) if flips]
    return found.flip(flipped) if flipped else found


def _interpolate(frames: Tensor, crop: Box, size: int) -> Tensor:
    """OpenCV's INTER_LINEAR of bytes: first along the rows, then along the columns."""
    x1, y1, x2, y2 = crop
    first, second, near, far = _linear_weights(x2 - x1, size, True, frames.device)
    rows = _take(frames, 3, x1, first).int() * near + _take(frames, 3, x1, second).int() * far
    rows >>= 4  # OpenCV keeps 16 bits of the rows
    first, second, near, far = _linear_weights(y2 - y1, size, False, frames.device)
    upper = _take(rows, 2, y1, first) * near[:, None] >> 16
    lower = _take(rows, 2, y1, second) * far[:, None] >> 16
    return (upper + lower + 2 >> 2).to(torch.uint8)


@functools.lru_cache(maxsize=4096)
def _linear_weights(
    side: int, size: int, is_row: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two pixels of the crop that each output pixel lies between, and their weights.

    They are int64 [S], int64 [S], int32 [S] and int32 [S]. OpenCV gives a pixel beyond the border
    no weight within a row, and repeats the border row with its weight, which rounds differently.
    """
    scale = 1.0 / (np.float64(size) / side)
    place = ((np.arange(size) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(place)
    far = place - first
    if is_row:
        far[(first < 0) | (first >= side - 1)] = 0.0
    one = np.float32(1 << WEIGHT_BITS)
    near_weight, far_weight = (
        torch.from_numpy(np.rint(weight * one).astype(np.int32)).to(device)
        for weight in (np.float32(1.0) - far, far)
    )
    indices = first.astype(np.int64)
    first_pixel, second_pixel = (
        torch.from_numpy(index.clip(0, side - 1)).to(device) for index in (indices, indices + 1)
    )
    return first_pixel, second_pixel, near_weight, far_weight


def _average(frames: Tensor, crop: Box, size: int) -> Tensor:
    """OpenCV's INTER_AREA of bytes: the mean of the area that an output pixel covers."""
    x1, y1, x2, y2 = crop
    part = _take(frames, 2, y1, _range(y2 - y1, frames.device))
    part = _take(part, 3, x1, _range(x2 - x1, frames.device)).float()
    across = _area_weights(x2 - x1, size, frames.device)
    down = _area_weights(y2 - y1, size, frames.device)
    means = down @ (part @ across.T)
    # OpenCV has a way of its own for blocks of 2 x 2 pixels, which rounds halves up.
    halves = (x2 - x1, y2 - y1) == (2 * size, 2 * size)
    rounded = (means + 0.5).floor_() if halves else means.round_()
    return rounded.clamp_(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=256)  # half a megabyte each for 600 pixels
def _area_weights(side: int, size: int, device: torch.device) -> Tensor:
    """The share of each pixel of the crop in each output pixel, float32 [S, L]."""
    scale = side / size
    starts = scale * np.arange(size)[:, None]
    edges = np.arange(side + 1)
    overlap = np.minimum(starts + scale, edges[1:]) - np.maximum(starts, edges[:-1])
    overlap[overlap < LEAST_OVERLAP] = 0.0
    return torch.from_numpy((overlap / scale).astype(np.float32)).to(device)


def _take(frames: Tensor, dim: int, start: int, indices: Tensor) -> Tensor:
    """Rows or columns of frames; those outside of the frames are the nearest ones."""
    return frames.index_select(dim, (indices + start).clamp_(0, frames.shape[dim] - 1))


@functools.lru_cache(maxsize=1024)
def _range(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)
