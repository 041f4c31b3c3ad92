"""The masks of each method over a whole video, for `preprocess.show`.

A clip of the trainer is 16 frames, `stride` apart. A longer video is cut into consecutive windows
of that length. Each window has masks of its own, drawn from the motion in it, as in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.grid import View, inside_boxes, union_box
from shared.masks import MASKS, Scene
from shared.motion_cells import cell_means
from shared.randomness import counter_generator

PATCH = 16  # pixels of the view
CLIP_FRAMES = 16
TUBELET = 2  # frames of a clip in a token (VideoMAE)

# Method -> its mask, and the ratios of its paper. "all" means --mask-ratio, "inside" means
# --inside-ratio.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "VideoMAE": ("tube", {"mask_ratio": "all"}),
    "MOFO": ("motion_tube", {"mask_ratio": "all", "inside_ratio": "inside"}),
    "random": ("random", {"mask_ratio": "all"}),  # ST-MAE
    "block": ("block", {"mask_ratio": 0.75}),  # ST-MAE, table 2a
    "SMM": ("smm", {"mask_ratio": 0.75}),  # MGM, sec. 3.2
    "MGM": ("mgm", {"mask_ratio": 0.75}),  # MGM, sec. 3.3
    "MME": ("tube", {"mask_ratio": 0.7}),  # MME, supplement
    "MME cube": ("cube", {"mask_ratio": 0.4}),  # the same
}


@dataclass(frozen=True)
class Ratios:
    """Mask ratios that the options of the command set, 0..1."""

    mask_ratio: float = 0.9
    inside_ratio: float = 0.75


@dataclass(frozen=True)
class ShownMasks:
    """Masks of a video of T frames.

    Attributes:
        by_caption: bool [T, rows, columns] of each method, True = hidden from the encoder.
        boxes: float32 [T, 4], around all motion boxes of the window of each frame, source pixels:
            what masks go by; NaN without motion.
    """

    by_caption: dict[str, np.ndarray]
    boxes: np.ndarray


def draw_masks(
    name: str,
    boxes: np.ndarray,
    maps: np.ndarray,
    view: View,
    source_size: tuple[int, int],
    ratios: Ratios,
    stride: int = 2,
) -> ShownMasks:
    """One mask of each method for each window of a video.

    Args:
        name: of the video; the same name gives the same masks.
        boxes: float32 [T, 4], motion boxes in source pixels, NaN without motion.
        maps: float32 [T, h, w], motion maps of the whole frame.
        view: what a model sees of the source.
        source_size: width, height in pixels.
        stride: frames of the video between two of a clip.

    Raises:
        InputError: a ratio that hides all or nothing.
    """
    grid = (view.size[0] // PATCH, view.size[1] // PATCH)
    steps = CLIP_FRAMES // TUBELET
    window = CLIP_FRAMES * stride  # frames of the video
    of_step = np.arange(len(boxes)) % window // (TUBELET * stride)
    masks = {method: np.empty((len(boxes), *grid), np.bool_) for method in METHODS}
    inside = np.empty((len(boxes), *grid), np.bool_)
    unions = np.empty((len(boxes), 4), np.float32)
    for first in range(0, len(boxes), window):
        part = slice(first, first + window)
        unions[part] = union_box(boxes[part])
        inside[part] = inside_boxes(boxes[part], view, PATCH)
        cells = cell_means(maps[part], view, source_size, grid)
        motion = np.stack(
            [cells[of_step[part] == t].mean(axis=0) for t in np.unique(of_step[part])]
        )
        # A video that ends within a window stands still from there on.
        motion = np.concatenate([motion, np.repeat(motion[-1:], steps - len(motion), axis=0)])
        scene = Scene(steps, inside[first], motion)
        for method, (kind, options) in METHODS.items():
            rng = counter_generator("show", name, method, first)
            mask = MASKS[kind](scene, rng, **_resolved(options, ratios)).reshape(steps, *grid)
            _refuse_extremes(method, mask)
            masks[method][part] = mask[of_step[part]]
    return ShownMasks(
        {_caption(method, mask, inside): mask for method, mask in masks.items()}, unions
    )


def _resolved(options: dict[str, Any], ratios: Ratios) -> dict[str, float]:
    given = {"all": ratios.mask_ratio, "inside": ratios.inside_ratio}
    return {name: given.get(value, value) for name, value in options.items()}


def _refuse_extremes(method: str, mask: np.ndarray) -> None:
    if mask.all() or not mask.any():
        raise InputError(
            f"the mask of {method} hides {mask.sum()} of {mask.size} tokens; some must be hidden "
            "and some visible"
        )


def _caption(method: str, mask: np.ndarray, inside: np.ndarray) -> str:
    text = f"{method}: {100 * mask.mean():.0f} % hidden"
    return text + (f", {100 * mask[inside].mean():.0f} % in box" if inside.any() else "")
