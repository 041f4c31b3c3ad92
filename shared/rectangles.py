"""Rectangles of an exact number of cells on the patch grid.

A batch must stack, so a mask hides the same number of cells at every time step, and few numbers
are products: k = 147 of 14 x 14 (75%) would be a square of side 12.12. A rectangle is therefore
made of the k cells nearest its centre, where distance is Chebyshev's in units of the sides,
max(|dx| / width, |dy| / height). Its border is ragged by at most one cell; which of several equally
near cells belong to it is decided at random.

Positions: x along columns, y along rows, in cells; cell (row, column) covers row..row+1 and
column..column+1.
"""

from __future__ import annotations

import numpy as np

from shared.errors import InputError

ASPECT = (0.75, 4 / 3)
"""Least and most width / height. On 14 x 14 at 75% the most that does not leave the grid."""


def draw_aspect(rng: np.random.Generator, aspect: tuple[float, float], count: int) -> np.ndarray:
    """float64 [count] of width / height, uniform in the logarithm.

    Raises:
        InputError: not a rising pair of numbers above 0.
    """
    if not 0.0 < aspect[0] <= aspect[1] < float("inf"):
        raise InputError(
            "out-of-range",
            f"aspect is {aspect}; a rising pair of width / height above 0 is allowed",
        )
    least, most = np.log(aspect)
    return np.exp(rng.uniform(least, most, size=count))


def sides(count: float, aspect: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """float64 [..., 2]: width, height of a rectangle of `count` cells and an aspect [...].

    A side longer than the grid is cut to the grid and the other made longer, so area stays.
    """
    rows, columns = grid
    width = np.sqrt(count * np.asarray(aspect)).clip(count / rows, columns)
    return np.stack([width, count / width], axis=-1)


def nearest_cells(
    centre: np.ndarray, size: np.ndarray, grid: tuple[int, int], count: int, ties: np.ndarray
) -> np.ndarray:
    """The cells nearest the centres of rectangles.

    Args:
        centre: float64 [T, 2] x, y.
        size: float64 [T, 2] width, height.
        grid: rows, columns.
        count: cells of each rectangle.
        ties: [rows, columns], of equally near cells those with the lower number are taken.

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
