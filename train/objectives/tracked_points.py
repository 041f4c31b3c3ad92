"""The target of motion trajectories (MME, Sun et al. 2023, sec. 3.3).

Each token has K tracks of L steps that start at the first frame of its tubelet. A track has the
displacements of a point from frame to frame, and the histogram of oriented gradients (HOG, 9 bins)
around the point. Preprocessing tracked points through every frame of the video, so that a target
contains the motion between the input frames of the model.

Displacements and HOG are each normalised over all numbers of a patch. The mean is subtracted from
HOG, and the result is divided by the standard deviation, as for pixels. Displacements are only
divided by their root mean square: without their mean, a moving object would equal an object at
rest.

Letters: T' time steps, R x Q patches, N = T' * R * Q tokens, G grid points where tracks start, K
points of a patch, L stored steps, S steps of a target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.grid import View
from train.clips.tracks import PlacedTracks
from train.objectives.trajectory_config import UNIT, TrajectoryConfig

STILL_PIXELS = 0.1  # pixels of the view, added to the root mean square displacement of a patch
FLAT_GREY = 0.1  # grey values per pixel, added to the standard deviation of the HOG of a patch


def trajectory_target(
    placed: PlacedTracks,
    view: View,
    source_size: tuple[int, int],
    grid: tuple[int, int],
    config: TrajectoryConfig,
    ends: np.ndarray,
    positions: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The target of all tokens of a view, or of those at some positions.

    Args:
        placed: tracks with at least `config.length` steps that start at `ends[:, 0]`.
        view: crop and flips, in source pixels.
        source_size: (width, height) of the source in pixels.
        grid: (R, Q), patches.
        ends: int64 [T', S + 1], see `TrajectoryConfig.step_ends`.
        positions: int64 [n], patches whose tokens are computed at all time steps, so that N is
            T' * n; None for all patches.

    Returns:
        target float32 [N, D]: displacements by point, step and x, y; then HOG by point, step and
        bin. counts bool [N, K, S] (K = 1 for merged tracks): whether a step is known. Tracks that
        leave the frame or start outside of it are left out, and so are steps after the end of the
        clip and steps without length; their targets are 0.
    """
    per_side = math.isqrt(config.points)
    points, within = nearest_starts(
        placed.grid, view, source_size, (grid[0] * per_side, grid[1] * per_side)
    )
    points, within = (by_patch(each[None], grid, per_side) for each in (points, within))
    if positions is not None:
        points, within = points[positions], within[positions]
    scale = view_scale(placed.size, source_size, view)
    flips = view.flip_x or view.flip_y
    flipped = config.hog_layout.flipped(view.flip_x, view.flip_y) if flips else None
    shown = _Points(points, within, scale, flipped)
    targets: list[np.ndarray] = []
    known: list[np.ndarray] = []
    # One time step after another: what lies between tracks and target fits into a CPU's cache.
    for time in range(len(ends)):
        values, counts = _of_time_step(placed, time, shown, config, ends[time] - ends[time, 0])
        targets.append(np.concatenate([each.reshape(len(each), -1) for each in values], axis=1))
        known.append(counts)
    return np.concatenate(targets), np.concatenate(known)


@dataclass(frozen=True)
class _Points:
    """The points of some patches of a view.

    Attributes:
        points: int64 [n, K], the grid points where their tracks start.
        within: bool [n, K], whether the point lies in the frame.
        scale: float32 [2], see `view_scale`.
        flipped: int64 [B], where the numbers of HOG of a flipped frame lie; None without a flip.
    """

    points: np.ndarray
    within: np.ndarray
    scale: np.ndarray
    flipped: np.ndarray | None


