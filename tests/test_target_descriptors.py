"""Motion descriptors as a target: against loops over tokens, cells and frames, and in training."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from errors import refuses
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks, random_shown
from training_fixtures import DESCRIPTORS_RECIPE, losses, tiny_run

from shared.grid import View
from shared.layout import DatasetLayout
from shared.tracks import Tracks
from train.clips.table import read_clip_table
from train.clips.tracks import PlacedTracks
from train.network.model_config import ModelConfig
from train.objectives.descriptors import HOF_BINS, MBH_BINS, Descriptors
from train.objectives.target import ClipCut, ShownView
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.pretrain import pretrain
from train.samples.datasets import PretrainDataset
from train.tables.typed import Choice

PATCHES = 3  # patches a side
FRAMES = 6  # of the clip of random tracks
MODEL = ModelConfig(12, 8, 4, 4, width=6, num_heads=1, decoder_width=6, decoder_heads=1)


def votes_of(vector: tuple[float, float]) -> np.ndarray:
    """The length of one vector, divided between the two nearest of 8 directions."""
    found = np.zeros(8)
    turn = (math.atan2(vector[1], vector[0]) / (math.pi / 4)) % 8
    share = turn - math.floor(turn)
    found[int(turn) % 8] += math.hypot(*vector) * (1 - share)
    found[(int(turn) + 1) % 8] += math.hypot(*vector) * share
    return found


def slow_field(shown: ShownView, frame: int, x: float, y: float) -> tuple[list, list]:
    """Flow at a place of the source, in pixels of the view, and its change; empty if unknown."""
    if not (0 <= x < 60 and 0 <= y < 40):
        return [], []
    (x1, y1, x2, y2), (height, width) = shown.view.crop, shown.view.size
    signs = [-1 if flip else 1 for flip in (shown.view.flip_x, shown.view.flip_y)]
    scale = [2 * width / (x2 - x1) * signs[0], 2 * height / (y2 - y1) * signs[1]]
    tracks = shown.tracks(np.array([frame])).tracks
    moves, steps = tracks.displacements[0, :, 0], tracks.num_steps[0]
    row, column = int(y / 40 * 6), int(x / 60 * 9)

    def at(r: int, c: int) -> np.ndarray:
        return moves[min(max(r, 0), 5) * 9 + min(max(c, 0), 8)]

    def is_known(r: int, c: int) -> bool:
        return bool(steps[min(max(r, 0), 5) * 9 + min(max(c, 0), 8)])

    if not is_known(row, column):
        return [], []
    flow = list(at(row, column) * scale)
    around = [(row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)]
    if not all(is_known(*place) for place in around):
        return flow, []
    changes = []
    for component in (0, 1):
        for axis, (before, after, spacing) in enumerate(
            [((row, column - 1), (row, column + 1), 30 / 9),
             ((row - 1, column), (row + 1, column), 20 / 6)]
        ):  # fmt: skip
            places = [
                min(max(each[1 - axis], 0), 8 if axis == 0 else 5) for each in (before, after)
            ]
            change = (at(*after)[component] - at(*before)[component]) / (places[1] - places[0])
            changes.append(change / spacing * scale[component] / scale[axis])
    return flow, changes


def slow_target(
    shown: ShownView, target: Descriptors, cut: ClipCut
) -> tuple[np.ndarray, np.ndarray]:
    """Token by token, histogram by histogram."""
    side, steps, cells = math.isqrt(target.points), target.num_steps(cut), target.cells
    x1, y1, x2, y2 = shown.view.crop
    length, all_frames = cut.model.tubelet_size // steps, shown.frames.tolist()
    starts = [*all_frames[::length], min(2 * all_frames[-1] - all_frames[-2], FRAMES)]
    values, found = [], []
    for tubelet in range(2):
        for token in range(PATCHES**2):
            hof = np.zeros((cells**2, steps, HOF_BINS))
            mbh = np.zeros((cells**2, steps, MBH_BINS))
            in_hof, in_mbh = (np.zeros((cells**2, steps)) for _ in range(2))
            for point, step in itertools.product(range(target.points), range(steps)):
                row, column = divmod(point, side)
                cell = row // (side // cells) * cells + column // (side // cells)
                x = ((token % PATCHES) * side + column + 0.5) / (PATCHES * side)
                y = ((token // PATCHES) * side + row + 0.5) / (PATCHES * side)
                x = x1 + (1 - x if shown.view.flip_x else x) * (x2 - x1)
                y = y1 + (1 - y if shown.view.flip_y else y) * (y2 - y1)
                begin, end = starts[tubelet * steps + step], starts[tubelet * steps + step + 1]
                for frame in range(begin, max(end, begin + 1)):
                    flow, changes = slow_field(shown, frame, x, y)
                    if flow:
                        in_hof[cell, step] += 1
                        if math.hypot(*flow) < target.still:
                            hof[cell, step, 8] += 1
                        else:
                            hof[cell, step, :8] += votes_of(flow)
                    if changes:
                        u_x, u_y, v_x, v_y = changes
                        in_mbh[cell, step] += 1
                        both = votes_of((u_x, u_y)), votes_of((v_x, v_y))
                        mbh[cell, step] += np.concatenate(both)
            hof /= np.maximum(in_hof, 1)[..., None]
            mbh /= np.maximum(in_mbh, 1)[..., None]
            number, change_number = (max((each > 0).sum(), 1) for each in (in_hof, in_mbh))
            hof = np.sqrt(hof / max(hof.sum(), 1e-6) * number * HOF_BINS)
            hof[..., 8] -= math.sqrt(HOF_BINS) * (in_hof > 0)
            total = mbh.sum() + target.quiet * change_number
            mbh = np.sqrt(mbh / total * change_number * MBH_BINS)
            values.append(np.concatenate([hof.ravel(), mbh.ravel()]))
            known = [np.repeat((each > 0).ravel(), bins)
                     for each, bins in ((in_hof, HOF_BINS), (in_mbh, MBH_BINS))]  # fmt: skip
            found.append(np.concatenate(known))
    return np.array(values), np.array(found)


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("points", "cells", "steps", "stride"),
    [(1, 1, 1, 1), (4, 2, 2, 1), (16, 2, 4, 2), (9, 3, 2, 2)],
)
def test_the_target_is_that_of_loops(flips, points, cells, steps, stride):
    rng = np.random.default_rng(points + 10 * steps)
    view = View((-5.0, 4.0, 40.0, 37.0), (12, 12), *flips)  # beyond the frame on the left
    target = Descriptors(points=points, cells=cells, steps=steps, still=1.0)
    cut = ClipCut(MODEL, stride, Choice("centre", {}))
    shown = random_shown(view, rng, stride)
    made = target.of_view(shown, cut)
    wanted, counts = slow_target(shown, target, cut)
    assert made["target"].dtype == np.float32
    np.testing.assert_array_equal(made["counts"], counts)
    np.testing.assert_allclose(made["target"], wanted, rtol=2e-4, atol=2e-4)
    assert 0.2 < counts.mean() < 1.0
    shape = 8 * cells**2 * steps
    assert target.num_values(cut) == (made["target"].shape[1] + shape,)


def shown_field(
    moves: np.ndarray, num_frames: int = 9, crop: tuple[float, ...] = (0.0, 0.0, 48.0, 48.0)
) -> ShownView:
    """8 frames of a clip of 48 x 48 pixels, all with this flow [24, 24, 2]."""
    steps = np.ones((num_frames, 24 * 24), np.uint8)
    steps[-1] = 0
    each = np.tile(moves.reshape(1, -1, 1, 2).astype(np.float32), (num_frames, 1, 1, 1))
    whole = Tracks(each, steps, np.zeros((num_frames, 24 * 24, 1, 0), np.float32))

    def tracks(firsts: np.ndarray) -> PlacedTracks:
        return PlacedTracks(whole.take(firsts), num_frames - 1 - firsts, (24, 24), (48, 48))

    frames, view = np.arange(8), View(crop, (12, 12))
    return ShownView(frames, frames[::4], num_frames, view, (48, 48), tracks, lambda: np.zeros(0))


def parts_of(moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HOF [N, C, S, 9] and MBH [N, C, S, 16] of a flow in pixels of the frame."""
    target = Descriptors(steps=2)
    made = target.of_view(shown_field(moves), ClipCut(MODEL, 1, Choice("centre", {})))["target"]
    sizes = (4, 2, HOF_BINS), (4, 2, MBH_BINS)
    border = math.prod(sizes[0])
    return made[:, :border].reshape(-1, *sizes[0]), made[:, border:].reshape(-1, *sizes[1])


