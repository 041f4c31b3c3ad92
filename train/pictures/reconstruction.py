"""Reconstructions of masked clips by autoencoders. Reads shards and the weights of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from shared.drawing import HIDDEN_RGB
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.masks import MASKS, Scene
from shared.randomness import counter_generator
from train.network.autoencoder import MaskedAutoencoder
from train.network.model_config import ModelConfig
from train.objectives.pixels import (
    masked_loss,
    masked_targets,
    mean_predictor_loss,
    normalised_pixels,
    pixels_from_prediction,
)
from train.options.config import PretrainConfig
from train.pictures.clips import spread_times
from train.pictures.inputs import (
    ClipViews,
    SeenClip,
    chosen_clips,
    frames_of,
    read_autoencoder,
    read_held_out,
    read_pretraining,
)
from train.running.run_folder import RunFolder


@dataclass(frozen=True)
class Reconstruction:
    """Predictions of one or more models for one clip under one mask; T frames of S x S pixels.

    Attributes:
        clip_id, split, label: the clip; label is its class number or None.
        clip: uint8 [T, S, S, 3], the input.
        hidden: bool [T, S, S], True if the pixel is masked.
        predicted: uint8 [T, S, S, 3] by run name: predicted masked patches, and the visible
            patches of the input.
        loss: loss of each run by its name.
        mean_loss: loss of predicting the mean colour of each patch.
    """

    clip_id: str
    split: str
    label: int | None
    clip: np.ndarray
    hidden: np.ndarray
    predicted: dict[str, np.ndarray]
    loss: dict[str, float]
    mean_loss: float

    def rows(self, num_times: int) -> list[tuple[str, list[np.ndarray]]]:
        """(caption, frames uint8 [S, S, 3]) of input, masked input and each prediction."""
        times = spread_times(len(self.clip), num_times)
        seen = np.where(self.hidden[..., None], np.array(HIDDEN_RGB, np.uint8), self.clip)
        share = self.hidden.mean()
        rows = [("input", self.clip), (f"visible patches, {100 * (1 - share):.0f} %", seen)]
        rows += [
            (f"{run}, loss {self.loss[run]:.3f}", frames) for run, frames in self.predicted.items()
        ]
        return [(caption, [frames[t] for t in times]) for caption, frames in rows]


def reconstruct(
    layout: DatasetLayout, folders: list[RunFolder], shown: int | Sequence[str]
) -> list[Reconstruction]:
    """Mask patches of a few held-out clips and let each run predict them.

    Args:
        folders: pretraining runs. The mask and the frame sampling are those of the first.
        shown: number or ids of clips, as for `chosen_clips`.

    Raises:
        InputError: a run has no weights or is of another kind, or models need clips of different
            shapes.
    """
    configs = [_read_config(folder) for folder in folders]
    models = [read_autoencoder(folder) for folder in folders]
    first = configs[0]
    for folder, model in zip(folders, models, strict=True):
        _check_same_shape(folder, model, models[0])
    table, split = read_held_out(
        layout, first.needs_boxes, first.needed_motion, box_source=first.box_source
    )
    clips = ClipViews(table, first)
    return [
        _reconstruct_one(clips[index], split, first, folders, models)
        for index in chosen_clips(table, shown)
    ]


@torch.inference_mode()
def _reconstruct_one(
    clip: SeenClip,
    split: str,
    config: PretrainConfig,
    folders: list[RunFolder],
    models: list[MaskedAutoencoder],
) -> Reconstruction:
    cut = models[0].config
    inside = clip.inside[0].numpy().reshape(cut.time_steps, cut.grid, cut.grid)[0]
    rng = counter_generator("reconstruction", clip.clip_id)
    scene = Scene(cut.time_steps, inside, clip.motion, clip.flow, inside)
    mask = torch.from_numpy(MASKS[config.mask.kind].draw(scene, rng, **config.mask.options))[None]
    target = masked_targets(normalised_pixels(clip.clips, cut), mask)
    predicted, loss = {}, {}
    for folder, model in zip(folders, models, strict=True):
        output = model(clip.clips, mask)
        predicted[folder.path.name] = frames_of(
            pixels_from_prediction(output, clip.clips, mask, cut)
        )
        loss[folder.path.name] = float(masked_loss(output[..., : cut.patch_dim], target))
    return Reconstruction(
        clip_id=clip.clip_id,
        split=split,
        label=clip.label,
        clip=clip.frames,
        hidden=_pixels_hidden(mask[0].numpy(), cut),
        predicted=predicted,
        loss=loss,
        mean_loss=float(mean_predictor_loss(target)),
    )


def _read_config(folder: RunFolder) -> PretrainConfig:
    config = read_pretraining(folder)
    if config.target.picture != "pixels":
        raise InputError(
            "other-kind", f"{folder.path} predicts {config.target.name}, which is no picture"
        )
    return config


def _check_same_shape(
    folder: RunFolder, model: MaskedAutoencoder, first: MaskedAutoencoder
) -> None:
    for name in ("image_size", "num_frames", "patch_size", "tubelet_size"):
        here, there = getattr(model.config, name), getattr(first.config, name)
        if here != there:
            raise InputError(
                "other-model",
                f"{folder.path} has {name} {here}, and the first run has {there}; give --beside "
                "runs with clips of the same shape",
            )


def _pixels_hidden(mask: np.ndarray, cut: ModelConfig) -> np.ndarray:
    """Expand a mask bool [N] of tokens to bool [T, S, S] of pixels."""
    tokens = mask.reshape(cut.time_steps, cut.grid, cut.grid)
    return np.kron(tokens, np.ones((cut.tubelet_size, cut.patch_size, cut.patch_size), bool))
