"""What a masked autoencoder makes of clips that it sees a tenth of. Reads shards and weights."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.masks import MASKS, Scene
from shared.randomness import counter_generator
from train.clip_table import ClipTable, read_clip_table
from train.config import EvaluateConfig, LoaderConfig, PretrainConfig
from train.data import EvaluateDataset
from train.figure_clips import HIDDEN_RGB, spread_over_classes
from train.figure_style import STYLE
from train.loading import to_device
from train.model import MaskedAutoencoder
from train.run_folder import RunFolder
from train.targets import (
    masked_loss,
    masked_targets,
    mean_predictor_loss,
    normalised_pixels,
    pixels_from_prediction,
    unstandardise,
)
from train.typed_tables import build
from train.weights import import_weights

HELD_OUT_FIRST = ("test", "val", "train")  # nothing is chosen by these pictures


@dataclass(frozen=True)
class Reconstruction:
    """One clip seen by one or more models under the same mask; T frames of S pixels a side.

    Attributes:
        clip_id, split, label: which clip; label is its class number or None.
        clip: u1 [T, S, S, 3], what goes in.
        hidden: bool [T, S, S], True where the pixel is masked.
        predicted: u1 [T, S, S, 3] by run name: masked patches predicted, visible ones as they are.
        loss, mean_loss: of each run's prediction by its name, and of every patch's mean colour.
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
        """(caption, frames u1 [S, S, 3]) of input, masked input and each prediction."""
        length = len(self.clip)
        times = ((np.arange(num_times) + 0.5) * length / num_times).astype(int)
        seen = np.where(self.hidden[..., None], np.uint8(HIDDEN_RGB), self.clip)
        share = self.hidden.mean()
        rows = [("input", self.clip), (f"masked, {100 * share:.0f} % hidden", seen)]
        rows += [
            (f"{run}, loss {self.loss[run]:.3f}", frames) for run, frames in self.predicted.items()
        ]
        return [(caption, [frames[t] for t in times]) for caption, frames in rows]


def reconstruct(
    layout: DatasetLayout, folders: list[RunFolder], num_clips: int
) -> list[Reconstruction]:
    """Hide patches of a few held-out clips and have each run predict them.

    Args:
        folders: pretraining runs. The mask and the frames are those of the first.

    Raises:
        InputError: a run without weights or of another kind, or models that cut clips otherwise.
    """
    configs = [_read_config(folder) for folder in folders]
    models = [_read_model(folder) for folder in folders]
    first = configs[0]
    for folder, model in zip(folders, models, strict=True):
        _check_same_cut(folder, model, models[0])
    table, split = _held_out(layout, first)
    loader = LoaderConfig(workers=0)
    clips = EvaluateDataset(table, models[0].config, first.frames, EvaluateConfig(), loader)
    return [
        _reconstruct_one(table, split, int(index), clips, first, folders, models)
        for index in spread_over_classes(table.labels["label"], num_clips)
    ]


def reconstructions_png(clips: list[Reconstruction], num_times: int = 8) -> bytes:
    """Clips below each other: a row for the input, the masked input and each prediction."""
    blocks = [clip.rows(num_times) for clip in clips]
    heights = [1.0] * len(blocks[0])
    ratios = [height for _ in blocks for height in (*heights, 0.35)][:-1]
    side, label_width = 1.0, 2.1  # inches
    width, height = label_width + num_times * side, sum(ratios) * side + 0.2
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        figure.subplots_adjust(label_width / width, 0.02, 0.995, 0.98, wspace=0.04, hspace=0.04)
        grid = figure.add_gridspec(len(ratios), num_times, height_ratios=ratios)
        for block, rows in enumerate(blocks):
            for row, (caption, frames) in enumerate(rows):
                for column, frame in enumerate(frames):
                    place = grid[block * (len(heights) + 1) + row, column]
                    axes = figure.add_subplot(place, xticks=[], yticks=[])
                    axes.imshow(frame, interpolation="nearest")
                    axes.spines[:].set_visible(False)
                    axes.grid(False)
                    if column == 0:
                        text = caption.replace(", ", "\n")
                        axes.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=8)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=120, facecolor="white")
    return stream.getvalue()


