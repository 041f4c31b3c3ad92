"""Finds the contours of the moving areas of one frame, and prepares them for a shard."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from preprocess.motion_boxes.presets import MotionParameters
from shared.schema import LARGEST_VERTEX

REFERENCE_LINES = 240  # lengths in MotionParameters are in pixels of a map with this short side


def largest_contours(evidence: np.ndarray, parameters: MotionParameters) -> list[np.ndarray]:
    """Find the contours that the box of a frame encloses, the largest first.

    Args:
        evidence: float32 [h, w], the result of `motion_evidence` for the frame.
        parameters: see MotionParameters.

    Returns:
        contours in OpenCV's form, int32 [k, 1, 2] of x, y in pixels of the map.
    """
    height, width = evidence.shape
    scale = height / REFERENCE_LINES if height <= width else width / REFERENCE_LINES
    kept = evidence.copy()
    margin = round(parameters.border * scale)
    if margin:
        kept[:margin] = kept[-margin:] = 0
        kept[:, :margin] = kept[:, -margin:] = 0
    kept = _smoothed(kept, parameters.sigma_before * scale)
    least = max(parameters.peak_share * kept.max(), parameters.deviations * kept.std())
    kept[kept < least] = 0
    kept = _smoothed(kept, parameters.sigma * scale)
    moving = (kept > parameters.mean_factor * kept.mean()) & (kept >= parameters.least_kept)
    contours, _ = cv2.findContours(
        moving.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    # The rectangle breaks ties, because OpenCV does not promise an order of contours.
    rectangles = [cv2.boundingRect(contour) for contour in contours]
    areas = [cv2.contourArea(contour) for contour in contours]
    order = sorted(range(len(contours)), key=lambda i: (-areas[i], rectangles[i]))
    chosen = order[: parameters.contours]
    reach = parameters.largest_distance * np.hypot(width, height)
    return [
        contours[i]
        for rank, i in enumerate(chosen)
        if rank == 0
        or (
            _distance(corners_of(rectangles[i]), corners_of(rectangles[chosen[0]])) <= reach
            and _motion_inside(kept, contours[i])
            >= parameters.smallest_share * _motion_inside(kept, contours[chosen[0]])
        )
    ]


def contour_vertices(contours: list[list[np.ndarray]], to_source: np.ndarray) -> list[np.ndarray]:
    """Convert the contours of frames to the form that a boxes shard stores.

    Args:
        contours: for each frame its contours, as `motion_boxes` returns them.
        to_source: float64 [2], source pixels per map pixel in x and y.

    Returns:
        for each frame int16 [vertices, 3]: the number of the contour (0 is the largest), x and y
        in source pixels. Coordinates are clipped to 0..LARGEST_VERTEX.
    """
    frames = []
    for of_frame in contours:
        rows = [np.empty((0, 3), np.int16)]
        for number, contour in enumerate(of_frame):
            corners = np.floor(contour * to_source + 0.5).clip(0, LARGEST_VERTEX).astype(np.int16)
            rows.append(np.insert(corners, 0, number, axis=1))
        frames.append(np.concatenate(rows))
    return frames


def _motion_inside(evidence: np.ndarray, contour: np.ndarray) -> float:
    """The sum of a map [h, w] over the pixels on a contour and inside it."""
    x, y, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), dtype=np.uint8)
    cv2.drawContours(inside, [contour], -1, 1, thickness=cv2.FILLED, offset=(-x, -y))
    return float(evidence[y : y + height, x : x + width][inside > 0].sum())


def _smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """A map after a Gaussian of standard deviation sigma, in pixels; sigma 0 changes nothing."""
    if sigma <= 0:
        return values
    return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def _distance(box: np.ndarray, other: np.ndarray) -> float:
    """The distance between the centres of two boxes, in pixels."""
    return float(np.hypot(*((box[:2] + box[2:] - other[:2] - other[2:]) / 2)))


def corners_of(rectangle: Sequence[int]) -> np.ndarray:
    """float32 [4], x1 y1 x2 y2 half-open, of an OpenCV rectangle (x, y, width, height)."""
    x, y, width, height = rectangle
    return np.array([x, y, x + width, y + height], dtype=np.float32)
