"""Flow, HOG, HOF and MBH at places that stay: against loops over tokens, steps and points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from test_targets_motion import MME_RECIPE, random_tracks, random_view
from track_fixtures import add_tracks
from training_fixtures import TINY_RECIPE

from shared.grid import View
from train.clips.reader import ClipReader
from train.clips.table import read_clip_table
from train.network.autoencoder import MaskedAutoencoder
from train.objectives.fixed_places import fixed_target, frames_to_read
from train.objectives.flow_histograms import STILL_FLOW
from train.objectives.tracked_points import FLAT_GREY, STILL_PIXELS
from train.objectives.trajectories import loss_weights
from train.objectives.trajectory_config import KINDS, TrajectoryConfig
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.samples.datasets import PretrainDataset

FIXED = [kind for kind in KINDS if kind != "tracks"]


def direction_histogram(vectors: list[np.ndarray]) -> np.ndarray:
    """Eight directions; the length goes to the two next ones by nearness."""
    bins = np.zeros(8)
    for x, y in vectors:
        angle = math.degrees(math.atan2(y, x)) % 360
        lower = int(angle // 45)
        upper = (angle - 45 * lower) / 45
        bins[lower % 8] += math.hypot(x, y) * (1 - upper)
        bins[(lower + 1) % 8] += math.hypot(x, y) * upper
    return bins


class SlowField:
    """What a frame's tracks say at one grid point, in pixels of the view."""

    def __init__(self, placed, view, source_size, lengths):
        self.placed, self.lengths, self.view = placed, lengths, view
        x1, y1, x2, y2 = view.crop
        self.scale = np.array(
            [
                source_size[0] / placed.size[0] * view.size[1] / (x2 - x1),
                source_size[1] / placed.size[1] * view.size[0] / (y2 - y1),
            ]
        ) * [-1 if view.flip_x else 1, -1 if view.flip_y else 1]

    def known(self, u, row, column) -> bool:
        point = row * self.placed.grid[1] + column
        return int(self.placed.tracks.num_steps[u, point]) >= self.lengths[u]

    def flow(self, u, row, column) -> np.ndarray:
        point = row * self.placed.grid[1] + column
        moves = self.placed.tracks.displacements[u, point, : self.lengths[u]]
        return moves.sum(axis=0) * self.scale

    def hog(self, u, row, column) -> np.ndarray:
        shape = self.placed.tracks.hog[u, row * self.placed.grid[1] + column, 0]
        mirrored = self.view.flip_x != self.view.flip_y
        return np.array([shape[-k % 9] for k in range(9)]) if mirrored else shape

    def changes(self, u, row, column):
        """d(flow)/dx and d(flow)/dy per pixel of the view; None where a neighbour is unknown."""
        rows, columns = self.placed.grid
        around = [(row, column)]
        gradients = []
        for down, right, count, size, axis in (
            (0, 1, columns, self.placed.size[0], 0), (1, 0, rows, self.placed.size[1], 1),
        ):  # fmt: skip
            place = (row, column)[1 - axis]
            after, before = min(place + 1, count - 1), max(place - 1, 0)
            one = (row + down * (after - place), column + right * (after - place))
            other = (row + down * (before - place), column + right * (before - place))
            around += [one, other]
            spacing = (after - before) * size / count * self.scale[axis]  # signed: a flip turns it
            gradients.append((self.flow(u, *one) - self.flow(u, *other)) / spacing)
        if not all(self.known(u, *each) for each in around):
            return None
        return gradients


