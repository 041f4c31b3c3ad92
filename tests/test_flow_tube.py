"""The mask that follows the flow: exact counts, motion that is known, and stored tracks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks, random_tracks
from training_fixtures import TINY_RECIPE, tiny_run

from preprocess.drawing.masks import flow_of_steps
from shared.flow_tube import FINE, base_places, fine_points
from shared.grid import View
from shared.layout import DatasetLayout
from shared.masks import MASKS, Scene
from shared.randomness import counter_generator
from shared.tracks import Tracks
from train.clips.followed import flow_between_steps
from train.clips.reader import ClipReader
from train.clips.table import read_clip_table
from train.clips.tracks import PlacedTracks
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.pretrain import pretrain
from train.samples.datasets import PretrainDataset
from train.samples.views import StoredClip

T, G = 8, 14


def scene_of(flow: np.ndarray) -> Scene:
    grid = (flow.shape[1] // FINE, flow.shape[2] // FINE)
    return Scene(len(flow) + 1, np.zeros(grid, np.bool_), flow=flow.astype(np.float32))


def steady(x: float, y: float, steps: int = T, grid: int = G) -> np.ndarray:
    """The same flow everywhere, in positions a time step."""
    return np.broadcast_to([x, y], (steps - 1, grid * FINE, grid * FINE, 2))


def draw(flow: np.ndarray, *key: int, mask_ratio: float = 0.9, **options) -> np.ndarray:
    """bool [T', R, Q]"""
    scene = scene_of(flow)
    mask = MASKS["flow_tube"].draw(scene, counter_generator(*key), mask_ratio=mask_ratio, **options)
    assert mask.dtype == np.bool_ and mask.shape == (scene.time_steps * scene.inside.size,)
    return mask.reshape(scene.time_steps, *scene.grid)


# ---------------------------------------------------------------------------------------------
# The mask
# ---------------------------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(2, 9)),
    ratio=st.floats(0.05, 0.95),
    speed=st.floats(0.0, 6.0),
    seed=st.integers(0, 1 << 20),
    base=st.sampled_from(["middle", "first", "random"]),
)
@settings(max_examples=60, deadline=None)
def test_counts_are_exact_at_every_time_step(size, ratio, speed, seed, base):
    steps, rows, columns = size
    rng = np.random.default_rng(seed)
    flow = rng.normal(0, speed, (steps - 1, rows * FINE, columns * FINE, 2))
    flow[rng.random(flow.shape[:3]) < 0.2] = np.nan
    mask = draw(flow, seed, mask_ratio=ratio, base=base)
    expected = int(np.floor(ratio * rows * columns + 0.5))
    assert (mask.sum(axis=(1, 2)) == expected).all()
    assert np.array_equal(mask, draw(flow, seed, mask_ratio=ratio, base=base))


