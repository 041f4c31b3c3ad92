"""From flow to motion maps, and from motion maps to boxes.

    flow (B,2,H,W) --motion_map--> (B,H,W) --reduce_maps--> (B,h,w) --> shared.motion_maps
    maps float32 [T,h,w] of a clip --motion_boxes--> a box and a score for each frame

The maps of a clip, and how much texture its frames have where, are all that boxes are made of, so
thresholds are tuned without flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from preprocess.motion_boxes.presets import MotionParameters
from shared.schema import LARGEST_VERTEX

if TYPE_CHECKING:
    import torch

REFERENCE_LINES = 240  # lengths of MotionParameters are pixels of maps with that many lines


def motion_map(flow: torch.Tensor) -> torch.Tensor:
    """MOFO, equation 1: m = sqrt(u_x^2 + u_y^2 + v_x^2 + v_y^2), large at motion boundaries.

    Derivatives are central differences, (f[i+1] - f[i-1]) / 2, one-sided at the borders. The same
    motion everywhere (a panning camera) gives 0.

    Args:
        flow: [B, 2, H, W] float, u then v, pixels per frame; H and W at least 2.

    Returns:
        [B, H, W] of the dtype of `flow`, pixels per frame per pixel, at least 0.
    """
    assert flow.ndim == 4 and flow.shape[1] == 2 and min(flow.shape[2:]) >= 2, flow.shape
    return (_derivative(flow, 3).square() + _derivative(flow, 2).square()).sum(1).sqrt()


def _derivative(values: torch.Tensor, dim: int) -> torch.Tensor:
    length = values.shape[dim]
    result = values.new_empty(values.shape)
    result.narrow(dim, 1, length - 2).copy_(
        (values.narrow(dim, 2, length - 2) - values.narrow(dim, 0, length - 2)) / 2
    )
    first, last = values.narrow(dim, 0, 2), values.narrow(dim, length - 2, 2)
    result.select(dim, 0).copy_(first.select(dim, 1) - first.select(dim, 0))
    result.select(dim, length - 1).copy_(last.select(dim, 1) - last.select(dim, 0))
    return result


def reduce_maps(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps [B, H, W] -> [B, h, w], each value the mean over the area it covers; size = (h, w).

    Exact for any ratio of sizes, unlike pooling over whole pixels, so that a box scales by
    width / map width alone.
    """
    rows = maps.new_tensor(_area_weights(maps.shape[1], size[0]))
    columns = maps.new_tensor(_area_weights(maps.shape[2], size[1]))
    return rows @ maps @ columns.T


def _area_weights(length: int, reduced: int) -> np.ndarray:
    """[reduced, length]: which share of output cell i lies in input cell j; rows sum to 1."""
    assert 1 <= reduced <= length, (length, reduced)
    edges = np.linspace(0, length, reduced + 1)
    cells = np.arange(length)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return overlap.clip(min=0) * (reduced / length)


