"""Streams clips from the shards to the device: datasets for pretraining, finetuning, evaluation.

What a clip looks like depends on (seed, epoch, clip id, view) alone, never on the worker that reads
it. Letters: R views of one read, T frames, S output pixels a side, N tokens.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from shared.errors import InputError
from shared.grid import View, positions_inside, union_box
from shared.manifest import ClassList
from shared.masks import MASKS, NEEDS_MOTION, Scene
from shared.motion_cells import cell_means
from shared.randomness import counter_generator
from train.augment import (
    CROPS,
    Box,
    ColourAugment,
    cut,
    erase,
    jpeg_reduction,
    source_view,
    square_along,
)
from train.clip_reader import ClipReader
from train.clip_table import ClipTable
from train.config import AugmentConfig, EvaluateConfig, FinetuneConfig, LoaderConfig, PretrainConfig
from train.frame_sampling import FRAME_RULES, view_places
from train.model_config import ModelConfig
from train.targets_motion import trajectory_target
from train.typed_tables import Choice

Sample = dict[str, Tensor]

GRACE_SECONDS = 60  # that a worker lives on after SIGTERM, for the step in work


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


class _ClipDataset(Dataset):
    """What all three datasets share: reading, cutting and finding the tokens inside the box."""

    def __init__(self, table: ClipTable, model: ModelConfig, loader: LoaderConfig) -> None:
        self.table = table
        self.model = model
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

    def _inside(self, index: int, view: Cutting) -> np.ndarray:
        """Patch positions bool [rows, columns] inside the union of the view's motion boxes."""
        size, patch = self.model.image_size, self.model.patch_size
        if self.table.boxes_folder is None:
            return np.zeros((size // patch, size // patch), dtype=np.bool_)
        union = union_box(self._reader.boxes(index, view.frames))
        shown = self._source_view(index, view)
        return positions_inside(shown.apply(union), shown.size, patch)

    def _motion(self, index: int, view: Cutting) -> np.ndarray | None:
        """Mean motion f4 [T', rows, columns] of each tubelet; None where maps are not read."""
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
        """Tokens bool [R, N] inside the box: the same positions at every time step."""
        inside = np.stack([self._inside(index, view).ravel() for view in views])
        return torch.from_numpy(np.tile(inside, (1, self.model.time_steps)))


class PretrainDataset(_ClipDataset):
    """Clips with masks. Key (epoch, index) -> {"pixels", "mask", "index"}.

    pixels uint8 [R, T, S, S, 3], mask bool [R, N] (True = masked), index int64 [R]. Where
    trajectories are predicted also "target" f4 [R, M, D] and "counts" bool [R, M, K, S] of the
    masked tokens, see train/targets_motion.py.
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
        """Target f4 [N, D] and counts bool [N, K, S] of all tokens of a view."""
        firsts = view.frames[:: self.model.tubelet_size]
        return trajectory_target(
            self._reader.tracks(index, firsts),
            self._source_view(index, view),
            tuple(self.table.source_size[index]),
            (self.model.grid, self.model.grid),
            self.config.trajectories,
            self.config.stride,
        )


class FinetuneDataset(_ClipDataset):
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
        super().__init__(table, config.model, loader)
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


class EvaluateDataset(_ClipDataset):
    """Every view of a clip, nothing random. Key index -> {"pixels", "inside", "index"}.

    pixels uint8 [R, T, S, S, 3] and inside bool [R, N] with R = segments * crops; index int64 [1].
    With a table that has motion maps also "motion" f4 [R, T', rows, columns].
    """

    def __init__(
        self,
        table: ClipTable,
        model: ModelConfig,
        frames: Choice,
        config: EvaluateConfig,
        loader: LoaderConfig,
    ) -> None:
        super().__init__(table, model, loader)
        self.frames = frames
        self.config = config

    def __getitem__(self, index: int) -> Sample:
        width, height = (int(side) for side in self.table.stored_size[index])
        views = []
        for segment in range(self.config.segments):
            places = view_places(segment, self.config.segments, self.model.num_frames)
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


def make_loader(
    dataset: Dataset, batches: Sampler | Iterable[list[Any]], loader: LoaderConfig, cuda: bool
) -> DataLoader:
    """A loader over lists of keys. Batches come in the sampler's order for any worker count."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=loader.workers,
        collate_fn=_join,
        pin_memory=cuda,
        worker_init_fn=_quiet_worker if loader.workers else None,
        prefetch_factor=loader.prefetch if loader.workers else None,
    )


def read_batches(loader: DataLoader) -> Iterator[Sample]:
    """The batches of a loader; to be closed (`contextlib.closing`), which ends its workers.

    Raises:
        InputError: as a worker raised it, without the worker's traceback.
    """
    batches = iter(loader)
    try:
        yield from batches
    except InputError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise InputError(lines[-1].removeprefix("shared.errors.InputError: ")) from None
    finally:
        # Workers would otherwise live as long as the traceback of an error that names them.
        if loader.num_workers:
            batches._shutdown_workers()


def to_device(batch: Sample, device: torch.device) -> Sample:
    """Move a batch; "pixels" uint8 [B, T, S, S, 3] become "clips" float32 [B, 3, T, S, S].

    Bytes travel, and are standardised there by ImageNet's mean and deviation.
    """
    moved = {name: values.to(device, non_blocking=True) for name, values in batch.items()}
    pixels = moved.pop("pixels").permute(0, 4, 1, 2, 3)
    # `train.targets.standardise` of pixels / 255, without passes over strided floats: a fifteenth
    # of the time on a CPU, where it was half of a small model's step.
    clips = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    mean, deviation = (
        255 * torch.tensor(values, device=device).view(3, 1, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    moved["clips"] = clips.sub_(mean).div_(deviation)
    return moved


def _join(samples: list[Sample]) -> Sample:
    return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}


def _quiet_worker(worker: int) -> None:
    # The training process decides when to stop, and saves first; Ctrl-C in a terminal, and the
    # SIGTERM of a batch system, reach its workers too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
    # One thread each: the workers themselves are the parallelism.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _colour_augment(config: AugmentConfig) -> Callable | None:
    if config.rand_layers == 0:
        return None
    return ColourAugment(config.rand_magnitude, config.rand_layers, config.rand_magnitude_std)
