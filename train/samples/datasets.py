"""Datasets for pretraining, finetuning and evaluation.

A sample depends only on (seed, epoch, clip id, view), not on the worker that reads it. Views, masks
and augmentation have separate random generators, so that the mask does not depend on what the
augmentation draws.

If `loader.decode` is gpu, a sample has the entries of samples/coded_views.py instead of pixels.

Letters: R views of one read, T frames, S output pixels a side, N tokens, M masked tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shared.decoder_masks import DECODER_MASKS
from shared.manifest import ClassList
from shared.masks import MASKS, Scene
from shared.motion_cells import MEAN, MotionPooling
from shared.randomness import counter_generator
from train.clips.augment import ColourAugment, FullAugment, erase
from train.clips.reader import ClipReader
from train.clips.table import ClipTable
from train.network.model_config import ModelConfig
from train.options.config import (
    AugmentConfig,
    EvaluateConfig,
    FinetuneConfig,
    LoaderConfig,
    PretrainConfig,
)
from train.options.decoding import refuse_augmentation
from train.samples.coded_views import coded_views
from train.samples.views import ClipView, StoredClip, open_reader
from train.tables.typed import Choice

Sample = dict[str, Tensor]


class PretrainDataset(Dataset):
    """Clips with masks. The key (epoch, index) gives {"pixels", "mask", "index"}.

    pixels is uint8 [R, T, S, S, 3], mask bool [R, N] (True = masked), index int64 [R]. If a decoder
    mask leaves tokens out, a sample also has "decoded", bool [R, N] (True = masked and predicted).
    It also has the arrays of `Target.of_view` for the tokens that are predicted, [R, P, ...].
    """

    def __init__(
        self, table: ClipTable, config: PretrainConfig, loader: LoaderConfig, seed: int
    ) -> None:
        self.table, self.config, self.seed = table, config, seed
        self.reader, self._decode = open_reader(table, loader), loader.decode
        _check_inside(self.reader, config.inside)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        config, cut = self.config, self.config.cut
        clip = StoredClip(self.table, index, self.reader, config.model)
        mask_entry, decoder_entry = (
            MASKS[config.mask.kind],
            DECODER_MASKS[config.decoder_mask.kind],
        )
        views, masks, chosen, targets = [], [], [], []
        for number in range(config.repeats):
            view_key = (self.seed, epoch, clip.clip_id, number)
            view, _ = clip.random_view(config, counter_generator(*view_key, "view"))
            if config.shuffle_frames:
                order = counter_generator(*view_key, "order").permutation(len(view.frames))
                view = replace(view, frames=view.frames[order])
            motion = clip.motion(view, config.motion_pooling) if config.masks_by_motion else None
            flow = clip.flow(view) if mask_entry.needs_flow else None
            moving = clip.moving(view) if config.inside == "positions" else None
            scene = Scene(config.model.time_steps, clip.inside(view), motion, flow, moving)
            rng = counter_generator(*view_key, "mask")
            mask = mask_entry.draw(scene, rng, **config.mask.options)
            rng = counter_generator(*view_key, "decoder mask")
            decoded = decoder_entry.draw(scene, mask, rng, **config.decoder_mask.options)
            predicted = _predicted_tokens(mask, decoded, config.target.predicts_visible)
            targets.append(config.target.of_tokens(clip.shown(view), cut, predicted))
            views.append(view)
            masks.append(mask)
            chosen.append(decoded)
        return {
            **_frames_of(clip, views, self._decode),
            "mask": torch.from_numpy(np.stack(masks)),
            "index": torch.full((len(views),), index),
            **({} if config.decodes_all else {"decoded": torch.from_numpy(np.stack(chosen))}),
            **{
                name: torch.from_numpy(_stacked([target[name] for target in targets]))
                for name in targets[0]
            },
        }


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """The arrays as one with a new first axis. One array is not copied: targets are large."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def token_counts(batch: Sample) -> tuple[int, int]:
    """Masked tokens of a clip, and how many of them are decoded.

    The batch of a `PretrainDataset` is on the CPU, where counting waits for nothing.
    """
    num_masked = int(batch["mask"][0].sum())
    return num_masked, int(batch["decoded"][0].sum()) if "decoded" in batch else num_masked