def test_without_motion_it_is_a_tube_at_random_positions():
    counts = np.zeros((6, 6))
    for number in range(300):
        mask = draw(steady(0.0, 0.0, steps=2, grid=6), number)
        assert (mask == mask[0]).all()
        counts += ~mask[0]
    assert counts.sum() == 300 * 4
    assert (np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()


@pytest.mark.parametrize("base", ["middle", "first"])
@pytest.mark.parametrize(("x", "y"), [(1, 0), (-1, 0), (0, 1), (1, -1)])
def test_visible_positions_move_with_the_picture(base, x, y):
    """By whole positions, so that all that is inside at both times must be the same."""
    first = {"middle": T // 2, "first": 0}[base]
    for number in range(3):
        visible = ~draw(steady(x, y), number, base=base)
        for step in range(T):
            moved = (step - first) * np.array([y, x])
            # Positions of the base that are still inside at this step.
            kept = [
                (row, column)
                for row, column in np.argwhere(visible[first])
                if (0 <= row + moved[0] < G) and (0 <= column + moved[1] < G)
            ]
            # What comes in from outside never takes the place of one of them.
            assert all(visible[step, row + moved[0], column + moved[1]] for row, column in kept)


def test_a_part_that_moves_takes_its_visible_positions_along():
    """The left half goes down by half a position a step, the right half rests."""
    flow = np.zeros((3, G * FINE, G * FINE, 2))
    flow[:, :, : 7 * FINE, 1] = 0.5
    for number in range(10):
        visible = ~draw(flow, number, base="first")
        assert (visible[2, 1:, :6] != visible[0, :-1, :6]).mean() < 0.05
        assert (visible[:, :, 8:] != visible[0, :, 8:]).mean() < 0.02


def test_places_are_those_of_loops():
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 0.5, (2, 9, 9, 2))
    flow[rng.random(flow.shape[:3]) < 0.1] = np.nan
    places = base_places(flow, 2)  # the last step: all others follow their own flow
    own = fine_points((9, 9))
    for step in (0, 1):
        for row, column in np.ndindex(9, 9):
            place, at = own[row, column].copy(), (row, column)
            offset = np.zeros(2)
            for later in range(step, 2):
                end = own[at] + flow[(later, *at)]
                cell = np.floor(end * FINE)
                if np.isnan(end).any() or (cell < 0).any() or (cell >= 9).any():
                    place = own[at] + offset  # no correspondence: its own place there
                    break
                at = int(cell[1]), int(cell[0])
                offset = offset + end - own[at]
                place = own[at] + offset
            np.testing.assert_allclose(places[step][0][row, column], place, atol=1e-9)
    assert np.array_equal(places[2][0], own) and places[2][1].all()


def test_what_moves_further_is_in_front():
    flow = np.zeros((1, 3, 9, 2))
    flow[0, 1, 0, 0] = 4 / FINE  # arrives at column 4, where a point rests
    places, held = base_places(flow, 0)[1]
    assert held.sum() == 26 and not held[1, 0]
    np.testing.assert_allclose(places[1, 4], fine_points((3, 9))[1, 0])
    np.testing.assert_allclose(places[1, 3], fine_points((3, 9))[1, 3])


def test_impossible_options_are_refused():
    with refuses("unknown-name", "base", "last", "middle"):
        draw(steady(0, 0), 0, base="last")
    with refuses("out-of-range", "spread", 0.0):
        draw(steady(0, 0), 0, spread=0.0)
    with refuses("out-of-range", "mask_ratio", 1.0):
        draw(steady(0, 0), 0, mask_ratio=1.0)


# ---------------------------------------------------------------------------------------------
# The flow, from tracks and from dense flow
# ---------------------------------------------------------------------------------------------

SOURCE, TRACKED, POINTS = (60, 40), (30, 20), (4, 6)  # source px, tracked px, rows and columns
VIEWS = [View((6.0, 2.0, 42.0, 38.0), (32, 32), x, y) for x in (False, True) for y in (False, True)]


def slow_flow(tracks: Tracks, firsts: list[int], view: View) -> np.ndarray:
    """Point by point and frame by frame, in pixels of the view."""
    length = tracks.displacements.shape[2]
    x1, y1, x2, y2 = view.crop
    found = np.full((len(firsts) - 1, 2 * FINE, 2 * FINE, 2), np.nan)
    for step, row, column in np.ndindex(found.shape[:3]):
        start = (np.array([column, row]) + 0.5) / (2 * FINE)
        share = np.where([view.flip_x, view.flip_y], 1 - start, start)
        place = np.array([x1, y1]) + share * [x2 - x1, y2 - y1]
        begun, frame = place.copy(), firsts[step]
        while frame < firsts[step + 1] and not np.isnan(place).any():
            hop = min(length, firsts[step + 1] - frame)
            inside = (place >= 0).all() and (place < SOURCE).all()
            cell = np.floor(place / SOURCE * [6, 4]).astype(int)
            point = cell[1] * 6 + cell[0] if inside else 0
            if inside and tracks.num_steps[frame, point] >= hop:
                place = place + 2 * tracks.displacements[frame, point, :hop].sum(axis=0)
            else:
                place = np.full(2, np.nan)
            frame += hop
        moved = (place - begun) / [(x2 - x1) / 2, (y2 - y1) / 2]
        found[step, row, column] = moved * np.where([view.flip_x, view.flip_y], -1, 1)
    return found


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("length", [1, 3])
def test_chained_tracks_are_those_of_loops(view, length):
    whole, firsts = random_tracks(length), [0, 4, 4, 9, 11]

    def tracks(frames: np.ndarray) -> PlacedTracks:
        return PlacedTracks(whole.take(frames), 11 - frames, POINTS, TRACKED)

    found = flow_between_steps(tracks, np.array(firsts), view, SOURCE, (2, 2))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_flow(whole, firsts, view), atol=1e-5)
    assert not found[1].any()  # twice the same frame
    assert 0.1 < np.isfinite(found).mean() < 1.0