def texture_maps(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How much there is to see in each cell: the mean length of the picture's gradient.

    Flow is found where there is texture and guessed by smoothness elsewhere, so a motion boundary
    says more the more texture it lies on.

    Args:
        pictures: uint8 [T, H, W], grey, as large as the maps or larger.
        size: (h, w) of the maps.

    Returns:
        float32 [T, h, w], grey values per pixel, at least 0.
    """
    height, width = size
    textures = np.empty((len(pictures), height, width), dtype=np.float32)
    for texture, picture in zip(textures, pictures, strict=True):
        across = cv2.Sobel(picture, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
        down = cv2.Sobel(picture, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
        cv2.resize(cv2.magnitude(across, down), (width, height), texture, 0, 0, cv2.INTER_AREA)
    return textures


def motion_boxes(
    maps: np.ndarray, parameters: MotionParameters, textures: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[list[np.ndarray]]]:
    """The box of each frame of a clip, from all its maps.

    Args:
        maps: float32 [T, h, w], the clip's motion maps in order.
        parameters: see MotionParameters.
        textures: float32 [T, h, w], see `texture_maps`; None is the same texture everywhere.

    Returns:
        boxes float32 [T, 4] x1 y1 x2 y2, half-open, in pixels of the maps, NaN where nothing moves;
        score float32 [T], the share of the frame's motion energy (sum of squared map values) inside
        the box, 0 where there is none; and what each box was put around, also where it is the next
        frame's: contours, the largest first, each float32 [k, 2] of x, y in pixels of the map (a
        pixel's centre is at .5), none where there is no box.
    """
    assert maps.ndim == 3 and maps.dtype == np.float32, (maps.shape, maps.dtype)
    contours = [
        _frame_contours(evidence, parameters) if maps[frame].max() > parameters.least_motion else []
        for frame, evidence in enumerate(_evidence(maps, parameters, textures))
    ]
    found = np.array([_box_around(each) for each in contours], dtype=np.float32).reshape(-1, 4)
    taken = _frames_taken(found, maps.shape[1:], parameters)
    boxes = found[taken]
    around = [[contour[:, 0].astype(np.float32) + 0.5 for contour in contours[i]] for i in taken]
    return boxes, _scores(maps, boxes), around


def _evidence(
    maps: np.ndarray, parameters: MotionParameters, textures: np.ndarray | None
) -> np.ndarray:
    """[T, h, w]: maps weighted by texture and summed over their windows."""
    if parameters.texture and textures is not None:
        assert textures.shape == maps.shape, (textures.shape, maps.shape)
        maps = maps * textures**parameters.texture
    return _window_sums(maps, parameters)


def _window_sums(maps: np.ndarray, parameters: MotionParameters) -> np.ndarray:
    """[T, h, w]: the sum of each map and those of its window, as many as there are."""
    if parameters.frames_before == parameters.frames_after == 0:
        return maps
    total = np.concatenate([np.zeros_like(maps[:1]), maps.cumsum(axis=0, dtype=np.float64)])
    frames = np.arange(len(maps))
    first = np.maximum(frames - parameters.frames_before, 0)
    last = np.minimum(frames + parameters.frames_after + 1, len(maps))
    return (total[last] - total[first]).astype(np.float32)


def contour_vertices(contours: list[list[np.ndarray]], to_source: np.ndarray) -> list[np.ndarray]:
    """Contours of frames, as `motion_boxes` gives them, as a boxes shard keeps them.

    Args:
        to_source: [2], source pixels per map pixel in x and y.

    Returns:
        for each frame int16 [vertices, 3]: the contour's number (0 is the largest), x and y in
        source pixels, at most LARGEST_VERTEX.
    """
    frames = []
    for of_frame in contours:
        rows = [np.empty((0, 3), np.int16)]
        for number, contour in enumerate(of_frame):
            corners = np.floor(contour * to_source + 0.5).clip(0, LARGEST_VERTEX).astype(np.int16)
            rows.append(np.insert(corners, 0, number, axis=1))
        frames.append(np.concatenate(rows))
    return frames


def _box_around(contours: list[np.ndarray]) -> np.ndarray:
    """x1 y1 x2 y2 around contours of one map; NaN where there is none."""
    boxes = [_corners(cv2.boundingRect(contour)) for contour in contours]
    if not boxes:
        return np.full(4, np.nan, dtype=np.float32)
    return np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])


def _frame_contours(evidence: np.ndarray, parameters: MotionParameters) -> list[np.ndarray]:
    """The largest contours of one map [h, w] that count, as OpenCV gives them."""
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
    # Area alone would leave equal ones in an order of OpenCV's choosing.
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
            _distance(_corners(rectangles[i]), _corners(rectangles[chosen[0]])) <= reach
            and _motion_inside(kept, contours[i])
            >= parameters.smallest_share * _motion_inside(kept, contours[chosen[0]])
        )
    ]


def _motion_inside(evidence: np.ndarray, contour: np.ndarray) -> float:
    """The sum of a map [h, w] over the pixels of a contour and those it surrounds."""
    x, y, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), dtype=np.uint8)
    cv2.drawContours(inside, [contour], -1, 1, thickness=cv2.FILLED, offset=(-x, -y))
    return float(evidence[y : y + height, x : x + width][inside > 0].sum())


def _smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    if sigma <= 0:
        return values
    return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def _corners(rectangle: tuple[int, int, int, int]) -> np.ndarray:
    x, y, width, height = rectangle
    return np.array([x, y, x + width, y + height], dtype=np.float32)


def _distance(box: np.ndarray, other: np.ndarray) -> float:
    """Between the centres, in pixels."""
    return float(np.hypot(*((box[:2] + box[2:] - other[:2] - other[2:]) / 2)))


def _frames_taken(
    boxes: np.ndarray, size: tuple[int, int], parameters: MotionParameters
) -> np.ndarray:
    """int64 [T]: whose box each frame has. Where its own of boxes [T, 4] is too large or too small
    it is the next frame's, from the last frame backwards."""
    height, width = size
    taken = np.arange(len(boxes))
    for frame in range(len(boxes) - 2, -1, -1):
        sides = (boxes[frame, 2:] - boxes[frame, :2]) / (width, height)
        if sides.max() > parameters.largest_side or sides.prod() < parameters.smallest_area:
            taken[frame] = taken[frame + 1]
    return taken


def _scores(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    scores = np.zeros(len(maps), dtype=np.float32)
    for frame, box in enumerate(boxes):
        total = np.square(maps[frame]).sum()
        if total > 0 and not np.isnan(box).any():
            x1, y1, x2, y2 = box.astype(int)
            scores[frame] = np.square(maps[frame, y1:y2, x1:x2]).sum() / total
    return scores
