"""The pixels of each tubelet, normalised by itself: what VideoMAE and MOFO predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from train.network.model_config import ModelConfig
from train.objectives.target import ClipCut, ClipTarget, LossWords

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NormalisedPixels(ClipTarget):
    """See `train.objectives.pixels.normalised_pixels`."""

    name = "normalised_pixels"
    picture = "pixels"
    words = LossWords("normalised pixels", "every patch's mean colour", "mean of each patch")

    def of_clips(self, clips: Tensor, model: ModelConfig) -> Tensor:
        from train.objectives.pixels import normalised_pixels

        return normalised_pixels(clips, model)

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        return (cut.model.patch_dim,)
