"""Motion maps through crop, resize and flip, averaged over the cells of the patch grid.

Maps are what preprocessing stored: by MOFO's equation 1 the size of the flow's derivatives, so the
edges of what moves, to which a panning camera is nothing; or how far each pixel moves, which MGM
(sec. 3.3) takes (`preprocess.flows --lengths`).
"""

from __future__ import annotations

import numpy as np

from shared.grid import View


def cell_means(
    maps: np.ndarray, view: View, source_size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Mean of each map over each cell of what a view shows.

    Args:
        maps: float32 [T, h, w], of the whole source frame.
        view: crop and flips, in source pixels; beyond the frame its border is repeated.
        source_size: (width, height) of the source in pixels.
        grid: (rows, columns), cells of equal size.

    Returns:
        float32 [T, rows, columns], in the order shown (flipped as the view is).
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
    """float32 [count, length]: share of each pixel in each of `count` equal parts of first..last.

    Rows sum to 1. The first and the last pixel stand for all that lies beyond.
    """
    edges = np.linspace(first, last, count + 1)
    begins, ends = np.arange(length, dtype=float), np.arange(1.0, length + 1)
    begins[0], ends[-1] = -np.inf, np.inf
    overlap = np.minimum(ends, edges[1:, None]) - np.maximum(begins, edges[:-1, None])
    return (overlap.clip(min=0) * (count / (last - first))).astype(np.float32)
