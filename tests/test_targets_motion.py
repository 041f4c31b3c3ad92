"""Motion trajectories as targets: against loops over tokens, points and steps, and by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks
from training_fixtures import TINY_RECIPE

from shared.grid import View
from shared.shard_index import read_index, write_index
from shared.tracks import HogLayout, Tracks
from train.clips.reader import ClipReader
from train.clips.table import MotionNeeds, read_clip_table
from train.clips.tracks import PlacedTracks
from train.clips.view_rules import dense
from train.objectives.tracked_points import FLAT_GREY, STILL_PIXELS, trajectory_target
from train.objectives.trajectories import loss_weights
from train.objectives.trajectory_config import TrajectoryConfig
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.pictures.trajectories import pixels_per_unit
from train.samples.datasets import PretrainDataset


def random_tracks(rng, time_steps=2, grid=(5, 7), length=6, size=(56, 40), values=9):
    points = grid[0] * grid[1]
    left = rng.integers(0, 9, time_steps)
    steps = np.minimum(rng.integers(0, length + 3, (time_steps, points)), length)
    steps = np.minimum(steps, left[:, None]).astype(np.uint8)
    alive = np.arange(length) < steps[..., None]
    displacements = rng.normal(0, 3, (time_steps, points, length, 2)) * alive[..., None]
    hog = rng.gamma(1.0, 2.0, (time_steps, points, length, values)) * alive[..., None]
    tracks = Tracks(displacements.astype(np.float32), steps, hog.astype(np.float32))
    return PlacedTracks(tracks, left, grid, size)


def random_view(rng, source_size) -> View:
    corner = rng.uniform(-0.2, 0.5, 2) * source_size
    crop = (*corner, *(corner + rng.uniform(0.4, 0.9, 2) * source_size))
    return View(crop, (32, 32), bool(rng.integers(2)), bool(rng.integers(2)))


def flipped_shape(shape, config, view):
    """HOG of the flipped picture, number by number."""
    cells, found = config.hog_cells, []
    for channel, row, column, k in np.ndindex(len(shape) // (9 * cells**2), cells, cells, 9):
        row = cells - 1 - row if view.flip_y else row
        column = cells - 1 - column if view.flip_x else column
        bin_of = (9 - k) % 9 if view.flip_x != view.flip_y else k
        found.append(shape[((channel * cells + row) * cells + column) * 9 + bin_of])
    return np.array(found)


def slow_target(placed, view, source_size, grid, config, ends):
    """The same by loops, for one token after another."""
    tracks = placed.tracks
    x1, y1, x2, y2 = view.crop
    side = math.isqrt(config.points)
    steps = ends.shape[1] - 1
    targets, all_counts = [], []
    for t in range(len(placed.left_steps)):
        for row in range(grid[0]):
            for column in range(grid[1]):
                moves, shapes, counts = [], [], []
                for part in range(config.points):
                    down, right = divmod(part, side)
                    x = (column + (right + 0.5) / side) / grid[1]
                    y = (row + (down + 0.5) / side) / grid[0]
                    x, y = (1 - x if view.flip_x else x), (1 - y if view.flip_y else y)
                    x, y = x1 + x * (x2 - x1), y1 + y * (y2 - y1)
                    within = 0 <= x < source_size[0] and 0 <= y < source_size[1]
                    distances = [
                        math.hypot(
                            ((c + 0.5) / placed.grid[1] - x / source_size[0]) * placed.grid[1],
                            ((r + 0.5) / placed.grid[0] - y / source_size[1]) * placed.grid[0],
                        )
                        for r in range(placed.grid[0])
                        for c in range(placed.grid[1])
                    ]
                    point = int(np.argmin(distances))
                    ended = int(tracks.num_steps[t, point])
                    reachable = min(config.length, int(placed.left_steps[t]))
                    leaves = min(ended, config.length) < reachable
                    for step in range(steps):
                        first, last = ends[t, step : step + 2] - ends[t, 0]
                        reached = first < last <= min(ended, config.length)
                        counted = within and not leaves and reached
                        move = tracks.displacements[t, point, first:last].sum(axis=0)
                        move = move * [
                            source_size[0] / placed.size[0] * 32 / (x2 - x1),
                            source_size[1] / placed.size[1] * 32 / (y2 - y1),
                        ]
                        if view.flip_x:
                            move[0] = -move[0]
                        if view.flip_y:
                            move[1] = -move[1]
                        shape = tracks.hog[t, point, min(first, config.length - 1)]
                        shape = flipped_shape(shape, config, view)
                        moves.append(move * counted)
                        shapes.append(shape if counted else np.full(len(shape), np.nan))
                        counts.append(counted)
                number = max(sum(counts), 1)
                length = math.sqrt(np.square(moves).sum() / (2 * number))
                flat = list(np.ravel(moves) / (length + STILL_PIXELS)) if config.positions else []
                if config.shape:
                    known = np.ravel(shapes)[~np.isnan(np.ravel(shapes))]
                    mean, spread = (known.mean(), known.std()) if len(known) else (0.0, 0.0)
                    scaled = (np.ravel(shapes) - mean) / (spread + FLAT_GREY)
                    flat += list(np.nan_to_num(scaled, nan=0.0))
                targets.append(flat)
                all_counts.append(np.reshape(counts, (config.points, steps)))
    return np.array(targets), np.array(all_counts)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 4, 9]),
    st.sampled_from([(True, True), (True, False), (False, True)]),
    st.booleans(),
    st.sampled_from([("grey", 1), ("grey", 1), ("rgb", 1), ("grey", 2), ("rgb", 2)]),
)
@settings(max_examples=25, deadline=None)
def test_targets_are_those_of_a_slow_loop(seed, points, parts, interpolate, hog):
    hog = hog if parts[1] else ("grey", 1)
    rng = np.random.default_rng(seed)
    config = TrajectoryConfig(
        length=int(rng.integers(3, 7)),
        points=points,
        positions=parts[0],
        shape=parts[1],
        interpolate=interpolate,
        hog_channels=hog[0],
        hog_cells=hog[1],
    )
    values = config.hog_layout.num_values
    assert values == {"grey": 9, "rgb": 27}[hog[0]] * hog[1] ** 2
    placed, source_size = random_tracks(rng, values=values), (112, 80)
    view, grid = random_view(rng, source_size), (2, 3)
    frames = np.cumsum(rng.integers(0, 4, 4))  # as of a short clip: at most 3 apart
    ends = config.step_ends(frames, 2, stride=3)
    target, counts = trajectory_target(placed, view, source_size, grid, config, ends)
    expected, expected_counts = slow_target(placed, view, source_size, grid, config, ends)
    assert target.dtype == np.float32 and target.shape == (12, sum(config.part_sizes(3)))
    assert np.array_equal(counts, expected_counts)
    np.testing.assert_allclose(target, expected, atol=2e-4)
    weights = loss_weights(torch.from_numpy(counts)[None], config, 3)[0].numpy()
    assert weights.shape == target.shape and not target[weights == 0].any()


def uniform_tracks(move, steps=(6,) * 16, left=6) -> PlacedTracks:
    """All 4 x 4 points move alike; `steps` of each point, `left` frames after the first."""
    tracks = Tracks(
        np.broadcast_to(np.float32(move), (1, 16, 6, 2)),
        np.minimum([steps], left).astype(np.uint8),
        np.zeros((1, 16, 6, 0), np.float32),
    )
    return PlacedTracks(tracks, np.array([left]), (4, 4), (64, 64))


WHOLE = (0.0, 0.0, 64.0, 64.0)
PATHS_ONLY = TrajectoryConfig(shape=False)
STEPS = np.arange(7)[None]  # of one tubelet, from frame to frame


@pytest.mark.parametrize(
    ("flips", "expected"),
    [((False, False), (3, 1)), ((True, False), (-3, 1)), ((False, True), (3, -1)),
     ((True, True), (-3, -1))],
)  # fmt: skip
def test_a_move_turns_with_the_picture(flips, expected):
    view = View(WHOLE, (64, 64), *flips)
    target, counts = trajectory_target(
        uniform_tracks((3, 1)), view, (64, 64), (2, 2), PATHS_ONLY, STEPS
    )
    length = math.sqrt((9 + 1) / 2)
    assert counts.all()
    steps = target.reshape(4, 4, 6, 2)
    np.testing.assert_allclose(
        steps, np.broadcast_to(np.array(expected) / (length + STILL_PIXELS), steps.shape), rtol=1e-5
    )


def test_a_move_is_longer_in_a_closer_view():
    """Measured against the still pixels: half the crop doubles the move, and its share of them."""
    found = []
    for crop in (WHOLE, (0.0, 0.0, 32.0, 32.0)):
        target, _ = trajectory_target(
            uniform_tracks((0.1, 0.0)), View(crop, (64, 64)), (64, 64), (2, 2), PATHS_ONLY, STEPS
        )
        found.append(target[0, 0])
    for move, value in zip((0.1, 0.2), found, strict=True):
        assert value == pytest.approx(move / (move / math.sqrt(2) + STILL_PIXELS), rel=1e-5)


def test_what_rests_is_near_zero_and_what_moves_is_not():
    rest, _ = trajectory_target(
        uniform_tracks((0.005, 0.0)), View(WHOLE, (64, 64)), (64, 64), (2, 2), PATHS_ONLY, STEPS
    )
    assert np.abs(rest).max() < 0.06


def test_tracks_that_leave_the_frame_do_not_count_but_the_end_of_the_clip_does():
    steps = [6] * 16
    steps[5] = 4  # the last of the four points of the first patch
    view = View(WHOLE, (64, 64))
    for left, counted in ((6, [6, 6, 6, 0]), (20, [6, 6, 6, 0]), (4, [4, 4, 4, 4])):
        tracks = uniform_tracks((1.0, 0.0), steps, left)
        _, counts = trajectory_target(tracks, view, (64, 64), (2, 2), PATHS_ONLY, STEPS)
        assert counts[0].sum(axis=1).tolist() == counted


def test_parts_of_a_view_beyond_the_frame_do_not_count():
    view = View((-32.0, 0.0, 32.0, 64.0), (64, 64))
    _, counts = trajectory_target(uniform_tracks((1, 1)), view, (64, 64), (2, 2), PATHS_ONLY, STEPS)
    assert counts.reshape(2, 2, -1).all(axis=2).tolist() == [[False, True], [False, True]]


def test_uniform_motion_is_not_normalised_away():
    """Left and right, as a whole, differ; with a patch's mean taken off both would be zero."""
    left, right = (
        trajectory_target(
            uniform_tracks((x, 0.0)), View(WHOLE, (64, 64)), (64, 64), (2, 2), PATHS_ONLY, STEPS
        )[0]
        for x in (-2.0, 2.0)
    )
    assert np.abs(left - right).max() > 1.0 and np.array_equal(left, -right)


