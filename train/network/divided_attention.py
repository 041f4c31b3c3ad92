"""Divided space-time attention (TimeSformer, Bertasius et al. 2021, sec. 3 and fig. 2).

A block has attention over time between tokens of the same position, attention over space between
tokens of the same time step, and an MLP. Each of them has its own norm and is added to its input.
Heads, biases and MLP are those of the joint blocks, so that `norm1`, `attn`, `norm2` and `mlp` have
the same meaning in both. TimeSformer's code has a zero-initialised map after the temporal
attention, which preserves weights that were trained on images. It is left out here, because no run
starts from such weights.

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
    """All N tokens in order. Both attentions are batches of short sequences."""

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
    """Any V of the N tokens. Both attentions compute all V**2 scores and mask those between groups.

    This works for every mask, also for masks that hide different positions at each time step, where
    groups have different lengths. V is a tenth to a quarter of N in pretraining, so that V**2
    scores are cheap beside the MLP.

    Args:
        visible: int64 [B, V], positions of the tokens.
        num_positions: P.
        dtype: type of the tokens.
    """

    def __init__(self, visible: Tensor, num_positions: int, dtype: torch.dtype) -> None:
        self._same_position = _barrier(visible % num_positions, dtype)
        self._same_step = _barrier(visible // num_positions, dtype)

    def over_time(self, attend: Attend, tokens: Tensor) -> Tensor:
        return attend(tokens, self._same_position)

    def over_space(self, attend: Attend, tokens: Tensor) -> Tensor:
        return attend(tokens, self._same_step)


class DividedBlock(Block):
    """A block of timm's BEiT with an attention over time before its attention over space."""

    def __init__(self, width: int, num_heads: int, drop_path: float = 0.0, **options: Any) -> None:
        super().__init__(width, num_heads, drop_path=drop_path, **options)
        self.temporal_norm = options["norm_layer"](width)
        self.temporal_attn = Attention(width, num_heads, qkv_bias=options["qkv_bias"])

    # The second parameter of timm's forward is a bias of relative positions; here it is the groups.
    def forward(  # type: ignore[override]
        self, tokens: Tensor, groups: WholeClip | VisibleTokens
    ) -> Tensor:
        """Tokens [B, K, D] -> the same shape; `groups` decides which tokens attend to each
        other."""
        mixed = groups.over_time(self.temporal_attn, self.temporal_norm(tokens))
        tokens = tokens + self.drop_path1(mixed)
        mixed = groups.over_space(self.attn, self.norm1(tokens))
        tokens = tokens + self.drop_path1(mixed)
        return tokens + self.drop_path2(self.mlp(self.norm2(tokens)))


def _barrier(group: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive mask [B, 1, V, V]: 0 if two tokens have the same group [B, V], else -inf."""
    differ = group[:, None, :, None] != group[:, None, None, :]
    return torch.zeros(differ.shape, dtype=dtype, device=group.device).masked_fill_(
        differ, float("-inf")
    )
