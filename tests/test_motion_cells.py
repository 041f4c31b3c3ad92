"""Motion maps on the patch grid: against pixels cut and resized one by one."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE

from shared.grid import View
from shared.motion_cells import MEAN, PARTS, MotionPooling, cell_means, maps_of_frames, pooled_cells
from shared.shard_writer import write_shard
from shared.shards import ShardReader
from train.clips.reader import ClipReader
from train.clips.table import MotionNeeds, read_clip_table
from train.options.config import EvaluateConfig, LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.samples.datasets import EvaluateDataset, PretrainDataset
from train.samples.views import ClipView, StoredClip, cut


def slow_cell_means(maps, view, source_size, grid):
    """Sample points spread evenly over each cell, one by one."""
    x1, y1, x2, y2 = view.crop
    height, width = maps.shape[1:]
    dense, result = 60, np.zeros((len(maps), *grid))
    for row in range(grid[0]):
        for column in range(grid[1]):
            shown_row = grid[0] - 1 - row if view.flip_y else row
            shown_column = grid[1] - 1 - column if view.flip_x else column
            y = y1 + (y2 - y1) * (shown_row + (np.arange(dense) + 0.5) / dense) / grid[0]
            x = x1 + (x2 - x1) * (shown_column + (np.arange(dense) + 0.5) / dense) / grid[1]
            i = np.floor(y * height / source_size[1]).astype(int).clip(0, height - 1)
            j = np.floor(x * width / source_size[0]).astype(int).clip(0, width - 1)
            result[:, row, column] = maps[:, i[:, None], j[None, :]].mean(axis=(1, 2))
    return result


def random_maps(seed, largest_grid):
    """Two maps, a view of them, the size of the source, and a grid of cells."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    maps = rng.random((2, height, width)).astype(np.float32)
    source_size = tuple(int(side) for side in rng.integers(20, 400, 2))
    corner = rng.uniform(-0.2, 0.8, 2) * source_size
    crop = (*corner, *(corner + rng.uniform(0.2, 0.6, 2) * source_size))
    view = View(crop, (64, 64), bool(rng.integers(2)), bool(rng.integers(2)))
    grid = tuple(int(side) for side in rng.integers(1, largest_grid + 1, 2))
    return maps, view, source_size, grid


@given(st.integers(0, 2**32))
def test_means_are_those_of_many_points(seed):
    maps, view, source_size, grid = random_maps(seed, largest_grid=5)
    found = cell_means(maps, view, source_size, grid)
    assert found.shape == (2, *grid) and found.dtype == np.float32
    assert np.abs(found - slow_cell_means(maps, view, source_size, grid)).max() < 0.05


def slow_top_means(maps, view, source_size, grid, top):
    """Each of the 16 parts of a cell as a view of its own."""
    x1, y1, x2, y2 = view.crop
    result = np.zeros((len(maps), *grid))
    for row, column in np.ndindex(grid):
        shown_row = grid[0] - 1 - row if view.flip_y else row
        shown_column = grid[1] - 1 - column if view.flip_x else column
        parts = []
        for down, across in np.ndindex(4, 4):
            y = y1 + (y2 - y1) * (shown_row + (down + np.arange(2)) / 4) / grid[0]
            x = x1 + (x2 - x1) * (shown_column + (across + np.arange(2)) / 4) / grid[1]
            part = View((x[0], y[0], x[1], y[1]), (4, 4))
            parts.append(cell_means(maps, part, source_size, (1, 1))[:, 0, 0])
        result[:, row, column] = np.sort(parts, axis=0)[16 - top :].mean(axis=0)
    return result