def test_rest_is_zero():
    hof, mbh = parts_of(np.zeros((24, 24, 2)))
    assert np.abs(hof).max() < 1e-6 and not mbh.any()


@pytest.mark.parametrize(
    ("num_frames", "crop"),
    [(8, (0.0, 0.0, 48.0, 48.0)), (9, (-11.0, -7.0, 30.0, 34.0))],
    ids=["the last frame has no flow", "beyond the frame"],
)
def test_rest_is_zero_where_only_a_part_of_a_token_is_known(num_frames, crop):
    shown = shown_field(np.zeros((24, 24, 2)), num_frames, crop)
    made = Descriptors(steps=4).of_view(shown, ClipCut(MODEL, 1, Choice("centre", {})))
    known = made["counts"].mean(axis=1)
    assert ((known > 0) & (known < 1)).any()
    assert np.abs(made["target"]).max() < 1e-5


def test_shuffled_frames_are_refused(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(DESCRIPTORS_RECIPE)
    with refuses("option-conflict", "shuffle_frames"):
        pretrain_config(read_recipe("squares", recipe), "descriptors", {"shuffle_frames": True})


def test_a_motion_that_all_points_share_has_no_boundary():
    hof, mbh = parts_of(np.tile([8.0, 0.0], (24, 24, 1)))
    assert not mbh.any()
    assert hof[..., 0] == pytest.approx(3.0) and hof[..., 8] == pytest.approx(-3.0)  # root of 9
    assert np.abs(hof[..., 1:8]).max() < 1e-6


def test_descriptors_say_the_kind_of_motion_and_not_its_strength():
    rng = np.random.default_rng(0)
    moves = rng.normal(0, 1, (24, 24, 2)) + 20
    hof, mbh = parts_of(moves)
    stronger, changes = parts_of(3 * moves)
    np.testing.assert_allclose(stronger, hof, atol=1e-3)
    np.testing.assert_allclose(changes, mbh, atol=0.1)
    weak = parts_of(1e-5 * moves)[1]
    assert np.abs(weak).max() < 0.2 * np.abs(mbh).max()  # noise of flow is not blown up


def test_impossible_options_are_refused(tmp_path):
    for options in (
        {"points": 3}, {"points": 0}, {"cells": 3}, {"cells": 0}, {"steps": 0}, {"still": 0.0},
        {"quiet": -1.0}, {"shape_share": 1.0},
    ):  # fmt: skip
        with refuses("out-of-range", *options):
            Descriptors(**options)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(DESCRIPTORS_RECIPE)
    tables = read_recipe("squares", recipe)
    with refuses("option-conflict", "flips", "'time'"):
        pretrain_config(tables, "descriptors", {"flips": ["time"]})
    with refuses("out-of-range", "steps is 3", "4 frames"):
        changes = {"target": {"steps": 3}, "model": {"tubelet_size": 4}}
        pretrain_config(tables, "descriptors", changes)


# --------------------------------------------------------------------------------------------------
# In training


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    layout = write_moving_squares(tmp_path_factory.mktemp("squares"))
    add_tracks(layout, length=1, points=24, cell=0)
    return layout


def test_hog_is_a_quarter_of_the_loss_and_what_is_not_known_has_no_weight(squares, tmp_path):
    recipe = tmp_path / "descriptors.toml"
    recipe.write_text(DESCRIPTORS_RECIPE)
    config = pretrain_config(read_recipe("squares", recipe), "descriptors")
    table = read_clip_table(squares, ["train"], False, config.needed_motion)
    sample = PretrainDataset(table, config, LoaderConfig(), 0)[0, 0]
    motion, shape = 4 * 2 * 25, 4 * 2 * 8
    assert sample["target"].shape == (1, config.model.num_tokens, motion)
    assert config.model.output_dim == motion + shape
    side, frames = config.model.image_size, config.model.num_frames
    batch = {
        "target": torch.ones(2, 5, motion), "token": torch.arange(5).repeat(2, 1),
        "counts": torch.ones(2, 5, motion, dtype=torch.bool),
        "clips": torch.randn(2, 3, frames, side, side),
    }  # fmt: skip
    target, weight = config.target.of_batch(batch, 5, config.cut)
    assert target.shape == weight.shape == (2, 5, motion + shape)
    assert float(weight.mean()) == pytest.approx(1.0)
    assert float(weight[..., motion:].sum() / weight.sum()) == pytest.approx(0.25)
    batch["counts"][0, 0, 0] = False
    assert float(config.target.of_batch(batch, 5, config.cut)[1][0, 0, 0]) == 0.0
    without = replace(config.target, shape=False)
    target, weight = without.of_batch(batch, 5, config.cut)
    assert target.shape == (2, 5, motion) and without.num_values(config.cut) == (motion,)


def test_pretraining_learns_what_moves(squares, tmp_path):
    common = tiny_run(squares.out, epochs=6, run="descriptors")
    recipe = tmp_path / "descriptors.toml"
    recipe.write_text(DESCRIPTORS_RECIPE)
    folder = pretrain(replace(common, recipe=recipe), "descriptors")
    each = losses(folder.log)
    steps = sorted(each)
    assert np.mean([each[s] for s in steps[-3:]]) < 0.9 * np.mean([each[s] for s in steps[:3]])
