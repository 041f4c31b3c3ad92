"""How far the picture moves from one time step of a view to the next, along stored tracks.

A time step is several frames of the video long, more than a stored track may have. Tracks are
therefore chained: where one ends, the track that starts nearest goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.flow_tube import FINE, fine_points
from shared.grid import View
from train.clips.tracks import PlacedTracks


def flow_between_steps(
    tracks: Callable[[np.ndarray], PlacedTracks],
    firsts: np.ndarray,
    view: View,
    source_size: tuple[int, int],
    grid: tuple[int, int],
) -> np.ndarray:
    """The flow of `Scene.flow`.

    Args:
        tracks: reads the tracks that start at frames int64 [K] of the clip.
        firsts: int64 [T'], the first frame of each time step, not decreasing.
        view: crop and flips, in source pixels.
        source_size: (width, height) of the source in pixels.
        grid: (R, Q), positions.

    Returns:
        float32 [T' - 1, m * R, m * Q, 2]: x and y in positions; NaN if a track leaves the frame, or
        the point lies outside of it.
    """
    x1, y1, x2, y2 = view.crop
    cell = np.array([(x2 - x1) / grid[1], (y2 - y1) / grid[0]])  # source pixels of a position
    signs = np.where([view.flip_x, view.flip_y], -1.0, 1.0)
    corner = np.where([view.flip_x, view.flip_y], [x2, y2], [x1, y1])
    starts = fine_points((grid[0] * FINE, grid[1] * FINE)) * cell * signs + corner
    places = np.repeat(starts[None], len(firsts) - 1, axis=0)  # source pixels
    frames, ends = firsts[:-1].copy(), firsts[1:]
    while len(open_steps := np.flatnonzero(frames < ends)):
        placed = tracks(frames[open_steps])
        hop = np.minimum(ends[open_steps] - frames[open_steps], placed.tracks.length)
        for row, step in enumerate(open_steps):
            places[step] = _moved(placed, row, int(hop[row]), places[step], source_size)
        frames[open_steps] += hop
    return ((places - starts) / (cell * signs)).astype(np.float32)


def _moved(
    placed: PlacedTracks, row: int, hop: int, places: np.ndarray, source_size: tuple[int, int]
) -> np.ndarray:
    """Places [mR, mQ, 2] in source pixels after `hop` steps of the tracks that start nearest."""
    (rows, columns), source = placed.grid, np.array(source_size)
    share = places / source
    known = ((share >= 0) & (share < 1)).all(axis=-1)  # comparisons with NaN are False
    column, line = np.floor(np.where(known[..., None], share, 0) * [columns, rows]).astype(int).T
    start = (line * columns + column).T
    tracks = placed.tracks.take(slice(row, row + 1)).at(start.ravel(), hog=False)
    known &= (tracks.num_steps[0] >= hop).reshape(start.shape)
    moves = tracks.displacements[0, :, :hop].sum(axis=-2).reshape(*start.shape, 2)
    moved: np.ndarray = places + moves * (source / np.array(placed.size))
    return np.where(known[..., None], moved, np.nan)
