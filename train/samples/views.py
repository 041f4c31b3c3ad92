"""Cuts views out of clips: which frames, which part of them, and what in it moves.

Letters: R views of one read, T frames, S output pixels a side, N tokens, T' time steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shared.grid import View, inside_boxes
from shared.motion_cells import cell_means
from train.clips.augment import cut, jpeg_reduction, source_view
from train.clips.crops import CROPS, Box
from train.clips.frame_sampling import FRAME_RULES
from train.clips.reader import ClipReader
from train.clips.table import ClipTable
from train.network.model_config import ModelConfig
from train.options.config import LoaderConfig
from train.tables.typed import Choice


@dataclass(frozen=True)
class Cutting:
    """One view of a clip: which frames, which part of them, mirrored how.

    Attributes:
        frames: int64 [T] frame numbers in the order shown (falling when played backwards).
        crop: x1, y1, x2, y2 in pixels of the stored frame.
        flip_x, flip_y: mirrored left to right, top to bottom.
    """

    frames: np.ndarray
    crop: Box
    flip_x: bool = False
    flip_y: bool = False


class ClipDataset(Dataset):
    """What all datasets share: reading, cutting and finding the tokens inside the box.

    Args:
        box: clip or tubelet, see `HeadConfig.box`.
    """

    def __init__(
        self, table: ClipTable, model: ModelConfig, loader: LoaderConfig, box: str = "clip"
    ) -> None:
        self.table = table
        self.model = model
        self.box = box
        workers = max(1, loader.workers)
        cache_bytes = loader.cache_megabytes * 1_000_000 // workers
        self._reader = ClipReader(table, loader.open_shards, cache_bytes)

    def _choose(self, rule: Choice, index: int, places: np.ndarray) -> np.ndarray:
        """Frame numbers int64 [T] of a clip by a rule of frame_sampling."""
        first, last = self.table.frames[index]
        return FRAME_RULES[rule.kind](
            int(last - first), self.model.num_frames, places, **rule.options
        )

    def _draw(
        self,
        index: int,
        rule: Choice,
        crop: Choice,
        flips: tuple[str, ...],
        rng: np.random.Generator,
    ) -> tuple[Cutting, list[str]]:
        """A random view, and which of `flips` it has."""
        frames = self._choose(rule, index, rng.random(self.model.num_frames))
        width, height = (int(side) for side in self.table.stored_size[index])
        box = CROPS[crop.kind](width, height, rng, **crop.options)
        flipped = [flip for flip in flips if rng.random() < 0.5]
        if "time" in flipped:
            frames = frames[::-1]
        return Cutting(frames, box, "x" in flipped, "y" in flipped), flipped

    def _cut(self, index: int, views: list[Cutting]) -> np.ndarray:
        """Pixels uint8 [R, T, S, S, 3] of the views; every frame is read and decoded once."""
        size = self.model.image_size
        reduction = min(jpeg_reduction(view.crop, size) for view in views)
        chosen = np.unique(np.concatenate([view.frames for view in views]))
        frames = self._reader.frames(index, chosen, reduction)
        pixels = np.empty((len(views), self.model.num_frames, size, size, 3), np.uint8)
        for out, view in zip(pixels, views, strict=True):
            for t, number in enumerate(view.frames):
                frame = frames[int(number)]
                # A reduced JPEG is smaller by exactly that factor, up to rounding of its border.
                crop = tuple(side // reduction for side in view.crop)
                cut(frame, crop, out[t], view.flip_x, view.flip_y)
        return pixels

    def _inside(self, index: int, view: Cutting, frames: np.ndarray | None = None) -> np.ndarray:
        """Patch positions bool [rows, columns] inside the union of motion boxes, those of the
        frames given, int64 [K], or of all that the view shows."""
        size, patch = self.model.image_size, self.model.patch_size
        if self.table.boxes_folder is None:
            return np.zeros((size // patch, size // patch), dtype=np.bool_)
        boxes = self._reader.boxes(index, view.frames if frames is None else frames)
        return inside_boxes(boxes, self._source_view(index, view), patch)

    def _motion(self, index: int, view: Cutting) -> np.ndarray | None:
        """Mean motion float32 [T', rows, columns] of each tubelet; None where maps are not read."""
        if self.table.motion_folder is None:
            return None
        maps = self._reader.motion(index, view.frames)
        grid, size = self.model.grid, tuple(self.table.source_size[index])
        cells = cell_means(maps, self._source_view(index, view), size, (grid, grid))
        return cells.reshape(self.model.time_steps, -1, grid, grid).mean(axis=1)

    def _source_view(self, index: int, view: Cutting) -> View:
        return source_view(
            view.crop,
            tuple(self.table.stored_size[index]),
            tuple(self.table.source_size[index]),
            self.model.image_size,
            view.flip_x,
            view.flip_y,
        )

    def _inside_tokens(self, index: int, views: list[Cutting]) -> Tensor:
        """Tokens bool [R, N] inside the box of the clip, the same positions at every time step, or
        inside that of their tubelet."""
        steps = self.model.time_steps
        if self.box == "clip":
            inside = np.stack([self._inside(index, view).ravel() for view in views])
            return torch.from_numpy(np.tile(inside, (1, steps)))
        inside = np.stack(
            [
                [self._inside(index, view, part).ravel() for part in np.split(view.frames, steps)]
                for view in views
            ]
        )
        return torch.from_numpy(inside.reshape(len(views), -1))
