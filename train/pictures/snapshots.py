"""Pictures of the predictions of a pretraining run for the same clips as training proceeds.

A run writes snapshots/input.png, masked.png, and a step-00000123.png each time. Each row is a clip
and each column a frame. The clips belong to split train, and have the view and the mask of their
first epoch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from shared.drawing import HIDDEN_RGB
from shared.files import write_atomically
from train.clips.table import ClipTable
from train.network.autoencoder import MaskedAutoencoder
from train.objectives.pixels import pixels_from_prediction, unstandardise
from train.options.config import LoaderConfig, PretrainConfig
from train.samples.datasets import PretrainDataset
from train.samples.loading import to_device

NUM_CLIPS = 2
NUM_TIMES = 8  # frames of a clip that are shown


class Snapshots:
    """Takes pictures after epochs 1, 2, 5, 10, 20, 50 and so on, and after the last epoch.

    Only runs that predict pixels have pictures.

    Args:
        folder: where pictures are written.
        table, config, seed: the clips, configuration and seed of the run.
        epoch_steps: optimiser steps in an epoch.
    """

    def __init__(
        self, folder: Path, table: ClipTable, config: PretrainConfig, seed: int, epoch_steps: int
    ) -> None:
        self._folder = folder
        self._table = table
        # One view of a clip is enough.
        self._config = replace(config, repeats=1)
        self._seed = seed
        self._due: set[int] = set()
        if config.target.picture == "pixels":
            self._due = {epoch * epoch_steps for epoch in shown_epochs(config.epochs)}

    def is_due(self, step: int) -> bool:
        return step in self._due

    @torch.inference_mode()
    def take(
        self, model: MaskedAutoencoder, step: int, device: torch.device
    ) -> dict[str, np.ndarray]:
        """Write the prediction of the model after `step`; the first time, also write the input.

        Returns:
            the written pictures uint8 [H, W, 3], RGB, named input, masked and prediction.
        """
        batch = {name: values.to(device) for name, values in self._clips().items()}
        clips, mask = batch["clips"], batch["mask"]
        was_training = model.training
        model.eval()
        predicted = pixels_from_prediction(model(clips, mask), clips, mask, self._config.model)
        model.train(was_training)
        written = {}
        if not (self._folder / "masked.png").is_file():
            written = self._write_input(clips, mask)
        written["prediction"] = self._write(f"step-{step:08d}.png", _frames(predicted))
        return written

    def _clips(self) -> dict[str, torch.Tensor]:
        # The dataset is opened again each time, which happens rarely: the loader forks its workers,
        # and files must not be open before that.
        dataset = PretrainDataset(self._table, self._config, LoaderConfig(workers=0), self._seed)
        chosen = sorted({0, len(self._table) // 2})[:NUM_CLIPS]
        samples = [dataset[(0, index)] for index in chosen]
        joined = {name: torch.cat([each[name] for each in samples]) for name in ("pixels", "mask")}
        return to_device(joined, torch.device("cpu"))

    def _write_input(self, clips: torch.Tensor, mask: torch.Tensor) -> dict[str, np.ndarray]:
        cut = self._config.model
        frames = _frames(unstandardise(clips).clamp(0, 1))
        written = {"input": self._write("input.png", frames)}
        tokens = mask.reshape(-1, cut.time_steps, 1, cut.grid, 1, cut.grid, 1).cpu().numpy()
        shape = (len(frames), cut.time_steps, cut.tubelet_size, cut.grid, cut.patch_size)
        hidden = np.broadcast_to(tokens, (*shape, cut.grid, cut.patch_size)).reshape(
            frames.shape[:-1]
        )
        masked = np.where(hidden[..., None], np.array(HIDDEN_RGB, np.uint8), frames)
        return written | {"masked": self._write("masked.png", masked)}

    def _write(self, name: str, frames: np.ndarray) -> np.ndarray:
        """Write frames uint8 [B, T, S, S, 3] at NUM_TIMES times, one row for each clip."""
        num_frames = frames.shape[1]
        times = np.linspace(0, num_frames - 1, min(NUM_TIMES, num_frames)).round().astype(int)
        rows = [np.concatenate(list(clip[times]), axis=1) for clip in frames]
        picture = np.concatenate(rows)
        done, encoded = cv2.imencode(".png", picture[..., ::-1])
        assert done, name
        write_atomically(self._folder / name, encoded.tobytes())
        return picture


def shown_epochs(epochs: int) -> list[int]:
    """Epochs with pictures: 1, 2, 5, 10, 20, 50 ... below `epochs`, and `epochs` itself."""
    series = [digit * 10**power for power in range(len(str(epochs))) for digit in (1, 2, 5)]
    return [epoch for epoch in series if epoch < epochs] + [epochs]


def read_snapshots(folder: Path, side: int) -> dict[str, list[list[np.ndarray]]]:
    """Read the pictures of a folder in order: for each file name, the frames of each clip.

    Frames are uint8 [side, side, 3] RGB. Damaged files are left out.

    Args:
        side: side of a frame in pixels, the image_size of the run.
    """
    found = {}
    steps = sorted(path.name for path in folder.glob("step-*.png"))
    for name in ["input.png", "masked.png", *steps]:
        image = cv2.imread(str(folder / name), cv2.IMREAD_COLOR) if steps else None
        if image is not None and image.shape[0] % side == 0 == image.shape[1] % side:
            rows = np.split(image[..., ::-1], image.shape[0] // side, axis=0)
            found[name.removesuffix(".png")] = [
                np.split(row, image.shape[1] // side, axis=1) for row in rows
            ]
    return found


def _frames(pixels: torch.Tensor) -> np.ndarray:
    """Convert pixels [B, 3, T, S, S] in 0..1 to uint8 [B, T, S, S, 3]."""
    return (pixels.permute(0, 2, 3, 4, 1) * 255).round().to(torch.uint8).cpu().numpy()
