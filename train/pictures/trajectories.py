"""Predicted and true motion trajectories of masked patches (MME).

Reads shards with tracks and the weights of a pretraining run that predicts trajectories (Sun et
al., "Masked Motion Encoding for Self-Supervised Video Representation Learning", CVPR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from shared.decoder_masks import ALL
from shared.drawing import ANNOTATION_RGB, BOX_RGB, FINE_BITS, fixed_point
from shared.errors import InputError
from shared.layout import DatasetLayout
from train.network.autoencoder import MaskedAutoencoder
from train.objectives.pixels import masked_loss, mean_predictor_loss, unstandardise
from train.objectives.tracked_points import STILL_PIXELS
from train.objectives.trajectories import Trajectories
from train.options.config import LoaderConfig, PretrainConfig
from train.pictures.clips import TILE_HEIGHT, enlarge, spread_times
from train.pictures.inputs import (
    chosen_clips,
    frames_of,
    read_autoencoder,
    read_held_out,
    read_pretraining,
)
from train.running.run_folder import RunFolder
from train.samples.datasets import PretrainDataset
from train.samples.loading import to_device
from train.tables.typed import Choice


@dataclass(frozen=True)
class TrackedClip:
    """The tracks of the masked patches of one clip; each patch has K points of S steps.

    Attributes:
        clip_id, split, label: the clip; label is its class number or None.
        frames: uint8 [T', S, S, 3], the first frame of each tubelet, where tracks start.
        hidden: bool [T', rows, columns], True if the patch is masked.
        true, predicted: float32 [M, K, S, 2], displacement (x, y) of each step in pixels of the
            frame, of the M masked patches in ascending order.
        counts: bool [M, K, S], True for steps that are known and count in the loss.
        loss, zeros_loss: loss of the prediction, and of predicting zeros.
        level: name of the latter, see `LossWords`.
    """

    clip_id: str
    split: str
    label: int | None
    frames: np.ndarray
    hidden: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    counts: np.ndarray
    loss: float
    zeros_loss: float
    level: str

    def rows(self, num_times: int) -> list[tuple[str, list[np.ndarray]]]:
        """(caption, frames uint8 [H, W, 3]) of true and of predicted tracks."""
        steps = spread_times(len(self.frames), num_times)
        return [
            (
                "true tracks, of masked patches",
                [self._drawn(t, self.true, ANNOTATION_RGB) for t in steps],
            ),
            (
                f"predicted, loss {self.loss:.3f}, {self.level} {self.zeros_loss:.3f}",
                [self._drawn(t, self.predicted, BOX_RGB) for t in steps],
            ),
        ]

    def _drawn(self, step: int, moves: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
        """Draw the frame of a time step with the tracks that start there."""
        side = self.frames.shape[1]
        picture = enlarge(
            self.frames[step] // 2, max(2 * TILE_HEIGHT, side)
        )  # a dark frame makes tracks visible
        factor, grid = picture.shape[0] / side, self.hidden.shape[1]
        tokens = np.flatnonzero(self.hidden)  # in ascending order, as the tracks
        for which in np.flatnonzero(tokens // grid**2 == step):
            place = divmod(int(tokens[which]) % grid**2, grid)
            starts = starts_of(place, side / grid, moves.shape[1])
            for start, path, known in zip(starts, moves[which], self.counts[which], strict=True):
                path = path[: int(np.cumprod(known).sum())]
                if len(path):
                    _draw_track(
                        picture, factor * (start + np.cumsum(path, axis=0)), factor * start, rgb
                    )
        return picture


def tracked_clips(
    layout: DatasetLayout, folder: RunFolder, shown: int | Sequence[str]
) -> list[TrackedClip]:
    """Mask patches of held-out clips and let a run predict how their points move.

    Frame sampling and mask are those of the run. The crop is the middle of the frame, without
    flips. `shown` is the number or the ids of clips, as for `chosen_clips`.

    Raises:
        InputError: the run has no weights or predicts no displacements, or there are no tracks.
    """
    config = read_pretraining(folder)
    if not predicts_displacements(config):
        raise InputError(
            "other-kind", f"{folder.path} predicts no displacements, so no tracks can be drawn"
        )
    model = read_autoencoder(folder)
    table, split = read_held_out(
        layout, config.needs_boxes, config.needed_motion, box_source=config.box_source
    )
    still = replace(
        config, flips=(), crop=Choice("centre", {}), repeats=1, decoder_mask=Choice(ALL, {})
    )
    dataset = PretrainDataset(table, still, LoaderConfig(workers=0), seed=0)
    return [_track_one(dataset, index, split, still, model) for index in chosen_clips(table, shown)]


def predicts_displacements(config: PretrainConfig) -> bool:
    """Whether a run predicts where points move, and not only histograms, flow or pixels."""
    return isinstance(config.target, Trajectories) and config.target.predicts_displacements


def starts_of(place: tuple[int, int], side: float, points: int) -> np.ndarray:
    """Start points (x, y), float32 [K, 2], of the tracks of the patch (row, column).

    Args:
        side: side of a patch in pixels.
        points: K, number of tracks.
    """
    per_side = math.isqrt(points)
    parts = (np.arange(per_side) + 0.5) / per_side
    y, x = np.meshgrid(place[0] + parts, place[1] + parts, indexing="ij")
    return (side * np.stack([x.ravel(), y.ravel()], axis=1)).astype(np.float32)


def pixels_per_unit(target: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Recover the divisor that turned the displacements of each patch into its target, in pixels.

    The divisor is the root mean square R of the displacements plus STILL_PIXELS. The root mean
    square of the target is then r = R / (R + STILL_PIXELS), and the divisor STILL_PIXELS / (1 - r).

    Args:
        target: float32 [M, K, S, 2], 0 where not counted.
        counts: bool [M, K, S].

    Returns:
        float32 [M].
    """
    numbers = np.maximum(2 * counts.sum(axis=(1, 2)), 1)
    root = np.sqrt(np.square(target, dtype=np.float64).sum(axis=(1, 2, 3)) / numbers)
    return (STILL_PIXELS / (1 - root)).astype(np.float32)


@torch.inference_mode()
def _track_one(
    dataset: PretrainDataset,
    index: int,
    split: str,
    config: PretrainConfig,
    model: MaskedAutoencoder,
) -> TrackedClip:
    batch = to_device(dataset[(0, index)], torch.device("cpu"))
    cut, wanted = config.model, config.target
    assert isinstance(wanted, Trajectories)
    output = model(batch["clips"], batch["mask"])
    _, weight = wanted.of_batch(batch, int(batch["mask"][0].sum()), config.cut)
    counts = batch["counts"][0].numpy()
    moves = wanted.part_sizes(config.cut.stride)[0]
    shape = (*counts.shape, 2)
    true, predicted = (
        values[0, :, :moves].float().numpy().reshape(shape) for values in (batch["target"], output)
    )
    # The total motion of a patch comes from the input, as the colour of reconstructed patches does.
    scale = pixels_per_unit(true, counts)[:, None, None, None]
    pixels = frames_of(unstandardise(batch["clips"]).clamp(0, 1))
    label = int(dataset.table.labels["label"][index])
    return TrackedClip(
        clip_id=dataset.table.clip_id(index),
        split=split,
        label=label if label >= 0 else None,
        frames=pixels[:: cut.tubelet_size],
        hidden=batch["mask"][0].numpy().reshape(cut.time_steps, cut.grid, cut.grid),
        true=true * scale,
        predicted=predicted * scale,
        counts=counts,
        loss=float(masked_loss(output, batch["target"], weight)),
        zeros_loss=float(mean_predictor_loss(batch["target"], weight)),
        level=wanted.words.level,
    )


def _draw_track(
    picture: np.ndarray, path: np.ndarray, start: np.ndarray, rgb: tuple[int, int, int]
) -> None:
    """Draw a line from a start [2] through points float32 [S, 2], with a dot at the start."""
    fixed = fixed_point(np.concatenate([start[None], path]))
    cv2.polylines(picture, [fixed[:, None]], False, rgb, 1, cv2.LINE_AA, FINE_BITS)
    first, radius = tuple(map(int, fixed[0])), 1 << FINE_BITS  # of a pixel
    cv2.circle(picture, first, radius, rgb, -1, cv2.LINE_AA, FINE_BITS)
