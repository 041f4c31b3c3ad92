"""Where points of the picture go along stored tracks.

A time step of a model is several frames of the video long, more than a stored track may have.
Tracks are therefore chained: where one ends, the track that starts nearest goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.flow_tube import FINE
from shared.grid import View
from train.clips.tracks import PlacedTracks

TracksFrom = Callable[[np.ndarray], PlacedTracks]
"""Reads the tracks that start at frames int64 [K] of a clip."""


def flow_between_steps(
    tracks: TracksFrom,
    firsts: np.ndarray,
    view: View,
    source_size: tuple[int, int],
    grid: tuple[int, int],
) -> np.ndarray:
    """The flow of `Scene.flow`.

    Args:
        tracks: reads the tracks of the clip.
        firsts: int64 [T'], the first frame of each time step, not decreasing.
        view: crop and flips, in source pixels.
        source_size: (width, height) of the source in pixels.
        grid: (R, Q), positions.

    Returns:
        float32 [T' - 1, m * R, m * Q, 2]: x and y in positions; NaN if a track leaves the frame, or
        the point lies outside of it.
    """
    starts = cell_centres(view, (grid[0] * FINE, grid[1] * FINE))
    places = np.repeat(starts[None], len(firsts) - 1, axis=0)
    moves = moved_points(tracks, firsts[:-1], firsts[1:], places, source_size) - starts
    x1, y1, x2, y2 = view.crop
    cell = np.array([(x2 - x1) / grid[1], (y2 - y1) / grid[0]])  # source pixels of a position
    signs = np.where([view.flip_x, view.flip_y], -1.0, 1.0)
    return (moves / (cell * signs)).astype(np.float32)


def paths_of_points(
    tracks: TracksFrom, firsts: np.ndarray, starts: np.ndarray, source_size: tuple[int, int]
) -> np.ndarray:
    """The places of points at each of some frames.

    Args:
        tracks: reads the tracks of the clip.
        firsts: int64 [T'], frames, not decreasing.
        starts: float64 [..., 2], x and y at the first of them, in source pixels.
        source_size: (width, height) of the source in pixels.

    Returns:
        float64 [T', ..., 2] in source pixels; NaN from where a point leaves the frame on.
    """
    places = [starts]
    for step in range(len(firsts) - 1):
        pair = firsts[step : step + 1], firsts[step + 1 : step + 2]
        places.append(moved_points(tracks, *pair, places[-1][None], source_size)[0])
    return np.stack(places)


def moved_points(
    tracks: TracksFrom,
    frames: np.ndarray,
    ends: np.ndarray,
    places: np.ndarray,
    source_size: tuple[int, int],
) -> np.ndarray:
    """The places of points at later frames.

    Args:
        tracks: reads the tracks of the clip.
        frames, ends: int64 [K], where each row of points begins and ends; no end is earlier.
        places: float64 [K, ..., 2], x and y at `frames`, in source pixels.
        source_size: (width, height) of the source in pixels.

    Returns:
        float64 [K, ..., 2]; NaN if a point leaves the frame or lies outside of it.
    """
    places, frames = places.copy(), frames.copy()
    while len(open_rows := np.flatnonzero(frames < ends)):
        placed = tracks(frames[open_rows])
        hop = np.minimum(ends[open_rows] - frames[open_rows], placed.tracks.length)
        for row, which in enumerate(open_rows):
            places[which] = _hopped(placed, row, int(hop[row]), places[which], source_size)
        frames[open_rows] += hop
    return places


def cell_centres(view: View, cells: tuple[int, int]) -> np.ndarray:
    """The centres of equal `cells` (rows, columns) of a view, float64 [rows, columns, 2].

    They are x and y in source pixels; crop and flips of the view are undone.
    """
    x1, y1, x2, y2 = view.crop
    row, column = np.indices(cells)
    share = (np.stack([column, row], axis=-1) + 0.5) / cells[::-1]
    share = np.where([view.flip_x, view.flip_y], 1.0 - share, share)
    centres: np.ndarray = share * [x2 - x1, y2 - y1] + [x1, y1]
    return centres


def _hopped(
    placed: PlacedTracks, row: int, hop: int, places: np.ndarray, source_size: tuple[int, int]
) -> np.ndarray:
    """Places [..., 2] in source pixels after `hop` steps of the tracks that start nearest."""
    (rows, columns), source = placed.grid, np.array(source_size)
    share = places / source
    known = ((share >= 0) & (share < 1)).all(axis=-1)  # comparisons with NaN are False
    cell = np.floor(np.where(known[..., None], share, 0) * [columns, rows]).astype(np.int64)
    start = cell[..., 1] * columns + cell[..., 0]
    tracks = placed.tracks.take(slice(row, row + 1)).at(start.ravel(), hog=False)
    known &= (tracks.num_steps[0] >= hop).reshape(start.shape)
    moves = tracks.displacements[0, :, :hop].sum(axis=-2).reshape(*start.shape, 2)
    moved: np.ndarray = places + moves * (source / np.array(placed.size))
    return np.where(known[..., None], moved, np.nan)