@torch.inference_mode()
def _reconstruct_one(
    table: ClipTable,
    split: str,
    index: int,
    clips: EvaluateDataset,
    config: PretrainConfig,
    folders: list[RunFolder],
    models: list[MaskedAutoencoder],
) -> Reconstruction:
    cut = models[0].config
    sample = to_device(clips[index], torch.device("cpu"))
    inside = sample["inside"][0].numpy().reshape(cut.time_steps, cut.grid, cut.grid)[0]
    rng = counter_generator("reconstruction", table.clip_id(index))
    motion = sample["motion"][0].numpy() if "motion" in sample else None
    scene = Scene(cut.time_steps, inside, motion)
    mask = torch.from_numpy(MASKS[config.mask.kind](scene, rng, **config.mask.options))[None]
    target = masked_targets(normalised_pixels(sample["clips"], cut), mask)
    predicted, loss = {}, {}
    for folder, model in zip(folders, models, strict=True):
        output = model(sample["clips"], mask)
        predicted[folder.path.name] = _frames(
            pixels_from_prediction(output, sample["clips"], mask, cut)
        )
        loss[folder.path.name] = float(masked_loss(output, target))
    label = int(table.labels["label"][index])
    return Reconstruction(
        clip_id=table.clip_id(index),
        split=split,
        label=label if label >= 0 else None,
        clip=_frames(unstandardise(sample["clips"]).clamp(0, 1)),
        hidden=_pixels_hidden(mask[0].numpy(), cut),
        predicted=predicted,
        loss=loss,
        mean_loss=float(mean_predictor_loss(target)),
    )


def _read_config(folder: RunFolder) -> PretrainConfig:
    options = folder.read_options()
    if options.get("command") != "pretrain":
        raise InputError(f"{folder.path} is no pretraining run; only those reconstruct")
    config = build(PretrainConfig, options["config"], "config")
    if config.target != "normalised_pixels":
        raise InputError(f"{folder.path} predicts {config.target}, which is no picture")
    return config


def _read_model(folder: RunFolder) -> MaskedAutoencoder:
    if not folder.weights.is_file():
        raise InputError(f"{folder.path} has no weights yet; its pretraining is not finished")
    model = import_weights(folder.weights).build()
    assert isinstance(model, MaskedAutoencoder), "a pretraining run exports its autoencoder"
    return model.eval()


def _check_same_cut(folder: RunFolder, model: MaskedAutoencoder, first: MaskedAutoencoder) -> None:
    for name in ("image_size", "num_frames", "patch_size", "tubelet_size"):
        here, there = getattr(model.config, name), getattr(first.config, name)
        if here != there:
            raise InputError(
                f"{folder.path} has {name} {here} and the first run {there}; runs side by side "
                "must cut clips alike"
            )


def _held_out(layout: DatasetLayout, config: PretrainConfig) -> tuple[ClipTable, str]:
    """Clips that pretraining has not seen, where there are some."""
    for split in HELD_OUT_FIRST[:-1]:
        try:
            return read_clip_table(layout, [split], config.needs_boxes, config.needed_motion), split
        except InputError:
            continue
    split = HELD_OUT_FIRST[-1]
    return read_clip_table(layout, [split], config.needs_boxes, config.needed_motion), split


def _frames(pixels: torch.Tensor) -> np.ndarray:
    """Pixels [1, 3, T, S, S] in 0..1 -> u1 [T, S, S, 3]."""
    return (pixels[0].permute(1, 2, 3, 0) * 255).round().to(torch.uint8).numpy()


def _pixels_hidden(mask: np.ndarray, cut) -> np.ndarray:
    """Mask bool [N] of tokens -> bool [T, S, S] of pixels."""
    tokens = mask.reshape(cut.time_steps, cut.grid, cut.grid)
    return np.kron(tokens, np.ones((cut.tubelet_size, cut.patch_size, cut.patch_size), bool))
