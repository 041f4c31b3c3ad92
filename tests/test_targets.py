"""Pixel targets: against a slow loop, and back to pictures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.network.autoencoder import split_mask, split_tubelets
from train.network.model_config import ModelConfig
from train.objectives.pixels import (
    join_tubelets,
    masked_loss,
    masked_targets,
    mean_predictor_loss,
    normalised_pixels,
    pixels_from_prediction,
    standardise,
    unstandardise,
)


def small_config(tubelet_size: int = 2, patch_size: int = 4) -> ModelConfig:
    return ModelConfig(
        image_size=2 * patch_size,
        num_frames=2 * tubelet_size,
        patch_size=patch_size,
        tubelet_size=tubelet_size,
    )


def random_pixels(config: ModelConfig, seed: int, batch: int = 2) -> torch.Tensor:
    """8-bit pixels / 255: [B, 3, T, H, W]."""
    shape = (batch, 3, config.num_frames, config.image_size, config.image_size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator) / 255.0


def random_mask(config: ModelConfig, num_masked: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(2, config.num_tokens, generator=generator).argsort(dim=1)
    return order < num_masked


def slow_target(pixels: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """The definition, one tubelet, channel and pixel at a time; pixels of one clip, float64."""
    side, depth = config.patch_size, config.tubelet_size
    rows = []
    for t in range(0, config.num_frames, depth):
        for y in range(0, config.image_size, side):
            for x in range(0, config.image_size, side):
                numbers = []
                for frame in range(depth):
                    for dy in range(side):
                        for dx in range(side):
                            for channel in range(3):
                                cut = pixels[channel, t : t + depth, y : y + side, x : x + side]
                                value = pixels[channel, t + frame, y + dy, x + dx]
                                deviation = ((cut - cut.mean()) ** 2).sum() / (cut.numel() - 1)
                                numbers.append((value - cut.mean()) / (deviation.sqrt() + 1e-6))
                rows.append(torch.stack(numbers))
    return torch.stack(rows)


@given(st.sampled_from([1, 2, 3]), st.sampled_from([2, 3]), st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_targets_follow_their_definition(tubelet_size: int, patch_size: int, seed: int) -> None:
    config = small_config(tubelet_size, patch_size)
    pixels = random_pixels(config, seed, batch=1)
    target = normalised_pixels(standardise(pixels), config)
    assert target.dtype == torch.float32
    expected = slow_target(pixels[0].double(), config).float()
    torch.testing.assert_close(target[0], expected, rtol=0, atol=2e-5)


def test_an_even_tubelet_has_zeros_as_target() -> None:
    """Rounding of an even tubelet, of any 8-bit grey, is not blown up to contrast."""
    config = small_config()
    grey = torch.arange(256).view(256, 1, 1, 1, 1) / 255
    target = normalised_pixels(standardise(grey.expand(256, 3, 4, 8, 8)), config)
    assert target.abs().max() < 1e-3


def test_standardising_and_back() -> None:
    pixels = random_pixels(small_config(), 3)
    clips = standardise(pixels)
    assert torch.allclose(unstandardise(clips), pixels, atol=1e-6)
    assert clips[0, 1, 0, 0, 0] == pytest.approx((pixels[0, 1, 0, 0, 0].item() - 0.456) / 0.224)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_tubelets_join_to_the_clip_again(tubelet_size: int, patch_size: int, seed: int) -> None:
    config = small_config(tubelet_size, 2 * patch_size)
    clips = random_pixels(config, seed)
    assert torch.equal(join_tubelets(split_tubelets(clips, config), config), clips)


@given(st.integers(1, 8), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_perfect_prediction_restores_the_clip(num_masked: int, seed: int) -> None:
    config = small_config()
    pixels, mask = random_pixels(config, seed), random_mask(config, num_masked, seed)
    clips = standardise(pixels)
    target = masked_targets(normalised_pixels(clips, config), mask)
    assert target.shape == (2, num_masked, config.patch_dim)
    restored = pixels_from_prediction(target, clips, mask, config)
    torch.testing.assert_close(restored, pixels, rtol=0, atol=1e-5)


def test_only_masked_tubelets_are_predicted_and_colours_stay_in_range() -> None:
    config = small_config()
    pixels, mask = random_pixels(config, 5), random_mask(config, 6, 5)
    wild = torch.full((2, 6, config.patch_dim), 50.0)
    shown = split_tubelets(pixels_from_prediction(wild, standardise(pixels), mask, config), config)
    original = split_tubelets(pixels, config)
    torch.testing.assert_close(shown[~mask], original[~mask], rtol=0, atol=1e-5)
    assert (shown[mask] == 1.0).all()


def test_masked_targets_keep_position_order() -> None:
    config = small_config()
    target = torch.arange(8.0).view(1, 8, 1).expand(2, 8, 1)
    mask = random_mask(config, 5, 9)
    assert torch.equal(masked_targets(target, mask)[..., 0].long(), split_mask(mask)[1])


def test_loss_of_the_mean_predictor() -> None:
    config = small_config()
    target = normalised_pixels(standardise(random_pixels(config, 1)), config)
    expected = (32 - 1) / 32  # 2 x 4 x 4 pixels
    assert mean_predictor_loss(target).item() == pytest.approx(expected, abs=1e-4)
    assert masked_loss(torch.zeros_like(target), target).item() == pytest.approx(expected, abs=1e-4)


def test_loss_is_computed_in_float32() -> None:
    loss = masked_loss(torch.zeros(1, 1, 3, dtype=torch.bfloat16), torch.full((1, 1, 3), 1.001))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.001**2, rel=1e-6)
