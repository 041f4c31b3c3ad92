"""Averages motion maps over the cells of the patch grid, after crop, resize and flip.

Stored maps hold either the size of the flow's derivatives (MOFO, eq. 1), which is large at the
edges of moving objects and zero for a panning camera, or the length of the flow, which MGM uses
(sec. 3.3; `preprocess.flows --lengths`).
"""

from __future__ import annotations

import numpy as np

from shared.grid import View


def cell_means(
    maps: np.ndarray, view: View, source_size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Compute the mean of each map over each cell of a view.

    Args:
        maps: float32 [T, h, w], of the whole source frame.
        view: crop (in source pixels) and flips; outside the frame its border is repeated.
        source_size: (width, height) of the source in pixels.
        grid: (rows, columns), cells of equal size.

    Returns:
        float32 [T, rows, columns], flipped as the view is.
    """
    height, width = maps.shape[1:]
    x1, y1, x2, y2 = view.crop
    scale_x, scale_y = width / source_size[0], height / source_size[1]
    across = _weights(width, x1 * scale_x, x2 * scale_x, grid[1])
    down = _weights(height, y1 * scale_y, y2 * scale_y, grid[0])
    cells = down @ maps @ across.T
    cells = cells[:, :: -1 if view.flip_y else 1, :: -1 if view.flip_x else 1]
    return np.ascontiguousarray(cells)


def _weights(length: int, first: float, last: float, count: int) -> np.ndarray:
    """Shares of each pixel in `count` equal parts of first..last, float32 [count, length].

    Rows sum to 1. The first and the last pixel extend to infinity.
    """
    edges = np.linspace(first, last, count + 1)
    begins, ends = np.arange(length, dtype=float), np.arange(1.0, length + 1)
    begins[0], ends[-1] = -np.inf, np.inf
    overlap = np.minimum(ends, edges[1:, None]) - np.maximum(begins, edges[:-1, None])
    return (overlap.clip(min=0) * (count / (last - first))).astype(np.float32)
