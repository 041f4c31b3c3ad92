"""Attention by matrix products against PyTorch's, values and gradients; blocks against timm's."""

from __future__ import annotations

import pytest
import torch
from timm.models.beit import Block
from torch.nn import functional as F

from train.network import attention
from train.network.attention import JointBlock, PlainAttention, attend


def parts(dtype: torch.dtype, shape: tuple[int, ...] = (2, 3, 7, 4)) -> list[torch.Tensor]:
    """Query, key and value [B, H, N, D], cut out of one tensor as a block does it."""
    batch, heads, tokens, width = shape
    torch.manual_seed(0)
    mixed = torch.randn(batch, tokens, 3, heads, width, dtype=dtype)
    return [x.detach().requires_grad_() for x in mixed.permute(2, 0, 3, 1, 4).unbind(0)]


@pytest.mark.parametrize("heads_at_a_time", [1, 4, 6])
def test_values_and_gradients_are_those_of_attention(heads_at_a_time, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_A_TIME", heads_at_a_time * 7 * 7)
    asked = parts(torch.float64)
    values = PlainAttention.apply(*asked)
    torch.testing.assert_close(values, F.scaled_dot_product_attention(*asked))
    assert torch.autograd.gradcheck(PlainAttention.apply, asked)


def test_bfloat16_is_as_near_to_the_truth_as_pytorchs_kernel():
    exact, asked = parts(torch.float64, (1, 2, 300, 64)), parts(torch.bfloat16, (1, 2, 300, 64))
    for one, other in zip(exact, asked, strict=True):
        one.data.copy_(other.data)
    outer = torch.randn(1, 2, 300, 64, dtype=torch.float64)

    def results(function, inputs):
        values = function(*inputs)
        gradients = torch.autograd.grad(values, inputs, outer.to(values.dtype))
        return [values.detach(), *gradients]

    truth = results(F.scaled_dot_product_attention, exact)
    fused = results(F.scaled_dot_product_attention, asked)
    mine = results(attend, asked)
    assert not torch.equal(mine[0], fused[0]), "attend has a way of its own here"
    for right, theirs, ours in zip(truth, fused, mine, strict=True):
        assert (ours - right).norm() < 1.5 * (theirs - right).norm() + 1e-3 * right.norm()


def test_without_gradients_no_scores_are_kept():
    kept = []
    asked = parts(torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        attend(*(x.detach() for x in asked))
        assert not kept
        attend(*asked)
    assert len(kept) == 4


def test_a_block_is_timms_with_the_same_weights():
    blocks = []
    for kind in (Block, JointBlock):
        torch.manual_seed(0)
        blocks.append(kind(24, 4, qkv_bias=True))
        blocks.append(torch.rand(1))
    theirs, after_theirs, ours, after_ours = blocks
    assert after_theirs == after_ours, "no further number is drawn"
    assert list(theirs.state_dict()) == list(ours.state_dict())
    tokens = torch.randn(2, 9, 24)
    torch.testing.assert_close(ours(tokens), theirs(tokens))


def test_autocast_is_bfloat16_throughout():
    block, tokens = JointBlock(24, 4, qkv_bias=True), torch.randn(2, 9, 24, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = block(tokens)
    found.float().sum().backward()
    torch.testing.assert_close(found.float(), block(tokens), atol=0.1, rtol=0.1)
    assert tokens.grad.isfinite().all()
