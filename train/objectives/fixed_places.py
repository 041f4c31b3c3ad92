"""Targets at fixed positions: flow, HOG, HOF and MBH, as alternatives to MME's tracks.

Sun et al. 2023 compare trajectories with targets that do not follow points. These are computed at
the K points of a patch where tracks start, in S frames from the first frame of the tubelet on:

- flow: the movement of the point to the next frame;
- hog: the histogram of oriented gradients at the point, 9 bins;
- hof: the histogram of the flow of all K points over 8 directions; a ninth bin counts still
  points;
- mbh: motion boundary histograms (Dalal et al. 2006), the change of flow along x and y: 8
  directions for each of the two components, over all K points.

HOF and MBH are made in train/objectives/flow_histograms.py. The flow at a position is the first
step of the track that starts there, so that no other shards are needed.

Letters as in train/objectives/tracked_points.py; U frames of the clip are read.
"""

from __future__ import annotations

import math

import numpy as np

from shared.grid import View
from train.clips.tracks import PlacedTracks
from train.objectives.flow_histograms import hof_votes, mbh_votes, motion_boundaries
from train.objectives.tracked_points import (
    by_patch,
    nearest_starts,
    scaled,
    standardised,
    view_scale,
)
from train.objectives.trajectory_config import TrajectoryConfig


def frames_to_read(ends: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The frames whose tracks a target needs, without repetition.

    Args:
        ends: int64 [T', S + 1], see `TrajectoryConfig.step_ends`.
        num_frames: number of frames of the clip.

    Returns:
        int64 [U], increasing; int64 [U], the length of the step from each of them in frames; and
        int64 [T', S], the positions of the frames of the target in it. A frame after the end of the
        clip is replaced by the last frame, where no track has a step. Of copies of a frame, all
        have the step to the next other frame.
    """
    asked = np.minimum(ends[:, :-1], num_frames - 1)
    frames, places = np.unique(asked, return_inverse=True)
    known = np.unique(ends)
    lengths = np.append(known, known[-1] + 1)[np.searchsorted(known, frames, side="right")] - frames
    return frames, lengths, places.reshape(asked.shape)


def fixed_target(
    placed: PlacedTracks,
    lengths: np.ndarray,
    places: np.ndarray,
    view: View,
    source_size: tuple[int, int],
    grid: tuple[int, int],
    config: TrajectoryConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """The target of all tokens of a view.

    Args:
        placed: tracks that start at U frames.
        lengths: int64 [U], how many of their steps are used, see `frames_to_read`.
        places: int64 [T', S], positions in these frames.
        view, source_size, grid: see `trajectory_target`.

    Returns:
        target float32 [N, D]: numbers by point (flow, hog) and step, normalised over a patch.
        counts bool [N, K, S] (flow, hog) or [N, 1, S] (hof, mbh): whether a step is in the loss.
        Points outside the frame and steps at or after the end of the clip are left out.
    """
    tracks = placed.tracks.at(np.arange(math.prod(placed.grid)), hog=config.kind == "hog")
    per_side = math.isqrt(config.points)
    points, within = nearest_starts(
        placed.grid, view, source_size, (grid[0] * per_side, grid[1] * per_side)
    )
    scale = view_scale(placed.size, source_size, view)
    known = tracks.num_steps >= lengths[:, None]  # [U, G]
    used = np.arange(tracks.displacements.shape[2]) < lengths[:, None]  # [U, L]
    moves = np.where(used[:, None, :, None], tracks.displacements, 0).sum(axis=2)
    if config.kind == "mbh":
        values, known = motion_boundaries(moves, known, points, placed.grid, placed.size, scale)
    elif config.kind == "hog":
        flipped = config.hog_layout.flipped(view.flip_x, view.flip_y)
        values, known = tracks.hog[:, :, 0, flipped][:, points], known[:, points]
    else:
        values, known = moves[:, points] * scale, known[:, points]

    def of_patches(each: np.ndarray) -> np.ndarray:
        # [U, rows, columns, ...] -> [T', rows, columns, S, ...] -> [N, K, S, ...]
        return by_patch(np.moveaxis(each[places], 1, 3), grid, per_side)

    found, counts = of_patches(values), of_patches(known & within)
    if config.kind == "flow":
        target = scaled(found, counts, config.normalise, config.centred)
    elif config.kind == "hog":
        target = standardised(found, counts, config.normalise)
    else:
        votes = hof_votes(found) if config.kind == "hof" else mbh_votes(found)
        number = np.maximum(counts.sum(axis=1, keepdims=True), 1)[..., None]
        histograms = (votes * counts[..., None]).sum(axis=1, keepdims=True) / number
        counts = np.any(counts, axis=1, keepdims=True)
        target = standardised(histograms.astype(np.float32), counts, config.normalise)
    return target.reshape(len(target), -1).astype(np.float32), counts
