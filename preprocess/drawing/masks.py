"""Draws the masks of each method for a whole video, for `preprocess.show`.

The recipe in train/recipes/default.toml, which is read as a file, says what each method masks.

A training clip has 16 frames, `stride` apart. A longer video is split into consecutive windows of
that length. Each window has its own masks, which depend on its motion, as in training.
"""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.grid import View, inside_boxes, window_box
from shared.masks import MASKS, Scene
from shared.motion_cells import cell_means
from shared.moving_areas import moving_positions
from shared.randomness import counter_generator

PATCH = 16  # pixels of the view
CLIP_FRAMES = 16
TUBELET = 2  # frames of a clip in a token (VideoMAE)
RECIPE = Path(__file__).resolve().parents[2] / "train" / "recipes" / "default.toml"


@dataclass(frozen=True)
class MaskOptions:
    """Which masks are drawn, and what they hide.

    Attributes:
        mask_ratio: share of all patches to hide, 0..1; None takes the value of each recipe.
        inside_ratio: share of the patches in the motion box to hide, 0..1, for masks that use the
            box; None takes the value of the recipe.
        methods: names of the methods; empty for all methods of the recipe.
        inside: "box" or "positions", what is inside for masks that use motion boxes; None takes the
            value of the recipe.
    """

    mask_ratio: float | None = None
    inside_ratio: float | None = None
    methods: tuple[str, ...] = ()
    inside: str | None = None


@dataclass(frozen=True)
class ShownMasks:
    """Masks of a video of T frames.

    Attributes:
        by_caption: for each method bool [T, rows, columns], True = hidden from the encoder.
        boxes: float32 [T, 4], source pixels, the box around all motion boxes of the window of each
            frame, which the masks use; NaN without motion.
        moving: bool [T, rows, columns], the positions that move in the window of each frame, for
            each caption whose mask uses them instead of the box.
    """

    by_caption: dict[str, np.ndarray]
    boxes: np.ndarray
    moving: dict[str, np.ndarray]


def draw_masks(
    name: str,
    boxes: np.ndarray,
    maps: np.ndarray,
    view: View,
    source_size: tuple[int, int],
    options: MaskOptions,
    stride: int = 2,
    areas: np.ndarray | None = None,
) -> ShownMasks:
    """Draw one mask of each method for each window of a video.

    Args:
        name: name of the video. The same name gives the same masks.
        boxes: float32 [T, 4], motion boxes in source pixels, NaN without motion.
        maps: float32 [T, h, w], motion maps of the whole frame.
        view: the crop that a model sees.
        source_size: width and height in pixels.
        options: which masks are drawn, and what they hide.
        stride: frames of the video between two frames of a clip.
        areas: bool [T, h, w], what moves in each frame (`moving_areas`); None takes the boxes.

    Raises:
        InputError: a method is unknown, a ratio hides all tokens or none, or no chosen method uses
            `options.inside`.
    """
    grid = (view.size[0] // PATCH, view.size[1] // PATCH)
    steps = CLIP_FRAMES // TUBELET
    window = CLIP_FRAMES * stride  # frames of the video
    of_step = np.arange(len(boxes)) % window // (TUBELET * stride)
    methods = {
        method: {"kind": table["kind"], **_arguments(table, options)}
        for method, table in _chosen(method_masks(), options.methods).items()
    }
    if options.inside is not None and not any("inside" in table for table in methods.values()):
        raise InputError(
            "option-unused",
            f"--inside is {options.inside}, but no mask of {', '.join(methods)} uses motion boxes; "
            "leave it out, or add --method mofo",
        )
    masks = {method: np.empty((len(boxes), *grid), np.bool_) for method in methods}
    inside, moving = (np.empty((len(boxes), *grid), np.bool_) for _ in range(2))
    window_boxes = np.empty((len(boxes), 4), np.float32)
    for first in range(0, len(boxes), window):
        part = slice(first, first + window)
        window_boxes[part] = window_box(boxes[part])
        inside[part] = moving[part] = inside_boxes(boxes[part], view, PATCH)
        if areas is not None:
            moving[part] = moving_positions(areas[part], view, source_size, PATCH)
        cells = cell_means(maps[part], view, source_size, grid)
        motion = np.stack(
            [cells[of_step[part] == t].mean(axis=0) for t in np.unique(of_step[part])]
        )
        # A window that is cut short by the end of the video repeats its last motion.
        motion = np.concatenate([motion, np.repeat(motion[-1:], steps - len(motion), axis=0)])
        scene = Scene(steps, inside[first], motion, moving[first])
        for method, table in methods.items():
            rng = counter_generator("show", name, method, first)
            arguments = {name: value for name, value in table.items() if name != "kind"}
            mask = MASKS[table["kind"]].draw(scene, rng, **arguments).reshape(steps, *grid)
            _refuse_extremes(method, mask)
            masks[method][part] = mask[of_step[part]]
    of_moving = {name for name, table in methods.items() if table.get("inside") == "positions"}
    captions = {
        name: _caption(name, mask, moving, "of what moves")
        if name in of_moving
        else _caption(name, mask, inside, "in box")
        for name, mask in masks.items()
    }
    return ShownMasks(
        {captions[name]: mask for name, mask in masks.items()},
        window_boxes,
        {captions[name]: moving for name in of_moving},
    )


def method_masks(recipe: Path = RECIPE) -> dict[str, dict[str, Any]]:
    """The `mask` table of each method in a recipe: `kind`, a name in MASKS, and its options."""
    methods = tomllib.loads(recipe.read_text(encoding="utf-8"))["pretrain"]
    return {
        name: table["mask"]
        for name, table in methods.items()
        if isinstance(table, dict) and "mask" in table
    }


def _chosen(tables: dict[str, Any], methods: tuple[str, ...]) -> dict[str, Any]:
    unknown = [method for method in methods if method not in tables]
    if unknown:
        raise InputError(
            "unknown-name",
            f"--method is {', '.join(unknown)}; allowed: {', '.join(tables)}",
        )
    return {method: tables[method] for method in methods or tables}


def _arguments(table: dict[str, Any], options: MaskOptions) -> dict[str, Any]:
    """The arguments of a mask. Given options replace those of the recipe."""
    given = {
        "mask_ratio": options.mask_ratio,
        "inside_ratio": options.inside_ratio,
        "inside": options.inside,
    }
    arguments = {name: value for name, value in table.items() if name != "kind"}
    known = inspect.signature(MASKS[table["kind"]].draw).parameters
    return arguments | {k: v for k, v in given.items() if k in known and v is not None}


def _refuse_extremes(method: str, mask: np.ndarray) -> None:
    if mask.all() or not mask.any():
        raise InputError(
            "out-of-range",
            f"the mask of {method} hides {mask.sum()} of {mask.size} tokens; some must be hidden "
            "and some visible",
        )


def _caption(method: str, mask: np.ndarray, inside: np.ndarray, where: str) -> str:
    text = f"{method}: {100 * mask.mean():.0f} % hidden"
    return text + (f", {100 * mask[inside].mean():.0f} % {where}" if inside.any() else "")
