"""Computes a motion box for each frame of a clip from the clip's motion maps.

    maps float32 [T,h,w] --motion_boxes--> a box, a score and the contours of each frame

Boxes depend only on the maps of a clip (of equation 1, or residual lengths) and on the texture of
its frames. Thresholds can therefore be tuned without computing flow again.
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.motion_boxes.contours import corners_of, largest_contours
from preprocess.motion_boxes.evidence import motion_evidence
from preprocess.motion_boxes.presets import MotionParameters
from preprocess.motion_boxes.steady import steady_boxes


def motion_boxes(
    maps: np.ndarray,
    parameters: MotionParameters,
    textures: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, list[list[np.ndarray]]]:
    """Compute the box of each frame of a clip from all maps of the clip.

    Args:
        maps: float32 [T, h, w], the clip's motion maps in order.
        parameters: see MotionParameters.
        textures: float32 [T, h, w], see `texture_maps`. None gives all cells the same weight.
        residual: float32 [T, h, w], the clip's residual lengths. They are used instead of `maps`
            where the parameters ask for them. None means that there are none.

    Returns:
        boxes: float32 [T, 4], x1 y1 x2 y2, half-open, in pixels of the maps. NaN where nothing
            moves.
        scores: float32 [T], 0..1, the share of the frame's motion energy (sum of squared values of
            the maps used) that lies inside the box. 0 where there is no box.
        contours: for each frame the contours of what moves in it, the largest first, each float32
            [k, 2] of x, y in pixels of the map. The centre of a pixel is at .5. The list is empty
            where there is no box. Without `steady_frames` the box encloses them, and a frame that
            takes the box of the next frame takes the contours of that frame too. With it the
            neighbouring frames decide the box, and a still frame whose box they hold has no
            contours.
    """
    assert maps.ndim == 3 and maps.dtype == np.float32, (maps.shape, maps.dtype)
    least = parameters.least_motion
    if parameters.residual and residual is not None:
        assert residual.shape == maps.shape, (residual.shape, maps.shape)
        maps, least = residual, parameters.least_residual
    contours = [
        largest_contours(evidence, parameters) if maps[frame].max() > least else []
        for frame, evidence in enumerate(motion_evidence(maps, parameters, textures))
    ]
    found = np.array([_box_around(each) for each in contours], dtype=np.float32).reshape(-1, 4)
    chosen = _frames_of_boxes(found, maps.shape[1:], parameters)
    boxes = found[chosen]
    if parameters.steady_frames:
        boxes = steady_boxes(boxes, parameters)
    enclosed = [
        []
        if np.isnan(box).any()
        else [vertices[:, 0].astype(np.float32) + 0.5 for vertices in contours[i]]
        for i, box in zip(chosen, boxes, strict=True)
    ]
    return boxes, _scores(maps, boxes), enclosed


def _box_around(contours: list[np.ndarray]) -> np.ndarray:
    """float32 [4], x1 y1 x2 y2: the smallest box around all contours; NaN if there are none."""
    boxes = [corners_of(cv2.boundingRect(contour)) for contour in contours]
    if not boxes:
        return np.full(4, np.nan, dtype=np.float32)
    return np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])


def _frames_of_boxes(
    boxes: np.ndarray, size: tuple[int, int], parameters: MotionParameters
) -> np.ndarray:
    """int64 [T]: for each frame, the index of the frame whose box it takes.

    A frame takes its own box, unless that box is too large or too small. Then it takes the box
    that the next frame takes. The last frame always takes its own box.

    Args:
        boxes: float32 [T, 4], the box that was found in each frame.
        size: (h, w) of the maps.
        parameters: see MotionParameters.
    """
    height, width = size
    chosen = np.arange(len(boxes))
    for frame in range(len(boxes) - 2, -1, -1):
        sides = (boxes[frame, 2:] - boxes[frame, :2]) / (width, height)
        if sides.max() > parameters.largest_side or sides.prod() < parameters.smallest_area:
            chosen[frame] = chosen[frame + 1]
    return chosen


def _scores(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """float32 [T]: the share of each frame's motion energy inside its box."""
    scores = np.zeros(len(maps), dtype=np.float32)
    for frame, box in enumerate(boxes):
        total = np.square(maps[frame]).sum()
        if total > 0 and not np.isnan(box).any():
            x1, y1 = np.floor(box[:2]).astype(int)
            x2, y2 = np.ceil(box[2:]).astype(int)
            scores[frame] = np.square(maps[frame, y1:y2, x1:x2]).sum() / total
    return scores
