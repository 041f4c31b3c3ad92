"""Histograms of optical flow (HOF) and motion boundary histograms (MBH).

They are those of dense trajectories (Wang et al. 2013, sec. 3.2): vectors are weighted by their
length, and each weight is divided between the two nearest of 8 directions. MBH (Dalal et al. 2006)
are histograms of the change of flow along x and y, one for each component of flow. A motion that
all points share, such as that of the camera, leaves no trace in them.

Letters: U frames, G grid points in rows and columns.
"""

from __future__ import annotations

import math

import numpy as np

DIRECTIONS = 8
STILL_FLOW = 0.4  # pixels; HOF counts smaller flow as still (Wang et al.: 0.4 pixels too)


def motion_boundaries(
    moves: np.ndarray,
    known: np.ndarray,
    grid: tuple[int, int],
    size: tuple[int, int],
    scale: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The change of flow from one point of the grid to the next.

    Args:
        moves: [U, G, 2] pixels of the tracked frames; known bool [U, G].
        grid: rows and columns of the points.
        size: width and height of the tracked frames, pixels.
        scale: [2], pixels of the view per pixel of the tracked frames, negative for a flip.

    Returns:
        float32 [U, G, 2, 2]: the change of the x and the y component, along x and along y, per
        pixel of the view; and bool [U, G], whether the point and its four neighbours are known.
    """
    (rows, columns), (width, height) = grid, size
    field = moves.reshape(-1, rows, columns, 2)
    changes = np.empty((*field.shape, 2), np.float32)  # component, then axis
    for axis, spacing in enumerate((width / columns, height / rows)):
        ratios = (scale / (spacing * scale[axis])).astype(np.float32)
        np.multiply(_differences(field, 2 - axis), ratios, out=changes[..., axis])
    own_known = known.reshape(-1, rows, columns)
    padded = np.pad(own_known, ((0, 0), (1, 1), (1, 1)), mode="edge")
    neighbours = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2])
    whole = np.logical_and.reduce((own_known, *neighbours, padded[:, 1:-1, 2:]))
    return changes.reshape(*moves.shape, 2), whole.reshape(known.shape)


def _differences(field: np.ndarray, axis: int) -> np.ndarray:
    """Central differences per grid step, one-sided at the ends; 0 for a single point."""
    if field.shape[axis] == 1:
        return np.zeros_like(field)
    along = np.moveaxis(field, axis, 0)
    found = np.empty_like(along)
    found[1:-1] = (along[2:] - along[:-2]) / 2
    found[0], found[-1] = along[1] - along[0], along[-1] - along[-2]
    return np.moveaxis(found, 0, axis)


def hof_votes(flow: np.ndarray, still: float = STILL_FLOW) -> np.ndarray:
    """Flow [..., 2] in pixels -> [..., 9]. The ninth bin is 1 where the flow is below `still`."""
    at_rest = np.hypot(flow[..., 0], flow[..., 1]) < still
    votes = _direction_votes(flow) * ~at_rest[..., None]
    return np.concatenate([votes, at_rest[..., None]], axis=-1)


def mbh_votes(changes: np.ndarray) -> np.ndarray:
    """Changes [..., 2, 2] of the components of flow -> [..., 16], by component and direction."""
    return _direction_votes(changes).reshape(*changes.shape[:-2], 2 * DIRECTIONS)


def _direction_votes(vectors: np.ndarray) -> np.ndarray:
    """The lengths of vectors [..., 2], divided between the two nearest of 8 directions: [...,
    8]."""
    length = np.hypot(vectors[..., 0], vectors[..., 1])
    turn = np.arctan2(vectors[..., 1], vectors[..., 0]) * (DIRECTIONS / (2 * math.pi)) % DIRECTIONS
    lower = np.floor(turn)
    upper_share = turn - lower
    first = lower.astype(np.int64)[..., None] % DIRECTIONS
    votes = np.zeros((*length.shape, DIRECTIONS), length.dtype)
    np.put_along_axis(votes, first, (length * (1 - upper_share))[..., None], axis=-1)
    np.put_along_axis(votes, (first + 1) % DIRECTIONS, (length * upper_share)[..., None], axis=-1)
    return votes