def test_dense_flow_is_added_up_frame_by_frame():
    flow = np.zeros((8, 2, 20, 30), np.float32)
    flow[:, 0], flow[:, 1] = 0.5, -0.25  # pixels of the flow's size a frame
    found = flow_of_steps(flow, 4, 4, (0.0, 0.0, 40.0, 40.0), SOURCE, (2, 2))
    middle = found[:2, 2:5, :5]
    np.testing.assert_allclose(middle[0], np.broadcast_to([0.2, -0.1], middle[0].shape), atol=1e-6)
    np.testing.assert_array_equal(middle[0], middle[1])
    assert not found[2].any()  # after the end of the video


# ---------------------------------------------------------------------------------------------
# Stored clips and runs
# ---------------------------------------------------------------------------------------------

RECIPE = (
    TINY_RECIPE
    + """
[pretrain.mgmae]
mask = {kind = "flow_tube", mask_ratio = 0.5, stabilised = false}

[pretrain.both]
target = {kind = "velocity", stabilised = true}
mask = {kind = "flow_tube", mask_ratio = 0.5, stabilised = false}
"""
)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    layout = write_moving_squares(tmp_path_factory.mktemp("squares"), num_clips=20)
    add_tracks(layout, length=2)
    (layout.out / "flow.toml").write_text(RECIPE)
    return layout


def config_of(squares: DatasetLayout, method: str = "mgmae", **changes):
    return pretrain_config(read_recipe("squares", squares.out / "flow.toml"), method, changes)


def test_stored_clips_move_as_their_square_does(squares):
    config = config_of(squares, flips=[], model={"image_size": 64})
    table = read_clip_table(squares, ["train"], True, config.needed_motion)
    reader = ClipReader(table, 4)
    rng, moving = np.random.default_rng(0), 0
    for index in range(5):
        clip = StoredClip(table, index, reader, config.model)
        view, _ = clip.random_view(replace(config, flips=("x",)), rng)
        found = clip.flow(view)
        assert found.shape == (1, 4 * FINE, 4 * FINE, 2)
        boxes = clip.source_view(view).apply(reader.boxes(index, view.frames[[0, 2]]))
        if np.isnan(boxes).any() or (boxes <= 0).any() or (boxes >= 64).any():
            continue  # the square is cut by the crop
        expected = (boxes[1, :2] - boxes[0, :2]) / 16
        known = np.isfinite(found).all(axis=-1)[0]
        moves = found[0][known & (np.abs(found[0]) > 1e-6).any(axis=-1)]
        np.testing.assert_allclose(np.median(moves, axis=0), expected, atol=0.15)
        moving += 1
    assert moving


def test_a_run_follows_the_flow(squares):
    config = config_of(squares)
    assert config.needed_motion.track_length == 1 and config.needed_motion.stabilised is False
    table = read_clip_table(squares, ["train"], False, config.needed_motion)
    sample = PretrainDataset(table, config, LoaderConfig(), 0)[0, 0]
    assert sample["mask"].sum() == 4
    common = replace(tiny_run(squares.out, run="flow", epochs=1), recipe=squares.out / "flow.toml")
    assert pretrain(common, "mgmae").is_finished


def test_recipes_that_cannot_be_followed_are_refused(squares):
    with refuses("option-conflict", "flips", "'time'", "flow_tube"):
        config_of(squares, flips=["time"])
    with refuses("option-conflict", "mask.stabilised is False", "velocity", True):
        assert config_of(squares, "both").needed_motion
    plain = write_moving_squares(squares.out / "plain", num_clips=4)
    with refuses("missing-data", "no tracks", "--trajectories"):
        read_clip_table(plain, ["train"], False, config_of(squares).needed_motion)
