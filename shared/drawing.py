"""The style of pictures of clips in `preprocess.show` and the report: colours, boxes, brightness.

Pictures are uint8 [H, W, 3] RGB. This module needs only numpy. Both programs draw the rest with
OpenCV and matplotlib, in the colours that are defined here.
"""

from __future__ import annotations

import numpy as np

BOX_RGB = (255, 145, 30)
"""The motion box, and predictions of a model beside true values."""
ANNOTATION_RGB = (120, 230, 90)
"""Annotated boxes, true tracks, and the query token of attention."""
CONTOUR_RGB = (90, 225, 255)
"""Contours, around which motion boxes are drawn."""
HIDDEN_RGB = (88, 96, 104)
"""Masked patches, which the encoder does not see."""
LEFT_OUT_RGB = (40, 44, 48)
"""Masked patches that are not decoded either."""
SEAM_RGB = (70, 77, 84)
"""Lines between masked patches."""
EDGE_RGB = (20, 20, 20)
"""Both sides of an outline, which is then visible on any picture."""
MAP_COLOURS = "magma"
"""matplotlib's colour map for motion maps."""
FINE_BITS = 4
"""Fractional bits of coordinates, the `shift` of OpenCV's lines."""


def draw_box(picture: np.ndarray, box: np.ndarray, rgb: tuple[int, int, int] = BOX_RGB) -> None:
    """Draw the outline of a half-open box [4] x1 y1 x2 y2 in pixels; a box of NaN is not drawn."""
    if np.isnan(box).any():
        return
    height, width = picture.shape[:2]
    corners = np.round(np.clip(box, 0, [width, height, width, height])).astype(int).tolist()
    _outline(picture, corners, 2, EDGE_RGB)
    _outline(picture, corners, 1, rgb)


def map_levels(values: np.ndarray, brightest: float) -> np.ndarray:
    """Convert a motion map float32 [...] to colour numbers uint8 0..255 by its square root.

    Args:
        brightest: this value and larger ones become 255.
    """
    shares = values / brightest if brightest > 0 else np.zeros_like(values)
    return (255 * np.sqrt(np.clip(shares, 0, 1))).astype(np.uint8)


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Convert points [..., 2] (x, y) in pixels to OpenCV's int32 with FINE_BITS fractional bits.

    OpenCV's whole numbers are the centres of pixels, which here lie at i + 0.5.
    """
    return np.round((np.asarray(points) - 0.5) * (1 << FINE_BITS)).astype(np.int32)


def _outline(
    picture: np.ndarray, corners: list[int], reach: int, rgb: tuple[int, int, int]
) -> None:
    """Colour the pixels up to `reach` inside and outside the border of a box."""
    x1, y1, x2, y2 = corners
    rows, columns = slice(max(y1 - reach, 0), y2 + reach), slice(max(x1 - reach, 0), x2 + reach)
    picture[rows.start : y1 + reach, columns] = rgb
    picture[max(y2 - reach, 0) : rows.stop, columns] = rgb
    picture[rows, columns.start : x1 + reach] = rgb
    picture[rows, max(x2 - reach, 0) : columns.stop] = rgb