def slow_target(placed, lengths, places, view, source_size, grid, config):
    field = SlowField(placed, view, source_size, lengths)
    x1, y1, x2, y2 = view.crop
    side = math.isqrt(config.points)
    targets, all_counts = [], []
    for t, row, column in np.ndindex(len(places), *grid):
        starts = []
        for part in range(config.points):
            down, right = divmod(part, side)
            x, y = (column + (right + 0.5) / side) / grid[1], (row + (down + 0.5) / side) / grid[0]
            x, y = (1 - x if view.flip_x else x), (1 - y if view.flip_y else y)
            x, y = (x1 + x * (x2 - x1)) / source_size[0], (y1 + y * (y2 - y1)) / source_size[1]
            if 0 <= x < 1 and 0 <= y < 1:
                starts.append((int(y * placed.grid[0]), int(x * placed.grid[1])))
            else:
                starts.append(None)
        rows = []  # by point and step, or one histogram a step
        for step in range(places.shape[1]):
            u = int(places[t, step])
            found = [s for s in starts if s is not None and field.known(u, *s)]
            if config.kind == "flow":
                rows.append([field.flow(u, *s) if s in found else None for s in starts])
            elif config.kind == "hog":
                rows.append([field.hog(u, *s) if s in found else None for s in starts])
            elif config.kind == "hof":
                flows = [field.flow(u, *s) for s in found]
                still = sum(math.hypot(*flow) < STILL_FLOW for flow in flows)
                moving = [flow for flow in flows if math.hypot(*flow) >= STILL_FLOW]
                bins = np.append(direction_histogram(moving), still)
                rows.append([bins / len(found) if found else None])
            else:
                changes = [field.changes(u, *s) for s in starts if s is not None]
                changes = [c for c in changes if c is not None]
                of = [direction_histogram([(gx[c], gy[c]) for gx, gy in changes]) for c in (0, 1)]
                rows.append([np.concatenate(of) / len(changes) if changes else None])
        cells = [[rows[s][k] for s in range(len(rows))] for k in range(len(rows[0]))]
        known = [value for point in cells for value in point if value is not None]
        numbers = np.ravel(known)
        if config.kind == "flow":
            mean, spread = 0.0, math.sqrt(np.square(numbers).mean()) + STILL_PIXELS if known else 1
        else:
            mean, spread = (numbers.mean(), numbers.std() + FLAT_GREY) if known else (0, 1)
        channels = KINDS[config.kind][0]
        flat = [
            np.zeros(channels) if value is None else (value - mean) / spread
            for point in cells
            for value in point
        ]
        targets.append(np.ravel(flat))
        all_counts.append([[value is not None for value in point] for point in cells])
    return np.array(targets), np.array(all_counts)


@pytest.mark.parametrize("kind", FIXED)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 9]), st.booleans())
@settings(max_examples=8, deadline=None)
def test_targets_are_those_of_a_slow_loop(kind, seed, points, interpolate):
    rng = np.random.default_rng(seed)
    config = TrajectoryConfig(kind, int(rng.integers(3, 7)), points, interpolate=interpolate)
    placed, source_size = random_tracks(rng, time_steps=5), (112, 80)
    places = rng.integers(0, 5, (2, config.num_steps(3)))
    view, grid = random_view(rng, source_size), (2, 3)
    lengths = np.ones(5, np.int64) if interpolate else rng.integers(1, 4, 5)
    arguments = (placed, lengths, places, view, source_size, grid, config)
    target, counts = fixed_target(*arguments)
    expected, expected_counts = slow_target(*arguments)
    assert target.dtype == np.float32 and target.shape == (12, sum(config.part_sizes(3)))
    assert np.array_equal(counts, expected_counts)
    np.testing.assert_allclose(target, expected, atol=5e-4)
    weights = loss_weights(torch.from_numpy(counts)[None], config, 3)[0].numpy()
    assert weights.shape == target.shape and not target[weights == 0].any()


