"""Histograms of optical flow (HOF) and motion boundary histograms (MBH).

They are those of dense trajectories (Wang et al. 2013, sec. 3.2): vectors are weighted by their
length, and each weight is divided between the two nearest of 8 directions. MBH (Dalal et al. 2006)
are histograms of the change of flow along x and y, one for each component of flow. A motion that
all points share, such as that of the camera, leaves no trace in them.

Letters: U frames, G grid points, n vectors. Rows and columns are those of the points of a view.
"""

from __future__ import annotations

import math

import numpy as np

DIRECTIONS = 8
STILL_FLOW = 0.4  # pixels; HOF counts smaller flow as still (Wang et al.: 0.4 pixels too)


def motion_boundaries(
    moves: np.ndarray,
    known: np.ndarray,
    points: np.ndarray,
    grid: tuple[int, int],
    size: tuple[int, int],
    scale: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The change of flow from one point of the grid to the next.

    Args:
        moves: [U, G, 2] pixels of the tracked frames; known bool [U, G].
        points: int64 [rows, columns], the points that are asked for. Those of a row lie in one row
            of the grid, and those of a column in one column.
        grid: rows and columns of the grid.
        size: width and height of the tracked frames, pixels.
        scale: [2], pixels of the view per pixel of the tracked frames, negative for a flip.

    Returns:
        float32 [U, rows, columns, 2, 2]: the change of the x and the y component, along x and along
        y, per pixel of the view; and bool [U, rows, columns], whether the point and its four
        neighbours are known.
    """
    (rows, columns), (width, height) = grid, size
    place = np.divmod(points, columns)
    changes = np.empty((len(moves), *points.shape, 2, 2), np.float32)  # component, then axis
    whole: np.ndarray = known[:, points]
    for axis, spacing, last in ((1, width / columns, columns - 1), (0, height / rows, rows - 1)):
        step = (columns, 1)[axis]  # in the order of points
        before = points - np.where(place[axis] > 0, step, 0)
        after = points + np.where(place[axis] < last, step, 0)
        # Central differences per grid step, one-sided at the ends; 0 for a single point.
        distance = np.maximum((after - before) // step, 1)[..., None].astype(np.float32)
        ratios = (scale / (spacing * scale[1 - axis])).astype(np.float32)
        changes[..., 1 - axis] = (moves[:, after] - moves[:, before]) / distance * ratios
        whole = whole & known[:, before] & known[:, after]
    return changes, whole


def hof_votes(flow: np.ndarray, still: float = STILL_FLOW) -> np.ndarray:
    """Flow [..., 2] in pixels -> [..., 9]. The ninth bin is 1 where the flow is below `still`."""
    at_rest = np.hypot(flow[..., 0], flow[..., 1]) < still
    votes = _direction_votes(flow) * ~at_rest[..., None]
    return np.concatenate([votes, at_rest[..., None]], axis=-1)


def mbh_votes(changes: np.ndarray) -> np.ndarray:
    """Changes [..., 2, 2] of the components of flow -> [..., 16], by component and direction."""
    return _direction_votes(changes).reshape(*changes.shape[:-2], 2 * DIRECTIONS)


def hof_sums(flow: np.ndarray, places: np.ndarray, number: int, still: float) -> np.ndarray:
    """The sums of `hof_votes` over the vectors of each place.

    Args:
        flow: [n, 2], pixels.
        places: int64 [n], 0 to number - 1.
        still: pixels; shorter flow counts as still.

    Returns:
        float64 [number, 9].
    """
    at_rest = np.hypot(flow[:, 0], flow[:, 1]) < still
    resting = np.bincount(places[at_rest], minlength=number)
    moving = _direction_sums(flow[~at_rest], places[~at_rest], number)
    return np.concatenate([moving, resting[:, None]], axis=1)


def mbh_sums(changes: np.ndarray, places: np.ndarray, number: int) -> np.ndarray:
    """The sums of `mbh_votes` over the changes [n, 2, 2] of each place, float64 [number, 16]."""
    each = [_direction_sums(changes[:, component], places, number) for component in (0, 1)]
    return np.concatenate(each, axis=1)


def _direction_votes(vectors: np.ndarray) -> np.ndarray:
    """The lengths of vectors [..., 2], divided between the two nearest of 8 directions: [...,
    8]."""
    bins, shares = _divided(vectors)
    votes = np.zeros((*vectors.shape[:-1], DIRECTIONS), vectors.dtype)
    for each, share in zip(bins, shares, strict=True):
        np.put_along_axis(votes, each[..., None], share[..., None], axis=-1)
    return votes


def _direction_sums(vectors: np.ndarray, places: np.ndarray, number: int) -> np.ndarray:
    """The sums of `_direction_votes` of vectors [n, 2] over those of each place: [number, 8]."""
    sums = np.zeros(number * DIRECTIONS)
    for each, share in zip(*_divided(vectors), strict=True):
        sums += np.bincount(places * DIRECTIONS + each, share, number * DIRECTIONS)
    return sums.reshape(number, DIRECTIONS)


def _divided(vectors: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """The two directions nearest to each vector [..., 2], int64, and how much of its length each
    gets."""
    length = np.hypot(vectors[..., 0], vectors[..., 1])
    turn = np.arctan2(vectors[..., 1], vectors[..., 0]) * (DIRECTIONS / (2 * math.pi)) % DIRECTIONS
    lower = np.floor(turn)
    upper_share = turn - lower
    first = lower.astype(np.int64) % DIRECTIONS
    return (first, (first + 1) % DIRECTIONS), (length * (1 - upper_share), length * upper_share)
