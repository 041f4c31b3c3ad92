"""Draws the masks of each method for a whole video, for `preprocess.show`.

The recipe in train/recipes/default.toml, which is read as a file, says what each method masks.

A training clip has 16 frames, `stride` apart. A longer video is split into consecutive windows of
that length. Each window has its own masks, which depend on its motion, as in training.
"""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.decoder_masks import ALL, DECODER_MASKS
from shared.errors import InputError
from shared.flow_tube import FINE, fine_points
from shared.grid import View, inside_boxes, window_box
from shared.masks import MASKS, Scene
from shared.motion_cells import MotionPooling, maps_of_frames, pooled_cells
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
        decoder_mask: name of the decoder mask; None takes that of each recipe.
        inside: "box" or "positions", what is inside for masks that use motion boxes; None takes the
            value of the recipe.
    """

    mask_ratio: float | None = None
    inside_ratio: float | None = None
    methods: tuple[str, ...] = ()
    decoder_mask: str | None = None
    inside: str | None = None


@dataclass(frozen=True)
class ShownMasks:
    """Masks of a video of T frames.

    Attributes:
        by_caption: for each method bool [T, rows, columns], True = hidden from the encoder.
        boxes: float32 [T, 4], source pixels, the box around all motion boxes of the window of each
            frame, which the masks use; NaN without motion.
        decoded: for each method that decodes only some of its hidden patches, by caption, bool
            [T, rows, columns], True = hidden and decoded.
        moving: bool [T, rows, columns], the positions that move in the window of each frame, for
            each caption whose mask uses them instead of the box.
    """

    by_caption: dict[str, np.ndarray]
    boxes: np.ndarray
    moving: dict[str, np.ndarray] = field(default_factory=dict)
    decoded: dict[str, np.ndarray] = field(default_factory=dict)


def draw_masks(
    name: str,
    boxes: np.ndarray,
    maps: np.ndarray,
    view: View,
    source_size: tuple[int, int],
    options: MaskOptions,
    stride: int = 2,
    flow: np.ndarray | None = None,
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
        flow: float32 [T, 2, h, w], flow from each frame to the next, in pixels of its own size, for
            masks that follow it. None: nothing moves.
        areas: bool [T, h, w], what moves in each frame (`moving_areas`); None takes the boxes.

    Raises:
        InputError: a method is unknown, a ratio hides all tokens or none, or no chosen method uses
            `options.inside`.
    """
    grid = (view.size[0] // PATCH, view.size[1] // PATCH)
    steps = CLIP_FRAMES // TUBELET
    window = CLIP_FRAMES * stride  # frames of the video
    of_step = np.arange(len(boxes)) % window // (TUBELET * stride)
    methods = _chosen(method_masks(), options.methods)
    arguments = {name: _arguments(table["mask"], options) for name, table in methods.items()}
    if options.inside is not None and not any("inside" in each for each in arguments.values()):
        raise InputError(
            "option-unused",
            f"--inside is {options.inside}, but no mask of {', '.join(methods)} uses motion boxes; "
            "leave it out, or add --method mofo",
        )
    masks = {method: np.empty((len(boxes), *grid), np.bool_) for method in methods}
    decoded = {method: np.empty((len(boxes), *grid), np.bool_) for method in methods}
    inside, moving = (np.empty((len(boxes), *grid), np.bool_) for _ in range(2))
    window_boxes = np.empty((len(boxes), 4), np.float32)
    for first in range(0, len(boxes), window):
        part = slice(first, first + window)
        window_boxes[part] = window_box(boxes[part])
        inside[part] = moving[part] = inside_boxes(boxes[part], view, PATCH)
        if areas is not None:
            moving[part] = moving_positions(areas[part], view, source_size, PATCH)
        if flow is None:
            followed = np.zeros((steps - 1, grid[0] * FINE, grid[1] * FINE, 2), np.float32)
        else:
            followed = flow_of_steps(
                flow[part], steps, TUBELET * stride, view.crop, source_size, grid
            )
        frames = np.arange(first, min(first + window, len(boxes)))
        for method, table in methods.items():
            pooling = MotionPooling.of_mask(arguments[method])
            numbers, known = maps_of_frames(frames, len(boxes), pooling)
            cells = pooled_cells(maps[numbers], view, source_size, grid, pooling.top)
            motion = _of_steps(cells * known[:, None, None], of_step[part], steps)
            scene = Scene(steps, inside[first], motion, followed, moving[first])
            rng = counter_generator("show", name, method, first)
            mask = MASKS[table["mask"]["kind"]].draw(scene, rng, **arguments[method])
            _refuse_extremes(method, mask)
            masks[method][part] = mask.reshape(steps, *grid)[of_step[part]]
            chosen = _decoded(table["decoder_mask"], options, scene, mask, rng)
            decoded[method][part] = chosen.reshape(steps, *grid)[of_step[part]]
    of_moving = {name for name in methods if arguments[name].get("inside") == "positions"}
    captions = {
        method: _caption(method, mask, decoded[method])
        + (
            _share(mask, moving, "of what moves")
            if method in of_moving
            else _share(mask, inside, "in box")
        )
        for method, mask in masks.items()
    }
    return ShownMasks(
        {captions[method]: mask for method, mask in masks.items()},
        window_boxes,
        {captions[method]: moving for method in of_moving},
        {
            captions[method]: chosen
            for method, chosen in decoded.items()
            if (chosen != masks[method]).any()
        },
    )


def _of_steps(cells: np.ndarray, of_step: np.ndarray, steps: int) -> np.ndarray:
    """Means over the frames of each time step: [T, rows, columns] -> [steps, rows, columns].

    A window that is cut short by the end of the video repeats its last motion.
    """
    motion = np.stack([cells[of_step == t].mean(axis=0) for t in np.unique(of_step)])
    return np.concatenate([motion, np.repeat(motion[-1:], steps - len(motion), axis=0)])


def method_masks(recipe: Path = RECIPE) -> dict[str, dict[str, Any]]:
    """The tables `mask` and `decoder_mask` of each method in a recipe.

    A table has `kind`, a name in MASKS or DECODER_MASKS, and its options.
    """
    methods = tomllib.loads(recipe.read_text(encoding="utf-8"))["pretrain"]
    return {
        name: {"mask": table["mask"], "decoder_mask": table.get("decoder_mask", ALL)}
        for name, table in methods.items()
        if isinstance(table, dict) and "mask" in table
    }


def flow_of_steps(
    flow: np.ndarray,
    steps: int,
    span: int,
    crop: tuple[float, float, float, float],
    source_size: tuple[int, int],
    grid: tuple[int, int],
) -> np.ndarray:
    """The flow from each time step to the next (`Scene.flow`), frame by frame along dense flow.

    Args:
        flow: float32 [T, 2, h, w], from each frame to the next, in pixels of its own size. Nothing
            moves after its last frame.
        steps: T', number of time steps.
        span: frames from one time step to the next.
        crop: x1 y1 x2 y2 of the view in source pixels.
        source_size: width and height in pixels.
        grid: rows and columns of positions.
    """
    x1, y1, x2, y2 = crop
    size = np.array(flow.shape[:1:-1])  # w, h
    scale = size / np.array(source_size)
    cell = np.array([(x2 - x1) / grid[1], (y2 - y1) / grid[0]]) * scale
    starts = fine_points((grid[0] * FINE, grid[1] * FINE)) * cell + np.array([x1, y1]) * scale
    found = np.empty((steps - 1, *starts.shape), np.float32)
    for step in range(steps - 1):
        places = starts.copy()
        for frame in range(step * span, min((step + 1) * span, len(flow))):
            known = ((places >= 0) & (places < size)).all(axis=-1)  # False for NaN
            x, y = np.where(known[..., None], places, 0).astype(int).transpose(2, 0, 1)
            moved = places + flow[frame][:, y, x].transpose(1, 2, 0)
            places = np.where(known[..., None], moved, np.nan)
        found[step] = (places - starts) / cell
    return found


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


def _decoded(
    table: dict[str, Any] | str,
    options: MaskOptions,
    scene: Scene,
    hidden: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The decoded tokens, bool [N]. A given decoder mask replaces that of the recipe."""
    chosen = table if options.decoder_mask is None else options.decoder_mask
    kind, arguments = (chosen, {}) if isinstance(chosen, str) else (chosen["kind"], dict(chosen))
    arguments.pop("kind", None)
    return DECODER_MASKS[kind].draw(scene, hidden, rng, **arguments)


def _refuse_extremes(method: str, mask: np.ndarray) -> None:
    if mask.all() or not mask.any():
        raise InputError(
            "out-of-range",
            f"the mask of {method} hides {mask.sum()} of {mask.size} tokens; some must be hidden "
            "and some visible",
        )


def _caption(method: str, mask: np.ndarray, decoded: np.ndarray) -> str:
    text = f"{method}: {100 * mask.mean():.0f} % hidden"
    if (decoded != mask).any():
        text += f", {100 * decoded.sum() / mask.sum():.0f} % of these decoded"
    return text


def _share(mask: np.ndarray, inside: np.ndarray, where: str) -> str:
    return f", {100 * mask[inside].mean():.0f} % {where}" if inside.any() else ""
