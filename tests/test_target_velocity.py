"""Velocities as a target: against loops over tokens, points and frames, and in the model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from errors import refuses
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks, random_shown
from training_fixtures import TINY_RECIPE, losses, tiny_run

from shared.grid import View
from shared.layout import DatasetLayout
from shared.stored_tracks import read_tracks
from shared.tracks import Tracks
from train.clips.reader import ClipReader
from train.clips.table import read_clip_table
from train.clips.tracks import PlacedTracks
from train.clips.view_rules import dense
from train.network.autoencoder import MaskedAutoencoder, split_mask
from train.network.model_config import ModelConfig
from train.objectives.target import ClipCut, ShownView
from train.objectives.velocity import Velocity
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.pretrain import pretrain
from train.samples.datasets import PretrainDataset
from train.tables.typed import Choice

RECIPE = (
    TINY_RECIPE
    + """
[pretrain.velocity]
target = {kind = "velocity", points = 4, steps = 2, stabilised = false}
mask = {kind = "random", mask_ratio = 0.25}
flips = ["x", "y"]
"""
)
GRID = 3  # patches a side


def slow_target(shown: ShownView, target: Velocity, cut: ClipCut) -> tuple[np.ndarray, np.ndarray]:
    """Number by number."""
    side, steps = math.isqrt(target.points), target.num_steps(cut)
    x1, y1, x2, y2 = shown.view.crop
    frames_a_step = cut.model.tubelet_size // steps
    rows, found = [], []
    for tubelet in shown.frames.reshape(2, -1):
        for token in range(GRID**2):
            for point in range(target.points):
                for step in range(steps):
                    x = ((token % GRID) * side + point % side + 0.5) / (GRID * side)
                    y = ((token // GRID) * side + point // side + 0.5) / (GRID * side)
                    x = x1 + (1 - x if shown.view.flip_x else x) * (x2 - x1)
                    y = y1 + (1 - y if shown.view.flip_y else y) * (y2 - y1)
                    vectors = []
                    for frame in range(step * frames_a_step, (step + 1) * frames_a_step):
                        number = tubelet[frame]
                        if not (0 <= x < 60 and 0 <= y < 40):
                            continue
                        placed = shown.tracks(np.array([number]))
                        cell = int(y / 40 * 6) * 9 + int(x / 60 * 9)
                        if placed.tracks.num_steps[0, cell]:
                            vectors.append(placed.tracks.displacements[0, cell, 0])
                    mean = np.mean(vectors, axis=0) if vectors else np.zeros(2)
                    width = 2 * 12 / (x2 - x1) * (-1 if shown.view.flip_x else 1)
                    height = 2 * 12 / (y2 - y1) * (-1 if shown.view.flip_y else 1)
                    mean = mean * [width, height]
                    length = math.hypot(*mean)
                    soft = target.scale / (1 + length / target.softness)
                    rows.append([mean[0] * soft, mean[1] * soft, length * soft])
                    found.append(bool(vectors))
    shape = (2 * GRID**2, target.points, steps)
    return np.array(rows).reshape(shape[0], -1), np.array(found).reshape(shape)


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("points", "steps", "stride"), [(1, 1, 1), (4, 2, 1), (4, 4, 1), (1, 2, 2)]
)
def test_the_target_is_that_of_loops(flips, points, steps, stride):
    rng = np.random.default_rng(points + 10 * steps)
    view = View((-5.0, 4.0, 40.0, 37.0), (12, 12), *flips)  # beyond the frame on the left
    target = Velocity(points=points, steps=steps)
    model = ModelConfig(12, 8, 4, 4, width=6, num_heads=1, decoder_width=6, decoder_heads=1)
    cut = ClipCut(model, stride, Choice("centre", {}))
    shown = random_shown(view, rng, stride)
    made = target.of_view(shown, cut)
    wanted, counts = slow_target(shown, target, cut)
    assert made["target"].dtype == np.float32
    np.testing.assert_allclose(made["target"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made["counts"], counts)
    assert target.num_values(cut) == (made["target"].shape[1],)
    assert 0.2 < counts.mean() < 1.0


@pytest.mark.parametrize(("num_frames", "stride"), [(30, 3), (30, 1), (64, 4), (12, 1)])
def test_velocities_are_those_of_the_frames_that_are_shown(num_frames, stride):
    """A clip that speeds up: from frame f on, its picture moves 0.1 * f pixels to the right."""
    speeds = 0.1 * np.arange(num_frames)
    moves = np.zeros((num_frames, 1, 1, 2), np.float32)
    moves[:, 0, 0, 0] = speeds
    steps = np.ones((num_frames, 1), np.uint8)
    steps[-1] = 0
    whole = Tracks(moves, steps, np.zeros((num_frames, 1, 1, 0), np.float32))

    def tracks(firsts: np.ndarray) -> PlacedTracks:
        return PlacedTracks(whole.take(firsts), num_frames - 1 - firsts, (1, 1), (16, 16))

    model = ModelConfig(16, 16, 16, 4, width=6, num_heads=1, decoder_width=6, decoder_heads=1)
    cut = ClipCut(model, stride, Choice("centre", {}))
    frames = dense(num_frames, 16, np.full(16, 0.5), stride=stride)
    view = View((0.0, 0.0, 16.0, 16.0), (16, 16))
    shown = ShownView(frames, frames[::4], num_frames, view, (16, 16), tracks, lambda: np.zeros(0))
    # Softness so large that lengths are kept: values are pixels per frame.
    made = Velocity(points=1, steps=1, softness=1e6, scale=1.0).of_view(shown, cut)
    for tubelet, (x, y, length) in zip(frames.reshape(4, 4), made["target"], strict=True):
        known = [speeds[frame] for frame in tubelet if frame < num_frames - 1]
        assert x == length == pytest.approx(np.mean(known), rel=1e-4) and y == 0.0
    assert made["counts"].all()


def test_long_vectors_are_shortened_and_short_ones_kept():
    target = Velocity(softness=2.0, scale=1.0)
    for length, shortened in ((0.02, 0.0198), (2.0, 1.0), (200.0, 1.98)):
        soft = target.scale * length / (1 + length / target.softness)
        assert soft == pytest.approx(shortened, rel=1e-2)


def test_impossible_options_are_refused(squares, tmp_path):
    for options in ({"points": 3}, {"steps": 0}, {"softness": 0.0}, {"scale": -1.0}):
        with refuses("out-of-range", *options):
            Velocity(**options)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    tables = read_recipe("squares", recipe)
    with refuses("option-conflict", "flips", "'time'"):
        pretrain_config(tables, "velocity", {"flips": ["time"]})
    with refuses("out-of-range", "steps is 3", "4 frames"):
        pretrain_config(tables, "velocity", {"target": {"steps": 3}, "model": {"tubelet_size": 4}})


# ---------------------------------------------------------------------------------------------
# Visible tokens are predicted too
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    layout = write_moving_squares(tmp_path_factory.mktemp("squares"))
    add_tracks(layout, length=1, points=24, cell=0)
    return layout


def read_config(tmp_path):
    recipe = tmp_path / "velocity.toml"
    recipe.write_text(RECIPE)
    return pretrain_config(read_recipe("squares", recipe), "velocity")


def test_predictions_and_targets_are_of_the_same_tokens(squares, tmp_path):
    """A target that names its token, through the loader and through the model's order."""
    config = read_config(tmp_path)
    assert config.model.predict_visible and config.model.output_dim == 4 * 2 * 3
    table = read_clip_table(squares, ["train"], False, config.needed_motion)
    sample = PretrainDataset(table, config, LoaderConfig(), 0)[0, 0]
    tokens = config.model.num_tokens
    assert sample["target"].shape == (1, tokens, 24) and sample["counts"].shape == (1, tokens, 4, 2)
    mask = sample["mask"]
    order = torch.cat(split_mask(mask), dim=1)[0]
    # In the order of the model, the target of token i is that of a dataset whose mask is none.
    clip_target = config.target.of_view
    whole = {}

    def remember(self, shown, cut):
        whole.update(clip_target(shown, cut))
        return whole

    watched = type("Watched", (Velocity,), {"of_view": remember})(
        points=4, steps=2, stabilised=False
    )
    PretrainDataset(table, replace(config, target=watched), LoaderConfig(), 0)[0, 0]
    np.testing.assert_array_equal(sample["target"][0], whole["target"][order])


