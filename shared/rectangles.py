"""Rectangles of an exact number of cells on the patch grid.

Clips are stacked to a batch, so a mask hides the same number of cells at every time step. Few
numbers are products of two sides: k = 147 of 14 x 14 (75%) would be a square with a side of 12.12.
A rectangle therefore consists of the k cells nearest to its centre, by the Chebyshev distance in
units of the sides, max(|dx| / width, |dy| / height). Its border deviates by at most one cell. Of
cells with equal distance, a random choice decides.

Positions are in cells, x along columns and y along rows. Cell (row, column) covers row..row+1 and
column..column+1.
"""

from __future__ import annotations

import numpy as np

from shared.errors import InputError

ASPECT = (0.75, 4 / 3)
"""Smallest and largest width / height: the widest range that fits 75% into 14 x 14."""


def draw_aspect(rng: np.random.Generator, aspect: tuple[float, float], count: int) -> np.ndarray:
    """Draw width / height, float64 [count], uniform in the logarithm.

    Raises:
        InputError: `aspect` is not a pair of numbers above 0, the smaller first.
    """
    if not 0.0 < aspect[0] <= aspect[1] < float("inf"):
        raise InputError(
            "out-of-range",
            f"aspect is {aspect}; two values of width / height above 0, the smaller first, are "
            "allowed",
        )
    least, most = np.log(aspect)
    return np.exp(rng.uniform(least, most, size=count))


def sides(count: float, aspect: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Width and height, float64 [..., 2], of rectangles with `count` cells and an aspect [...].

    A side that is longer than the grid is cut to the grid. The other side grows, so the area stays.
    """
    rows, columns = grid
    width = np.sqrt(count * np.asarray(aspect)).clip(count / rows, columns)
    return np.stack([width, count / width], axis=-1)


def nearest_cells(
    centre: np.ndarray, size: np.ndarray, grid: tuple[int, int], count: int, ties: np.ndarray
) -> np.ndarray:
    """Find the cells nearest to the centres of rectangles.

    Args:
        centre: float64 [T, 2], x and y.
        size: float64 [T, 2], width and height.
        grid: rows, columns.
        count: number of cells in each rectangle.
        ties: [rows, columns]; of cells with equal distance, those with lower numbers are taken.

    Returns:
        bool [T, rows, columns], `count` True in each.
    """
    rows, columns = grid
    across = np.abs(np.arange(columns) + 0.5 - centre[:, :1]) / size[:, :1]
    down = np.abs(np.arange(rows) + 0.5 - centre[:, 1:]) / size[:, 1:]
    distance = np.maximum(down[:, :, None], across[:, None, :]).reshape(len(centre), -1)
    order = np.lexsort((np.broadcast_to(ties.ravel(), distance.shape), distance), axis=-1)
    cells = np.zeros(distance.shape, dtype=np.bool_)
    np.put_along_axis(cells, order[:, :count], True, axis=-1)
    return cells.reshape(-1, rows, columns)
