"""Pooling heads and the classifier: the batched cross attention against a loop over clips."""

from __future__ import annotations

import itertools

import pytest
import torch
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st

from train.network.autoencoder import ModelConfig, VideoEncoder
from train.network.head import (
    CrossAttentionHead,
    MeanHead,
    VideoClassifier,
    build_head,
    parameter_counts,
)
from train.network.head_config import HeadConfig

WIDTH, NUM_TOKENS = 12, 10
VARIANTS = [
    HeadConfig("mca", num_heads=3, depth=depth, head_width=width, residual=residual, mlp_ratio=mlp)
    for depth, width, residual, mlp in itertools.product(
        (1, 2), ("model", "split"), (True, False), (2.0, 0.0)
    )
]


def random_head(config: HeadConfig, seed: int = 0) -> CrossAttentionHead:
    """A head without parameters that are zero or one, so that every parameter has an effect."""
    torch.manual_seed(seed)
    head = CrossAttentionHead(WIDTH, config)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head.eval()


def slow_pool(head: CrossAttentionHead, tokens: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """One clip: tokens [N, D], inside [N]; only the tokens that count, softmax written out."""
    if inside.all() or not inside.any():
        inner = outer = tokens
    else:
        inner, outer = tokens[inside], tokens[~inside]
    for layer in head.layers:
        keys = layer.key_norm(outer)
        q, k, v = layer.query(layer.query_norm(inner)), layer.key(keys), layer.value(keys)
        size = q.shape[1] // layer.num_heads
        heads = []
        for first in range(0, q.shape[1], size):
            cut = slice(first, first + size)
            weights = torch.softmax(q[:, cut] @ k[:, cut].T / size**0.5, dim=1)
            heads.append(weights @ v[:, cut])
        attended = layer.proj(torch.cat(heads, dim=1))
        inner = inner + attended if head.config.residual else attended
        if head.config.mlp_ratio:
            inner = inner + layer.mlp(layer.mlp_norm(inner))
    return head.norm(inner.mean(dim=0))


@given(
    st.sampled_from(VARIANTS),
    st.lists(st.lists(st.booleans(), min_size=NUM_TOKENS, max_size=NUM_TOKENS), min_size=1),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_batch_equals_its_clips(config: HeadConfig, rows: list[list[bool]], seed: int) -> None:
    head, inside = random_head(config), torch.tensor(rows)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(rows), NUM_TOKENS, WIDTH, generator=generator)
    with torch.no_grad():
        pooled = head(tokens, inside)
        expected = torch.stack(
            [slow_pool(head, *clip) for clip in zip(tokens, inside, strict=True)]
        )
    assert pooled.shape == (len(rows), WIDTH)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("config", VARIANTS[::4], ids=str)
def test_no_inner_and_no_outer_token_are_the_same_fallback(config: HeadConfig) -> None:
    head, tokens = random_head(config), torch.randn(1, NUM_TOKENS, WIDTH)
    inside = torch.ones(1, NUM_TOKENS, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(head(tokens, inside), head(tokens, ~inside))


def test_every_parameter_of_the_head_learns_whatever_the_boxes() -> None:
    head = CrossAttentionHead(WIDTH, HeadConfig("mca", depth=2))
    inside = torch.zeros(3, NUM_TOKENS, dtype=torch.bool)
    inside[1, :4], inside[2] = True, True
    head(torch.randn(3, NUM_TOKENS, WIDTH), inside).pow(3).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_parameter_counts_of_the_paper_and_of_its_code() -> None:
    """By hand, for ViT-B: the equations have 4 maps of D x 3D; the code 4 of D x D and an MLP."""
    d = 768
    norms = 3 * 2 * d  # of queries, of keys, after pooling
    equations = HeadConfig("mca", head_width="model", mlp_ratio=0.0)
    code = HeadConfig("mca", head_width="split")
    assert parameter_counts(build_head(equations, d))["total"] == (
        4 * 3 * d * d + 2 * 3 * d + d + norms
    )
    assert parameter_counts(build_head(code, d))["total"] == (
        4 * d * d + 3 * d + 2 * 4 * d * d + 5 * d + norms + 2 * d
    )


def test_without_a_block_the_head_is_the_equations_of_the_text() -> None:
    """MOFO, sec. 2.3: each head is softmax(q k' / sqrt(d)) v of inner queries and outer keys, and
    the result is the heads side by side, projected. No norm, no residual, no MLP."""
    head = random_head(HeadConfig("mca", num_heads=2, depth=1, block=False))
    tokens = 5 + 3 * torch.randn(1, NUM_TOKENS, WIDTH)
    inside = torch.arange(NUM_TOKENS)[None] < 4
    (layer,) = head.layers
    heads = []
    for h in range(2):
        cut = slice(h * WIDTH, (h + 1) * WIDTH)  # each head has the width of the model
        q = tokens[0, :4] @ layer.query.weight[cut].T + layer.query.bias[cut]
        k = tokens[0, 4:] @ layer.key.weight[cut].T
        v = tokens[0, 4:] @ layer.value.weight[cut].T + layer.value.bias[cut]
        heads.append(torch.softmax(q @ k.T / WIDTH**0.5, dim=1) @ v)
    expected = torch.cat(heads, dim=1) @ layer.proj.weight.T + layer.proj.bias
    with torch.no_grad():
        torch.testing.assert_close(head(tokens, inside)[0], head.norm(expected.mean(dim=0)))
    d = WIDTH
    assert parameter_counts(head)["total"] == 4 * 2 * d * d + 2 * 2 * d + d + 2 * d


@pytest.mark.parametrize(("name", "value"), [("residual", False), ("mlp_ratio", 2.0)])
def test_without_a_block_its_parts_are_refused(name: str, value: object) -> None:
    with refuses("option-unused", "block is false", f"{name} is {value}"):
        HeadConfig("mca", block=False, **{name: value})


def test_split_heads_must_divide_the_width() -> None:
    with refuses("out-of-range", 5, "12"):
        build_head(HeadConfig("mca", num_heads=5, head_width="split"), WIDTH)
    build_head(HeadConfig("mca", num_heads=5, head_width="model"), WIDTH)


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"kind": "max"}, "unknown-name", ["'max'", "mean, mca"]),
        ({"head_width": "half"}, "unknown-name", ["head_width", "'half'", "model, split"]),
        ({"depth": 0}, "out-of-range", ["depth is 0", 1]),
        ({"num_heads": True}, "out-of-range", ["num_heads is True", 1]),
        ({"mlp_ratio": -1.0}, "out-of-range", ["mlp_ratio is -1"]),
        ({"heads": 3}, "unknown-key", ["heads", "kind, num_heads"]),
    ],
)
def test_a_wrong_option_is_named(fields: dict, code: str, named: list) -> None:
    with refuses(code, *named):
        HeadConfig.from_dict(fields)