def test_frames_that_are_read():
    config = TrajectoryConfig("flow", length=3)
    given = np.array([0, 2, 8])
    frames, lengths, places = frames_to_read(config.step_ends(given, 3, stride=4), 10)
    assert frames[places].tolist() == [[0, 1, 2], [2, 3, 4], [8, 9, 9]]
    assert (lengths == 1).all()
    sparse = TrajectoryConfig("flow", length=8, interpolate=False)
    frames, lengths, places = frames_to_read(sparse.step_ends(np.array([0, 4]), 2, stride=4), 20)
    assert frames[places].tolist() == [[0, 4], [4, 8]] and lengths.tolist() == [4, 4, 4]
    # A short clip: its given frames lie closer than 4, and one of them is there twice.
    short = sparse.step_ends(np.array([0, 2, 5, 5]), 2, stride=4)
    frames, lengths, places = frames_to_read(short, 6)
    assert frames[places].tolist() == [[0, 2], [5, 5]] and lengths.tolist() == [2, 3, 4]
    assert (config.track_length(4), sparse.track_length(4)) == (1, 4)


def test_boundaries_of_even_motion_are_none_and_those_of_growth_are():
    """MBH leaves out what moves alike (Dalal et al.): HOF of the same does not."""
    rng = np.random.default_rng(0)
    placed = random_tracks(rng, time_steps=1)
    tracks = placed.tracks
    tracks.num_steps[:] = 6
    tracks.displacements[:] = (2.0, 1.0)
    view, places = View((0.0, 0.0, 56.0, 40.0), (32, 32)), np.zeros((1, 3), np.int64)
    arguments = (placed, np.ones(1, np.int64), places, view, (56, 40), (2, 2))
    even = fixed_target(*arguments, TrajectoryConfig("mbh", 3))[0]
    assert not even.any()
    assert fixed_target(*arguments, TrajectoryConfig("hof", 3))[0].any()
    columns = np.tile(np.arange(7), 5)
    tracks.displacements[0, :, :, 0] = columns[:, None]  # grows to the right
    grown = fixed_target(*arguments, TrajectoryConfig("mbh", 3))[0].reshape(4, 3, 16)
    assert (grown.argmax(axis=2) == 0).all()  # of the x component, along x


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    layout = write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=10)
    add_tracks(layout)
    return layout


@pytest.mark.parametrize("kind", FIXED)
def test_a_batch_holds_what_its_frames_have(squares, tmp_path, kind):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE + MME_RECIPE)
    changes = {"trajectories": {"kind": kind, "length": 3}}
    config = pretrain_config(read_recipe("squares", path), "mme", changes)
    needs = config.needed_motion
    assert (needs.track_length, needs.hog is not None) == (1, kind == "hog")
    table = read_clip_table(squares, ["train"], boxes=True, motion=needs)
    sample = PretrainDataset(table, config, LoaderConfig(workers=0), seed=0)[0, 2]
    assert (
        sample["target"].shape[-1]
        == config.model.prediction_dim
        == sum(config.target.part_sizes(2))
    )
    assert torch.isfinite(sample["target"]).all() and sample["target"].abs().max() > 1
    assert ClipReader(table, 2).tracks(2, np.array([0, 1])).tracks.displacements.shape[0] == 2


def test_two_decoders_share_the_numbers_and_nothing_else(squares, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE + MME_RECIPE)
    tables = read_recipe("squares", path)
    one, two = (
        pretrain_config(tables, "mme", {"trajectories": {"decoders": number}}) for number in (1, 2)
    )
    assert (one.model.prediction_dim, one.model.second_prediction_dim) == (264, None)
    assert (two.model.prediction_dim, two.model.second_prediction_dim) == (264, 216)
    torch.manual_seed(0)
    model = MaskedAutoencoder(two.model)
    assert model.decoder.head.out_features == 48
    assert model.second_decoder.head.out_features == 216
    clips = torch.randn(1, 3, 4, 32, 32)
    mask = torch.zeros(1, two.model.num_tokens, dtype=torch.bool)
    mask[:, ::2] = True
    predicted = model(clips, mask)
    assert predicted.shape == (1, int(mask.sum()), 264)
    predicted[..., :48].sum().backward()
    assert not any(p.grad.any() for p in model.second_decoder.parameters())
    assert model.decoder.head.weight.grad.any() and model.encoder.patch_embed.proj.bias.grad.any()