def test_the_model_predicts_visible_tokens_before_masked_ones(tmp_path):
    config = read_config(tmp_path).model
    torch.manual_seed(0)
    model = MaskedAutoencoder(config).eval()
    hides = MaskedAutoencoder(replace(config, predict_visible=False)).eval()
    hides.load_state_dict(model.state_dict())
    clips = torch.randn(2, 3, config.num_frames, config.image_size, config.image_size)
    mask = torch.zeros(2, config.num_tokens, dtype=torch.bool)
    mask[0, ::4], mask[1, 1::4] = True, True
    num_masked = int(mask[0].sum())
    every, masked = model(clips, mask), hides(clips, mask)
    assert every.shape[1] == config.num_tokens and masked.shape[1] == num_masked
    torch.testing.assert_close(every[:, -num_masked:], masked)


def test_what_is_not_known_has_no_weight_in_the_loss(squares, tmp_path):
    config = read_config(tmp_path)
    counts = torch.zeros(2, 5, 4, 2, dtype=torch.bool)
    counts[0, 1, 2, 0] = True
    batch = {"target": torch.ones(2, 5, 24), "counts": counts}
    target, weight = config.target.of_batch(batch, 2, config.cut)
    assert weight.shape == target.shape and weight.sum() == 3
    assert (weight[0, 1].reshape(4, 2, 3)[2, 0] == 1).all()


