"""Draws what was found in a frame: flow in colours, motion map, contours, masks, captions.

Pictures are uint8 [H, W, 3], RGB. Boxes are drawn by shared/drawing.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shared.drawing import (
    CONTOUR_RGB,
    FINE_BITS,
    HIDDEN_RGB,
    LEFT_OUT_RGB,
    MAP_COLOURS,
    SEAM_RGB,
    fixed_point,
    map_levels,
)

STORED_RGB = (245, 110, 220)
TEXT_INDENT = 4  # pixels before a line of text
TEXT_SHARE = 0.6  # size of letters in the height of their line


@dataclass(frozen=True)
class Ground:
    """The colours around pictures: of the background, of strong text and of other text."""

    paper: tuple[int, int, int]
    ink: tuple[int, int, int]
    muted: tuple[int, int, int]


DARK = Ground(paper=(20, 24, 28), ink=(230, 233, 236), muted=(155, 167, 178))
LIGHT = Ground(paper=(255, 255, 255), ink=(29, 35, 41), muted=(80, 91, 101))

# The colour wheel of Baker et al. ("A database and evaluation methodology for optical flow", IJCV
# 2011, after a design of Scott Daniel): red, yellow, green, cyan, blue, magenta and back to red, at
# unequal steps, because the eye tells some hues apart better than others.
WHEEL_STEPS = np.array([0, 15, 21, 25, 36, 49, 55]) / 55
WHEEL_RGB = np.array(
    [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], dtype=np.float32
)
MAP_RGB = (matplotlib.colormaps[MAP_COLOURS](np.arange(256))[:, :3] * 255).astype(np.uint8)


def flow_colours(flow: np.ndarray, longest: float) -> np.ndarray:
    """Show flow in colours: the hue is its direction, the saturation its length.

    Right is red, down is yellow, left is cyan-blue, up is violet; no motion is white.

    Args:
        flow: float32 [2, H, W], u then v, pixels per frame.
        longest: length with full colour, pixels per frame. Longer vectors are darker, as in the
            original.

    Returns:
        uint8 [H, W, 3].
    """
    turn = np.arctan2(flow[1], flow[0]) / (2 * np.pi) % 1.0
    length = np.hypot(flow[0], flow[1])[..., None] / max(longest, 1e-6)
    hue = np.stack([np.interp(turn, WHEEL_STEPS, WHEEL_RGB[:, c]) for c in range(3)], axis=-1)
    colours = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.round(255 * colours).astype(np.uint8)


def flow_wheel(diameter: int, ground: Ground = DARK) -> np.ndarray:
    """Draw the key to `flow_colours`: a disc on a background, uint8 [D, D, 3]."""
    axis = (np.arange(diameter) + 0.5) / diameter * 2 - 1
    flow = np.stack(np.meshgrid(axis, axis)).astype(np.float32)
    wheel = flow_colours(flow, 1.0)
    edge = np.clip((1 - np.hypot(*flow)) * diameter / 2, 0, 1)[..., None]  # one pixel wide
    return np.round(edge * wheel + (1 - edge) * np.array(ground.paper)).astype(np.uint8)


def map_colours(motion_map: np.ndarray, brightest: float) -> np.ndarray:
    """Show the square root of a motion map float32 [H, W] in colours, uint8 [H, W, 3].

    Values of `brightest` and above have the lightest colour.
    """
    return MAP_RGB[map_levels(motion_map, brightest)]


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to (width, height); a smaller size averages pixels."""
    shrinks = size[0] < picture.shape[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def draw_contours(picture: np.ndarray, contours: list[np.ndarray]) -> None:
    """Draw the outlines of contours, each float32 [k, 2] of x, y in pixels of the image."""
    for contour in contours:
        points = fixed_point(contour)[:, None]
        cv2.polylines(picture, [points], True, CONTOUR_RGB, 1, cv2.LINE_AA, FINE_BITS)


def draw_mask(
    picture: np.ndarray, mask: np.ndarray, crop: np.ndarray, decoded: np.ndarray | None = None
) -> None:
    """Cover the masked patches of the crop that a model sees, and darken the rest of the frame.

    Args:
        picture: uint8 [H, W, 3], changed in place.
        mask: bool [rows, columns], True = hidden from the encoder.
        crop: x1 y1 x2 y2 of the crop, in pixels of the image.
        decoded: bool [rows, columns], True = hidden and decoded. The other hidden patches are
            darker. None: all hidden patches are decoded.
    """
    rows, columns = mask.shape
    x = np.round(np.linspace(crop[0], crop[2], columns + 1)).astype(int)
    y = np.round(np.linspace(crop[1], crop[3], rows + 1)).astype(int)
    seen = picture[y[0] : y[-1], x[0] : x[-1]].copy()
    picture //= 4

    def of_pixels(patches: np.ndarray) -> np.ndarray:
        return np.repeat(np.repeat(patches, np.diff(y), axis=0), np.diff(x), axis=1)

    hidden = of_pixels(mask)
    seen[hidden] = HIDDEN_RGB
    if decoded is not None:
        seen[of_pixels(mask & ~decoded)] = LEFT_OUT_RGB
    seams = np.zeros_like(hidden)  # lines between patches, so that they can be counted
    seams[y[:-1] - y[0]] = seams[:, x[:-1] - x[0]] = True
    seen[seams & hidden] = SEAM_RGB
    picture[y[0] : y[-1], x[0] : x[-1]] = seen


def draw_positions(picture: np.ndarray, positions: np.ndarray, crop: np.ndarray) -> None:
    """Draw the outline of positions of the crop that a model sees, in the colour of contours.

    Args:
        picture: uint8 [H, W, 3], changed in place.
        positions: bool [rows, columns].
        crop: x1 y1 x2 y2 of the crop, in pixels of the image.
    """
    rows, columns = positions.shape
    x = np.round(np.linspace(crop[0], crop[2], columns + 1)).astype(int)
    y = np.round(np.linspace(crop[1], crop[3], rows + 1)).astype(int)
    padded = np.pad(positions, 1)
    for row, column in zip(*np.nonzero(positions), strict=True):
        left, right, top, bottom = x[column], x[column + 1] - 1, y[row], y[row + 1] - 1
        beside = padded[row : row + 3, column : column + 3]
        if not beside[0, 1]:
            picture[top, left : right + 1] = CONTOUR_RGB
        if not beside[2, 1]:
            picture[bottom, left : right + 1] = CONTOUR_RGB
        if not beside[1, 0]:
            picture[top : bottom + 1, left] = CONTOUR_RGB
        if not beside[1, 2]:
            picture[top : bottom + 1, right] = CONTOUR_RGB


def captioned(picture: np.ndarray, text: str, ground: Ground = DARK) -> np.ndarray:
    """Add a line of text above an image."""
    return np.concatenate([caption(text, picture.shape[1], ground=ground), picture])


@functools.lru_cache(maxsize=256)
def caption(
    text: str, width: int, height: int = 22, strong: bool = False, ground: Ground = DARK
) -> np.ndarray:
    """Draw a line of text on a background, uint8 [height, width, 3].

    Text that is too long ends with an ellipsis.
    """
    image = Image.new("RGB", (width, height), ground.paper)
    draw = ImageDraw.Draw(image)
    colour = ground.ink if strong else ground.muted
    text = fitted(text, width, height)
    draw.text((TEXT_INDENT, height / 2), text, colour, font_of_line(height), anchor="lm")
    return np.array(image)


def fitted(text: str, width: int, height: int) -> str:
    """The text, or as much of it as fits in a line of this size in pixels, with an ellipsis."""
    font = font_of_line(height)
    while text and font.getlength(text) > width - 2 * TEXT_INDENT:
        text = text.rstrip("\u2026")[:-1] + "\u2026" if len(text) > 2 else ""
    return text


def in_grid(
    pictures: list[np.ndarray], columns: int, gap: int = 6, ground: Ground = DARK
) -> np.ndarray:
    """Arrange images of one size in a grid on a background."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    grid = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    grid[:] = ground.paper
    for i, picture in enumerate(pictures):
        y, x = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        grid[y : y + height, x : x + width] = picture
    return grid


@functools.lru_cache(maxsize=8)
def font_of_line(height: int) -> ImageFont.FreeTypeFont:
    """The font of a line of text of a height in pixels."""
    size = round(height * TEXT_SHARE)
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
