"""Weights motion maps by texture and sums them over neighbouring frames.

Contours are found in the result, which the code calls evidence.
frames uint8 [T,H,W] --texture_maps--> float32 [T,h,w]
maps float32 [T,h,w] --motion_evidence--> float32 [T,h,w]
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.motion_boxes.presets import MotionParameters


def texture_maps(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Compute the texture of each cell of a map: the mean length of the image gradient.

    Optical flow is measured where there is texture. Elsewhere the smoothness term interpolates it.
    A motion boundary is therefore better evidence where there is more texture.

    Args:
        pictures: uint8 [T, H, W], grey frames, at least as large as the maps.
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
    if parameters.frames_before == parameters.frames_after == 0:
        return maps
    total = np.concatenate([np.zeros_like(maps[:1]), maps.cumsum(axis=0, dtype=np.float64)])
    frames = np.arange(len(maps))
    first = np.maximum(frames - parameters.frames_before, 0)
    last = np.minimum(frames + parameters.frames_after + 1, len(maps))
    return (total[last] - total[first]).astype(np.float32)
