"""Divided space-time attention (TimeSformer, Bertasius et al. 2021, sec. 3 and fig. 2).

A block attends over time, among tokens of one position, then over space, among tokens of one time
step, then has its MLP; each part has its norm and adds to its input. Heads, biases and MLP are
those of the joint blocks of train/network/autoencoder.py, so `norm1`, `attn`, `norm2`, `mlp` mean
the same there. The zero-initialised map that TimeSformer's code has after its temporal attention is
left out: it keeps weights of pictures intact, and here nothing begins with those.

Letters: B clips, T' time steps, P positions of the patch grid, N = T' * P tokens (t-major), V
visible tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.beit import Attention, Block
from torch import Tensor

Attend = Callable[..., Tensor]  # (tokens [B, K, D], additive mask or None) -> [B, K, D]


class WholeClip:
    """All N tokens in order: both attentions are batches of short sequences."""

    def __init__(self, time_steps: int) -> None:
        self.time_steps = time_steps

    def over_time(self, attend: Attend, tokens: Tensor) -> Tensor:
        grid = tokens.unflatten(1, (self.time_steps, -1)).transpose(1, 2)  # B, P, T', D
        mixed = attend(grid.flatten(0, 1)).unflatten(0, grid.shape[:2])
        return mixed.transpose(1, 2).flatten(1, 2)

    def over_space(self, attend: Attend, tokens: Tensor) -> Tensor:
        grid = tokens.unflatten(1, (self.time_steps, -1))  # B, T', P, D
        return attend(grid.flatten(0, 1)).unflatten(0, grid.shape[:2]).flatten(1, 2)


class VisibleTokens:
    """Any V of the N tokens: both attentions are over all of them, with the others masked out.

    So every mask can be used, also those that hide other positions at each time step, where groups
    differ in length. That costs V**2 scores; V is a tenth to a quarter of N in pretraining, where
    that is little beside the MLP.

    Args:
        visible: int64 [B, V] positions of the tokens.
        num_positions: P.
        dtype: of the tokens.
    """

    def __init__(self, visible: Tensor, num_positions: int, dtype: torch.dtype) -> None:
        self._same_position = _barrier(visible % num_positions, dtype)
        self._same_step = _barrier(visible // num_positions, dtype)

    def over_time(self, attend: Attend, tokens: Tensor) -> Tensor:
        return attend(tokens, self._same_position)

    def over_space(self, attend: Attend, tokens: Tensor) -> Tensor:
        return attend(tokens, self._same_step)


class DividedBlock(Block):
    """A block of timm's BEiT with attention over time before its own, which is over space."""

    def __init__(self, width: int, num_heads: int, drop_path: float = 0.0, **options: Any) -> None:
        super().__init__(width, num_heads, drop_path=drop_path, **options)
        self.temporal_norm = options["norm_layer"](width)
        self.temporal_attn = Attention(width, num_heads, qkv_bias=options["qkv_bias"])

    # timm's forward takes a bias of relative positions where this one takes the groups.
    def forward(  # type: ignore[override]
        self, tokens: Tensor, groups: WholeClip | VisibleTokens
    ) -> Tensor:
        """Tokens [B, K, D] -> the same shape; groups tell which of them meet."""
        mixed = groups.over_time(self.temporal_attn, self.temporal_norm(tokens))
        tokens = tokens + self.drop_path1(mixed)
        mixed = groups.over_space(self.attn, self.norm1(tokens))
        tokens = tokens + self.drop_path1(mixed)
        return tokens + self.drop_path2(self.mlp(self.norm2(tokens)))


def _barrier(group: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, V, V] to add to scores: 0 where two tokens are of one group [B, V], else -inf."""
    apart = group[:, None, :, None] != group[:, None, None, :]
    return torch.zeros(apart.shape, dtype=dtype, device=group.device).masked_fill_(
        apart, float("-inf")
    )
