"""What the masked autoencoder predicts: the normalised pixels of each tubelet, and the loss.

Shapes: B clips, C = 3 channels, T frames, H and W pixels, N tokens, P = pixels of a tubelet and
channel. A clip is either `pixels` (RGB, 0..1) or `standardised` (what the model sees).
"""

from __future__ import annotations

import functools

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional as F

from train.network.autoencoder import split_mask, split_tubelets, take_tokens
from train.network.model_config import NUM_CHANNELS, ModelConfig

STD_OFFSET = 1e-6  # added to the standard deviation, VideoMAE's value


def standardise(pixels: Tensor) -> Tensor:
    """Pixels [..., C, T, H, W] in 0..1 -> what the model sees, by ImageNet's mean and deviation."""
    mean, std = _channel_statistics(pixels.device, pixels.dtype)
    return (pixels - mean) / std


def unstandardise(clips: Tensor) -> Tensor:
    """The inverse of `standardise`."""
    mean, std = _channel_statistics(clips.device, clips.dtype)
    return clips * std + mean


def normalised_pixels(clips: Tensor, config: ModelConfig) -> Tensor:
    """The target of every token (VideoMAE, sec. 3; He et al. 2022, sec. 4.1, "normalised").

    Each tubelet and channel by itself has its mean taken off and is divided by its standard
    deviation (unbiased, plus 1e-6) over its tubelet_size * patch_size**2 pixels in 0..1. An even
    tubelet becomes zeros.

    Args:
        clips: standardised RGB [B, C, T, H, W], any float type.
        config: cuts the tubelets.

    Returns:
        float32 [B, N, patch_dim], a pixel's three channels side by side, pixels by frame, row,
        column: VideoMAE's layout, so that imported decoders predict the same numbers.
    """
    tubelets, mean, std = _tubelet_statistics(clips, config)
    return _channels_last((tubelets - mean) / (std + STD_OFFSET))


def masked_targets(target: Tensor, mask: Tensor, num_masked: int | None = None) -> Tensor:
    """Of target [B, N, D], the masked tokens of mask bool [B, N] in rising order: [B, M, D]."""
    return take_tokens(target, split_mask(mask, num_masked)[1])


def masked_loss(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error over masked tokens, all [B, M, D]; computed in float32.

    Errors are multiplied by `weight`, and averaged over all numbers whatever their weight, so that
    accumulated parts of a batch add up to what the batch would have given.
    """
    if weight is None:
        return F.mse_loss(predicted.float(), target.float())
    return ((predicted.float() - target.float()).square() * weight).mean()


def mean_predictor_loss(target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The loss of predicting zeros, each tubelet's mean colour: what learning must fall below.

    For tubelets of P pixels none of which is even it is (P - 1) / P, 0.998 at 2 x 16 x 16; even
    tubelets, black bars for example, lower it. What zeros say of other targets:
    `LossWords.zeros` of each.
    """
    return masked_loss(torch.zeros_like(target), target, weight)


def pixels_from_prediction(
    predicted: Tensor, clips: Tensor, mask: Tensor, config: ModelConfig
) -> Tensor:
    """The clip as the decoder sees it: masked tubelets predicted, visible ones as they are.

    Predictions are in units of each tubelet's own mean and deviation, which the model is never
    asked for; they are taken from the clip, as VideoMAE's pictures do. So colour and contrast of
    a reconstruction are given, its content is predicted.

    Args:
        predicted: [B, M, patch_dim] of the masked tokens in rising position order.
        clips: standardised RGB [B, C, T, H, W].
        mask: bool [B, N], True = masked.
        config: of the model.

    Returns:
        pixels float32 [B, C, T, H, W] in 0..1.
    """
    tubelets, mean, std = _tubelet_statistics(clips, config)
    masked = split_mask(mask)[1]
    content = predicted.float().unflatten(2, (-1, NUM_CHANNELS)).transpose(2, 3)
    content = content * (take_tokens(std, masked) + STD_OFFSET) + take_tokens(mean, masked)
    rows = torch.arange(len(masked), device=masked.device)[:, None]
    return join_tubelets(tubelets.index_put((rows, masked), content), config).clamp(0.0, 1.0)


def join_tubelets(tubelets: Tensor, config: ModelConfig) -> Tensor:
    """The inverse of `split_tubelets`: [B, N, C, P] -> clips [B, C, T, H, W]."""
    depth, side, grid, steps = (
        config.tubelet_size,
        config.patch_size,
        config.grid,
        config.time_steps,
    )
    parts = tubelets.reshape(-1, steps, grid, grid, NUM_CHANNELS, depth, side, side)
    parts = parts.permute(0, 4, 1, 5, 2, 6, 3, 7)  # B, C, t, frame, row, y, column, x
    size = config.image_size
    return parts.reshape(-1, NUM_CHANNELS, config.num_frames, size, size)


def _tubelet_statistics(clips: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Tubelets [B, N, C, P] in 0..1, their means and deviations [B, N, C, 1]; float32."""
    tubelets = split_tubelets(unstandardise(clips.float()), config)
    # torch.var_mean takes one number at a time on a CPU, several times as long as these passes.
    # Relative to its first pixel an even tubelet is exactly zero, with no rounding to be divided by
    # a deviation of nearly nothing.
    first = tubelets[..., :1]
    centred = tubelets - first
    offset = centred.mean(dim=-1, keepdim=True)
    centred -= offset
    variance = torch.linalg.vecdot(centred, centred) / (tubelets.shape[-1] - 1)
    return tubelets, first + offset, variance.sqrt().unsqueeze(-1)


def _channels_last(tubelets: Tensor) -> Tensor:
    """[B, N, C, P] -> [B, N, P * C]."""
    return tubelets.transpose(2, 3).flatten(2)


@functools.lru_cache(maxsize=8)
def _channel_statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and deviation of R, G, B, shaped to broadcast over [..., C, T, H, W].

    Kept, because copying even three numbers to a GPU waits for it.
    """
    mean, std = (
        torch.tensor(values, device=device, dtype=dtype).view(NUM_CHANNELS, 1, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return mean, std
