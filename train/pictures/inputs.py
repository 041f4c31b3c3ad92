"""Reads held-out clips, viewed as in evaluation, and the weights of runs for pictures of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.masks import MASKS
from shared.motion_cells import MEAN
from shared.shard_index import read_index
from train.clips.table import DEFAULT_BOXES, ClipTable, MotionNeeds, read_clip_table
from train.clips.view_rules import FRAME_RULES, view_places
from train.network.autoencoder import MaskedAutoencoder, VideoEncoder
from train.network.head import VideoClassifier
from train.objectives.pixels import unstandardise
from train.options.config import (
    EvaluateConfig,
    FinetuneConfig,
    LoaderConfig,
    PretrainConfig,
)
from train.options.recipe import recorded_finetune_config, recorded_pretrain_config
from train.pictures.clips import spread_over_classes
from train.running.checkpoints import complete_checkpoints
from train.running.run_folder import RunFolder
from train.samples.datasets import EvaluateDataset
from train.samples.loading import to_device
from train.weights.exchange import import_weights
from train.weights.own_runs import import_run

HELD_OUT_FIRST = ("test", "val", "train")  # test comes first: no choice depends on pictures
SHOWN_BLOCK = 5  # MOFO's figure of GradCAM shows the fifth block


@dataclass(frozen=True)
class SeenClip:
    """One clip as a model sees it in evaluation.

    Attributes:
        clip_id, label: the clip; label is its class number or None.
        clips: float32 [1, 3, T, S, S], standardised.
        inside: bool [1, N], True if the patch of a token lies in the motion box, or moves if the
            configuration has `inside = "positions"`.
        motion: float32 [T', rows, columns], or None if the table has no motion maps.
        flow: flow between time steps, see `Scene.flow`; None if no mask needs it.
    """

    clip_id: str
    label: int | None
    clips: Tensor
    inside: Tensor
    motion: np.ndarray | None
    flow: np.ndarray | None

    @property
    def frames(self) -> np.ndarray:
        """uint8 [T, S, S, 3], RGB."""
        pixels = unstandardise(self.clips).clamp(0, 1)
        return frames_of(pixels)


class ClipViews:
    """The middle view of each clip of a table."""

    def __init__(self, table: ClipTable, config: PretrainConfig | FinetuneConfig) -> None:
        self.table = table
        loader = LoaderConfig(workers=0)
        # Masks take what all frames of the clip decide.
        box, inside, flow, pooling = "clip", "box", False, MEAN
        if isinstance(config, FinetuneConfig):
            box, inside = config.head.box, config.head.inside
        else:
            inside, flow = config.inside, MASKS[config.mask.kind].needs_flow
            pooling = config.motion_pooling
        views = EvaluateConfig()
        self._clips = EvaluateDataset(
            table, config.model, config.frames, views, loader, box, flow, inside, pooling
        )

    def __getitem__(self, index: int) -> SeenClip:
        sample = to_device(self._clips[int(index)], torch.device("cpu"))
        label = int(self.table.labels["label"][index])
        return SeenClip(
            clip_id=self.table.clip_id(index),
            label=label if label >= 0 else None,
            clips=sample["clips"],
            inside=sample["inside"],
            motion=sample["motion"][0].numpy() if "motion" in sample else None,
            flow=sample["flow"][0].numpy() if "flow" in sample else None,
        )


def evaluated_frames(
    table: ClipTable, index: int, config: PretrainConfig | FinetuneConfig
) -> np.ndarray:
    """Numbers int64 [T] of the frames of a clip that `ClipViews` returns."""
    first, last = table.frames[index]
    length, count = int(last - first), config.model.num_frames
    rule = config.frames
    return FRAME_RULES[rule.kind](
        length, count, view_places(rule.kind, 0, 1, count), **rule.options
    )


def read_held_out(
    layout: DatasetLayout,
    boxes: bool | None = None,
    motion: MotionNeeds | None = None,
    preferred: str = "test",
    box_source: str = DEFAULT_BOXES,
) -> tuple[ClipTable, str]:
    """Read the clips of the first split that has any: the preferred one, test, val or train.

    Args:
        boxes: whether motion boxes are needed; None reads them if there are any.
        motion: the data of the flows shards that is needed.
        preferred: the split that the run is tested on.
        box_source: name of the boxes, as for `read_clip_table`.

    Returns:
        the clips, and the name of their split.

    Raises:
        InputError: none of these splits has clips, or shards are missing or do not match.
    """
    if boxes is None:
        boxes = read_index(layout.boxes) is not None
    for split in dict.fromkeys((preferred, *HELD_OUT_FIRST[:-1])):
        try:
            return read_clip_table(layout, [split], boxes, motion, box_source), split
        except InputError:
            continue
    split = HELD_OUT_FIRST[-1]
    return read_clip_table(layout, [split], boxes, motion, box_source), split


def chosen_clips(table: ClipTable, shown: int | Sequence[str], kind: str = "label") -> list[int]:
    """Numbers of the clips of a table that are drawn.

    Args:
        shown: how many clips, of classes spread over the list, where each call takes the same
            clips; or the ids of clips, of which those that the table lacks are left out.
        kind: kind of label over whose classes clips are spread.
    """
    if isinstance(shown, int):
        return spread_over_classes(table.labels[kind], shown).tolist()
    number_of = {clip_id.decode(): number for number, clip_id in enumerate(table.ids)}
    return [number_of[clip_id] for clip_id in shown if clip_id in number_of]


def read_pretraining(folder: RunFolder) -> PretrainConfig:
    """Read the configuration of a pretraining run.

    Raises:
        InputError: there is no such run, or it is of another kind.
    """
    refusal = "is not a pretraining run; only those predict masked patches"
    return recorded_pretrain_config(folder.options_of("pretrain", refusal)["config"])


def read_finetuning(folder: RunFolder) -> FinetuneConfig:
    """Read the configuration of a finetuned run.

    Raises:
        InputError: there is no such run, or it is of another kind.
    """
    refusal = "is not a finetuned run; only those predict classes"
    return recorded_finetune_config(folder.options_of("finetune", refusal)["config"])


def read_autoencoder(folder: RunFolder) -> MaskedAutoencoder:
    """Read the model of a pretraining run, in evaluation mode.

    Raises:
        InputError: the run has no weights yet.
    """
    model = _read_model(folder)
    assert isinstance(model, MaskedAutoencoder), "a pretraining run exports its autoencoder"
    return model


def read_classifier(folder: RunFolder) -> VideoClassifier:
    """Read the model of a finetuned run in evaluation mode, with its best weights if it has any.

    Raises:
        InputError: the run has no weights yet.
    """
    model = _read_model(folder)
    assert isinstance(model, VideoClassifier), "a finetuning exports its classifier"
    return model


def choose_block(encoder: VideoEncoder, asked: int | None) -> int:
    """Return the number of an encoder block, from 1: the one that was asked for, or the fifth.

    If there are fewer than five blocks, the last one takes the place of the fifth.

    Raises:
        InputError: the encoder has no such block.
    """
    depth = len(encoder.blocks)
    if asked is None:
        return min(SHOWN_BLOCK, depth)
    if not 1 <= asked <= depth:
        raise InputError("out-of-range", f"--block {asked}: the encoder has blocks 1 to {depth}")
    return asked


def frames_of(pixels: Tensor) -> np.ndarray:
    """Convert pixels [1, 3, T, S, S] in 0..1 to uint8 [T, S, S, 3]."""
    return (pixels[0].permute(1, 2, 3, 0) * 255).round().to(torch.uint8).numpy()


def _read_model(folder: RunFolder) -> torch.nn.Module:
    """Build the model of a run; an unfinished run has the weights of its newest checkpoint."""
    path = next((p for p in (folder.best_weights, folder.weights) if p.is_file()), None)
    if path is not None:
        weights = import_weights(path)
    elif complete_checkpoints(folder.checkpoints):
        weights = import_run(folder.path)
    else:
        raise InputError(
            "not-finished",
            f"{folder.path} has no weights yet, because its first checkpoint is not written",
        )
    # With activation checkpointing, a recomputed block would call the hooks of figures twice.
    config = replace(weights.config, activation_checkpointing=False)
    return replace(weights, config=config).build().eval().requires_grad_(False)
