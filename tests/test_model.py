"""The video transformer: configuration, token order, masking, and a slow twin of the encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from train.network.autoencoder import (
    MaskedAutoencoder,
    ModelConfig,
    VideoEncoder,
    named_config,
    split_mask,
    split_tubelets,
    take_tokens,
)
from train.network.positions import position_table

TINY = ModelConfig(
    image_size=32,
    num_frames=4,
    patch_size=8,
    width=24,
    depth=2,
    num_heads=3,
    decoder_width=12,
    decoder_depth=1,
    decoder_heads=2,
)


def attending(attention: str, **fields: object) -> ModelConfig:
    """TINY with another attention and other given fields."""
    return ModelConfig.from_dict({**TINY.to_dict(), "attention": attention, **fields})


def tiny_clips(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def random_masks(batch: int, num_masked: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mask = np.zeros((batch, TINY.num_tokens), dtype=bool)
    for row in mask:
        row[rng.permutation(TINY.num_tokens)[:num_masked]] = True
    return torch.from_numpy(mask)


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    torch.manual_seed(0)
    return VideoEncoder(TINY, final_norm=True).eval()


@pytest.fixture(scope="module")
def autoencoder() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(TINY).eval()


# -- configuration --------------------------------------------------------------------------------


def test_sizes_have_the_published_parameter_counts() -> None:
    # Touvron et al. 2021, table 1 and Dosovitskiy et al. 2021, table 1: 22, 86 and 307 million.
    for name, millions in (("vit-s", 21.9), ("vit-b", 86.2), ("vit-l", 303.9)):
        with torch.device("meta"):
            model = VideoEncoder(named_config(name), final_norm=False)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_token_counts_of_videomae_and_of_the_mofo_text() -> None:
    assert named_config("vit-b").num_tokens == 1568
    assert named_config("vit-b", tubelet_size=8).num_tokens == 392


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"image_size": 30}, "out-of-range", ["image_size 30", "patch_size 16"]),
        ({"num_frames": 15}, "out-of-range", ["num_frames 15", "tubelet_size 2"]),
        ({"num_heads": 7}, "out-of-range", ["width 768", "num_heads 7"]),
        ({"decoder_heads": 5}, "out-of-range", ["decoder_width 384", "decoder_heads 5"]),
        ({"depth": 0}, "out-of-range", ["depth is 0", 1]),
        ({"depth": "12"}, "out-of-range", ["depth is '12'", 1]),
        ({"prediction_dim": -1}, "out-of-range", ["prediction_dim is -1", 1]),
        (
            {"positions": "learned"},
            "unknown-name",
            ["positions", "'learned'", "sincos-1d, sincos-3d"],
        ),
        ({"attention": "axial"}, "unknown-name", ["attention", "'axial'", "joint, divided"]),
        ({"decoder_output": "relu"}, "unknown-name", ["'relu'", "linear, tanh"]),
        ({"width": 15, "num_heads": 3}, "out-of-range", ["width is 15", 2]),
        ({"drop_path": 1.0}, "out-of-range", ["drop_path is 1.0"]),
        ({"layer_norm_eps": 0.0}, "out-of-range", ["layer_norm_eps is 0.0"]),
        ({"widht": 768}, "unknown-key", ["widht", "image_size"]),
    ],
)
def test_a_wrong_option_is_named(fields: dict, code: str, named: list) -> None:
    with refuses(code, *named):
        ModelConfig.from_dict(fields)


def test_an_unknown_size_is_refused() -> None:
    with refuses("unknown-name", "'vit-x'", "vit-s, vit-b, vit-l"):
        named_config("vit-x")


def test_configuration_survives_its_dictionary() -> None:
    config = named_config("vit-s", tubelet_size=8, positions="sincos-3d", prediction_dim=60)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert config.output_dim == 60


# -- positions ------------------------------------------------------------------------------------


def test_one_dimensional_table_by_hand() -> None:
    table = position_table("sincos-1d", 2, 3, 8)
    assert table.shape == (18, 8) and table.dtype == torch.float32
    for index in (0, 7, 17):
        for channel in range(8):
            angle = index / 10000 ** (2 * (channel // 2) / 8)
            value = np.cos(angle) if channel % 2 else np.sin(angle)
            assert table[index, channel].item() == pytest.approx(value, abs=1e-7)


def test_factorised_table_repeats_along_the_other_axes() -> None:
    table = position_table("sincos-3d", 3, 4, 32).reshape(3, 4, 4, 32)  # widths 12, 10, 10
    time, row, column = table.split([12, 10, 10], dim=-1)
    assert torch.equal(time, time[:, :1, :1].expand_as(time))
    assert torch.equal(row, row[:1, :, :1].expand_as(row))
    assert torch.equal(column, column[:1, :1].expand_as(column))
    assert torch.equal(row[0, :, 0], column[0, 0])
    assert len(torch.unique(table.reshape(-1, 32), dim=0)) == 48


# -- tokens ---------------------------------------------------------------------------------------


def test_tubelets_are_cut_t_major() -> None:
    clips = tiny_clips()
    tubelets = split_tubelets(clips, TINY)
    assert tubelets.shape == (2, 32, 3, 128)
    t, row, column = 1, 2, 3
    cut = clips[:, :, 2:4, 16:24, 24:32]
    assert torch.equal(tubelets[:, t * 16 + row * 4 + column], cut.flatten(2))


@given(st.integers(1, 4), st.integers(0, 32), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_split_mask_sorts_each_part(batch: int, num_masked: int, seed: int) -> None:
    mask = random_masks(batch, num_masked, seed)
    for given_count in (None, num_masked):
        visible, masked = split_mask(mask, given_count)
        for row in range(batch):
            assert visible[row].tolist() == torch.nonzero(~mask[row])[:, 0].tolist()
            assert masked[row].tolist() == torch.nonzero(mask[row])[:, 0].tolist()


def test_rows_that_differ_in_their_count_are_an_error_of_ours() -> None:
    mask = random_masks(2, 20, 0)
    mask[1, torch.nonzero(mask[1])[0]] = False
    with pytest.raises(AssertionError, match=r"\[20, 19\]"):
        split_mask(mask)


# -- encoder --------------------------------------------------------------------------------------


def slow_encoder(encoder: VideoEncoder, clip: torch.Tensor, keep: list[int]) -> torch.Tensor:
    """One clip [C, T, H, W], its tokens [len(keep), D], by convolution and single indexing."""
    proj = encoder.patch_embed.proj
    volume = F.conv3d(clip[None], proj.weight, proj.bias, stride=proj.stride)[0]  # D, t, row, col
    tokens = []
    for index in keep:
        t, rest = divmod(index, TINY.grid**2)
        row, column = divmod(rest, TINY.grid)
        tokens.append(volume[:, t, row, column] + encoder.positions[0, index])
    out = torch.stack(tokens)[None]
    for block in encoder.blocks:
        out = block(out)
    return encoder.norm(out)[0]


@given(st.integers(1, 3), st.integers(0, 31), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_encoder_sees_the_visible_tokens_only(batch: int, num_masked: int, seed: int) -> None:
    torch.manual_seed(0)
    encoder = VideoEncoder(TINY, final_norm=True).eval()
    mask, clips = random_masks(batch, num_masked, seed), tiny_clips(batch, seed % 1000)
    with torch.no_grad():
        tokens = encoder(clips, split_mask(mask)[0])
        for row in range(batch):
            keep = torch.nonzero(~mask[row])[:, 0].tolist()
            expected = slow_encoder(encoder, clips[row], keep)
            torch.testing.assert_close(tokens[row], expected, rtol=0, atol=2e-5)


def test_all_tokens_without_a_mask(encoder: VideoEncoder) -> None:
    clips = tiny_clips()
    with torch.no_grad():
        tokens = encoder(clips)
        expected = slow_encoder(encoder, clips[1], list(range(32)))
    torch.testing.assert_close(tokens[1], expected, rtol=0, atol=2e-5)


def test_hidden_pixels_change_nothing(autoencoder: MaskedAutoencoder) -> None:
    clips, mask = tiny_clips(), random_masks(2, 28, 1)
    tubelets = mask.reshape(2, 1, 2, 4, 4)
    pixels = tubelets.repeat_interleave(2, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    with torch.no_grad():
        assert torch.equal(autoencoder(clips, mask), autoencoder(clips + 9.0 * pixels, mask))
        assert not torch.equal(autoencoder(clips, mask), autoencoder(clips + 9.0 * ~pixels, mask))


def test_a_clip_of_the_wrong_shape_is_an_error_of_ours(encoder: VideoEncoder) -> None:
    with pytest.raises(AssertionError, match="expected"):
        encoder(torch.zeros(1, 3, 8, 32, 32))


# -- masked autoencoder ---------------------------------------------------------------------------


def test_predictions_follow_the_masked_positions(autoencoder: MaskedAutoencoder) -> None:
    clips, mask = tiny_clips(), random_masks(2, 28, 2)
    with torch.no_grad():
        predicted = autoencoder(clips, mask)
        assert predicted.shape == (2, 28, TINY.patch_dim)
        # the decoder by hand: each token where it belongs, in the order of the clip
        visible, masked = split_mask(mask)
        tokens = autoencoder.encoder_to_decoder(autoencoder.encoder(clips, visible))
        full = autoencoder.mask_token.expand(2, 32, -1).clone()
        for row in range(2):
            full[row, visible[row]] = tokens[row]
        full = full + autoencoder.decoder_positions
        for block in autoencoder.decoder.blocks:
            full = block(full)
        full = autoencoder.decoder.head(autoencoder.decoder.norm(full))
    torch.testing.assert_close(predicted, take_tokens(full, masked), rtol=0, atol=1e-5)


def test_the_decoder_predicts_other_targets_too() -> None:
    model = MaskedAutoencoder(ModelConfig.from_dict({**TINY.to_dict(), "prediction_dim": 60}))
    assert model(tiny_clips(), random_masks(2, 20, 0)).shape == (2, 20, 60)


@pytest.mark.parametrize("second", [None, 20])
def test_a_tanh_bounds_what_the_decoder_predicts(second: int | None) -> None:
    fields = {**TINY.to_dict(), "prediction_dim": 60, "second_prediction_dim": second}
    linear = MaskedAutoencoder(ModelConfig.from_dict(fields))
    bounded = MaskedAutoencoder(ModelConfig.from_dict({**fields, "decoder_output": "tanh"}))
    bounded.load_state_dict(linear.state_dict())
    clips, mask = tiny_clips(), random_masks(2, 20, 0)
    assert torch.equal(bounded(clips, mask), linear(clips, mask).tanh())


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_every_parameter_learns(attention: str) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(attending(attention))
    model(tiny_clips(), random_masks(2, 20, 0)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_activation_checkpointing_gives_the_same_gradients(attention: str) -> None:
    clips, mask = tiny_clips(), random_masks(2, 20, 0)
    gradients = []
    for checkpointing in (False, True):
        fields = {"activation_checkpointing": checkpointing, "drop_path": 0.3}
        torch.manual_seed(0)
        model = MaskedAutoencoder(attending(attention, **fields))
        torch.manual_seed(1)
        model(clips, mask).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_drop_path_grows_with_depth() -> None:
    config = ModelConfig.from_dict({**TINY.to_dict(), "depth": 3, "drop_path": 0.2})
    blocks = VideoEncoder(config, final_norm=False).blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_bfloat16_whole_and_by_autocast(autoencoder: MaskedAutoencoder) -> None:
    clips, mask = tiny_clips(), random_masks(2, 28, 0)
    with torch.no_grad():
        exact = autoencoder(clips, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = autoencoder(clips, mask)
        whole = MaskedAutoencoder(TINY).eval()
        whole.load_state_dict(autoencoder.state_dict())
        rounded = whole.bfloat16()(clips, mask)
    for out in (mixed, rounded):
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.1)


def test_the_state_holds_parameters_only(autoencoder: MaskedAutoencoder) -> None:
    assert set(autoencoder.state_dict()) == {name for name, _ in autoencoder.named_parameters()}
