"""Floating-point operations and memory of a training step, for logs and benchmarks.

Counted are the matrix products and attentions of the model, once for the forward pass and twice for
the backward pass. A multiply-add is two operations. What the backward pass computes again
(attention, activation checkpointing) is not counted, as usual for "model FLOPs" (PaLM, Chowdhery et
al. 2022, app. B). Norms, GELUs and sums are not counted either; they are one or two percent.
"""

from __future__ import annotations

from pathlib import Path

import torch

from train.network.head_config import HeadConfig
from train.network.model_config import NUM_CHANNELS, ModelConfig

MEAN = HeadConfig("mean")

BACKWARD = 2  # the backward pass in forward passes: gradients of inputs and of weights
OPS = 2  # operations of a multiply-add


def pretraining_flops(
    config: ModelConfig, num_masked: int, num_decoded: int | None = None
) -> float:
    """Operations of the forward and backward pass of a clip with `num_masked` masked tokens.

    `num_decoded` of these are decoded; None decodes all.
    """
    visible = config.num_tokens - num_masked
    decoded = num_masked if num_decoded is None else num_decoded
    tubelet = NUM_CHANNELS * config.tubelet_size * config.patch_size**2
    embed = OPS * visible * tubelet * config.width
    encoder = _blocks(visible, config.width, config.depth, config.mlp_ratio, config)
    between = OPS * visible * config.width * config.decoder_width
    decoder = _blocks(
        visible + decoded, config.decoder_width, config.decoder_depth, config.decoder_mlp_ratio
    )
    decoder *= 1 if config.second_prediction_dim is None else 2
    predicted = config.num_predicted(num_masked, decoded)
    head = OPS * predicted * config.decoder_width * config.output_dim
    # Pixels need no gradient.
    return embed * BACKWARD + (encoder + between + decoder + head) * (1 + BACKWARD)


def finetuning_flops(
    config: ModelConfig, head: HeadConfig = MEAN, token_share: float = 1.0
) -> float:
    """Operations of the forward and backward pass of a clip with a pooling head.

    A share of the tokens is computed, see `FinetuneConfig.token_share`. The classifier and the head
    mean are left out; they are less than a percent.
    """
    tubelet = NUM_CHANNELS * config.tubelet_size * config.patch_size**2
    tokens = config.num_kept(token_share)
    embed = OPS * tokens * tubelet * config.width
    encoder = _blocks(tokens, config.width, config.depth, config.mlp_ratio, config)
    return embed * BACKWARD + (encoder + _cross_attention(config, head, tokens)) * (1 + BACKWARD)


def _cross_attention(config: ModelConfig, head: HeadConfig, tokens: int) -> float:
    """Operations of the forward pass of the cross-attention head: all tokens are queries and
    keys."""
    if head.kind != "mca":
        return 0.0
    width = config.width
    inner_width = width * head.num_heads if head.head_width == "model" else width
    maps = OPS * tokens * width * (4 * inner_width + 2 * width * head.mlp_share)
    return head.depth * (maps + 2 * OPS * tokens**2 * inner_width)


def _blocks(
    tokens: int, width: int, depth: int, mlp_ratio: float, divided: ModelConfig | None = None
) -> float:
    """Operations of the forward pass of blocks: the maps q, k, v, out and MLP, and the
    attention."""
    maps = OPS * tokens * width**2 * (4 + 2 * mlp_ratio)
    attention: float = 2 * OPS * tokens**2 * width
    if divided is not None and divided.attention == "divided":
        # Two attentions over groups of tokens, each with its own maps.
        share = 1 / divided.time_steps + 1 / divided.grid**2
        maps += OPS * tokens * width**2 * 4
        attention *= share
    return depth * (maps + attention)


def peak_gigabytes(device: torch.device) -> float:
    """Peak memory of this process in GB: memory of its GPU, or of the machine if it uses a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 / 1e9