class FinetuneDataset(Dataset):
    """Augmented clips with labels. The key (epoch, index) gives pixels, inside, index and labels.

    pixels is uint8 [R, T, S, S, 3], inside bool [R, N] (True = in the motion box), index int64 [R].
    Each kind of label is int64 [R] under its own name.
    """

    def __init__(
        self,
        table: ClipTable,
        classes: ClassList,
        config: FinetuneConfig,
        loader: LoaderConfig,
        seed: int,
    ) -> None:
        self.table, self.config, self.seed = table, config, seed
        self.reader, self._decode = open_reader(table, loader), loader.decode
        _check_inside(self.reader, config.head.inside)
        self._flipped_labels = {flip: getattr(classes, f"flip_{flip}") for flip in config.flips}
        refuse_augmentation(config.augment, loader)
        self._augment = _rand_augment(config.augment)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        config = self.config
        clip = StoredClip(self.table, index, self.reader, config.model)
        views = []
        labels: dict[str, list[int]] = {kind: [] for kind in config.labels}
        for number in range(config.repeats):
            rng = counter_generator(self.seed, epoch, clip.clip_id, number, "view")
            view, flips = clip.random_view(config, rng)
            views.append(view)
            for kind in config.labels:
                label = int(self.table.labels[kind][index])
                for flip in flips if kind == "label" else ():
                    label = self._flipped_labels[flip][label]
                labels[kind].append(label)
        frames = _frames_of(clip, views, self._decode)
        inside = clip.inside_tokens(views, config.head.box, config.head.inside)
        if self._decode == "cpu":
            self._augment_views(frames["pixels"].numpy(), inside, (epoch, clip.clip_id))
        return {
            **frames,
            "inside": torch.from_numpy(inside),
            "index": torch.full((len(views),), index),
            **{kind: torch.tensor(values) for kind, values in labels.items()},
        }

    def _augment_views(self, pixels: np.ndarray, inside: np.ndarray, key: tuple[int, str]) -> None:
        """Augment views in place: pixels uint8 [R, T, S, S, 3] and inside bool [R, N]."""
        augment, grid = self.config.augment, self.config.model.grid
        for number in range(len(pixels)):
            rng = counter_generator(self.seed, *key, number, "pixels")
            if isinstance(self._augment, FullAugment):
                steps = inside[number].reshape(-1, grid, grid)
                pixels[number], moved = self._augment(pixels[number], steps, rng)
                inside[number] = moved.ravel()
            elif self._augment is not None:
                pixels[number] = self._augment(pixels[number], rng)
            erase(pixels[number], augment.erase_probability, rng)


class EvaluateDataset(Dataset):
    """All test views of a clip, without randomness. The key index gives pixels, inside and index.

    pixels is uint8 [R, T, S, S, 3] and inside bool [R, N] with R = segments * crops; index is int64
    [1]. If the table has motion maps, a sample also has "motion", float32 [R, T', rows, columns].
    With `flow` it also has "flow", float32 [R, T' - 1, fine rows, fine columns, 2].

    Args:
        frames: the frame rule of training.
        box: clip or tubelet, see `HeadConfig.box`.
        flow: whether samples have the flow between time steps (`Scene.flow`).
        inside: box or positions, see `HeadConfig.inside`.
        pooling: how motion maps are read.
    """

    def __init__(
        self,
        table: ClipTable,
        model: ModelConfig,
        frames: Choice,
        config: EvaluateConfig,
        loader: LoaderConfig,
        box: str = "clip",
        flow: bool = False,
        inside: str = "box",
        pooling: MotionPooling = MEAN,
    ) -> None:
        self.table, self.model, self.frames, self.config = table, model, frames, config
        self.reader, self._decode = open_reader(table, loader), loader.decode
        self.box, self.flow, self.inside, self.pooling = box, flow, inside, pooling
        _check_inside(self.reader, inside)

    def __getitem__(self, index: int) -> Sample:
        clip = StoredClip(self.table, index, self.reader, self.model)
        views = clip.test_views(self.frames, self.config)
        sample = {
            **_frames_of(clip, views, self._decode),
            "inside": torch.from_numpy(clip.inside_tokens(views, self.box, self.inside)),
            "index": torch.tensor([index]),
        }
        if self.table.motion_folder is not None:
            motion = np.stack([clip.motion(view, self.pooling) for view in views])
            sample["motion"] = torch.from_numpy(motion)
        if self.flow:
            sample["flow"] = torch.from_numpy(np.stack([clip.flow(view) for view in views]))
        return sample


def _frames_of(clip: StoredClip, views: list[ClipView], decode: str) -> Sample:
    """The pixels of views, or what the device makes pixels of."""
    if decode == "gpu":
        return coded_views(clip, views)
    return {"pixels": torch.from_numpy(clip.pixels(views))}


def _check_inside(reader: ClipReader, inside: str) -> None:
    """Refuse boxes that lack what `inside` needs, before the first batch."""
    if inside == "positions":
        reader.check_areas()


def _predicted_tokens(mask: np.ndarray, decoded: np.ndarray, visible_too: bool) -> np.ndarray:
    """int64 [P], in the model's order: visible tokens before decoded ones, each rising."""
    masked = np.flatnonzero(decoded)
    return np.concatenate([np.flatnonzero(~mask), masked]) if visible_too else masked


def _rand_augment(config: AugmentConfig) -> ColourAugment | FullAugment | None:
    if config.rand_layers == 0:
        return None
    drawn = config.rand_magnitude, config.rand_layers, config.rand_magnitude_std
    return FullAugment(*drawn) if config.rand_operations == "all" else ColourAugment(*drawn)
