"""From flow to motion maps, and to the size that maps are stored at.

flow (B,2,H,W) --motion_map--> (B,H,W) --reduce_maps--> (B,h,w) --> shared/motion_maps.py
"""

from __future__ import annotations

import numpy as np
import torch


def motion_map(flow: torch.Tensor) -> torch.Tensor:
    """MOFO, equation 1: m = sqrt(u_x^2 + u_y^2 + v_x^2 + v_y^2), large at motion boundaries.

    Derivatives are central differences, (f[i+1] - f[i-1]) / 2, one-sided at the borders. The same
    motion everywhere (a panning camera) gives 0.

    Args:
        flow: [B, 2, H, W] float, u then v, pixels per frame; H and W at least 2.

    Returns:
        [B, H, W] of the dtype of `flow`, pixels per frame per pixel, at least 0.
    """
    assert flow.ndim == 4 and flow.shape[1] == 2 and min(flow.shape[2:]) >= 2, flow.shape
    return (_derivative(flow, 3).square() + _derivative(flow, 2).square()).sum(1).sqrt()


def _derivative(values: torch.Tensor, dim: int) -> torch.Tensor:
    length = values.shape[dim]
    result = values.new_empty(values.shape)
    result.narrow(dim, 1, length - 2).copy_(
        (values.narrow(dim, 2, length - 2) - values.narrow(dim, 0, length - 2)) / 2
    )
    first, last = values.narrow(dim, 0, 2), values.narrow(dim, length - 2, 2)
    result.select(dim, 0).copy_(first.select(dim, 1) - first.select(dim, 0))
    result.select(dim, length - 1).copy_(last.select(dim, 1) - last.select(dim, 0))
    return result


def reduce_maps(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps [B, H, W] -> [B, h, w], each value the mean over the area it covers; size = (h, w).

    Exact for any ratio of sizes, unlike pooling over whole pixels, so that a box scales by
    width / map width alone.
    """
    rows = maps.new_tensor(_area_weights(maps.shape[1], size[0]))
    columns = maps.new_tensor(_area_weights(maps.shape[2], size[1]))
    return rows @ maps @ columns.T


def _area_weights(length: int, reduced: int) -> np.ndarray:
    """[reduced, length]: which share of output cell i lies in input cell j; rows sum to 1."""
    assert 1 <= reduced <= length, (length, reduced)
    edges = np.linspace(0, length, reduced + 1)
    cells = np.arange(length)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return overlap.clip(min=0) * (reduced / length)
