"""Point tracks, the grids where they start, and their plain coding.

Shards whose tracks start at every frame have the plain coding; shared/packed_tracks.py is that of
tracks which start at the tubelets of training windows alone.

L flows of a track, G = rows * columns points of the grid where the tracks of every frame start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Defaults of `flows --trajectories`; preprocess/flow/tracks.py gives the reasons.
USUAL_LENGTH = 6  # flows per track
USUAL_POINTS = 42  # along the short side of a frame
# Displacements in 1/64 px would take 40 % more bytes, mostly for noise of the flow.
DISPLACEMENT_UNIT = 1 / 16  # px
NUM_BINS = 9  # of 20 degrees, the first centred on a gradient along x
LARGEST_HOG = 64.0  # grey values per pixel, mean over a cell; larger values are rare and clipped
HOG_LEVELS = 127  # stored v stands for HOG_UNIT * v**2
HOG_UNIT = LARGEST_HOG / HOG_LEVELS**2
MIRRORED_BINS = (
    -np.arange(NUM_BINS) % NUM_BINS
)  # hog[..., MIRRORED_BINS] is that of a flipped frame
CHANNELS = {"grey": 1, "rgb": 3}
"""Pictures that HOG is computed of: the grey frame, or each of its colour channels."""


@dataclass(frozen=True)
class HogLayout:
    """The numbers that HOG has at a position: by channel, row and column of cells, and orientation.

    Attributes:
        channels: a name of `CHANNELS`.
        cells: cells along each side of the square around the position.
    """

    channels: str = "grey"
    cells: int = 1

    @classmethod
    def of_attributes(cls, attributes: Mapping[str, Any]) -> HogLayout:
        """The layout of a shard, by its attributes or those of its dataset."""
        channels, cells = (attributes.get(f"track_{name}") for name in ("channels", "cells"))
        return cls(cls.channels if channels is None else str(channels), int(cells or cls.cells))

    @property
    def num_values(self) -> int:
        return CHANNELS[self.channels] * self.cells**2 * NUM_BINS

    def flipped(self, flip_x: bool, flip_y: bool) -> np.ndarray:
        """int64 [num_values]: hog[..., flipped] is that of the flipped frame."""
        shape = (CHANNELS[self.channels], self.cells, self.cells, NUM_BINS)
        places = np.arange(self.num_values).reshape(shape)
        places = places[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
        return (places[..., MIRRORED_BINS] if flip_x != flip_y else places).ravel()

    def __str__(self) -> str:
        return f"{self.channels} frames in {self.cells} x {self.cells} cells"


@dataclass(frozen=True)
class Tracks:
    """Tracks that start at G grid points (row by row) of T frames.

    Attributes:
        displacements: float32 [T, G, L, 2], x and y of each step in pixels; 0 after the end of the
            track.
        num_steps: uint8 [T, G], steps that end inside the frame and the clip; L for a full track.
        hog: float32 [T, G, L, B], grey values per pixel at the start of each step; 0 after the end
            of the track. B is `HogLayout.num_values`, 9 by default, and 0 without HOG.
    """

    displacements: np.ndarray
    num_steps: np.ndarray
    hog: np.ndarray

    @property
    def length(self) -> int:
        """L."""
        return self.displacements.shape[2]

    def take(self, firsts: np.ndarray | slice) -> Tracks:
        """The tracks that start at some of the T frames: int64 [T'], or a slice of them."""
        return Tracks(self.displacements[firsts], self.num_steps[firsts], self.hog[firsts])

    def at(self, points: np.ndarray, hog: bool = True) -> Tracks:
        """The tracks that start at some of the G points, int64 [P]; without HOG if not asked."""
        shapes = self.hog if hog else self.hog[..., :0]
        arrays = (self.displacements, self.num_steps, shapes)
        return Tracks(*(each.take(points, axis=1) for each in arrays))


def grid_shape(size: tuple[int, int], points: int) -> tuple[int, int]:
    """Rows and columns of a grid with `points` along the short side of a (height, width) frame."""
    spacing = min(size) / points
    rows, columns = (max(1, math.floor(side / spacing + 0.5)) for side in size)
    return rows, columns


def start_points(size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """The grid points (x, y), float32 [G, 2]: the centres of equal cells that fill the frame.

    size = (height, width), grid = (rows, columns). Pixel i covers i to i + 1, as in boxes, so
    points scale with the frame without an offset of half a pixel.
    """
    (height, width), (rows, columns) = size, grid
    y, x = np.meshgrid(
        (np.arange(rows) + 0.5) * (height / rows),
        (np.arange(columns) + 0.5) * (width / columns),
        indexing="ij",
    )
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def quantised(tracks: Tracks) -> dict[str, np.ndarray]:
    """Convert tracks to stored values of the same shapes: int16, uint8 and uint8.

    Values are rounded half up.
    """
    displacements = np.floor(tracks.displacements / DISPLACEMENT_UNIT + 0.5)
    hog = np.floor(np.sqrt(tracks.hog / np.float32(HOG_UNIT)) + 0.5)
    return {
        "displacements": displacements.clip(-32768, 32767).astype(np.int16),
        "steps": tracks.num_steps,
        "hog": hog.clip(0, HOG_LEVELS).astype(np.uint8),
    }


def restored(displacements: np.ndarray, steps: np.ndarray, hog: np.ndarray) -> Tracks:
    """The inverse of `quantised`."""
    return Tracks(
        displacements * np.float32(DISPLACEMENT_UNIT),
        steps,
        np.square(hog, dtype=np.float32) * np.float32(HOG_UNIT),
    )
