"""Stored tracks of one clip, and where on the frame they start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.tracks import Tracks


@dataclass(frozen=True)
class PlacedTracks:
    """Tracks that start at the first frame of each tubelet.

    Attributes:
        tracks: from T' frames and G points, each in the middle of one of equal cells of the frame.
        left_steps: int64 [T'], frames of the clip after each first frame.
        grid: rows, columns of the points; G = rows * columns.
        size: width, height of the frames that points were tracked on, pixels.
    """

    tracks: Tracks
    left_steps: np.ndarray
    grid: tuple[int, int]
    size: tuple[int, int]
