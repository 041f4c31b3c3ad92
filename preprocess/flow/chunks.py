"""What goes into flow and what comes out of it, chunk by chunk: plain data, small enough to send.

Letters: T frames or pairs of a chunk, h and w the size of a picture or map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GreyFrames:
    """The frames of one chunk of a clip, on which flow is computed.

    Attributes:
        clip_index: row of the clip in the manifest, from 0.
        attempt: how often the clip was started before.
        first_index: number of the first of the frames in the clip.
        frames: uint8 [T, h, w].
        num_before: how many of the frames belong to the chunk before: see `frames_before` of
            FlowOptions.
        is_last: whether the clip ends with this chunk.
    """

    clip_index: int
    attempt: int
    first_index: int
    frames: np.ndarray
    num_before: int = 0
    is_last: bool = True


@dataclass(frozen=True)
class Maps:
    """Companded motion maps of consecutive pairs of frames.

    Attributes:
        clip_index, attempt: as in GreyFrames.
        first_index: number of the first pair in the clip.
        values: uint8 [T, h, w], as `shared.motion_maps.compand` gives them.
        scale: float32 [T].
        output: which of the outputs of FlowOptions.
        homography: float64 [T, 9], the camera's motion; None without `--stabilise`.
        inliers: int32 [T], matches or vectors that fit the homography; None with it.
        residual: uint8 [T, h, w], companded too: the length of the flow without the camera's part
            (preprocess/flow/residual.py); None where the output has none.
        residual_scale: float32 [T]; None with it.
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
    """Tracks that start at T consecutive frames, on each from the points of a grid.

    Attributes:
        clip_index, attempt: as in GreyFrames.
        first_index: number of the first of the T frames in the clip.
        grid: rows, columns.
        size: width, height of the frames in pixels.
        displacements, steps, hog: as `shared.tracks.quantised` gives them.
    """

    clip_index: int
    attempt: int
    first_index: int
    grid: tuple[int, int]
    size: tuple[int, int]
    displacements: np.ndarray
    steps: np.ndarray
    hog: np.ndarray
