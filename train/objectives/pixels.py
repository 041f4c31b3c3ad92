"""The target of normalised pixels, and the loss of the masked autoencoder.

Shapes: B clips, C = 3 channels, T frames, H and W pixels, N tokens, P = pixels of a tubelet and
channel. A clip is either `pixels` (RGB, 0..1) or `standardised` (the input of the model).
"""

from __future__ import annotations

import functools
import math

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional as F

from train.network.autoencoder import split_mask, split_tubelets, take_tokens
from train.network.model_config import NUM_CHANNELS, ModelConfig

STD_OFFSET = 1e-6  # added to the standard deviation, VideoMAE's value


def standardise(pixels: Tensor) -> Tensor:
    """Standardise pixels [..., C, T, H, W] in 0..1 with ImageNet's mean and standard deviation."""
    mean, std = _channel_statistics(pixels.device, pixels.dtype)
    return (pixels - mean) / std


def unstandardise(clips: Tensor) -> Tensor:
    """The inverse of `standardise`."""
    mean, std = _channel_statistics(clips.device, clips.dtype)
    return clips * std + mean


def normalised_pixels(clips: Tensor, config: ModelConfig) -> Tensor:
    """The target of every token (VideoMAE, sec. 3; He et al. 2022, sec. 4.1, "normalised").

    For each tubelet and channel, the mean is subtracted, and the result is divided by the standard
    deviation (unbiased, plus 1e-6). Both are over tubelet_size * patch_size**2 pixels in 0..1. A
    tubelet of one colour becomes zeros.

    Args:
        clips: standardised RGB [B, C, T, H, W], any float type.
        config: defines the tubelets.

    Returns:
        float32 [B, N, patch_dim], pixels in the order frame, row, column, with the three channels
        of a pixel side by side. This is VideoMAE's layout, so that imported decoders predict the
        same numbers.
    """
    centred, _, std = _centred(split_tubelets(clips.float(), config))
    # Standardised pixels differ from 0..1 by the channel's mean, which is gone, and by its standard
    # deviation, which the offset is divided by instead.
    offset = STD_OFFSET / _channel_statistics(std.device, std.dtype)[1].view(-1, 1)
    return _channels_last(centred.div_(std + offset))


def masked_targets(target: Tensor, mask: Tensor, num_masked: int | None = None) -> Tensor:
    """The masked tokens of target [B, N, D] in increasing order, [B, M, D]; mask is bool [B, N]."""
    return take_tokens(target, split_mask(mask, num_masked)[1])


def masked_loss(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error over masked tokens, all [B, M, D]; computed in float32.

    Errors are multiplied by `weight` and averaged over all numbers, not over the weights, so that
    accumulated micro-batches give the same loss as the whole batch.
    """
    if weight is None:
        return F.mse_loss(predicted.float(), target.float())
    return ((predicted.float() - target.float()).square() * weight).mean()


def mean_predictor_loss(target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The loss of predicting zeros, the mean colour of each tubelet. Learning must get below it.

    For tubelets of P pixels it is (P - 1) / P, which is 0.998 for 2 x 16 x 16. Tubelets of one
    colour, such as black bars, lower it. For other targets `LossWords.zeros` has the meaning of
    zeros.
    """
    if weight is not None:
        return masked_loss(torch.zeros_like(target), target, weight)
    # Norms of tokens need no further array of the size of the target. A single norm of all numbers
    # would be off by 1e-4, because float32 adds them one by one.
    return torch.linalg.vector_norm(target.float(), dim=-1).square().sum() / target.numel()


def pixels_from_prediction(
    predicted: Tensor, clips: Tensor, mask: Tensor, config: ModelConfig
) -> Tensor:
    """The clip with predictions for the masked tubelets; visible tubelets are unchanged.

    Predictions are relative to the mean and standard deviation of each tubelet, which the model
    does not predict. They are taken from the clip, as in VideoMAE's pictures. So colour and
    contrast of a reconstruction are given, and its content is predicted.

    Args:
        predicted: [B, M, patch_dim or more], the masked tokens in increasing order of position.
            Numbers after the pixels are of another target and are not used.
        clips: standardised RGB [B, C, T, H, W].
        mask: bool [B, N], True = masked.
        config: the model.

    Returns:
        pixels float32 [B, C, T, H, W] in 0..1.
    """
    tubelets = split_tubelets(unstandardise(clips.float()), config)
    _, mean, std = _centred(tubelets)
    masked = split_mask(mask)[1]
    content = (
        predicted[..., : config.patch_dim].float().unflatten(2, (-1, NUM_CHANNELS)).transpose(2, 3)
    )
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
    axes = tubelets.reshape(-1, steps, grid, grid, NUM_CHANNELS, depth, side, side)
    axes = axes.permute(0, 4, 1, 5, 2, 6, 3, 7)  # B, C, t, frame, row, y, column, x
    size = config.image_size
    return axes.reshape(-1, NUM_CHANNELS, config.num_frames, size, size)


def _centred(tubelets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tubelets [B, N, C, P] of any scale without their means, the means, and the unbiased standard
    deviations [B, N, C, 1]; float32.

    A small model on a CPU spends much of a step here, so that there is one new array of the size of
    the tubelets, and torch.var_mean is not used: it takes several times as long.
    """
    # Relative to its first pixel, a tubelet of one colour is exactly zero, so that no rounding
    # error is divided by a standard deviation near zero.
    first = tubelets[..., :1]
    centred = tubelets - first
    offset = centred.mean(dim=-1, keepdim=True)
    centred -= offset
    root = math.sqrt(centred.shape[-1] - 1)
    return centred, first + offset, torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / root


def _channels_last(tubelets: Tensor) -> Tensor:
    """[B, N, C, P] -> [B, N, P * C]."""
    return tubelets.transpose(2, 3).flatten(2)


@functools.lru_cache(maxsize=8)
def _channel_statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation of R, G, B, for broadcasting over [..., C, T, H, W].

    Cached, because copying even three numbers to a GPU waits for the GPU.
    """
    mean, std = (
        torch.tensor(values, device=device, dtype=dtype).view(NUM_CHANNELS, 1, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return mean, std
