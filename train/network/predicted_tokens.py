"""What a masked autoencoder predicts for a clip of which it sees everything, as features."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from train.network.autoencoder import MaskedAutoencoder
from train.network.model_config import ModelConfig


class PredictedTokens(nn.Module):
    """The predictions of all tokens of a clip without a mask.

    Where a pretraining predicts how the parts of a patch move, its predictions are estimates of
    that, made of frames alone.

    Args:
        config: the masked autoencoder; it predicts visible tokens here, whether it did so in
            pretraining or not.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = dataclasses.replace(config, predict_visible=True)
        self.autoencoder = MaskedAutoencoder(self.config)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips [B, 3, T, H, W], standardised -> predictions [B, N, output_dim]."""
        shape = (len(clips), self.config.num_tokens)
        nothing = torch.zeros(shape, dtype=torch.bool, device=clips.device)
        return self.autoencoder(clips, nothing, num_masked=0)
