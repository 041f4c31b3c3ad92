"""Motion trajectories as what the decoder predicts (MME, Sun et al. 2023, sec. 3.3).

For each token, K tracks of L steps that start at the first frame of its tubelet: how a point moves
from frame to frame (its displacements) and what surrounds it on the way (a histogram of oriented
gradients, HOG, of 9 bins). Preprocessing tracked points through every frame of the video, so a
target tells of motion between the frames that the model is given.

Each part is normalised over all numbers of a patch. HOG has its mean taken off and is divided by
its standard deviation, as pixels are. Displacements are only divided, by their root mean square:
with the mean taken off, an object that moves as a whole would not differ from one that rests.

Letters: T' time steps, R x Q patches, N = T' * R * Q tokens, G grid points that tracks start from,
K points of a patch, L stored steps, S steps of a target.
"""

from __future__ import annotations

import math

import numpy as np

from shared.grid import View
from shared.tracks import MIRRORED_BINS, NUM_BINS
from train.clips.tracks import PlacedTracks
from train.objectives.trajectory_config import TrajectoryConfig

STILL_PIXELS = 0.1  # of the view; added to a patch's root mean square displacement
FLAT_GREY = 0.1  # grey values a pixel; added to the standard deviation of a patch's HOG


def trajectory_target(
    placed: PlacedTracks,
    view: View,
    source_size: tuple[int, int],
    grid: tuple[int, int],
    config: TrajectoryConfig,
    stride: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What is predicted for all tokens of a view.

    Args:
        placed: with at least `config.length` steps.
        view: crop and flips, in source pixels.
        source_size: (width, height) of the source in pixels.
        grid: (R, Q), patches.
        stride: frames of the video between two given ones.

    Returns:
        target float32 [N, D]: displacements by point, step and x, y, then HOG by point, step and
        bin. counts bool [N, K, S]: whether a step is in the loss. Left out are tracks that leave
        the frame or start beyond it, and steps beyond the end of the clip; their targets are 0.
    """
    tracks, length = placed.tracks, config.length
    per_side = math.isqrt(config.points)
    points, within = nearest_starts(
        placed.grid, view, source_size, (grid[0] * per_side, grid[1] * per_side)
    )
    scale = view_scale(placed.size, source_size, view)
    displacements = tracks.displacements[:, points, :length] * scale
    hog = tracks.hog[:, points, :length, : NUM_BINS * config.shape]
    if view.flip_x != view.flip_y:
        hog = hog[..., MIRRORED_BINS[: hog.shape[-1]]]
    available = np.minimum(placed.left_steps, length)[:, None, None]
    num_steps = np.minimum(tracks.num_steps[:, points], length)
    num_steps = np.where((num_steps < available) | ~within, 0, num_steps)
    counts: np.ndarray = np.arange(length) < num_steps[..., None]
    if not config.interpolate:
        steps = config.num_steps(stride)
        displacements, hog, counts = (
            values[:, :, :, : steps * stride].reshape(
                *values.shape[:3], steps, stride, *values.shape[4:]
            )
            for values in (displacements, hog, counts)
        )
        displacements, hog = displacements.sum(axis=4), hog[:, :, :, :, 0]
        counts = np.asarray(counts.all(axis=4))
    displacements, hog, counts = (
        by_patch(values, grid, per_side) for values in (displacements, hog, counts)
    )
    parts = []
    if config.positions:
        parts.append(scaled(displacements, counts))
    if config.shape:
        parts.append(standardised(hog, counts))
    flat = [part.reshape(len(part), -1) for part in parts]
    return np.concatenate(flat, axis=1), counts


def nearest_starts(
    grid: tuple[int, int], view: View, source_size: tuple[int, int], parts: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The grid point nearest the middle of each of `parts` (rows, columns) of what is shown.

    Returns:
        index int64 [rows, columns] of the point, and whether that middle lies in the frame, bool.
    """
    x1, y1, x2, y2 = view.crop
    x = (np.arange(parts[1]) + 0.5) / parts[1]
    y = (np.arange(parts[0]) + 0.5) / parts[0]
    x = (x1 + (1 - x if view.flip_x else x) * (x2 - x1)) / source_size[0]
    y = (y1 + (1 - y if view.flip_y else y) * (y2 - y1)) / source_size[1]
    column = np.floor(x * grid[1]).astype(np.int64).clip(0, grid[1] - 1)
    row = np.floor(y * grid[0]).astype(np.int64).clip(0, grid[0] - 1)
    within_x, within_y = (x >= 0) & (x < 1), (y >= 0) & (y < 1)
    return row[:, None] * grid[1] + column, within_y[:, None] & within_x


def view_scale(size: tuple[int, int], source_size: tuple[int, int], view: View) -> np.ndarray:
    """float32 [2]: pixels of the view, along x and y, for a pixel of the tracked frames."""
    x1, y1, x2, y2 = view.crop
    height, width = view.size
    along_x = source_size[0] / size[0] * width / (x2 - x1)
    along_y = source_size[1] / size[1] * height / (y2 - y1)
    signs = np.where([view.flip_x, view.flip_y], -1.0, 1.0)
    return (signs * [along_x, along_y]).astype(np.float32)


def by_patch(values: np.ndarray, grid: tuple[int, int], per_side: int) -> np.ndarray:
    """[T', R * m, Q * m, S, ...] -> [N, m * m, S, ...], points of a patch row by row."""
    rest = values.shape[3:]
    cut = values.reshape(len(values), grid[0], per_side, grid[1], per_side, *rest)
    num_tokens = len(values) * grid[0] * grid[1]
    return np.moveaxis(cut, 2, 3).reshape(num_tokens, per_side * per_side, *rest)


def scaled(displacements: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Displacements [N, K, S, 2] over the root mean square of a patch's; 0 where not counted."""
    kept = displacements * counts[..., None]
    mean_square = np.square(kept).sum(axis=(1, 2, 3), keepdims=True) / _numbers(counts, 2)
    return kept / (np.sqrt(mean_square) + np.float32(STILL_PIXELS))


def standardised(hog: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Histograms [N, K, S, bins] less a patch's mean, over its deviation; 0 where not counted."""
    kept, number = counts[..., None], _numbers(counts, hog.shape[-1])
    mean = (hog * kept).sum(axis=(1, 2, 3), keepdims=True) / number
    apart = (hog - mean) * kept
    variance = np.square(apart).sum(axis=(1, 2, 3), keepdims=True) / number
    return apart / (np.sqrt(variance) + np.float32(FLAT_GREY))


def _numbers(counts: np.ndarray, each: int) -> np.ndarray:
    """float32 [N, 1, 1, 1]: how many numbers of a patch count, at least 1."""
    steps = counts.sum(axis=(1, 2)).reshape(-1, 1, 1, 1)
    return np.maximum(steps * each, 1).astype(np.float32)