def moves_between_given_frames(clip_length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [T', S] that a point moves between 16 given frames, at 1 px a frame, and whether the
    step counts; tracks have 6 steps, or fewer at the end of the clip."""
    config = TrajectoryConfig(shape=False, points=1, interpolate=False)
    frames = dense(clip_length, 16, np.zeros(16), stride=stride)
    firsts = frames[::2]
    left = clip_length - 1 - firsts
    alive = np.arange(6) < left[:, None]
    moves = np.zeros((8, 1, 6, 2), np.float32)
    moves[..., 0] = alive[:, None]
    tracks = Tracks(moves, np.minimum(left, 6)[:, None].astype(np.uint8), np.zeros((8, 1, 6, 0)))
    placed = PlacedTracks(tracks, left, (1, 1), (64, 64))
    ends = config.step_ends(frames, 8, stride)
    target, counts = trajectory_target(
        placed, View(WHOLE, (64, 64)), (64, 64), (1, 1), config, ends
    )
    target, counts = target.reshape(8, -1, 2), counts[:, 0]
    scale = pixels_per_unit(target[:, None], counts[:, None])
    return target[..., 0] * scale[:, None], counts


def test_given_frames_of_a_short_clip_lie_closer_than_the_stride():
    """30 frames, stride 3, 1 px a frame: 16 given frames over 29 steps are 1.93 px apart."""
    short, counts = moves_between_given_frames(30, 3)
    frames = dense(30, 16, np.zeros(16), stride=3)
    for t in range(7):  # the two steps from frame 2t on
        assert short[t] == pytest.approx(np.diff(frames)[2 * t : 2 * t + 2], abs=1e-3)
    assert counts[:7].all() and counts[7].tolist() == [True, False]  # the clip ends
    assert short[counts].mean() == pytest.approx(29 / 15, abs=0.01)
    long, counts = moves_between_given_frames(80, 3)
    assert counts.all() and long == pytest.approx(np.full((8, 2), 3.0), abs=1e-3)
    # 10 frames for 16: between two copies of a frame there is nothing to predict.
    tiny, counts = moves_between_given_frames(10, 3)
    apart = np.diff(dense(10, 16, np.zeros(16), stride=3))
    assert (apart == 0).any()
    assert np.array_equal(counts[:7].ravel(), apart[:14] > 0)
    assert tiny[counts] == pytest.approx(np.ones(int(counts.sum())), abs=1e-3)


def test_both_parts_weigh_the_same():
    config = TrajectoryConfig()
    assert config.part_sizes(stride=3) == (48, 216)
    counts = torch.ones(1, 2, 4, 6, dtype=torch.bool)
    counts[0, 0, 1, 4:] = False
    weights = loss_weights(counts, config, stride=3)
    assert weights.shape == (1, 2, 264) and weights[0, 1].mean() == pytest.approx(1.0)
    assert weights[0, 1, :48].sum() == pytest.approx(float(weights[0, 1, 48:].sum()))
    left_out = weights[0, 0] == 0
    assert left_out[:48].view(4, 6, 2)[1, 4:].all() and left_out[48:].view(4, 6, 9)[1, 4:].all()
    assert left_out.sum() == 2 * (2 + 9)
    assert (loss_weights(counts, PATHS_ONLY, 3)[0, 1] == 1).all()


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"length": 0}, "out-of-range", ["length", 0]),
        ({"points": 3}, "out-of-range", ["points", 3, 4]),
        ({"positions": False, "shape": False}, "option-conflict", ["positions", "shape"]),
    ],
)
def test_wrong_options_are_named(options, code, named):
    with refuses(code, *named):
        TrajectoryConfig(**options)
    assert TrajectoryConfig(interpolate=False).num_steps(3) == 2
    with refuses("out-of-range", "length is 6", 7):
        TrajectoryConfig(interpolate=False).num_steps(7)


# ---------------------------------------------------------------------------------------------
# From the shards to the batch
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    layout = write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=20, still=(0,))
    add_tracks(layout)
    return layout


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE + MME_RECIPE)
    return read_recipe("squares", path)


MME_RECIPE = """
[pretrain.mme]
target = "trajectories"
mask = {kind = "tube", mask_ratio = 0.7}
flips = ["x", "y"]

[pretrain.mme.model]
patch_size = 4
"""
NEEDS = MotionNeeds(track_length=6, hog=HogLayout())


def test_tracks_are_those_that_start_at_the_frames_asked_for(squares):
    table = read_clip_table(squares, ["train"], boxes=False, motion=NEEDS)
    reader = ClipReader(table, max_open=2)
    firsts = np.array([0, 5, 14])
    for index in (1, len(table) - 1):
        placed = reader.tracks(index, firsts)
        assert (placed.grid, placed.size) == ((24, 24), (64, 64))
        assert placed.left_steps.tolist() == [15, 10, 1]
        tracks = placed.tracks.at(np.arange(576))
        assert tracks.displacements.shape == (3, 576, 6, 2)
        assert tracks.hog[:, :, 0, 0] == pytest.approx(
            np.repeat(firsts[:, None], 576, axis=1), abs=0.2
        )
        assert placed.tracks.num_steps[:, 0].tolist() == [6, 6, 1]


def test_targets_of_a_batch_move_where_the_square_is(squares, recipe):
    """Whatever the crop and the flips: right where the picture's square moves right."""
    config = pretrain_config(recipe, "mme")
    assert config.model.prediction_dim == 4 * 6 * 11 and config.needed_motion == replace(
        NEEDS, track_points=24
    )
    table = read_clip_table(squares, ["train"], boxes=True, motion=config.needed_motion)
    dataset = PretrainDataset(table, config, LoaderConfig(workers=0), seed=0)
    moving = 0
    for index in range(1, len(table)):
        sample = dataset[0, index]
        mask, target, counts = (sample[name].numpy()[0] for name in ("mask", "target", "counts"))
        assert target.shape == (mask.sum(), 264) and target.dtype == np.float32
        assert counts.shape == (mask.sum(), 4, 6)
        length = np.abs(target[:, :48]).max(axis=1)
        pixels = sample["pixels"][0].numpy().astype(float)
        changes = np.abs(pixels[1::2] - pixels[::2]).sum(axis=3)  # within each tubelet
        hidden = changes.reshape(2, 8, 4, 8, 4).sum(axis=(2, 4)).ravel()[mask]
        moving += int((length > 0.5).sum())
        # Where tracks move, the picture changes more than elsewhere.
        assert hidden[length > 0.5].mean() > 2 * hidden[length < 0.1].mean()
    assert moving > 50


def test_directions_turn_with_the_flips(squares, recipe):
    """A square that goes left goes right in the mirror; both are in the batches of some epochs."""
    config = pretrain_config(recipe, "mme", {"crop": {"kind": "centre"}})
    table = read_clip_table(squares, ["train"], boxes=False, motion=NEEDS)
    dataset = PretrainDataset(table, config, LoaderConfig(workers=0), seed=0)
    [index] = [i for i in range(len(table)) if table.clip_id(i) == "square-005"]  # goes right
    signs = set()
    for epoch in range(8):
        sample = dataset[epoch, index]
        across = sample["target"].numpy()[0][:, :48].reshape(-1, 4, 6, 2)[..., 0]
        pixels = sample["pixels"][0].numpy().astype(float)
        where = [np.abs(frame - pixels.mean(axis=0)).sum(axis=(0, 2)) for frame in pixels]
        centres = [(weights * np.arange(32)).sum() / weights.sum() for weights in where]
        assert np.sign(across.sum()) == np.sign(centres[-1] - centres[0])
        signs.add(np.sign(across.sum()))
    assert signs == {-1.0, 1.0}


def test_missing_tracks_name_the_command(tmp_path):
    squares = write_moving_squares(tmp_path, num_clips=8)
    made = squares.make("flows", "--trajectories --overwrite")
    with refuses("missing-data", squares.flows, made):
        read_clip_table(squares, ["train"], boxes=False, motion=NEEDS)
    add_tracks(squares, length=4, cell=0)
    with refuses("missing-data", squares.flows, "4 steps", "6 are"):
        read_clip_table(squares, ["train"], boxes=False, motion=NEEDS)
    with refuses("missing-data", "4 steps", "9 are", "--track-length 9"):
        read_clip_table(squares, ["train"], boxes=False, motion=MotionNeeds(track_length=9))
    with refuses("missing-data", squares.flows, "HOG"):
        read_clip_table(squares, ["train"], False, MotionNeeds(track_length=4, hog=HogLayout()))
    with refuses("missing-data", "24 points", "60 are", "--track-points 60"):
        read_clip_table(squares, ["train"], False, MotionNeeds(track_length=4, track_points=60))
    table = read_clip_table(squares, ["train"], False, MotionNeeds(track_length=4))
    assert ClipReader(table, 2).tracks(0, np.array([0])).tracks.hog.shape == (1, 576, 4, 0)
    add_tracks(squares, length=4, points=6, hog=HogLayout("rgb", 2))
    needs = MotionNeeds(track_length=4, hog=HogLayout())
    with refuses("missing-data", squares.flows, "rgb frames in 2 x 2", "grey frames in 1 x 1"):
        read_clip_table(squares, ["train"], False, needs)
    rgb = replace(needs, hog=HogLayout("rgb", 3))
    with refuses("missing-data", "--trajectories --track-channels rgb --track-cells 3"):
        read_clip_table(squares, ["train"], False, rgb)
    table = read_clip_table(squares, ["train"], False, replace(needs, hog=HogLayout("rgb", 2)))
    assert ClipReader(table, 2).tracks(0, np.array([0])).tracks.hog.shape == (1, 36, 4, 108)


@pytest.mark.parametrize(
    ("crop", "points", "needed"),
    [
        ({"kind": "centre"}, 4, 16),
        ({"kind": "shift", "pixels": 2}, 9, 24),
        ({"kind": "multi_scale", "scales": [1.0, 0.66]}, 9, 36),
        ({"kind": "random_resized", "area": [0.25, 1.0], "aspect": [1.0, 1.0]}, 4, 32),
    ],
)
def test_tracks_start_as_densely_as_the_smallest_crop_needs(recipe, crop, points, needed):
    """Else several points of a patch would be one track. The grid has 8 patches a side."""
    config = pretrain_config(recipe, "mme", {"crop": crop, "trajectories": {"points": points}})
    assert config.needed_motion.track_points == needed


def test_the_recipes_find_their_points_in_what_flows_makes():
    for dataset in ("ssv2", "epic100", "k400", "ucf101", "hmdb51", "diving48", "toy"):
        needed = pretrain_config(read_recipe(dataset, None), "mme").needed_motion
        assert 0 < needed.track_points <= 42


def test_stabilised_flow_is_asked_for_or_refused(tmp_path):
    squares = write_moving_squares(tmp_path, num_clips=8)
    add_tracks(squares)
    with_camera, without = (MotionNeeds(track_length=6, stabilised=yes) for yes in (False, True))
    assert len(read_clip_table(squares, ["train"], False, with_camera)) == 6
    with refuses("missing-data", "--stabilise off", "--stabilise warp"):
        read_clip_table(squares, ["train"], False, without)
    index = read_index(squares.flows)
    write_index(squares.flows, replace(index, config=index.config | {"stabilise": "warp"}))
    assert len(read_clip_table(squares, ["train"], False, without)) == 6
    with refuses("missing-data", "--stabilise warp", "--stabilise off"):
        read_clip_table(squares, ["train"], False, with_camera)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"flips": ["time"]}, "option-conflict", ["flips", "time"]),
        (
            {"target": "normalised_pixels", "trajectories": {}},
            "option-unused",
            ["trajectories", "normalised_pixels"],
        ),
        ({"trajectories": {"points": 5}}, "out-of-range", ["points", 5]),
        (
            {"trajectories": {"kind": "sift"}},
            "unknown-name",
            ["kind", "'sift'", "tracks, flow, hog, hof"],
        ),
        (
            {"trajectories": {"kind": "hof", "shape": False}},
            "option-unused",
            ["positions", "shape", "tracks", "hof"],
        ),
        ({"trajectories": {"kind": "hog", "decoders": 2}}, "option-conflict", ["decoders", 2]),
        ({"trajectories": {"shape": False, "decoders": 2}}, "option-conflict", ["decoders", 2]),
        ({"trajectories": {"decoders": 3}}, "out-of-range", ["decoders", 3, "1 or 2"]),
        ({"model": {"second_prediction_dim": 7}}, "option-conflict", ["second_prediction_dim"]),
        (
            {"trajectories": {"interpolate": False}, "frames": {"kind": "segments"}},
            "option-needs-another",
            ["interpolate", "dense"],
        ),
        ({"trajectories": {"interpolate": False, "length": 1}}, "out-of-range", ["length", 1, 2]),
        (
            {"model": {"prediction_dim": 7}},
            "option-conflict",
            ["prediction_dim", 7, "trajectories", 264],
        ),
    ],
)
def test_options_that_contradict_are_refused(recipe, change, code, named):
    with refuses(code, *named):
        pretrain_config(recipe, "mme", change)