def test_cross_attention_without_boxes_is_refused() -> None:
    head = random_head(VARIANTS[0])
    with refuses("missing-data", "mca", "make boxes"):
        head(torch.zeros(1, NUM_TOKENS, WIDTH), None)


# -- classifier -----------------------------------------------------------------------------------

CONFIG = ModelConfig(image_size=16, num_frames=4, patch_size=8, width=12, depth=1, num_heads=2)


def test_mean_head_classifier_by_hand() -> None:
    torch.manual_seed(0)
    model = VideoClassifier(
        VideoEncoder(CONFIG, final_norm=False), MeanHead(12), {"label": 5}, init_scale=1.0
    ).eval()
    clips = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        mean = model.encoder(clips).mean(dim=1)
        pooled = torch.nn.functional.layer_norm(mean, (12,), eps=1e-6)
        expected = pooled @ model.classifiers["label"].weight.T
        assert list(model(clips)) == ["label"]
        torch.testing.assert_close(model(clips)["label"], expected)


def test_one_classifier_for_each_kind_of_label() -> None:
    head = build_head(HeadConfig("mca"), 12)
    model = VideoClassifier(VideoEncoder(CONFIG, final_norm=False), head, {"verb": 7, "noun": 9})
    scores = model(torch.randn(2, 3, 4, 16, 16), torch.rand(2, CONFIG.num_tokens) < 0.5)
    assert {name: tuple(s.shape) for name, s in scores.items()} == {"verb": (2, 7), "noun": (2, 9)}
    counts = parameter_counts(model)
    assert list(counts) == ["encoder", "head", "classifiers", "total"]
    assert counts["classifiers"] == 13 * 16
    assert counts["total"] == sum(p.numel() for p in model.parameters())


def test_first_scores_are_nearly_even() -> None:
    model = VideoClassifier(VideoEncoder(CONFIG, final_norm=False), MeanHead(12), {"label": 100})
    assert model(torch.randn(2, 3, 4, 16, 16))["label"].abs().max() < 1e-3


def test_dropout_acts_in_training_only() -> None:
    model = VideoClassifier(
        VideoEncoder(CONFIG, final_norm=False), MeanHead(12), {"label": 5}, dropout=0.5
    )
    clips = torch.randn(1, 3, 4, 16, 16)
    torch.manual_seed(0)
    assert not torch.equal(model(clips)["label"], model(clips)["label"])
    model.eval()
    assert torch.equal(model(clips)["label"], model(clips)["label"])


@pytest.mark.parametrize("num_classes", [{}, {"label": 0}])
def test_a_classifier_without_classes_is_refused(num_classes: dict) -> None:
    with refuses("too-few-clips", num_classes):
        VideoClassifier(VideoEncoder(CONFIG, final_norm=False), MeanHead(12), num_classes)


def test_bfloat16() -> None:
    head = build_head(HeadConfig("mca"), 12)
    model = VideoClassifier(
        VideoEncoder(CONFIG, final_norm=False), head, {"label": 5}, init_scale=1.0
    ).eval()
    clips, inside = torch.randn(2, 3, 4, 16, 16), torch.rand(2, CONFIG.num_tokens) < 0.5
    with torch.no_grad():
        exact = model(clips, inside)["label"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(clips, inside)["label"]
        rounded = model.bfloat16()(clips, inside)["label"]
    for scores in (mixed, rounded):
        assert scores.dtype == torch.bfloat16
        torch.testing.assert_close(scores.float(), exact, rtol=0, atol=0.05)
