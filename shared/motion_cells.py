"""Averages motion maps over the cells of the patch grid, after crop, resize and flip.

Stored maps hold either the size of the flow's derivatives (MOFO, eq. 1), which is large at the
edges of moving objects and zero for a panning camera, or the length of the flow, which MGM uses
(sec. 3.3; `preprocess.flows --lengths`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.grid import View

SIDE_PARTS = 4
PARTS = SIDE_PARTS**2
"""Equal parts of a cell, of which a top-K pooling takes the K with the most motion."""


@dataclass(frozen=True)
class MotionPooling:
    """How motion maps become the motion of a cell of a frame.

    Attributes:
        top: K, 1 to 16: the mean over the K of 16 equal parts of the cell that move most. With 16
            it is the mean over the cell.
        before: whether the motion of a frame is that from the frame before it to this frame, as
            codecs store it, and not that from this frame to the next. The first frame of a clip
            then has no motion.

    Raises:
        InputError: `top` is not from 1 to 16.
    """

    top: int = PARTS
    before: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.top <= PARTS:
            raise InputError(
                "out-of-range", f"top is {self.top}; a number of parts from 1 to {PARTS} is allowed"
            )

    @classmethod
    def of_mask(cls, options: Mapping[str, Any]) -> MotionPooling:
        """The pooling that the options of a mask ask for."""
        return cls(options.get("top", cls.top), options.get("before", cls.before))


MEAN = MotionPooling()
"""The mean over a cell of the motion from each frame to the next."""


def maps_of_frames(
    frames: np.ndarray, num_frames: int, pooling: MotionPooling
) -> tuple[np.ndarray, np.ndarray]:
    """Which stored map has the motion of each frame of a view.

    Stored map i is that from frame i of the clip to the next. Without `before` it is taken for
    frame i. With `before` it is taken for frame i + 1, and for frame i in a view that runs backward
    in time.

    Args:
        frames: int64 [T], frames of the clip.
        num_frames: number of frames of the clip.

    Returns:
        int64 [T], numbers of maps, at least 0; and bool [T], whether the motion exists: with
        `before`, the frame where the clip begins in the view has none before it.
    """
    if not pooling.before:
        return frames, np.ones(len(frames), dtype=np.bool_)
    if frames[0] > frames[-1] and (np.diff(frames) <= 0).all():
        return frames, frames < num_frames - 1
    return np.maximum(frames - 1, 0), frames > 0


def pooled_cells(
    maps: np.ndarray,
    view: View,
    source_size: tuple[int, int],
    grid: tuple[int, int],
    top: int = PARTS,
) -> np.ndarray:
    """The motion of each cell of a view: see `cell_means`, and `MotionPooling` for `top`."""
    if top == PARTS:
        return cell_means(maps, view, source_size, grid)
    fine = cell_means(maps, view, source_size, (grid[0] * SIDE_PARTS, grid[1] * SIDE_PARTS))
    cells = fine.reshape(len(maps), grid[0], SIDE_PARTS, grid[1], SIDE_PARTS)
    parts = np.moveaxis(cells, 2, 3).reshape(len(maps), *grid, PARTS)
    largest = np.partition(parts, PARTS - top, axis=-1)[..., PARTS - top :]
    means: np.ndarray = largest.mean(axis=-1)
    return means


def cell_means(
    maps: np.ndarray, view: View, source_size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Compute the mean of each map over each cell of a view.

    Args:
        maps: float32 [T, h, w], of the whole source frame.
        view: crop (in source pixels) and flips; outside the frame its border is repeated.
        source_size: (width, height) of the source in pixels.
        grid: (rows, columns), cells of equal size.

    Returns:
        float32 [T, rows, columns], flipped as the view is.
    """
    height, width = maps.shape[1:]
    x1, y1, x2, y2 = view.crop
    scale_x, scale_y = width / source_size[0], height / source_size[1]
    across = _weights(width, x1 * scale_x, x2 * scale_x, grid[1])
    down = _weights(height, y1 * scale_y, y2 * scale_y, grid[0])
    cells = down @ maps @ across.T
    cells = cells[:, :: -1 if view.flip_y else 1, :: -1 if view.flip_x else 1]
    return np.ascontiguousarray(cells)


def _weights(length: int, first: float, last: float, count: int) -> np.ndarray:
    """Shares of each pixel in `count` equal parts of first..last, float32 [count, length].

    Rows sum to 1. The first and the last pixel extend to infinity.
    """
    edges = np.linspace(first, last, count + 1)
    begins, ends = np.arange(length, dtype=float), np.arange(1.0, length + 1)
    begins[0], ends[-1] = -np.inf, np.inf
    overlap = np.minimum(ends, edges[1:, None]) - np.maximum(begins, edges[:-1, None])
    return (overlap.clip(min=0) * (count / (last - first))).astype(np.float32)
