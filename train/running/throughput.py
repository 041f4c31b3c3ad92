"""How much arithmetic a training step is, and how much memory it takes: for logs and benchmarks.

Operations are those of the model as it is defined, forward and twice that backward: matrix products
and attention, a multiply-add being two. What is computed again in the backward pass (attention,
activation checkpointing) is not counted, as usual for "model FLOPs" (PaLM, Chowdhery et al. 2022,
app. B); norms, GELUs and sums are left out, a percent or two.
"""

from __future__ import annotations

from pathlib import Path

import torch

from train.network.head_config import HeadConfig
from train.network.model_config import NUM_CHANNELS, ModelConfig

MEAN = HeadConfig("mean")

BACKWARD = 2  # times the forward pass: gradients of inputs and of weights
OPS = 2  # of a multiply-add


def pretraining_flops(config: ModelConfig, num_masked: int) -> float:
    """Operations of one clip's forward and backward pass with `num_masked` tokens hidden."""
    visible = config.num_tokens - num_masked
    tubelet = NUM_CHANNELS * config.tubelet_size * config.patch_size**2
    embed = OPS * visible * tubelet * config.width
    encoder = _blocks(visible, config.width, config.depth, config.mlp_ratio, config)
    between = OPS * visible * config.width * config.decoder_width
    decoder = _blocks(
        config.num_tokens, config.decoder_width, config.decoder_depth, config.decoder_mlp_ratio
    )
    decoder *= 1 if config.second_prediction_dim is None else 2
    head = OPS * config.num_predicted(num_masked) * config.decoder_width * config.output_dim
    # The pixels ask for no gradient.
    return embed * BACKWARD + (encoder + between + decoder + head) * (1 + BACKWARD)


def finetuning_flops(config: ModelConfig, head: HeadConfig = MEAN) -> float:
    """Operations of one clip's forward and backward pass with a pooling head; the classifier's and
    those of the mean head, under a percent, are left out."""
    tubelet = NUM_CHANNELS * config.tubelet_size * config.patch_size**2
    embed = OPS * config.num_tokens * tubelet * config.width
    encoder = _blocks(config.num_tokens, config.width, config.depth, config.mlp_ratio, config)
    return embed * BACKWARD + (encoder + _cross_attention(config, head)) * (1 + BACKWARD)


def _cross_attention(config: ModelConfig, head: HeadConfig) -> float:
    """Operations of the cross-attention head's forward pass: all tokens ask, all are keys."""
    if head.kind != "mca":
        return 0.0
    tokens, width = config.num_tokens, config.width
    inner_width = width * head.num_heads if head.head_width == "model" else width
    maps = OPS * tokens * width * (4 * inner_width + 2 * width * head.mlp_ratio)
    return head.depth * (maps + 2 * OPS * tokens**2 * inner_width)


def _blocks(
    tokens: int, width: int, depth: int, mlp_ratio: float, divided: ModelConfig | None = None
) -> float:
    """Operations of a stack's forward pass: maps q, k, v, out and MLP; scores and their use."""
    maps = OPS * tokens * width**2 * (4 + 2 * mlp_ratio)
    attention: float = 2 * OPS * tokens**2 * width
    if divided is not None and divided.attention == "divided":
        # Two attentions of groups of tokens, each with its maps.
        share = 1 / divided.time_steps + 1 / divided.grid**2
        maps += OPS * tokens * width**2 * 4
        attention *= share
    return depth * (maps + attention)


def peak_gigabytes(device: torch.device) -> float:
    """The most memory this process has held: of the GPU it trains on, of the machine on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 / 1e9