def test_pretraining_learns_what_moves(squares, tmp_path):
    common = tiny_run(squares.out, epochs=6, run="velocity")
    recipe = tmp_path / "velocity.toml"
    recipe.write_text(RECIPE)
    folder = pretrain(replace(common, recipe=recipe), "velocity")
    each = losses(folder.log)
    steps = sorted(each)
    assert np.mean([each[s] for s in steps[-3:]]) < 0.9 * np.mean([each[s] for s in steps[:3]])


# ---------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------


def test_cached_tracks_are_those_of_the_shard(squares, tmp_path):
    config = read_config(tmp_path)
    table = read_clip_table(squares, ["train"], False, config.needed_motion)
    cached, plain = ClipReader(table, 4, 10_000_000), ClipReader(table, 4)
    for index in range(3):
        for firsts in (np.array([0, 1, 2, 5]), np.array([3, 0]), np.arange(6)):
            one, other = (reader.tracks(index, firsts) for reader in (cached, plain))
            mine, theirs = one.tracks.whole(), other.tracks.whole()
            np.testing.assert_array_equal(mine.displacements, theirs.displacements)
            np.testing.assert_array_equal(mine.num_steps, theirs.num_steps)
            np.testing.assert_array_equal(one.left_steps, other.left_steps)
    assert len(cached._tracks_cache) == 3 and not plain._tracks_cache


def test_tracks_of_neighbours_are_those_of_each(squares, tmp_path):
    config = read_config(tmp_path)
    table = read_clip_table(squares, ["train"], False, config.needed_motion)
    reader = ClipReader(table, 4)
    shard, _ = reader._flows_of(0)
    frames = [5, 0, 1, 2, 2, 7]
    together = read_tracks(shard, frames)
    for place, frame in enumerate(frames):
        alone = read_tracks(shard, [frame])
        np.testing.assert_array_equal(together.displacements[place], alone.displacements[0])
        np.testing.assert_array_equal(together.num_steps[place], alone.num_steps[0])
