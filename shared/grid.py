"""Maps motion boxes through crop, resize and flip onto the patch grid.

Boxes are half-open x1, y1, x2, y2 in pixels. A row of NaN stands for a frame without motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CANONICAL_SIZE = 224  # side in pixels of the view of the stored tube tables
PATCH = 16  # side of a patch in pixels in that view
TUBE_GRID = (CANONICAL_SIZE // PATCH, CANONICAL_SIZE // PATCH)  # rows, columns of positions
TUBE_POSITIONS = TUBE_GRID[0] * TUBE_GRID[1]
WINDOW_SHARE = 0.25
"""See `window_box`. Chosen with the boxes (benchmarks/results/boxes.md)."""


@dataclass(frozen=True)
class View:
    """A crop of the source, the size of the output, and its flips.

    Attributes:
        crop: x1, y1, x2, y2 in source pixels; fractions are allowed.
        size: (height, width) of the output in pixels.
        flip_x: whether the crop is flipped left to right.
        flip_y: whether the crop is flipped top to bottom.
    """

    crop: tuple[float, float, float, float]
    size: tuple[int, int]
    flip_x: bool = False
    flip_y: bool = False

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.crop
        assert x2 > x1 and y2 > y1, f"empty crop {self.crop}"
        assert min(self.size) > 0, f"empty output {self.size}"

    def apply(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes [..., 4] in source pixels to boxes float32 [..., 4] in output pixels.

        Boxes are clipped to the output. A box outside the output, and a row of NaN, give NaN.
        """
        x1, y1, x2, y2 = self.crop
        height, width = self.size
        moved = np.array(boxes, dtype=np.float64)
        moved[..., 0::2] = (moved[..., 0::2] - x1) * (width / (x2 - x1))
        moved[..., 1::2] = (moved[..., 1::2] - y1) * (height / (y2 - y1))
        if self.flip_x:
            moved[..., 0::2] = width - moved[..., 2::-2]
        if self.flip_y:
            moved[..., 1::2] = height - moved[..., 3::-2]
        moved[..., 0::2] = moved[..., 0::2].clip(0, width)
        moved[..., 1::2] = moved[..., 1::2].clip(0, height)
        empty = ~((moved[..., 2] > moved[..., 0]) & (moved[..., 3] > moved[..., 1]))
        moved[empty] = np.nan
        return moved.astype(np.float32)


def canonical_view(width: int, height: int, size: int = CANONICAL_SIZE) -> View:
    """The view of the stored tube tables: short side resized to `size`, and centre crop."""
    short = min(width, height)
    left = (width - short) / 2
    top = (height - short) / 2
    return View(crop=(left, top, left + short, top + short), size=(size, size))


def window_box(boxes: np.ndarray, share: float = WINDOW_SHARE) -> np.ndarray:
    """Compute one box for a window of frames: the area in which most of the frames move.

    Each edge is a quantile of that edge of all boxes, so that a few frames with a wrong or a large
    box do not decide, as they would about the smallest box around all. Of 16 boxes it leaves out
    the 4 that reach furthest to each side.

    Args:
        boxes: [T, 4] x1 y1 x2 y2, NaN where a frame has none; such rows are left out.
        share: of the boxes that reach further than the result, to each side; 0: it is around all.

    Returns:
        float32 [4]; NaN where no frame has a box. Where boxes lie so far apart that the quantiles
        leave no area, the box around all.
    """
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    kept = boxes[~np.isnan(boxes).any(axis=1)]
    if len(kept) == 0:
        return np.full(4, np.nan, dtype=np.float32)
    box = edge_quantiles(kept, share)
    return box if np.all(box[:2] < box[2:]) else edge_quantiles(kept, 0.0)


def edge_quantiles(boxes: np.ndarray, share: float) -> np.ndarray:
    """float32 [4]: each edge at a share of the way from the outermost of boxes [K, 4] to the
    innermost, between two of them where need be."""
    ordered = np.sort(boxes, axis=0)
    from_outside = np.concatenate([ordered[:, :2], ordered[::-1, 2:]], axis=1)
    rank, between = divmod((len(boxes) - 1) * share, 1)
    low, high = from_outside[int(rank)], from_outside[min(int(rank) + 1, len(boxes) - 1)]
    return (low + np.float32(between) * (high - low)).astype(np.float32)


def positions_inside(box: np.ndarray, size: tuple[int, int], patch: int = PATCH) -> np.ndarray:
    """Find the patches of the grid whose centre lies inside the box.

    Args:
        box: [4] x1 y1 x2 y2 in pixels of the view; NaN if there is no box.
        size: (height, width) of the view in pixels, multiples of `patch`.
        patch: side of a patch in pixels.

    Returns:
        bool [height // patch, width // patch], True inside; all False without a box.
    """
    height, width = size
    assert height % patch == 0 and width % patch == 0, (size, patch)
    x1, y1, x2, y2 = (float(value) for value in box)
    centre_x = (np.arange(width // patch) + 0.5) * patch
    centre_y = (np.arange(height // patch) + 0.5) * patch
    columns = (centre_x >= x1) & (centre_x < x2)  # comparisons with NaN are False
    rows = (centre_y >= y1) & (centre_y < y2)
    return rows[:, None] & columns[None, :]


def inside_boxes(boxes: np.ndarray, view: View, patch: int = PATCH) -> np.ndarray:
    """Find the patches of a view whose centre lies in the box of the window (`window_box`).

    The box is computed in the source and then cropped, so boxes outside the crop count too.

    Args:
        boxes: [T, 4] x1 y1 x2 y2 in source pixels, of the sampled frames; NaN without motion.
        view: crop, size and flips.
        patch: side of a patch in pixels of the view.

    Returns:
        bool [rows, columns], True inside; all False if nothing moves or the box lies outside the
        crop.
    """
    return positions_inside(view.apply(window_box(boxes)), view.size, patch)
