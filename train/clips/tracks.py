"""Stored tracks of one clip, and the positions where they start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.stored_tracks import StoredTracks
from shared.tracks import Tracks


@dataclass(frozen=True)
class PlacedTracks:
    """Tracks that start at the first frame of each tubelet.

    Attributes:
        tracks: tracks from T' frames and G points. The points are the centres of equal cells. `at`
            gives those of some points.
        left_steps: int64 [T'], number of frames of the clip after each first frame.
        grid: rows and columns of the points; G = rows * columns.
        size: width and height of the frames that points were tracked on, pixels.
    """

    tracks: Tracks | StoredTracks
    left_steps: np.ndarray
    grid: tuple[int, int]
    size: tuple[int, int]
