"""Attention of the joint blocks: PyTorch's fused kernels, and own code for bfloat16 on CPUs.

In bfloat16 on a CPU, PyTorch's fused kernel takes twice as long as its matrix products take with
oneDNN. The own code keeps the N x N scores for the backward pass instead of computing them again:
2 * N**2 bytes per head, 5 MB for N = 1568. Activation checkpointing keeps none of them.

Letters: B clips, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.beit import Attention, Block
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SCORES_AT_A_TIME = 1 << 20  # scores of several heads, few enough to stay in the cache


class JointAttention(Attention):
    """timm's multi-head attention, computed by `attend`."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """Tokens [B, N, H * D] -> the same shape. Positions were added before, so there is no
        bias."""
        assert shared_rel_pos_bias is None and self.attn_drop.p == 0
        assert self.k_bias is not None  # zeros that are not learned
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
        parts = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.num_heads, -1))
        mixed = attend(*parts.permute(2, 0, 3, 1, 4).unbind(0))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class JointBlock(Block):
    """A block of timm's BEiT with `JointAttention`. The parameters are the same."""

    def __init__(self, width: int, num_heads: int, **options: Any) -> None:
        super().__init__(width, num_heads, **options)
        # A second module would draw initial weights too, and so change all later ones.
        self.attn.__class__ = JointAttention


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, each [B, H, N, D] -> [B, H, N, D]."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):  # autocast would compute scores in float32
            return PlainAttention.apply(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


class PlainAttention(torch.autograd.Function):
    """Attention by matrix products and softmax, a few heads at a time, for any float type."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scaled = query * query.shape[-1] ** -0.5
        parts = [x.flatten(0, 1).contiguous() for x in (scaled, key, value)]
        result = torch.empty_like(parts[2])
        shares = []
        groups = zip(*_heads_at_a_time(*parts, result), strict=True)
        for some_query, some_key, some_value, some_result in groups:
            share = torch.bmm(some_query, some_key.transpose(1, 2)).softmax(-1)
            torch.bmm(share, some_value, out=some_result)
            if any(ctx.needs_input_grad):
                shares.append(share)
        ctx.save_for_backward(*parts, *shares)
        return result.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, *shares = ctx.saved_tensors
        wanted = [torch.empty_like(x) for x in (query, key, value)]
        parts = (query, key, value, gradient.flatten(0, 1).contiguous(), *wanted)
        groups = zip(shares, *_heads_at_a_time(*parts), strict=True)
        for share, q, k, v, outer, to_query, to_key, to_value in groups:
            torch.bmm(share.transpose(1, 2), outer, out=to_value)
            of_share = torch.bmm(outer, v.transpose(1, 2))
            of_score = torch.ops.aten._softmax_backward_data(of_share, share, -1, share.dtype)
            torch.bmm(of_score, k, out=to_query)
            torch.bmm(of_score.transpose(1, 2), q, out=to_key)
        wanted[0] *= gradient.shape[-1] ** -0.5
        return tuple(each.view(gradient.shape) for each in wanted)


def _heads_at_a_time(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Split each of the tensors [B * H, N, D] into the same groups of heads."""
    count = max(1, SCORES_AT_A_TIME // tensors[0].shape[1] ** 2)
    return [tensor.split(count) for tensor in tensors]
