"""Frame differences as a second target: against loops, and through a second decoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from errors import refuses
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE, tiny_run

from shared.layout import DatasetLayout
from train.network.autoencoder import MaskedAutoencoder
from train.network.model_config import ModelConfig
from train.objectives.differences import QUIET, PixelsAndDifferences
from train.objectives.pixels import normalised_pixels, pixels_from_prediction, standardise
from train.objectives.target import ClipCut
from train.options.recipe import pretrain_config, read_recipe
from train.pretrain import pretrain
from train.running.run_folder import RunFolder
from train.tables.typed import Choice

MODEL = ModelConfig(12, 8, 4, 2, width=6, num_heads=1, decoder_width=6, decoder_heads=1)
CUT = ClipCut(MODEL, 1, Choice("centre", {}))
RECIPE = (
    TINY_RECIPE
    + """
[pretrain.motion_mae]
target = {kind = "pixels_and_differences"}
mask = {kind = "tube", mask_ratio = 0.5}
"""
)


def slow_differences(pixels: np.ndarray, target: PixelsAndDifferences) -> np.ndarray:
    """Of one clip [3, T, H, W] in 0..1, number by number."""
    _, num_frames, height, width = pixels.shape
    moved = np.zeros_like(pixels)
    for frame in range(num_frames):
        earlier = frame - target.gap
        for channel, y, x in np.ndindex(3, height, width):
            if earlier >= 0:
                pair = pixels[channel, frame, y, x], pixels[channel, earlier, y, x]
            else:
                pair = pixels[channel, frame + target.gap, y, x], pixels[channel, frame, y, x]
            moved[channel, frame, y, x] = pair[0] - pair[1]
    rows = []
    for t, row, column in np.ndindex(MODEL.time_steps, MODEL.grid, MODEL.grid):
        of_channels = []
        for channel in range(3):
            values = [
                moved[channel, 2 * t + frame, 4 * row + y, 4 * column + x]
                for frame, y, x in np.ndindex(2, 4, 4)
            ]
            largest = np.sqrt(np.mean(np.square(values if target.scale == "patch" else moved)))
            divisor = 1.0 if target.scale == "none" else largest + QUIET
            of_channels.append([value / divisor for value in values])
        rows.append(np.array(of_channels).T.ravel())  # the channels of a pixel side by side
    return np.array(rows)


@pytest.mark.parametrize("scale", ["clip", "patch", "none"])
@pytest.mark.parametrize("gap", [1, 3, 4])
def test_differences_are_those_of_loops(scale, gap):
    pixels = torch.rand(2, 3, 8, 12, 12, generator=torch.manual_seed(gap), dtype=torch.float64)
    pixels[1, :, :, :4] *= 0.1
    target = PixelsAndDifferences(gap=gap, scale=scale)
    made = target.of_clips(standardise(pixels).float(), MODEL)
    assert made.dtype == torch.float32
    assert made.shape == (2, MODEL.num_tokens, 2 * MODEL.patch_dim)
    found = made[..., MODEL.patch_dim :]
    for clip in range(2):
        wanted = slow_differences(pixels[clip].numpy(), target)
        np.testing.assert_allclose(found[clip], wanted, atol=2e-5)
    same = normalised_pixels(standardise(pixels).float(), MODEL)
    assert torch.equal(made[..., : MODEL.patch_dim], same)


def test_still_clips_have_no_difference_and_noise_stays_small():
    still = torch.rand(1, 3, 1, 12, 12).expand(1, 3, 8, 12, 12)
    target = PixelsAndDifferences()
    assert not target.differences(standardise(still), MODEL).any()
    noisy = still + 1e-4 * torch.randn(1, 3, 8, 12, 12)
    assert target.differences(standardise(noisy), MODEL).abs().max() < 0.1


def test_weights_divide_the_loss_between_both():
    batch = {
        "clips": torch.randn(1, 3, 8, 12, 12),
        "mask": torch.arange(MODEL.num_tokens)[None] % 2 == 0,
    }
    num_masked = int(batch["mask"].sum())
    target, weight = PixelsAndDifferences().of_batch(batch, num_masked, CUT)
    assert weight is None and target.shape == (1, num_masked, 2 * MODEL.patch_dim)
    _, weight = PixelsAndDifferences(weight=3.0).of_batch(batch, num_masked, CUT)
    pixels, moved = weight.split(MODEL.patch_dim, dim=2)
    assert (moved == 3 * pixels).all() and weight.mean() == 1.0


def test_impossible_options_are_refused():
    for options in ({"gap": 0}, {"decoders": 3}, {"weight": 0.0}):
        with refuses("out-of-range", *options):
            PixelsAndDifferences(**options)
    with refuses("unknown-name", "scale", "frame", "clip, patch, none"):
        PixelsAndDifferences(scale="frame")
    with refuses("out-of-range", "gap is 5", 4):
        PixelsAndDifferences(gap=5).check(CUT, ())
    PixelsAndDifferences(gap=4).check(CUT, ("time",))


# ---------------------------------------------------------------------------------------------
# In the model and in a run
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    layout = write_moving_squares(tmp_path_factory.mktemp("squares"), num_clips=20)
    (layout.out / "differences.toml").write_text(RECIPE)
    return layout


def test_each_target_has_a_decoder_or_both_share_one(squares):
    tables = read_recipe("squares", squares.out / "differences.toml")
    two = pretrain_config(tables, "motion_mae").model
    assert two.prediction_dim == 2 * two.patch_dim == 2 * two.second_prediction_dim
    model = MaskedAutoencoder(two)
    assert model.second_decoder.head.out_features == model.decoder.head.out_features
    one = pretrain_config(tables, "motion_mae", {"target": {"decoders": 1}}).model
    assert MaskedAutoencoder(one).second_decoder is None and one.output_dim == two.output_dim


def test_pictures_show_the_pixels_of_the_prediction():
    clips = torch.randn(1, 3, 8, 12, 12)
    mask = torch.arange(MODEL.num_tokens)[None] % 2 == 0
    predicted = torch.randn(1, int(mask.sum()), 2 * MODEL.patch_dim)
    both = pixels_from_prediction(predicted, clips, mask, MODEL)
    alone = pixels_from_prediction(predicted[..., : MODEL.patch_dim], clips, mask, MODEL)
    assert torch.equal(both, alone)


def test_a_run_predicts_both_and_saves_pictures(squares):
    common = tiny_run(squares.out, "decoder_mask=random", run="differences", epochs=1)
    common = replace(common, recipe=squares.out / "differences.toml")
    folder = RunFolder(pretrain(common, "motion_mae").path)
    assert folder.is_finished and list(folder.snapshots.glob("step-*.png"))
