"""Weights motion maps by texture and sums them over neighbouring frames.

Contours are found in the result, which the code calls evidence.
T frames uint8 [H,W] --texture_maps--> float32 [T,h,w]
maps float32 [T,h,w] --motion_evidence--> float32 [T,h,w]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import cv2
import numpy as np

from preprocess.motion_boxes.presets import MotionParameters


def texture_maps(pictures: Collection[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Compute the texture of each cell of a map: the mean length of the image gradient.

    Optical flow is measured where there is texture. Elsewhere the smoothness term interpolates it.
    A motion boundary is therefore better evidence where there is more texture.

    Args:
        pictures: T grey frames, each uint8 [H, W], at least as large as the maps.
        size: (h, w) of the maps.

    Returns:
        float32 [T, h, w], grey values per pixel, 0 or more.
    """
    height, width = size
    textures = np.empty((len(pictures), height, width), dtype=np.float32)
    for texture, picture in zip(textures, pictures, strict=True):
        across = cv2.Sobel(picture, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
        down = cv2.Sobel(picture, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
        cv2.resize(cv2.magnitude(across, down), (width, height), texture, 0, 0, cv2.INTER_AREA)
    return textures


def motion_evidence(
    maps: np.ndarray, parameters: MotionParameters, textures: np.ndarray | None
) -> np.ndarray:
    """Weight maps by texture, and sum each over a window of frames.

    Args:
        maps: float32 [T, h, w], the clip's motion maps in order.
        parameters: see MotionParameters.
        textures: float32 [T, h, w], see `texture_maps`. None gives all cells the same weight.

    Returns:
        float32 [T, h, w], in the unit of the maps, times grey values where texture is used.
    """
    if parameters.texture and textures is not None:
        assert textures.shape == maps.shape, (textures.shape, maps.shape)
        maps = maps * textures**parameters.texture
    return _window_sums(maps, parameters)


def _window_sums(maps: np.ndarray, parameters: MotionParameters) -> np.ndarray:
    """float32 [T, h, w]: for each frame the sum of the maps in its window, cut at the ends."""
    before, after = parameters.frames_before, parameters.frames_after
    if before == after == 0:
        return maps
    sums = np.empty(maps.shape, dtype=np.float32)
    # Sums of the first maps, from those before the window up to those in it. They are float64, so
    # that the difference of two has no rounding of float32; only one window of them is kept.
    totals = deque([np.zeros(maps.shape[1:], dtype=np.float64)])
    num_added = 0
    for frame, window in enumerate(sums):
        for added in maps[num_added : frame + after + 1]:
            totals.append(totals[-1] + added)
            num_added += 1
        if frame > before:
            totals.popleft()
        window[:] = totals[-1] - totals[0]
    return sums
