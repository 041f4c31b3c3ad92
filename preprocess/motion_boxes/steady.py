"""Boxes that neighbouring frames agree on, so that one bad frame decides nothing.

boxes float32 [T,4] --steady_boxes--> float32 [T,4]
"""

from __future__ import annotations

import numpy as np

from preprocess.motion_boxes.presets import MotionParameters
from shared.grid import edge_quantiles


def steady_boxes(boxes: np.ndarray, parameters: MotionParameters) -> np.ndarray:
    """Each edge of a frame's box from that edge of all boxes within `steady_frames` of it.

    Edges are ordered from the outside to the inside, and the quantile `steady_share` of them is
    taken: 0.5 is the median, and more makes boxes smaller. So an area is inside where most of the
    boxes reach it, and a frame without a box of its own is held by its neighbours. There is no box
    where fewer than `least_boxes` frames have one, nor where their edges leave no area: boxes that
    lie here and there, as those of noise do, do not agree on any.

    Args:
        boxes: float32 [T, 4] x1 y1 x2 y2, NaN where a frame has none.

    Returns:
        float32 [T, 4], NaN where there is none.
    """
    reach, share = parameters.steady_frames, parameters.steady_share
    steady = np.full_like(boxes, np.nan)
    has_box = ~np.isnan(boxes).any(axis=1)
    for frame in range(len(boxes)):
        near = slice(max(frame - reach, 0), frame + reach + 1)
        found = boxes[near][has_box[near]]
        if len(found) < max(parameters.least_boxes, 1):
            continue
        box = edge_quantiles(found, share)
        if np.all(box[:2] < box[2:]):
            steady[frame] = box
    return steady
