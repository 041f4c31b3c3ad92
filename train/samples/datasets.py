"""Clips as samples: datasets for pretraining, finetuning and evaluation.

What a clip looks like depends on (seed, epoch, clip id, view) alone, never on the worker that reads
it. Letters: R views of one read, T frames, S output pixels a side, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from shared.manifest import ClassList
from shared.masks import MASKS, NEEDS_MOTION, Scene
from shared.randomness import counter_generator
from train.clips.augment import ColourAugment, erase
from train.clips.crops import square_along
from train.clips.frame_sampling import view_places
from train.clips.table import ClipTable
from train.network.model_config import ModelConfig
from train.objectives.fixed_places import fixed_target, frames_to_read
from train.objectives.trajectories import TRACKS, trajectory_target
from train.options.config import (
    AugmentConfig,
    EvaluateConfig,
    FinetuneConfig,
    LoaderConfig,
    PretrainConfig,
)
from train.samples.views import ClipDataset, Cutting
from train.tables.typed import Choice

Sample = dict[str, Tensor]


class PretrainDataset(ClipDataset):
    """Clips with masks. Key (epoch, index) -> {"pixels", "mask", "index"}.

    pixels uint8 [R, T, S, S, 3], mask bool [R, N] (True = masked), index int64 [R]. Where
    trajectories are predicted also "target" float32 [R, M, D] and "counts" bool [R, M, K, S] of the
    masked tokens, see train/objectives/trajectories.py.
    """

    def __init__(
        self, table: ClipTable, config: PretrainConfig, loader: LoaderConfig, seed: int
    ) -> None:
        super().__init__(table, config.model, loader)
        self.config = config
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        config, clip_id = self.config, self.table.clip_id(index)
        views, masks, targets = [], [], []
        for number in range(config.repeats):
            rng = counter_generator(self.seed, epoch, clip_id, number, "view")
            view, _ = self._draw(index, config.frames, config.crop, config.flips, rng)
            # A stream of its own: the same mask whatever the augmentation draws.
            rng = counter_generator(self.seed, epoch, clip_id, number, "mask")
            motion = self._motion(index, view) if config.mask.kind in NEEDS_MOTION else None
            scene = Scene(self.model.time_steps, self._inside(index, view), motion)
            masks.append(MASKS[config.mask.kind](scene, rng, **config.mask.options))
            views.append(view)
            if config.trajectories is not None:
                targets.append([part[masks[-1]] for part in self._trajectories(index, view)])
        sample = {
            "pixels": torch.from_numpy(self._cut(index, views)),
            "mask": torch.from_numpy(np.stack(masks)),
            "index": torch.full((len(views),), index),
        }
        for name, parts in zip(("target", "counts"), zip(*targets, strict=True), strict=False):
            sample[name] = torch.from_numpy(np.stack(parts))
        return sample

    def _trajectories(self, index: int, view: Cutting) -> tuple[np.ndarray, np.ndarray]:
        """Target float32 [N, D] and counts bool [N, K, S] of all tokens of a view."""
        firsts = view.frames[:: self.model.tubelet_size]
        wanted, stride = self.config.trajectories, self.config.stride
        place = (
            self._source_view(index, view),
            tuple(self.table.source_size[index]),
            (self.model.grid, self.model.grid),
        )
        if wanted.kind == TRACKS:
            placed = self._reader.tracks(index, firsts)
            return trajectory_target(placed, *place, wanted, stride)
        first, last = self.table.frames[index]
        frames, places = frames_to_read(firsts, int(last - first), wanted, stride)
        placed = self._reader.tracks(index, frames)
        return fixed_target(placed, places, *place, wanted, stride)


class FinetuneDataset(ClipDataset):
    """Augmented clips with labels. Key (epoch, index) -> pixels, inside, index, and each label.

    pixels uint8 [R, T, S, S, 3], inside bool [R, N] (True = in the motion box), index int64 [R],
    and int64 [R] under the name of each kind of label.
    """

    def __init__(
        self,
        table: ClipTable,
        classes: ClassList,
        config: FinetuneConfig,
        loader: LoaderConfig,
        seed: int,
    ) -> None:
        super().__init__(table, config.model, loader, config.head.box)
        self.config = config
        self.seed = seed
        self._maps = {flip: getattr(classes, f"flip_{flip}") for flip in config.flips}
        self._colours = _colour_augment(config.augment)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        config, clip_id = self.config, self.table.clip_id(index)
        views, labels = [], {kind: [] for kind in config.labels}
        for number in range(config.repeats):
            rng = counter_generator(self.seed, epoch, clip_id, number, "view")
            view, flipped = self._draw(index, config.frames, config.crop, config.flips, rng)
            views.append(view)
            for kind in config.labels:
                label = int(self.table.labels[kind][index])
                for flip in flipped if kind == "label" else ():
                    label = self._maps[flip][label]
                labels[kind].append(label)
        pixels = self._cut(index, views)
        for number in range(config.repeats):
            rng = counter_generator(self.seed, epoch, clip_id, number, "pixels")
            if self._colours is not None:
                pixels[number] = self._colours(pixels[number], rng)
            erase(pixels[number], config.augment.erase_probability, rng)
        return {
            "pixels": torch.from_numpy(pixels),
            "inside": self._inside_tokens(index, views),
            "index": torch.full((len(views),), index),
            **{kind: torch.tensor(values) for kind, values in labels.items()},
        }


class EvaluateDataset(ClipDataset):
    """Every view of a clip, nothing random. Key index -> {"pixels", "inside", "index"}.

    pixels uint8 [R, T, S, S, 3] and inside bool [R, N] with R = segments * crops; index int64 [1].
    With a table that has motion maps also "motion" float32 [R, T', rows, columns].
    """

    def __init__(
        self,
        table: ClipTable,
        model: ModelConfig,
        frames: Choice,
        config: EvaluateConfig,
        loader: LoaderConfig,
        box: str = "clip",
    ) -> None:
        super().__init__(table, model, loader, box)
        self.frames = frames
        self.config = config

    def __getitem__(self, index: int) -> Sample:
        width, height = (int(side) for side in self.table.stored_size[index])
        views = []
        for segment in range(self.config.segments):
            places = view_places(
                self.frames.kind, segment, self.config.segments, self.model.num_frames
            )
            frames = self._choose(self.frames, index, places)
            for number in range(self.config.crops):
                crop = square_along(width, height, number, self.config.crops)
                views.append(Cutting(frames, crop))
        sample = {
            "pixels": torch.from_numpy(self._cut(index, views)),
            "inside": self._inside_tokens(index, views),
            "index": torch.tensor([index]),
        }
        if self.table.motion_folder is not None:
            motion = np.stack([self._motion(index, view) for view in views])
            sample["motion"] = torch.from_numpy(motion)
        return sample


def _colour_augment(config: AugmentConfig) -> Callable | None:
    if config.rand_layers == 0:
        return None
    return ColourAugment(config.rand_magnitude, config.rand_layers, config.rand_magnitude_std)
