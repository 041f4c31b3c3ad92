"""Divided space-time attention against one query at a time: all tokens, and visible ones."""

from __future__ import annotations

import pytest
import torch
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import TINY, attending, random_masks, tiny_clips
from torch.nn import functional as F

from train.network.autoencoder import (
    MaskedAutoencoder,
    ModelConfig,
    VideoEncoder,
    named_config,
    split_mask,
)
from train.network.head import VideoClassifier, build_head
from train.network.head_config import HeadConfig
from train.weights.exchange import export_safetensors, import_weights, load_encoder

DIVIDED = attending("divided")


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    torch.manual_seed(0)
    return VideoEncoder(DIVIDED, final_norm=True).eval()


def slow_attention(attn, tokens: torch.Tensor, groups: list[int]) -> torch.Tensor:
    """tokens [K, D]: each attends to those of its own group, query by query and head by head."""
    bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
    query, key, value = F.linear(tokens, attn.qkv.weight, bias).chunk(3, dim=1)
    width = query.shape[1] // attn.num_heads
    mixed = torch.zeros_like(query)
    for one, group in enumerate(groups):
        others = [other for other, theirs in enumerate(groups) if theirs == group]
        for head in range(attn.num_heads):
            part = slice(head * width, (head + 1) * width)
            scores = torch.stack([query[one, part] @ key[other, part] for other in others])
            weights = torch.softmax(scores / width**0.5, dim=0)
            mixed[one, part] = (weights[:, None] * value[others][:, part]).sum(dim=0)
    return F.linear(mixed, attn.proj.weight, attn.proj.bias)


def slow_encoder(encoder: VideoEncoder, clip: torch.Tensor, keep: list[int]) -> torch.Tensor:
    """One clip [C, T, H, W], its tokens [len(keep), D]."""
    num_positions = encoder.config.grid**2
    steps = [index // num_positions for index in keep]
    positions = [index % num_positions for index in keep]
    tokens = (encoder.patch_embed(clip[None]) + encoder.positions)[0][keep]
    for block in encoder.blocks:
        normed = block.temporal_norm(tokens)
        tokens = tokens + slow_attention(block.temporal_attn, normed, positions)
        tokens = tokens + slow_attention(block.attn, block.norm1(tokens), steps)
        tokens = tokens + block.mlp(block.norm2(tokens))
    return encoder.norm(tokens)


def test_all_tokens(encoder: VideoEncoder) -> None:
    clips = tiny_clips()
    with torch.no_grad():
        tokens = encoder(clips)
        for row in range(2):
            expected = slow_encoder(encoder, clips[row], list(range(DIVIDED.num_tokens)))
            torch.testing.assert_close(tokens[row], expected, rtol=0, atol=2e-5)


@given(st.integers(1, 3), st.integers(1, 31), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_visible_tokens_of_any_mask(batch: int, num_masked: int, seed: int) -> None:
    torch.manual_seed(0)
    encoder = VideoEncoder(DIVIDED, final_norm=True).eval()
    mask, clips = random_masks(batch, num_masked, seed), tiny_clips(batch, seed % 1000)
    with torch.no_grad():
        tokens = encoder(clips, split_mask(mask)[0])
        for row in range(batch):
            keep = torch.nonzero(~mask[row])[:, 0].tolist()
            expected = slow_encoder(encoder, clips[row], keep)
            torch.testing.assert_close(tokens[row], expected, rtol=0, atol=2e-5)


def test_all_tokens_as_visible_ones_are_the_same(encoder: VideoEncoder) -> None:
    clips = tiny_clips()
    everything = torch.arange(DIVIDED.num_tokens).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(encoder(clips, everything), encoder(clips), rtol=0, atol=1e-5)


def test_a_token_hears_of_others_in_two_steps_only() -> None:
    """One block: what is shown at another time and place arrives; without time it would not."""
    torch.manual_seed(0)
    one_block = ModelConfig.from_dict({**DIVIDED.to_dict(), "depth": 1})
    encoder = VideoEncoder(one_block, final_norm=False).eval()
    clips = tiny_clips(1)
    changed = clips.clone()
    changed[:, :, 2:, 24:, 24:] += 1.0  # the last tubelet of the last time step
    with torch.no_grad():
        differs = (encoder(clips) != encoder(changed)).any(dim=2)[0].view(2, 16)
        # Over time it reaches its own position, and over space all that time step from there.
        assert differs.all()
        for block in encoder.blocks:
            torch.nn.init.zeros_(block.temporal_attn.proj.weight)
        differs = (encoder(clips) != encoder(changed)).any(dim=2)[0].view(2, 16)
    assert differs[1].all() and not differs[0].any()


def test_bfloat16_whole_and_by_autocast() -> None:
    clips, mask = tiny_clips(), random_masks(2, 24, 0)
    torch.manual_seed(0)
    model = MaskedAutoencoder(DIVIDED).eval()
    with torch.no_grad():
        exact = model(clips, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(clips, mask)
        rounded = model.bfloat16()(clips, mask)
    for out in (mixed, rounded):
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.1)


def test_it_has_as_many_parameters_as_its_parts() -> None:
    # ViT-B and, in each of 12 blocks, an attention without key bias and a norm.
    with torch.device("meta"):
        joint, divided = (
            VideoEncoder(named_config("vit-b", attention=kind), final_norm=False)
            for kind in ("joint", "divided")
        )
    more = sum(p.numel() for p in divided.parameters()) - sum(p.numel() for p in joint.parameters())
    assert more == 12 * (4 * 768 * 768 + 3 * 768 + 2 * 768)


def test_weights_go_out_and_back_and_not_into_the_other_kind(tmp_path) -> None:
    source = MaskedAutoencoder(DIVIDED)
    export_safetensors(tmp_path / "model.safetensors", source)
    imported = import_weights(tmp_path / "model.safetensors")
    assert imported.config == DIVIDED
    for config in (DIVIDED, TINY):
        encoder = VideoEncoder(config, final_norm=False)
        model = VideoClassifier(encoder, build_head(HeadConfig(), 24), {"label": 2})
        if config is DIVIDED:
            load_encoder(model, imported)
            assert model(tiny_clips(), None)["label"].shape == (2, 2)
        else:
            with refuses("other-model", "attention divided in the weights, joint here"):
                load_encoder(model, imported)
