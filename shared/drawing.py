"""How pictures of clips look, in `preprocess.show` as in the report: colours, boxes, brightness.

Pictures are uint8 [H, W, 3], RGB. Needs numpy alone: what takes OpenCV or matplotlib is drawn by
the two programs, with what stands here.
"""

from __future__ import annotations

import numpy as np

BOX_RGB = (255, 145, 30)
"""The motion box, and what a model predicts beside what is true."""
ANNOTATION_RGB = (120, 230, 90)
"""What is true or was asked for: annotated boxes, true tracks, the token that attends."""
CONTOUR_RGB = (90, 225, 255)
"""What a motion box was put around."""
HIDDEN_RGB = (88, 96, 104)
"""Patches that are hidden from the encoder."""
SEAM_RGB = (70, 77, 84)
"""Between hidden patches, so that they can be counted."""
EDGE_RGB = (20, 20, 20)
"""Along both sides of an outline, to be seen on pictures of its own colour."""
MAP_COLOURS = "magma"
"""matplotlib's name of the colours of motion maps."""
FINE_BITS = 4
"""Of a pixel's fraction, as `shift` of OpenCV's lines."""


def draw_box(picture: np.ndarray, box: np.ndarray, rgb: tuple[int, int, int] = BOX_RGB) -> None:
    """Outline a box [4] x1 y1 x2 y2, half-open, in pixels of the picture; NaN draws nothing."""
    if np.isnan(box).any():
        return
    height, width = picture.shape[:2]
    corners = np.round(np.clip(box, 0, [width, height, width, height])).astype(int).tolist()
    _outline(picture, corners, 2, EDGE_RGB)
    _outline(picture, corners, 1, rgb)


def map_levels(values: np.ndarray, brightest: float) -> np.ndarray:
    """A motion map float32 [...] as the numbers 0..255 of its colours, by the square root;
    `brightest` and above is 255."""
    shares = values / brightest if brightest > 0 else np.zeros_like(values)
    return (255 * np.sqrt(np.clip(shares, 0, 1))).astype(np.uint8)


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Points [..., 2] x y in pixels as OpenCV's lines take them: int32 with FINE_BITS of fraction,
    whole numbers in the middle of a pixel."""
    return np.round((np.asarray(points) - 0.5) * (1 << FINE_BITS)).astype(np.int32)


def _outline(
    picture: np.ndarray, corners: list[int], reach: int, rgb: tuple[int, int, int]
) -> None:
    """Colour the pixels up to `reach` within and without the border of a box."""
    x1, y1, x2, y2 = corners
    rows, columns = slice(max(y1 - reach, 0), y2 + reach), slice(max(x1 - reach, 0), x2 + reach)
    picture[rows.start : y1 + reach, columns] = rgb
    picture[max(y2 - reach, 0) : rows.stop, columns] = rgb
    picture[rows, columns.start : x1 + reach] = rgb
    picture[rows, max(x2 - reach, 0) : columns.stop] = rgb
