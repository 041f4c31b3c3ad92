"""Computes motion maps from flow, and reduces them to the size at which they are stored.

flow (B,2,H,W) --motion_map--> (B,H,W) --reduce_maps--> (B,h,w) --> shared/motion_maps.py
"""

from __future__ import annotations

import numpy as np
import torch


def motion_map(flow: torch.Tensor) -> torch.Tensor:
    """Compute equation 1 of MOFO: m = sqrt(u_x^2 + u_y^2 + v_x^2 + v_y^2).

    The map is large at motion boundaries.

    Derivatives are central differences, (f[i+1] - f[i-1]) / 2, and one-sided at the borders. The
    same motion everywhere, as of a panning camera, gives 0.

    Args:
        flow: float [B, 2, H, W], u then v, pixels per frame; H and W at least 2.

    Returns:
        [B, H, W] of the dtype of `flow`, pixels per frame per pixel, 0 or more.
    """
    assert flow.ndim == 4 and flow.shape[1] == 2 and min(flow.shape[2:]) >= 2, flow.shape
    return (_derivative(flow, 3).square() + _derivative(flow, 2).square()).sum(1).sqrt()


def _derivative(values: torch.Tensor, dim: int) -> torch.Tensor:
    """The derivative along one dimension, of the shape of `values`."""
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
    """Reduce maps [B, H, W] to [B, h, w]: each value is the mean over the area that it covers.

    The result is exact for any ratio of sizes, unlike pooling over whole pixels. A box therefore
    scales by the ratio of the widths and heights.

    Args:
        maps: float [B, H, W].
        size: (h, w), at most (H, W).
    """
    rows = maps.new_tensor(_area_weights(maps.shape[1], size[0]))
    columns = maps.new_tensor(_area_weights(maps.shape[2], size[1]))
    return rows @ maps @ columns.T


def _area_weights(length: int, reduced: int) -> np.ndarray:
    """float64 [reduced, length]: the share of output cell i that lies in input cell j.

    Each row sums to 1.
    """
    assert 1 <= reduced <= length, (length, reduced)
    edges = np.linspace(0, length, reduced + 1)
    cells = np.arange(length)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return overlap.clip(min=0) * (reduced / length)
