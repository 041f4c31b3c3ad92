"""AdamW with one parameter group per layer and kind, and the learning rate of every step."""

from __future__ import annotations

import re

import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from train.options.config import OptimConfig

_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")


def effective_batch(batch_size: int, repeats: int) -> int:
    """Views that a step averages over: per-GPU batch * GPUs * accumulation * repeats."""
    return batch_size * repeats


def scaled_learning_rate(base: float, effective_batch_size: int) -> float:
    """The linear rule (Goyal et al. 2017) with VideoMAE's unit of 256 clips."""
    return base * effective_batch_size / 256


def make_optimizer(
    model: nn.Module, config: OptimConfig, learning_rate: float
) -> torch.optim.AdamW:
    """AdamW over all parameters that ask for gradients.

    Biases, norms and other 1-D parameters are not decayed. With layer_decay d and an encoder of L
    blocks, block i learns at d**(L - i) of the rate and the tubelet embedding at d**(L + 1), as in
    BEiT (Bao et al. 2022); what lies outside the encoder learns at the full rate. Each group holds
    its factor as `lr_scale`, which the schedule multiplies in.
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
        fused=True,  # one pass over weights, gradients and means: a quarter of the time on a CPU
    )


def layer_of(name: str, depth: int) -> int:
    """0 for the tubelet embedding, i + 1 for encoder block i, depth + 1 for all that follows."""
    if name.startswith("encoder.patch_embed."):
        return 0
    block = _BLOCK.match(name)
    return depth + 1 if block is None else int(block[1]) + 1


def warmup_steps(config: OptimConfig, steps_per_epoch: int, num_steps: int) -> int:
    """Steps over which the learning rate rises: those of warmup_epochs, at most half of all, since
    a run cut short (--epochs) must not be all warm-up."""
    return min(round(config.warmup_epochs * steps_per_epoch), num_steps // 2)


def make_schedule(
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    steps_per_epoch: int,
    num_steps: int,
    effective_batch_size: int,
) -> CosineLRScheduler:
    """Linear warm-up from 0, then half a cosine down over the rest of `num_steps`.

    Call `step_update(step)` before optimiser step `step`, from 0: the rate is a function of the
    step alone, so a resumed run goes on with the same one.
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
