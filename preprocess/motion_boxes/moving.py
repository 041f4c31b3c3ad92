"""Turns contours, or annotated boxes, into the table of what moves in each frame."""

from __future__ import annotations

import cv2
import numpy as np


def moving_areas(
    contours: list[list[np.ndarray]], boxes: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Fill the contours of frames, as far as they lie in the frame's box.

    Neighbouring frames have a say in the box, so what lies outside of it is mostly noise of this
    frame alone.

    Args:
        contours: for each frame its contours, as `motion_boxes` returns them.
        boxes: float32 [T, 4], the frames' boxes in pixels of the map, NaN where there is none.
        size: (h, w) of the map.

    Returns:
        bool [T, h, w].
    """
    height, width = size
    areas = np.zeros((len(contours), height, width), dtype=np.uint8)
    for area, of_frame, box in zip(areas, contours, boxes, strict=True):
        if of_frame:
            vertices = [np.floor(contour).astype(np.int32) for contour in of_frame]
            cv2.drawContours(area, vertices, -1, 1, thickness=cv2.FILLED)
            x1, y1 = np.floor(box[:2]).astype(int)
            x2, y2 = np.ceil(box[2:]).astype(int)
            area[:y1] = area[y2:] = 0
            area[:, :x1] = area[:, x2:] = 0
    return areas.astype(np.bool_)


def covered_cells(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The cells whose centre lies in one of the boxes, bool [h, w].

    Args:
        boxes: float [K, 4], x1 y1 x2 y2 in cells, half-open.
        size: (h, w).
    """
    y, x = (np.arange(side) + 0.5 for side in size)
    x1, y1, x2, y2 = boxes.T[..., None]
    rows = (y1 <= y) & (y < y2)
    columns = (x1 <= x) & (x < x2)
    return (rows[:, :, None] & columns[:, None, :]).any(axis=0)
