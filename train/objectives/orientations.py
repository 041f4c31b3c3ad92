"""Histograms of oriented gradients (HOG) of the patches of a clip, as a target.

Wei et al., "Masked Feature Prediction" (CVPR 2022), sec. 3.2, predict them in place of pixels. A
histogram says which edges a cell has and ignores light and exact place. `oriented_gradients`
averages them over up to FRAMES frames of a tubelet, at equal distances, with 9 bins of unsigned
orientations and cells of CELL pixels of the view. `gradient_shares` has 8 directions from dark to
light, and any number of cells and steps.

Letters: B clips, T frames, H, W pixels, N tokens, c cells along the side of a patch, S steps of a
tubelet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from train.network.model_config import ModelConfig

DIRECTIONS = 8  # of `gradient_shares`
CELL = 8  # pixels; a patch of another size has as many cells as fit, at least one
BINS = 9
FRAMES = 2  # more take time, and the shape of a tubelet changes little
GREY = (0.299, 0.587, 0.114)
# Added to the length of a histogram, or to the sum of one, in units of the standardised clip per
# pixel: the noise of a flat cell is not blown up to a shape.
FLAT = 0.05
SCALE = 4.0  # makes the variance of the numbers near 1 on natural video


def cells_of(config: ModelConfig) -> int:
    """Cells along the side of a patch."""
    return max(1, config.patch_size // CELL)


def oriented_gradients(clips: Tensor, config: ModelConfig) -> Tensor:
    """The histograms of every token, each divided by its length.

    Args:
        clips: standardised RGB [B, 3, T, H, W].
        config: defines the tubelets.

    Returns:
        float32 [B, N, c * c * BINS], by cell (row by row) and bin. Each histogram is divided by its
        length, and its mean is subtracted, so that zeros mean that all edges are equally frequent.
    """
    bins = _votes(_some_frames(clips, config, FRAMES), math.pi, BINS)
    means = _by_token(bins, config, cells_of(config), 1).squeeze(2)
    return _normalised(means)


def gradient_shares(clips: Tensor, config: ModelConfig, cells: int, steps: int) -> Tensor:
    """The square roots of the shares of oriented gradients in a token, from dark to light.

    Args:
        clips: standardised RGB [B, 3, T, H, W].
        config: defines the tubelets.
        cells: cells along the side of a patch, c.
        steps: steps of a tubelet, S. The first frame of each step counts.

    Returns:
        float32 [B, N, c * c * S * DIRECTIONS], by cell, step and direction. For strong edges their
        mean square is 1 before the even distribution is subtracted, so that zeros mean that all
        edges are equally frequent everywhere; a flat token has -1 everywhere.
    """
    bins = _votes(_some_frames(clips, config, steps), 2 * math.pi, DIRECTIONS)
    means = _by_token(bins, config, cells, steps)  # [B, N, S, c * c, DIRECTIONS]
    number = cells**2 * steps
    total = means.sum(dim=(2, 3, 4), keepdim=True) + FLAT * number
    shares = (means / total).sqrt() * math.sqrt(number * DIRECTIONS) - 1.0
    return shares.transpose(2, 3).flatten(2)


def _some_frames(clips: Tensor, config: ModelConfig, number: int) -> Tensor:
    """Up to `number` frames of each tubelet at equal distances: [B, 3, T' * frames, H, W]."""
    stride = -(-config.tubelet_size // number)
    tubelets = clips.unflatten(2, (config.time_steps, config.tubelet_size))[:, :, :, ::stride]
    return tubelets.flatten(2, 3)


def _votes(clips: Tensor, period: float, number: int) -> Tensor:
    """The strength of the gradient of each pixel, divided between the two nearest of `number`
    directions of a `period`: clips [B, 3, T, H, W] -> [B, T, H, W, number]."""
    weights = torch.tensor(GREY, device=clips.device).view(1, 3, 1, 1, 1)
    grey = (clips.float() * weights).sum(dim=1)  # [B, T, H, W]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    strength = torch.hypot(across, down)
    turn = torch.atan2(down, across).remainder(period) * (number / period)
    lower = turn.floor()
    share = turn - lower
    first = lower.long().remainder(number)
    second = (first + 1).remainder(number)
    bins = strength.new_zeros(*strength.shape, number)
    bins.scatter_(-1, first.unsqueeze(-1), (strength * (1 - share)).unsqueeze(-1))
    return bins.scatter_add_(-1, second.unsqueeze(-1), (strength * share).unsqueeze(-1))


def _by_token(bins: Tensor, config: ModelConfig, cells: int, spans: int) -> Tensor:
    """Mean histograms of the cells and spans of time of each token.

    bins [B, T' * f, H, W, numbers] -> [B, N, spans, c * c, numbers].
    """
    times, grid = config.time_steps, config.grid
    side, kept = config.patch_size // cells, config.grid * config.patch_size
    reach = cells * side  # pixels of a patch that fill whole cells
    patches = bins[:, :, :kept, :kept].unflatten(3, (grid, -1)).unflatten(2, (grid, -1))
    patches = patches[:, :, :, :reach, :, :reach]  # B, T, R, y, Q, x, numbers
    shape = (len(bins), times, spans, -1, grid, cells, side, grid, cells, side, bins.shape[-1])
    means = patches.reshape(shape).mean(dim=(3, 6, 9))  # B, t, s, R, c, Q, c, numbers
    return means.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(
        len(bins), -1, spans, cells * cells, bins.shape[-1]
    )


def _normalised(histograms: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(histograms, dim=-1, keepdim=True)
    shape = histograms / (length + FLAT)
    return (SCALE * (shape - shape.mean(dim=-1, keepdim=True))).flatten(2)