@given(st.integers(0, 2**32), st.integers(1, 16))
def test_the_parts_that_move_most_are_those_of_loops(seed, top):
    maps, view, source_size, grid = random_maps(seed, largest_grid=4)
    found = pooled_cells(maps, view, source_size, grid, top)
    assert found.shape == (2, *grid) and found.dtype == np.float32
    slow = slow_top_means(maps, view, source_size, grid, top)
    np.testing.assert_allclose(found, slow, atol=2e-5)
    means = cell_means(maps, view, source_size, grid)
    assert (found >= means - 1e-5).all()
    if top == PARTS:
        np.testing.assert_allclose(slow, means, atol=2e-5)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.sampled_from([1, -1, 0]))
def test_the_motion_before_a_frame_is_that_of_the_frame_before_it(frames, direction):
    """Also in a view that runs backward in time; shuffled frames count as forward."""
    if direction:
        frames = sorted(set(frames))[::direction]
    backward = len(frames) > 1 and all(b <= a for a, b in pairwise(frames))
    backward = backward and frames[0] > frames[-1]
    numbers, known = maps_of_frames(np.array(frames), 10, MotionPooling(before=True))
    for frame, number, exists in zip(frames, numbers, known, strict=True):
        before = frame + 1 if backward else frame - 1
        assert exists == (0 <= before <= 9)
        if exists:
            assert number == min(frame, before)  # a map is that of the earlier of two frames
    numbers, known = maps_of_frames(np.array(frames), 10, MEAN)
    assert numbers.tolist() == frames and known.all()


