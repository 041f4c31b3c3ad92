"""Histograms of oriented gradients (HOG) of the patches of a clip, as a target.

Wei et al., "Masked Feature Prediction" (CVPR 2022), sec. 3.2, predict them in place of pixels. A
histogram says which edges a cell has and ignores light and exact place. Ours are averaged over up
to FRAMES frames of a tubelet, at equal distances, have 9 bins of unsigned orientations, and cells
of CELL pixels of the view.

Letters: B clips, T frames, H, W pixels, N tokens, c cells along the side of a patch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from train.network.model_config import ModelConfig

CELL = 8  # pixels; a patch of another size has as many cells as fit, at least one
BINS = 9
FRAMES = 2  # more take time, and the shape of a tubelet changes little
GREY = (0.299, 0.587, 0.114)
# Added to the length of a histogram, in units of the standardised clip per pixel: the noise of a
# flat cell is not blown up to a shape.
FLAT = 0.05
SCALE = 4.0  # makes the variance of the numbers near 1 on natural video


def cells_of(config: ModelConfig) -> int:
    """Cells along the side of a patch."""
    return max(1, config.patch_size // CELL)


def oriented_gradients(clips: Tensor, config: ModelConfig, cells: int | None = None) -> Tensor:
    """The histograms of every token.

    Args:
        clips: standardised RGB [B, 3, T, H, W].
        config: defines the tubelets.
        cells: c, by default `cells_of` the model.

    Returns:
        float32 [B, N, c * c * BINS], by cell (row by row) and bin. Each histogram is divided by its
        length, and its mean is subtracted, so that zeros mean that all edges are equally frequent.
    """
    stride = -(-config.tubelet_size // FRAMES)
    tubelets = clips.unflatten(2, (config.time_steps, config.tubelet_size))[:, :, :, ::stride]
    clips = tubelets.flatten(2, 3)
    weights = torch.tensor(GREY, device=clips.device).view(1, 3, 1, 1, 1)
    grey = (clips.float() * weights).sum(dim=1)  # [B, T, H, W]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    strength = torch.hypot(across, down)
    turn = torch.atan2(down, across).remainder(math.pi) * (BINS / math.pi)
    lower = turn.floor()
    share = turn - lower
    first = lower.long().remainder(BINS)
    second = (first + 1).remainder(BINS)
    bins = strength.new_zeros(*strength.shape, BINS)
    bins.scatter_(-1, first.unsqueeze(-1), (strength * (1 - share)).unsqueeze(-1))
    bins.scatter_add_(-1, second.unsqueeze(-1), (strength * share).unsqueeze(-1))
    return _normalised(_by_token(bins, config, cells or cells_of(config)))


def _by_token(bins: Tensor, config: ModelConfig, cells: int) -> Tensor:
    """Mean histograms of the cells of each token: [B, T, H, W, BINS] -> [B, N, c * c, BINS]."""
    steps, grid = config.time_steps, config.grid
    side = config.patch_size // cells
    shape = (len(bins), steps, -1, grid, cells, side, grid, cells, side, BINS)
    kept = grid * config.patch_size
    means = bins[:, :, :kept, :kept].reshape(shape).mean(dim=(2, 5, 8))  # B, t, R, c, Q, c, BINS
    return means.permute(0, 1, 2, 4, 3, 5, 6).reshape(len(bins), -1, cells * cells, BINS)


def _normalised(histograms: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(histograms, dim=-1, keepdim=True)
    shape = histograms / (length + FLAT)
    return (SCALE * (shape - shape.mean(dim=-1, keepdim=True))).flatten(2)
