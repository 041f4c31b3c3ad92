"""Views of stored clips: their frames, crops and flips, and the motion in them.

Letters: R views of one read, T frames, S output pixels a side, N tokens, T' time steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from shared.errors import InputError
from shared.grid import View, inside_boxes
from shared.motion_cells import MEAN, MotionPooling, maps_of_frames, pooled_cells
from shared.moving_areas import moving_positions
from train.clips.followed import flow_between_steps
from train.clips.reader import ClipReader
from train.clips.table import ClipTable
from train.clips.tracks import PlacedTracks
from train.clips.view_rules import (
    CROPS,
    FRAME_RULES,
    Box,
    grid_places,
    square_along,
    view_places,
)
from train.network.model_config import ModelConfig
from train.objectives.target import ShownView
from train.options.config import EvaluateConfig, FinetuneConfig, LoaderConfig, PretrainConfig
from train.tables.typed import Choice

SHRINK_LINEAR = 1.5  # a resize interpolates up to this factor; for larger factors it averages


@dataclass(frozen=True)
class ClipView:
    """One view of a clip: its frames, crop and flips.

    Attributes:
        frames: int64 [T], frame numbers in the order of the view (decreasing if reversed in time).
        crop: x1, y1, x2, y2 in pixels of the stored frame.
        flip_x, flip_y: whether the view is flipped left to right and top to bottom.
    """

    frames: np.ndarray
    crop: Box
    flip_x: bool = False
    flip_y: bool = False


@dataclass(frozen=True)
class StoredClip:
    """A clip of a table, and the views of it that a model gets.

    Attributes:
        table, index: the table and the row of the clip.
        reader: reads the shards of the table.
        model: defines number of frames, image size and tokens.
    """

    table: ClipTable
    index: int
    reader: ClipReader
    model: ModelConfig

    @property
    def clip_id(self) -> str:
        return self.table.clip_id(self.index)

    @property
    def num_frames(self) -> int:
        first, last = self.table.frames[self.index]
        return int(last - first)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the stored frames in pixels."""
        width, height = self.table.stored_size[self.index]
        return int(width), int(height)

    @property
    def source_size(self) -> tuple[int, int]:
        """Width and height of the source in pixels; boxes are in source pixels."""
        width, height = self.table.source_size[self.index]
        return int(width), int(height)

    # -----------------------------------------------------------------------------------------
    # Choosing views
    # -----------------------------------------------------------------------------------------

    def choose_frames(self, rule: Choice, places: np.ndarray) -> np.ndarray:
        """Frame numbers int64 [T] by a rule of clips/view_rules.py; `places` is float [T] in
        0..1."""
        rule_function = FRAME_RULES[rule.kind]
        return rule_function(self.num_frames, self.model.num_frames, places, **rule.options)

    def random_view(
        self, config: PretrainConfig | FinetuneConfig, rng: np.random.Generator
    ) -> tuple[ClipView, list[str]]:
        """A random view by the frame rule, crop and flips of a recipe, and the flips that it
        has."""
        frames = self.choose_frames(config.frames, rng.random(self.model.num_frames))
        crop = CROPS[config.crop.kind](*self.stored_size, rng, **config.crop.options)
        flips = [flip for flip in config.flips if rng.random() < 0.5]
        if "time" in flips:
            frames = frames[::-1]
        return ClipView(frames, crop, "x" in flips, "y" in flips), flips

    def test_views(self, rule: Choice, config: EvaluateConfig) -> list[ClipView]:
        """All views of an evaluation: all crops of the first segment, then of the second, and so
        on."""
        views = []
        for segment in range(config.segments):
            places = self._test_places(rule, config, segment)
            frames = self.choose_frames(rule, places)
            for number in range(config.crops):
                crop = square_along(*self.stored_size, number, config.crops)
                views.append(ClipView(frames, crop))
        return views

    def _test_places(self, rule: Choice, config: EvaluateConfig, segment: int) -> np.ndarray:
        num_frames = self.model.num_frames
        if config.starts == "frame":
            return view_places(rule.kind, segment, config.segments, num_frames)
        if rule.kind != "dense":
            raise InputError(
                "option-unused",
                f"evaluate.starts is {config.starts}, which is a way to place dense windows, and "
                f"the frames of this run are {rule.kind}; leave it out",
            )
        stride = rule.options["stride"]
        return grid_places(self.num_frames, num_frames, stride, segment, config.segments)

    # -----------------------------------------------------------------------------------------
    # The content of views
    # -----------------------------------------------------------------------------------------

    def pixels(self, views: list[ClipView]) -> np.ndarray:
        """RGB pixels of views, uint8 [R, T, S, S, 3]. Each frame is read and decoded once."""
        size = self.model.image_size
        reduction = min(jpeg_reduction(view.crop, size) for view in views)
        chosen = np.unique(np.concatenate([view.frames for view in views]))
        frames = self.reader.frames(self.index, chosen, reduction)
        pixels = np.empty((len(views), self.model.num_frames, size, size, 3), np.uint8)
        for out, view in zip(pixels, views, strict=True):
            # A reduced JPEG is smaller by exactly this factor, except for rounding at its border.
            x1, y1, x2, y2 = (side // reduction for side in view.crop)
            for t, number in enumerate(view.frames):
                cut(frames[int(number)], (x1, y1, x2, y2), out[t], view.flip_x, view.flip_y)
        return pixels

    def inside(self, view: ClipView, frames: np.ndarray | None = None) -> np.ndarray:
        """Patch positions inside the motion box of the window, bool [rows, columns].

        The boxes are those of `frames`, int64 [K], or of all frames of the view. All False if the
        table has no boxes.
        """
        if self.table.boxes_folder is None:
            return np.zeros((self.model.grid, self.model.grid), dtype=np.bool_)
        boxes = self.reader.boxes(self.index, view.frames if frames is None else frames)
        return inside_boxes(boxes, self.source_view(view), self.model.patch_size)

    def moving(self, view: ClipView, frames: np.ndarray | None = None) -> np.ndarray:
        """Patch positions that move in the window, bool [rows, columns].

        The window is that of `inside`. All False if the table has no boxes.

        Raises:
            InputError: the boxes have no table of what moves.
        """
        if self.table.boxes_folder is None:
            return np.zeros((self.model.grid, self.model.grid), dtype=np.bool_)
        areas = self.reader.areas(self.index, view.frames if frames is None else frames)
        return moving_positions(
            areas, self.source_view(view), self.source_size, self.model.patch_size
        )

    def inside_tokens(self, views: list[ClipView], box: str, inside: str) -> np.ndarray:
        """Tokens bool [R, N] inside a motion box, or that move.

        Args:
            box: "clip": what all frames of the view decide, so that all time steps have the same
                positions; "tubelet": what the frames of the tubelet decide. See `HeadConfig.box`.
            inside: "box" or "positions", see `HeadConfig.inside`.
        """
        steps = self.model.time_steps
        of_window = self.inside if inside == "box" else self.moving
        if box == "clip":
            return np.tile(np.stack([of_window(view).ravel() for view in views]), (1, steps))
        of_tubelets = [
            [of_window(view, frames).ravel() for frames in np.split(view.frames, steps)]
            for view in views
        ]
        return np.stack(of_tubelets).reshape(len(views), -1)

    def motion(self, view: ClipView, pooling: MotionPooling = MEAN) -> np.ndarray:
        """Motion of each patch of each tubelet, float32 [T', rows, columns].

        It is a mean over the frames of the tubelet; `pooling` says how it is read in a frame.
        """
        numbers, known = maps_of_frames(view.frames, self.num_frames, pooling)
        maps = self.reader.motion(self.index, numbers)
        grid = self.model.grid
        cells = pooled_cells(
            maps, self.source_view(view), self.source_size, (grid, grid), pooling.top
        )
        cells = cells * known[:, None, None]
        return cells.reshape(self.model.time_steps, -1, grid, grid).mean(axis=1)

    def flow(self, view: ClipView) -> np.ndarray:
        """How far the picture moves between time steps, see `Scene.flow`."""
        firsts = view.frames[:: self.model.tubelet_size]
        grid = (self.model.grid, self.model.grid)
        shown = self.source_view(view)
        return flow_between_steps(self.tracks, firsts, shown, self.source_size, grid)

    def tracks(self, first_frames: np.ndarray) -> PlacedTracks:
        """Tracks that start at the given frames, int64 [K]."""
        return self.reader.tracks(self.index, first_frames)

    def source_view(self, view: ClipView) -> View:
        """The crop and flips of a view in source pixels."""
        return source_view(
            view.crop,
            self.stored_size,
            self.source_size,
            self.model.image_size,
            view.flip_x,
            view.flip_y,
        )

    def shown(self, view: ClipView) -> ShownView:
        """The view in the form that targets get."""
        return ShownView(
            frames=view.frames,
            first_frames=view.frames[:: self.model.tubelet_size],
            num_frames=self.num_frames,
            view=self.source_view(view),
            source_size=self.source_size,
            tracks=self.tracks,
            motion=lambda: self.motion(view),
        )


def open_reader(table: ClipTable, loader: LoaderConfig) -> ClipReader:
    """A reader for one worker, with its part of the memory for decoded frames."""
    cache_bytes = loader.cache_megabytes * 1_000_000 // max(1, loader.workers)
    return ClipReader(table, loader.open_shards, cache_bytes)


def jpeg_reduction(crop: Box, size: int) -> int:
    """The largest factor of 1, 2, 4, 8 by which decoding may reduce a JPEG so that the crop still
    has at least `size` pixels a side.

    libjpeg then computes fewer coefficients, which is several times faster than a later resize.
    """
    side = min(crop[2] - crop[0], crop[3] - crop[1])
    return next(factor for factor in (8, 4, 2, 1) if side >= factor * size or factor == 1)


def cut(frame: np.ndarray, crop: Box, out: np.ndarray, flip_x: bool, flip_y: bool) -> None:
    """Crop, resize and flip an RGB frame into `out`, uint8 [S, S, 3].

    The crop is in pixels of `frame`. Outside of the frame the border is repeated.
    """
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = crop
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        margins = (max(0, -y1), max(0, y2 - height), max(0, -x1), max(0, x2 - width))
        frame = cv2.copyMakeBorder(frame, *margins, cv2.BORDER_REPLICATE)
        x1, x2 = x1 + margins[2], x2 + margins[2]
        y1, y2 = y1 + margins[0], y2 + margins[0]
    part = frame[y1:y2, x1:x2]
    if part.shape == out.shape:
        out[:] = part
    else:
        # If the crop is much larger than the output, averaging avoids flicker of fine texture. Up
        # to SHRINK_LINEAR, interpolation still uses every pixel and takes a fifth of the time. 256
        # lines to 224 are a factor of 1.14.
        shrinks = min(part.shape[0] / out.shape[0], part.shape[1] / out.shape[1]) > SHRINK_LINEAR
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(part, (out.shape[1], out.shape[0]), dst=out, interpolation=how)
    if flip_x or flip_y:
        cv2.flip(out, -1 if flip_x and flip_y else int(flip_x), dst=out)


def source_view(
    crop: Box,
    stored_size: tuple[int, int],
    source_size: tuple[int, int],
    size: int,
    flip_x: bool = False,
    flip_y: bool = False,
) -> View:
    """Convert a crop to source pixels, the unit of motion boxes. Sizes are (width, height)."""
    scale_x = source_size[0] / stored_size[0]
    scale_y = source_size[1] / stored_size[1]
    x1, y1, x2, y2 = crop
    moved = (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)
    return View(moved, (size, size), flip_x, flip_y)