def test_the_whole_frame_keeps_its_mean():
    maps = np.random.default_rng(0).random((3, 9, 13)).astype(np.float32)
    found = cell_means(maps, View((0, 0, 320, 240), (224, 224)), (320, 240), (14, 14))
    assert found.mean(axis=(1, 2)) == pytest.approx(maps.mean(axis=(1, 2)), rel=1e-5)


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_cells_move_as_the_pixels_do(flips):
    """A bright spot of the frame and of its map end in the same cell."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        frame = np.zeros((48, 64, 3), np.uint8)
        y, x = rng.integers(0, 48), rng.integers(0, 64)
        frame[y, x] = 255
        x1, y1 = (int(value) for value in rng.integers(-8, 16, 2))
        crop = (x1, y1, x1 + 48, y1 + 32)
        shown = np.zeros((32, 48, 3), np.uint8)
        cut(frame, crop, shown, *flips)
        pixels = cv2.resize(shown[..., 0].astype(np.float32), (6, 4), interpolation=cv2.INTER_AREA)
        cells = cell_means(
            frame[None, ..., 0].astype(np.float32), View(crop, (32, 48), *flips), (64, 48), (4, 6)
        )
        assert cells[0] == pytest.approx(pixels, abs=1e-3)


# ---------------------------------------------------------------------------------------------
# From the shards to the mask
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=20, still=(0,))


@pytest.fixture(scope="module")
def table(squares):
    return read_clip_table(squares, ["train"], boxes=True, motion=MotionNeeds())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Small patches, so that a square covers several."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE + '[pretrain.mgm]\nmask = {kind = "mgm", mask_ratio = 0.25}\n')
    return pretrain_config(read_recipe("squares", path), "mgm", {"model": {"patch_size": 4}})


def test_maps_are_those_of_the_shard(squares, table):
    reader = ClipReader(table, max_open=2)
    for index in (0, 5, len(table) - 1):
        chosen = np.array([7, 3, 3, 12])
        found = reader.motion(index, chosen)
        with ShardReader(squares.flows / table.shard_names[table.shard[index]], "flows") as shard:
            first = int(table.frames[index][0])
            scale = shard["/motion/scale"]
            for values, number in zip(found, chosen, strict=True):
                [stored] = shard.ragged(
                    "/motion/offsets", "/motion/values", first + number, first + number + 1
                )
                expected = scale[first + number] * stored.astype(np.float32) ** 2
                assert np.array_equal(values, expected.reshape(64, 64))
    assert not reader.motion(0, np.arange(16)).any()  # the still clip


def test_motion_is_where_the_square_is(table, config):
    """Nine tenths of it or more in the patches whose centre is in the motion box, or beside."""
    views = EvaluateDataset(
        table, config.model, config.frames, EvaluateConfig(), LoaderConfig(workers=0)
    )
    grid = config.model.grid
    for index in range(1, len(table)):
        sample = views[index]
        motion = sample["motion"][0].numpy()
        assert motion.shape == (config.model.time_steps, grid, grid)
        inside = sample["inside"].numpy().reshape(-1, grid, grid)[0]
        near = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3))).astype(bool)
        assert motion[:, near].sum() > 0.9 * motion.sum() > 0


def test_the_mask_hides_what_moves_after_crop_and_flip(table, config):
    """Measured on the pixels that the model is given: how much they change from frame to frame."""
    dataset = PretrainDataset(table, config, LoaderConfig(workers=0), seed=0)
    grid, hidden = config.model.grid, []
    for index in range(1, len(table)):
        sample = dataset[0, index]
        mask = sample["mask"].numpy().reshape(-1, grid, grid)
        assert (mask.sum(axis=(1, 2)) == 16).all()
        pixels = sample["pixels"][0].numpy().astype(float)
        changes = np.abs(np.diff(pixels, axis=0)).sum(axis=(0, 3))
        cells = changes.reshape(grid, 4, grid, 4).sum(axis=(1, 3))
        hidden.append((cells * mask.any(axis=0)).sum() / cells.sum())
    assert np.mean(hidden) > 0.75  # in a third of the positions or less


def test_maps_of_another_size_than_stated_are_refused(tmp_path, config):
    squares = write_moving_squares(tmp_path, num_clips=8)
    path = squares.flows / "00000.h5"
    with ShardReader(path, "flows") as reader:
        arrays = {each: reader[each] for each in reader._fields}
        attributes = reader.attributes
    arrays["/clip/map_size"] = arrays["/clip/map_size"] - 1
    write_shard(path, "flows", arrays, attributes)
    table = read_clip_table(squares, ["train"], boxes=False, motion=MotionNeeds())
    with refuses("damaged-file", path, "square-000", "63 x 63"):
        ClipReader(table, max_open=2).motion(0, np.arange(4))


def test_options_of_the_mask_decide_how_motion_is_read(squares, table, config):
    path = squares.out / "options.toml"
    path.write_text(TINY_RECIPE + '[pretrain.mgm]\nmask = {kind = "mgm", mask_ratio = 0.25}\n')
    mask = {"kind": "mgm", "mask_ratio": 0.25, "top": 2, "before": True, "first": "motion"}
    changes = {"model": {"patch_size": 4}, "mask": mask, "flips": []}
    asked = pretrain_config(read_recipe("squares", path), "mgm", changes)
    assert asked.motion_pooling == MotionPooling(2, True) and config.motion_pooling == MEAN
    clip = StoredClip(table, 3, ClipReader(table, 4), asked.model)
    view = ClipView(np.array([0, 2, 4, 6]), (0, 0, *clip.stored_size))
    cells = [
        pooled_cells(
            clip.reader.motion(3, np.array([frame - 1])), clip.source_view(view),
            clip.source_size, (8, 8), 2,
        )[0]
        for frame in (2, 4, 6)
    ]  # fmt: skip
    found = clip.motion(view, asked.motion_pooling)
    np.testing.assert_allclose(found[0], cells[0] / 2, rtol=1e-6)  # the first frame has none
    np.testing.assert_allclose(found[1], (cells[1] + cells[2]) / 2, rtol=1e-6)
    assert (found != clip.motion(view)).any()
    loader = LoaderConfig(workers=0)
    masks = [PretrainDataset(table, each, loader, 0)[0, 3]["mask"] for each in (asked, config)]
    assert (masks[0] != masks[1]).any()
    for top in (0, 17):
        with refuses("out-of-range", f"top is {top}", "1 to 16"):
            MotionPooling(top)
