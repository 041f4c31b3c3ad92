"""AdamW with one parameter group per layer and kind, and the learning rate of each step."""

from __future__ import annotations

import re

import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from train.options.config import OptimConfig

_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")


def effective_batch(batch_size: int, repeats: int) -> int:
    """Number of views in a step: per-GPU batch * GPUs * accumulation * repeats."""
    return batch_size * repeats


def scaled_learning_rate(base: float, effective_batch_size: int) -> float:
    """Scale a base learning rate by the linear rule (Goyal et al. 2017), per 256 clips as
    VideoMAE."""
    return base * effective_batch_size / 256


def make_optimizer(
    model: nn.Module, config: OptimConfig, learning_rate: float
) -> torch.optim.AdamW:
    """AdamW over all parameters that require gradients.

    Biases, norms and other 1-D parameters have no weight decay. With layer_decay d and an encoder
    of L blocks, the factor of the learning rate is d**(L - i) for block i, d**(L + 1) for the
    tubelet embedding, and 1 outside the encoder, as in BEiT (Bao et al. 2022). Each group holds its
    factor as `lr_scale`, by which the schedule multiplies.
    """
    depth = len(list(model.get_submodule("encoder.blocks").children()))
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = config.layer_decay ** (depth + 1 - layer_of(name, depth))
        decays = parameter.ndim > 1 and name != "mask_token"
        group = groups.setdefault(
            (scale, decays),
            {
                "params": [],
                "lr_scale": scale,
                "weight_decay": config.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return torch.optim.AdamW(
        [groups[key] for key in sorted(groups)],
        lr=learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,  # one pass over weights, gradients and means; on a CPU a quarter of the time
    )


def layer_of(name: str, depth: int) -> int:
    """0 for the tubelet embedding, i + 1 for encoder block i, depth + 1 for all later
    parameters."""
    if name.startswith("encoder.patch_embed."):
        return 0
    block = _BLOCK.match(name)
    return depth + 1 if block is None else int(block[1]) + 1


def warmup_steps(config: OptimConfig, steps_per_epoch: int, num_steps: int) -> int:
    """Number of steps in which the learning rate rises: those of warmup_epochs, but at most half of
    all steps, so that a short run (--epochs) is not all warm-up."""
    return min(round(config.warmup_epochs * steps_per_epoch), num_steps // 2)


def make_schedule(
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    steps_per_epoch: int,
    num_steps: int,
    effective_batch_size: int,
) -> CosineLRScheduler:
    """Linear warm-up from 0, then half a cosine down over the rest of `num_steps`.

    Call `step_update(step)` before optimiser step `step`, counted from 0. The rate depends only on
    the step, so that a resumed run has the same rates.
    """
    rising = warmup_steps(config, steps_per_epoch, num_steps)
    return CosineLRScheduler(
        optimizer,
        t_initial=num_steps - rising,
        lr_min=scaled_learning_rate(config.min_learning_rate, effective_batch_size),
        warmup_t=rising,
        warmup_prefix=True,
        t_in_epochs=False,
    )
