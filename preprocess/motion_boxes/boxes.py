"""From the motion maps of a clip to a box for each frame.

    maps float32 [T,h,w] --motion_boxes--> a box, a score and the contours of each frame

The maps of a clip, and how much texture its frames have where, are all that boxes are made of, so
thresholds are tuned without flow.
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.motion_boxes.contours import corners_of, largest_contours
from preprocess.motion_boxes.evidence import motion_evidence
from preprocess.motion_boxes.presets import MotionParameters


def motion_boxes(
    maps: np.ndarray, parameters: MotionParameters, textures: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[list[np.ndarray]]]:
    """The box of each frame of a clip, from all its maps.

    Args:
        maps: float32 [T, h, w], the clip's motion maps in order.
        parameters: see MotionParameters.
        textures: float32 [T, h, w], see `texture_maps`; None: all cells weigh the same.

    Returns:
        boxes float32 [T, 4] x1 y1 x2 y2, half-open, in pixels of the maps, NaN where nothing moves;
        score float32 [T], the share of the frame's motion energy (sum of squared map values) inside
        the box, 0 where there is none; and for each frame the contours that its box encloses, the
        largest first, each float32 [k, 2] of x, y in pixels of the map (the centre of a pixel is at
        .5), none where there is no box. A frame that takes the next frame's box takes its contours
        too.
    """
    assert maps.ndim == 3 and maps.dtype == np.float32, (maps.shape, maps.dtype)
    contours = [
        largest_contours(evidence, parameters)
        if maps[frame].max() > parameters.least_motion
        else []
        for frame, evidence in enumerate(motion_evidence(maps, parameters, textures))
    ]
    found = np.array([_box_around(each) for each in contours], dtype=np.float32).reshape(-1, 4)
    chosen = _frames_of_boxes(found, maps.shape[1:], parameters)
    boxes = found[chosen]
    enclosed = [[contour[:, 0].astype(np.float32) + 0.5 for contour in contours[i]] for i in chosen]
    return boxes, _scores(maps, boxes), enclosed


def _box_around(contours: list[np.ndarray]) -> np.ndarray:
    """x1 y1 x2 y2 around contours of one map; NaN where there is none."""
    boxes = [corners_of(cv2.boundingRect(contour)) for contour in contours]
    if not boxes:
        return np.full(4, np.nan, dtype=np.float32)
    return np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])


def _frames_of_boxes(
    boxes: np.ndarray, size: tuple[int, int], parameters: MotionParameters
) -> np.ndarray:
    """int64 [T]: the frame whose box each frame takes.

    A frame takes its own box of boxes [T, 4], unless that is too large or too small; then it takes
    what the next frame takes. The last frame always takes its own.
    """
    height, width = size
    chosen = np.arange(len(boxes))
    for frame in range(len(boxes) - 2, -1, -1):
        sides = (boxes[frame, 2:] - boxes[frame, :2]) / (width, height)
        if sides.max() > parameters.largest_side or sides.prod() < parameters.smallest_area:
            chosen[frame] = chosen[frame + 1]
    return chosen


def _scores(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    scores = np.zeros(len(maps), dtype=np.float32)
    for frame, box in enumerate(boxes):
        total = np.square(maps[frame]).sum()
        if total > 0 and not np.isnan(box).any():
            x1, y1, x2, y2 = box.astype(int)
            scores[frame] = np.square(maps[frame, y1:y2, x1:x2]).sum() / total
    return scores