def _of_time_step(
    placed: PlacedTracks, time: int, shown: _Points, config: TrajectoryConfig, ends: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """The target of the tokens of one time step.

    Args:
        ends: int64 [S + 1], where steps begin and end, from the first frame of the tubelet on.

    Returns:
        The parts of the target, float32 [n, K, S, numbers], and counts, bool [n, K, S].
    """
    length, shape = config.length, shown.points.shape
    tracks = placed.tracks.take(slice(time, time + 1)).at(shown.points.ravel(), hog=config.shape)
    displacements, hog = (
        each[0, :, :length].reshape(*shape, length, -1)
        for each in (tracks.displacements, tracks.hog)
    )
    displacements = displacements * shown.scale
    if config.shape and shown.flipped is not None:
        hog = hog[..., shown.flipped]
    num_steps = np.minimum(tracks.num_steps[0].reshape(shape), length)
    gone = num_steps < min(int(placed.left_steps[time]), length)
    num_steps = np.where(gone | ~shown.within, 0, num_steps)
    counts: np.ndarray = np.arange(length) < num_steps[..., None]
    if not config.interpolate:
        displacements, hog, counts = _joined_steps(displacements, hog, counts, ends)
    if config.merge != "none":
        displacements, hog, counts = _merged(displacements, hog, counts, config.merge)
    values = []
    if config.positions:
        values.append(scaled(displacements, counts, config.normalise, config.centred))
    if config.shape:
        values.append(standardised(hog, counts, config.normalise))
    return values, counts


def _joined_steps(
    displacements: np.ndarray, hog: np.ndarray, counts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the stored steps of tracks to steps from one input frame to the next.

    Args:
        displacements, hog, counts: [n, K, L, 2], [n, K, L, bins], [n, K, L].
        ends: int64 [S + 1], 0 to L, where joined steps begin and end; the first is 0.

    Returns:
        The same for S steps: the sum of displacements, HOG where the step begins, and whether all
        of its stored steps count. A step without length does not count: between two copies of a
        frame there is nothing to predict.
    """
    number = np.arange(counts.shape[-1])
    begin, end = ends[:-1], ends[1:]
    assert ends.min() >= 0 and ends.max() <= len(number), ends
    within = (number >= begin[:, None]) & (number < end[:, None])  # [S, L]
    moved = np.einsum("sl,nklx->nksx", within.astype(np.float32), displacements)
    reached = counts.sum(axis=-1)[..., None]  # counted steps are the first ones of a track
    return moved, hog[:, :, np.minimum(begin, len(number) - 1)], (end <= reached) & (end > begin)


def _merged(
    displacements: np.ndarray, hog: np.ndarray, counts: np.ndarray, how: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One track of the K of each patch: their mean, or the one that moves furthest ("max").

    Args:
        displacements, hog, counts: [N, K, S, 2], [N, K, S, bins], [N, K, S].

    Returns:
        The same with K = 1.
    """
    if how == "mean":
        number = np.maximum(counts.sum(axis=1, keepdims=True), 1)[..., None].astype(np.float32)
        mean = [
            (each * counts[..., None]).sum(axis=1, keepdims=True) / number
            for each in (displacements, hog)
        ]
        known: np.ndarray = np.any(counts, axis=1, keepdims=True)
        return mean[0], mean[1], known
    lengths = (np.linalg.norm(displacements, axis=-1) * counts).sum(axis=2)  # [N, K]
    # Among tracks that do not move, a known one comes before an unknown one.
    furthest = np.lexsort((counts.sum(axis=2), lengths), axis=1)[:, -1:]
    rows = np.arange(len(counts))[:, None]
    return displacements[rows, furthest], hog[rows, furthest], counts[rows, furthest]


def nearest_starts(
    grid: tuple[int, int], view: View, source_size: tuple[int, int], cells: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The grid point nearest to the centre of each of `cells` (rows, columns) of a view.

    Returns:
        int64 [rows, columns], the index of the point; and bool [rows, columns], whether the centre
        lies in the frame.
    """
    x1, y1, x2, y2 = view.crop
    x = (np.arange(cells[1]) + 0.5) / cells[1]
    y = (np.arange(cells[0]) + 0.5) / cells[0]
    x = (x1 + (1 - x if view.flip_x else x) * (x2 - x1)) / source_size[0]
    y = (y1 + (1 - y if view.flip_y else y) * (y2 - y1)) / source_size[1]
    column = np.floor(x * grid[1]).astype(np.int64).clip(0, grid[1] - 1)
    row = np.floor(y * grid[0]).astype(np.int64).clip(0, grid[0] - 1)
    within_x, within_y = (x >= 0) & (x < 1), (y >= 0) & (y < 1)
    return row[:, None] * grid[1] + column, within_y[:, None] & within_x


def view_scale(size: tuple[int, int], source_size: tuple[int, int], view: View) -> np.ndarray:
    """float32 [2]: pixels of the view per pixel of the tracked frames, along x and y."""
    x1, y1, x2, y2 = view.crop
    height, width = view.size
    along_x = source_size[0] / size[0] * width / (x2 - x1)
    along_y = source_size[1] / size[1] * height / (y2 - y1)
    signs = np.where([view.flip_x, view.flip_y], -1.0, 1.0)
    return (signs * [along_x, along_y]).astype(np.float32)


def by_patch(values: np.ndarray, grid: tuple[int, int], per_side: int) -> np.ndarray:
    """[T', R * m, Q * m, S, ...] -> [N, m * m, S, ...]; the points of a patch are in row order."""
    rest = values.shape[3:]
    cut = values.reshape(len(values), grid[0], per_side, grid[1], per_side, *rest)
    num_tokens = len(values) * grid[0] * grid[1]
    return np.moveaxis(cut, 2, 3).reshape(num_tokens, per_side * per_side, *rest)


def scaled(
    displacements: np.ndarray, counts: np.ndarray, normalise: bool = True, centred: bool = False
) -> np.ndarray:
    """Displacements [N, K, S, 2], divided by the root mean square of their patch, or by `UNIT`; 0
    if not counted. With `centred` the mean of the patch along x and y is subtracted first."""
    kept, partly = displacements.copy(), _partly(counts)
    _clear(kept, counts, partly)
    if centred:
        kept -= (kept.sum(axis=(1, 2)) / _numbers(counts, 1)[:, None])[:, None, None]
        _clear(kept, counts, partly)
    if not normalise:
        return kept / np.float32(UNIT)
    divisor = np.sqrt(_squares(kept) / _numbers(counts, 2)) + np.float32(STILL_PIXELS)
    kept /= divisor[:, None, None, None]
    return kept


def standardised(hog: np.ndarray, counts: np.ndarray, normalise: bool = True) -> np.ndarray:
    """Histograms [N, K, S, bins], standardised over each patch, or divided by `UNIT`; 0 if not
    counted."""
    partly, number = _partly(counts), _numbers(counts, hog.shape[-1])
    if normalise:
        totals = hog.reshape(len(hog), -1).sum(axis=1)
        totals[partly] = (hog[partly] * counts[partly, ..., None]).sum(axis=(1, 2, 3))
        centred = hog - (totals / number)[:, None, None, None]
    else:
        centred = hog / np.float32(UNIT)
    _clear(centred, counts, partly)
    if normalise:
        divisor = np.sqrt(_squares(centred) / number) + np.float32(FLAT_GREY)
        centred /= divisor[:, None, None, None]
    return centred


def _partly(counts: np.ndarray) -> np.ndarray:
    """int64, the patches of [N, K, S] with a step that is not counted: in most clips few."""
    return np.flatnonzero(~counts.reshape(len(counts), -1).all(axis=1))


def _clear(values: np.ndarray, counts: np.ndarray, partly: np.ndarray) -> None:
    """Set values [N, K, S, ...] that are not counted to 0, in place."""
    if len(partly):
        values[partly] *= counts[partly, ..., None]


def _squares(values: np.ndarray) -> np.ndarray:
    """[N]: the sum of squares of each patch."""
    flat = values.reshape(len(values), -1)
    squares: np.ndarray = np.einsum("nd,nd->n", flat, flat)
    return squares


def _numbers(counts: np.ndarray, each: int) -> np.ndarray:
    """float32 [N]: how many numbers of a patch are counted, at least 1."""
    steps = np.count_nonzero(counts.reshape(len(counts), -1), axis=1)
    return np.maximum(steps * each, 1).astype(np.float32)
