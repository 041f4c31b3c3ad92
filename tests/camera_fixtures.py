"""Flow of a known camera motion, computed independently of preprocess/flow/camera.py."""

from __future__ import annotations

import numpy as np


def camera_flow(homography: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The flow of a still scene under this camera: float32 [2, H, W], u then v; size = (H, W)."""
    rows, columns = np.indices(size).astype(np.float64)
    places = np.stack([columns, rows, np.ones(size)])
    x, y, depth = np.einsum("ij,jhw->ihw", homography, places)
    return np.stack([x / depth - columns, y / depth - rows]).astype(np.float32)
