"""What a feature extractor is: a frozen model that turns clips into tokens.

Letters: B clips, T frames, S pixels a side, N tokens of a clip, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from shared.errors import InputError
from train.network.model_config import ModelConfig


class Extractor(nn.Module):
    """A frozen model and the shape of its clips and tokens.

    Args:
        model: the model, in evaluation mode.
        config: image_size, num_frames, patch_size, tubelet_size and width are those of the model;
            tokens are t-major, `config.num_tokens` of them.
        mean, deviation: how the model standardises RGB in 0..1.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        deviation: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.config = config
        given, own = (
            [torch.tensor(values).view(3, 1, 1, 1) for values in pair]
            for pair in ((IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD), (mean, deviation))
        )
        self.register_buffer("scale", given[1] / own[1], persistent=False)
        self.register_buffer("shift", (given[0] - own[0]) / own[1], persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips [B, 3, T, S, S], standardised as ImageNet is -> tokens [B, N, D]."""
        return self.tokens(clips * self.scale + self.shift)

    def tokens(self, clips: Tensor) -> Tensor:
        """Clips as the model standardises them, [B, 3, T, S, S] -> tokens [B, N, D]."""
        raise NotImplementedError


class VideoExtractor(Extractor):
    """A model of transformers that takes whole clips, such as V-JEPA 2."""

    def tokens(self, clips: Tensor) -> Tensor:
        found: Tensor = self.model(clips.transpose(1, 2), skip_predictor=True).last_hidden_state
        return found


class FrameExtractor(Extractor):
    """An image model that is given each frame alone; the tokens of a frame are a time step."""

    def tokens(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2).flatten(0, 1)
        return self.of_frames(frames).unflatten(0, (len(clips), -1)).flatten(1, 2)

    def of_frames(self, frames: Tensor) -> Tensor:
        """Frames [B * T, 3, S, S] -> tokens [B * T, n, D]."""
        found: Tensor = self.model(frames).last_hidden_state
        return found


def shape_of_frames(image_size: int, tokens: int, width: int, num_frames: int) -> ModelConfig:
    """The shape of clips of an image model with so many tokens a frame.

    Raises:
        InputError: the tokens of a frame are no square grid of whole patches.
    """
    side = round(tokens**0.5)
    if side * side != tokens or image_size % side:
        raise InputError(
            "other-kind",
            f"the model has {tokens} tokens for a picture of {image_size} pixels, which is no "
            "square grid of patches; choose another model",
        )
    return ModelConfig(
        image_size=image_size,
        num_frames=num_frames,
        patch_size=image_size // side,
        tubelet_size=1,
        width=width,
        num_heads=1,
    )
