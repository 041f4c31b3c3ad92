"""Draws motion maps, contours, boxes and masks on frames of clips."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np

from shared.drawing import (
    ANNOTATION_RGB,
    CONTOUR_RGB,
    FINE_BITS,
    HIDDEN_RGB,
    MAP_COLOURS,
    SEAM_RGB,
    draw_box,
    fixed_point,
    map_levels,
)
from shared.grid import View
from shared.randomness import counter_generator
from train.clips.stored_boxes import ClipData

TILE_HEIGHT = 168  # pixels: twice the height in a row of four on a phone
MOST_OPAQUE = 0.85  # opacity of a map over a frame; the frame stays visible
OVERLAY_COLOURS = matplotlib.colormaps["inferno"](np.linspace(0.35, 0.95, 256))[:, :3] * 255
MAP_RGB = (matplotlib.colormaps[MAP_COLOURS](np.arange(256))[:, :3] * 255).astype(np.uint8)


@dataclass(frozen=True)
class ClipTiles:
    """Pictures of one clip, each uint8 [H, W, 3] RGB; every list has one for each frame.

    Attributes:
        boxed: frames with contours and motion box.
        maps: motion maps with the box; empty if the dataset has no maps.
        masked: the input of the encoder, at the size of the model.
    """

    boxed: list[np.ndarray]
    maps: list[np.ndarray]
    masked: list[np.ndarray]


def spread_over_classes(labels: np.ndarray, num_clips: int) -> np.ndarray:
    """Choose numbers of clips int64 [n], one clip at random from each of several classes.

    The choice depends only on the labels, so that new pictures show the same clips.
    """
    rng = counter_generator("spread over classes", len(labels))
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)  # of a clip within its class
    classes = np.unique(labels)
    for label in classes:
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    by_turn = np.lexsort((labels, rank))  # one clip of each class, then a second one of each
    if len(classes) > num_clips:
        return by_turn[np.linspace(0, len(classes) - 1, num_clips).round().astype(int)]
    return by_turn[:num_clips]


def draw_tiles(
    clip: ClipData,
    view: View,
    patch: int,
    mask: np.ndarray,
) -> ClipTiles:
    """Draw the frames of a clip.

    Args:
        clip: n frames, maps, boxes and lists of contours.
        view, patch: the view of the model, and the side of its patches in pixels.
        mask: bool [rows, columns] of the patch grid, True = masked.
    """
    boxed, maps, masked = [], [], []
    brightest = max((float(np.percentile(m, 99.7)) for m in clip.maps), default=0.0)
    for i, frame in enumerate(clip.frames):
        picture, scale = _tile(frame, clip.size)
        for polygon in clip.contours[i]:
            points = fixed_point(polygon * scale)[:, None]
            cv2.polylines(picture, [points], True, CONTOUR_RGB, 1, cv2.LINE_AA, FINE_BITS)
        draw_box(picture, clip.boxes[i] * np.tile(scale, 2))
        boxed.append(picture)
        if clip.maps:
            shown = cv2.resize(clip.maps[i], picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            coloured = MAP_RGB[map_levels(shown, brightest)]
            draw_box(coloured, clip.boxes[i] * np.tile(scale, 2))
            maps.append(coloured)
        seen = see_view(frame, clip.size, view)
        masked.append(_hide(seen, patch, mask))
    return ClipTiles(boxed, maps, masked)


def draw_thumbnail(clip: ClipData) -> np.ndarray:
    """Draw the first frame with its motion box: uint8 [168, W, 3]."""
    picture, scale = _tile(clip.frames[0], clip.size)
    draw_box(picture, clip.boxes[0] * np.tile(scale, 2))
    return picture


def see_view(frame: np.ndarray, size: tuple[int, int], view: View) -> np.ndarray:
    """Crop and resize a stored frame to the view of the model: uint8 [view height, view width, 3].

    Args:
        frame: uint8 [H, W, 3], as stored; it may be smaller than the source.
        size: (width, height) of the source in pixels. The crop of the view is in these pixels.
    """
    scale = np.array(frame.shape[1::-1]) / np.array(size)
    x1, y1, x2, y2 = np.array(view.crop) * np.tile(scale, 2)
    height, width = view.size
    # Pixel centres lie at i + 0.5: the affine map from output to stored pixels.
    a, b = (x2 - x1) / width, (y2 - y1) / height
    matrix = np.array([[a, 0, x1 + 0.5 * a - 0.5], [0, b, y1 + 0.5 * b - 0.5]])
    smooth = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        frame, matrix, (width, height), flags=smooth, borderMode=cv2.BORDER_REPLICATE
    )


def spread_times(num_frames: int, num_times: int) -> np.ndarray:
    """Middles of `num_times` equal parts of a clip, int64 [n]; fewer if it has fewer frames."""
    num_times = min(num_times, num_frames)
    return ((np.arange(num_times) + 0.5) * num_frames / num_times).astype(np.int64)


def overlay_tokens(frame: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Draw one colour for each token over a grey frame: uint8 [H, W, 3], at least tile height.

    Cells are not blurred, because a map has no more detail than its tokens.

    Args:
        frame: uint8 [S, S, 3] RGB, as the model sees it.
        cells: float32 [rows, columns], from 0 (no colour) to 1 (strongest colour).
    """
    rows, columns = cells.shape
    picture = enlarge_for_tokens(frame, columns)
    side = picture.shape[0]
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    shares = np.clip(cells, 0.0, 1.0).astype(np.float32)
    shares = np.kron(shares, np.ones((side // rows, side // columns), np.float32))
    colours = OVERLAY_COLOURS[np.round(255 * shares).astype(np.uint8)]
    opacity = MOST_OPAQUE * shares[..., None]
    return np.round(grey * (1 - opacity) + colours * opacity).astype(np.uint8)


def enlarge_for_tokens(frame: np.ndarray, columns: int) -> np.ndarray:
    """Enlarge a square frame to at least tile height, with whole pixels for each token."""
    return np.ascontiguousarray(enlarge(frame, columns * max(1, -(-TILE_HEIGHT // columns))))


def mark_token(picture: np.ndarray, row: int, column: int, grid: int) -> None:
    """Draw the outline of one of grid x grid tokens in a square picture."""
    side = picture.shape[0] / grid
    box = np.array([column, row, column + 1, row + 1]) * side
    draw_box(picture, box, ANNOTATION_RGB)


def enlarge(picture: np.ndarray, height: int) -> np.ndarray:
    """Resize to a height in pixels and keep the aspect ratio."""
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    method = cv2.INTER_AREA if picture.shape[0] >= height else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=method)


def _tile(frame: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The frame at tile height, and the (x, y) tile pixels per source pixel."""
    picture = np.ascontiguousarray(enlarge(frame, TILE_HEIGHT))
    return picture, np.array(picture.shape[1::-1]) / np.array(size)


def _hide(seen: np.ndarray, patch: int, mask: np.ndarray) -> np.ndarray:
    """Paint masked patches grey with thin lines between them."""
    hidden = np.kron(mask, np.ones((patch, patch), bool))
    picture = seen.copy()
    picture[hidden] = HIDDEN_RGB
    factor = max(1, round(TILE_HEIGHT / picture.shape[0]))
    picture = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    step = patch * factor
    big = np.repeat(np.repeat(hidden, factor, axis=0), factor, axis=1)
    lines = np.zeros(big.shape, bool)
    lines[::step] = lines[:, ::step] = True
    picture[big & lines] = SEAM_RGB
    return picture
