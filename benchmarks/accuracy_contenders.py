"""The contenders of benchmarks.time_to_accuracy: pretrainings that learn from the same batches."""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train.network.autoencoder import MaskedAutoencoder, VideoEncoder
from train.objectives.pixels import masked_loss, masked_targets, normalised_pixels
from train.options.config import PretrainConfig
from train.running.optim import (
    effective_batch,
    make_optimizer,
    make_schedule,
    scaled_learning_rate,
)
from train.samples.datasets import Sample
from train.weights.exchange import build_encoder, import_weights
from train.weights.huggingface import export_huggingface


class Contender(ABC):
    """A model that is pretrained, with its optimiser.

    Attributes:
        seconds: processor seconds of all steps so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: PretrainConfig,
        epoch_steps: int,
    ) -> None:
        batch, steps = effective_batch(config.batch_size, config.repeats), epoch_steps
        self.model, self.seconds = model, 0.0
        self._optimizer, self._clipping = optimizer, config.optim.gradient_clipping
        self._schedule = make_schedule(optimizer, config.optim, steps, config.epochs * steps, batch)

    def step(self, number: int, batch: Sample) -> None:
        """Loss, backward pass and AdamW for one batch; their time is added to `seconds`."""
        began = time.process_time()
        self._schedule.step_update(number)
        self._optimizer.zero_grad(set_to_none=True)
        self.loss(batch).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._clipping)
        self._optimizer.step()
        self.seconds += time.process_time() - began

    @abstractmethod
    def loss(self, batch: Sample) -> Tensor:
        """The loss of a batch with clips float32 [B, 3, T, S, S] and mask bool [B, N]."""

    @abstractmethod
    def encoder(self) -> VideoEncoder:
        """The encoder as it is now, as a model of this project."""


class Ours(Contender):
    """This project's model, which decodes all hidden tokens or those that `decoded` names."""

    def __init__(self, config: PretrainConfig, epoch_steps: int, whole: bool) -> None:
        torch.manual_seed(0)
        self._config, self._whole = config.model, whole
        self._autoencoder = MaskedAutoencoder(config.model)
        optimizer = make_optimizer(self._autoencoder, config.optim, learning_rate(config))
        super().__init__(self._autoencoder, optimizer, config, epoch_steps)

    def loss(self, batch: Sample) -> Tensor:
        mask = batch["mask"]
        decoded = mask if self._whole else batch["decoded"]
        hidden, chosen = int(mask[0].sum()), int(decoded[0].sum())
        target = masked_targets(normalised_pixels(batch["clips"], self._config), decoded, chosen)
        asked = None if self._whole else decoded
        return masked_loss(self._autoencoder(batch["clips"], mask, hidden, asked, chosen), target)

    def encoder(self) -> VideoEncoder:
        return self._autoencoder.encoder


class HuggingFace(Contender):
    """The unchanged VideoMAEForPreTraining, with the first weights of `Ours`."""

    def __init__(self, config: PretrainConfig, epoch_steps: int) -> None:
        from transformers import VideoMAEForPreTraining

        torch.manual_seed(0)
        self._config = config.model
        with tempfile.TemporaryDirectory() as folder:
            export_huggingface(Path(folder), MaskedAutoencoder(config.model))
            model: Any = VideoMAEForPreTraining.from_pretrained(folder)
        model.train()
        decays: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            one_sided = parameter.ndim == 1 or name.endswith("mask_token")
            (others if one_sided else decays).append(parameter)
        groups = [
            {"params": decays, "weight_decay": config.optim.weight_decay, "lr_scale": 1.0},
            {"params": others, "weight_decay": 0.0, "lr_scale": 1.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, learning_rate(config), config.optim.betas, config.optim.eps, fused=True
        )
        super().__init__(model, optimizer, config, epoch_steps)

    def loss(self, batch: Sample) -> Tensor:
        model: Any = self.model
        return model(batch["clips"].transpose(1, 2), bool_masked_pos=batch["mask"]).loss

    def encoder(self) -> VideoEncoder:
        with tempfile.TemporaryDirectory() as folder:
            model: Any = self.model
            model.save_pretrained(folder)
            imported = import_weights(Path(folder))
        return build_encoder(imported.config, imported)


def learning_rate(config: PretrainConfig) -> float:
    batch = effective_batch(config.batch_size, config.repeats)
    return scaled_learning_rate(config.optim.base_learning_rate, batch)
