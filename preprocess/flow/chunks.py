"""Input and output of flow for one chunk of a clip: plain data that processes send to each other.

Letters: T frames or pairs of a chunk, h and w the size of a frame or map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GreyFrames:
    """The frames of one chunk of a clip, from which flow is computed.

    Attributes:
        clip_index: row of the clip in the manifest, from 0.
        attempt: number of times that the clip was started before.
        first_index: number of frames[0] in the clip.
        frames: uint8 [T, h, w], grey.
        colour: uint8 [T, h, w, 3], the same frames in RGB, if HOG of each channel is stored.
        num_before: number of frames that belong to the previous chunk; see `frames_before` of
            FlowOptions.
        is_last: whether the clip ends with this chunk.
    """

    clip_index: int
    attempt: int
    first_index: int
    frames: np.ndarray
    num_before: int = 0
    is_last: bool = True
    colour: np.ndarray | None = None


@dataclass(frozen=True)
class Maps:
    """Companded motion maps of consecutive pairs of frames.

    Attributes:
        clip_index, attempt: as in GreyFrames.
        first_index: number of the first pair in the clip.
        values: uint8 [T, h, w], see `shared.motion_maps.compand`.
        scale: float32 [T], likewise.
        output: name of the output, one of `FlowOptions.outputs`.
        homography: float64 [T, 9], camera motion; None without `--stabilise`.
        inliers: int32 [T], number of matches or vectors that fit the homography; None without it.
        residual: uint8 [T, h, w], companded lengths of the flow without camera motion
            (preprocess/flow/residual.py); None where the output has none.
        residual_scale: float32 [T]; None without `residual`.
    """

    clip_index: int
    attempt: int
    first_index: int
    values: np.ndarray
    scale: np.ndarray
    output: str = "tvl1"
    homography: np.ndarray | None = None
    inliers: np.ndarray | None = None
    residual: np.ndarray | None = None
    residual_scale: np.ndarray | None = None


@dataclass(frozen=True)
class TracksOfFrames:
    """Tracks that start at all or some of consecutive frames, from the points of a grid in each.

    Attributes:
        clip_index, attempt: as in GreyFrames.
        first_index: number of the first of the consecutive frames in the clip.
        num_frames: number of the consecutive frames.
        starts: int64 [T], increasing, the numbers in the clip of the frames that have tracks here.
        grid: rows and columns of the grid.
        size: width and height of the frames in pixels.
        columns: stored values [T, ...] by name of their dataset, see `flow.track_columns`.
    """

    clip_index: int
    attempt: int
    first_index: int
    num_frames: int
    starts: np.ndarray
    grid: tuple[int, int]
    size: tuple[int, int]
    columns: dict[str, np.ndarray]
