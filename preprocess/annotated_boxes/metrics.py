"""Measures how well one box per frame agrees with annotated boxes. F frames, K boxes a frame.

Boxes are x1 y1 x2 y2 in pixels, half-open. A row of NaN means that there is no box.
"""

from __future__ import annotations

import numpy as np

# Trivial boxes that motion boxes have to beat: centred, with this share of each side.
TRIVIAL_BOXES = {"full_frame": 1.0, "centre_half": 0.5, "centre_70": 0.7}


def box_figures(
    boxes: np.ndarray, annotated: np.ndarray, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Compute the figures of each frame. All figures of a frame without a box are 0.

    Args:
        boxes: float64 [F, 4], the boxes to measure, NaN where there is none.
        annotated: float64 [F, K, 4], NaN where there are fewer than K; at least one box a frame.
        size: width and height of the frame.

    Returns:
        float64 [F] for each figure. "iou": intersection over union of the box with the smallest box
        around all annotated boxes (which MOFO calls the union box). "centre_hit": 1 if the centre
        of the box lies in an annotated box. "recall": share of the annotated area (the region that
        the annotated boxes cover) inside the box. "area": share of the frame that the box covers.
    """
    annotated = clip_to_frame(annotated, size)
    around = bounding_boxes(annotated)
    common = np.nan_to_num(box_area(intersect(boxes, around)))
    area = np.nan_to_num(box_area(boxes))
    inside = union_area(intersect(annotated, boxes[:, None]))
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    hit = np.all((annotated[..., :2] <= centre) & (centre < annotated[..., 2:]), axis=-1)
    return {
        "iou": common / (area + box_area(around) - common),
        "centre_hit": hit.any(axis=1).astype(np.float64),
        "recall": inside / union_area(annotated),
        "area": area / (size[0] * size[1]),
    }


def trivial_box(share: float, size: tuple[int, int]) -> np.ndarray:
    """float64 [4], the centred box with this share of each side."""
    width, height = size
    margin = (1 - share) / 2
    return np.array([width, height, width, height]) * [margin, margin, 1 - margin, 1 - margin]


def saliency(maps: np.ndarray, annotated: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Compute MGM's saliency score: mean motion inside the annotated boxes, divided by outside.

    Args:
        maps: float64 [F, h, w], motion in any unit.
        annotated: float64 [F, K, 4], source pixels.
        size: width and height of the source.

    Returns:
        float64 [F]; NaN if the boxes contain no position of the map or all of them, or if nothing
        moves outside. A position is inside if its centre is in any of the boxes.
    """
    height, width = maps.shape[1:]
    x1, y1, x2, y2 = np.moveaxis(clip_to_frame(annotated, size), -1, 0)[..., None]
    x = (np.arange(width) + 0.5) * size[0] / width
    y = (np.arange(height) + 0.5) * size[1] / height
    columns, rows = (x1 <= x) & (x < x2), (y1 <= y) & (y < y2)
    inside = np.any(rows[..., :, None] & columns[..., None, :], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_inside = np.sum(maps * inside, axis=(1, 2)) / inside.sum(axis=(1, 2))
        mean_outside = np.sum(maps * ~inside, axis=(1, 2)) / (~inside).sum(axis=(1, 2))
        ratio = mean_inside / mean_outside
    return np.where(np.isfinite(ratio), ratio, np.nan)


def union_area(boxes: np.ndarray) -> np.ndarray:
    """float64 [F], the area that the boxes float64 [F, K, 4] of each frame cover together.

    The edges of all boxes of a frame form a grid. Each of its cells is covered fully or not at all.
    """
    boxes = np.nan_to_num(boxes)  # NaN becomes a box without area
    xs, ys = (np.sort(boxes[..., [i, i + 2]].reshape(len(boxes), -1)) for i in (0, 1))
    columns = (boxes[..., :1] <= xs[:, None, :-1]) & (xs[:, None, 1:] <= boxes[..., 2:3])
    rows = (boxes[..., 1:2] <= ys[:, None, :-1]) & (ys[:, None, 1:] <= boxes[..., 3:4])
    covered = np.einsum("fkr,fkc->frc", rows.astype(np.float64), columns.astype(np.float64)) > 0
    return np.einsum("frc,fr,fc->f", covered, np.diff(ys), np.diff(xs))


def bounding_boxes(boxes: np.ndarray) -> np.ndarray:
    """float64 [F, 4], the smallest box around the boxes float64 [F, K, 4] of each frame.

    Each frame must have at least one box.
    """
    low, high = np.nanmin(boxes[..., :2], axis=1), np.nanmax(boxes[..., 2:], axis=1)
    return np.concatenate([low, high], axis=-1)


def intersect(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The intersections of two arrays of boxes [..., 4]; NaN where they do not overlap."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    shared = np.concatenate([low, high], axis=-1)
    return np.where(np.all(low < high, axis=-1, keepdims=True), shared, np.nan)


def clip_to_frame(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The part of each box inside the frame; NaN if no part is inside."""
    return intersect(boxes, np.array([0, 0, *size], np.float64))


def box_area(boxes: np.ndarray) -> np.ndarray:
    """The area of boxes [..., 4]; NaN for a row of NaN."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
