"""The packed coding of tracks against slow loops, and what its rounding costs in targets."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.layout import DatasetLayout
from shared.packed_tracks import DEAD_ZONE, GAINS_PER_OCTAVE, hog_coding, moves_coding
from shared.randomness import counter_generator
from shared.shards import ShardReader
from shared.stored_tracks import PackedTracks, read_tracks
from shared.tracks import Tracks
from tests.golden_losses import GOLDEN
from train.clips.tracks import PlacedTracks
from train.objectives.tracked_points import trajectory_target
from train.objectives.trajectory_config import TrajectoryConfig

CODINGS = {"moves": moves_coding(), "hog": hog_coding()}


def slow_unpack(coding, planes, length, num_steps):
    """One track: planes int8 [1 + C] -> float64 [L, channels], by the sums of the definition."""
    gain = coding.floor * 2.0 ** (planes[0] / GAINS_PER_OCTAVE)
    numbers = np.zeros((length, coding.channels))
    for step in range(num_steps):
        for channel in range(coding.channels):
            for i in range(length):
                for j in range(coding.channels):
                    value = float(planes[1 + i * coding.channels + j]) * coding.step * gain
                    for k, n, size in ((i, step, length), (j, channel, coding.channels)):
                        norm = math.sqrt((1 if k == 0 else 2) / size)
                        value *= norm * math.cos(math.pi * k * (2 * n + 1) / (2 * size))
                    numbers[step, channel] += value
    return np.maximum(numbers, coding.least)


def random_numbers(coding, shape, scale, *key):
    rng = counter_generator("packed", *key)
    numbers = rng.normal(0, scale, (*shape, coding.channels)).astype(np.float32)
    numbers += rng.normal(0, 3 * scale, (*shape[:2], 1, coding.channels)).astype(np.float32)
    return np.maximum(numbers, coding.least)


@pytest.mark.parametrize("name", CODINGS)
def test_unpacking_is_the_inverse_transform(name):
    coding, length = CODINGS[name], 4
    rng = counter_generator("planes", name)
    stored = rng.integers(-127, 128, (2, coding.num_values(length), 5)).astype(np.int8)
    stored[:, 0] = rng.integers(0, 20, (2, 5))
    num_steps = rng.integers(0, length + 1, (2, 5)).astype(np.uint8)
    points = np.array([3, 0, 3])
    found = coding.unpack(stored, num_steps[:, points], points)
    assert found.dtype == np.float32 and found.shape == (2, 3, length, coding.channels)
    for time in range(2):
        for place, point in enumerate(points):
            expected = slow_unpack(coding, stored[time, :, point], length, num_steps[time, point])
            scale = np.abs(expected).max() + 1e-6
            assert np.abs(found[time, place] - expected).max() < 1e-5 * scale


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(CODINGS)),
    st.integers(1, 8),
    st.floats(1e-3, 60, allow_subnormal=False),
    st.integers(0, 2**32),
)
def test_rounding_is_what_is_stated(name, length, scale, seed):
    """Root mean square error of a whole track: at most 0.6 steps of its gain; ends stay 0."""
    coding = CODINGS[name]
    numbers = random_numbers(coding, (2, 7, length), scale, seed)
    rng = counter_generator("steps", seed)
    num_steps = rng.integers(0, length + 1, (2, 7)).astype(np.uint8)
    stored = coding.pack(numbers, num_steps)
    assert stored.dtype == np.int8 and stored.shape == (2, coding.num_values(length), 7)
    found = coding.unpack(stored, num_steps, np.arange(7))
    gains = coding.floor * 2.0 ** (stored[:, 0] / GAINS_PER_OCTAVE)
    spread = numbers.std(axis=(2, 3)) if coding.centred else np.sqrt((numbers**2).mean(axis=(2, 3)))
    for time in range(2):
        for point in range(7):
            steps = num_steps[time, point]
            assert (found[time, point, steps:] == 0).all()
            if steps == length:
                error = found[time, point] - numbers[time, point]
                limit = DEAD_ZONE * coding.step * gains[time, point]
                assert np.sqrt(np.square(error).mean()) <= 1.001 * limit + 1e-6
                if np.abs(stored[time, 1:, point]).max() < 100:
                    assert gains[time, point] <= 1.2 * (spread[time, point] + coding.floor)


def test_even_histograms_keep_their_height():
    """Their deviation is 0, and no coefficient may exceed 127 steps: the gain grows instead."""
    numbers = np.full((1, 1, 6, 9), 60.0, np.float32)
    steps = np.full((1, 1), 6, np.uint8)
    coding = hog_coding()
    found = coding.unpack(coding.pack(numbers, steps), steps, np.arange(1))
    assert np.abs(found - 60).max() < 0.3


# ------------------------------------------------------------------ what training gets

ROUNDING = 0.25
"""Root mean square deviation of displacements and of HOG in targets, whose own is about 1, as
docs/results.md states it."""


def real_tracks():
    """Tracks of real flow and HOG: those of the golden toy clips, with the plain coding."""
    layout = DatasetLayout(GOLDEN, "toy")
    for path in sorted(layout.flows.glob("*.h5")):
        with ShardReader(path, "flows") as reader:
            for row, (first, last) in enumerate(reader["/clip/frames"]):
                starts = np.array([0, 4, 8, 12])
                placed = PlacedTracks(
                    read_tracks(reader, first + starts).whole(),
                    last - first - 1 - starts,
                    reader.pair("/clip/track_grid", row),
                    reader.pair("/clip/track_size", row),
                )
                yield placed, starts, reader.pair("/clip/size", row)


def packed(tracks: Tracks) -> PackedTracks:
    moves, hog = moves_coding(), hog_coding()
    steps = tracks.num_steps
    return PackedTracks(
        moves.pack(tracks.displacements, steps), steps, hog.pack(tracks.hog, steps), (moves, hog)
    )


@pytest.mark.parametrize("interpolate", [True, False])
def test_targets_are_those_of_plain_tracks_within_the_stated_rounding(interpolate):
    from shared.grid import View

    config = TrajectoryConfig(points=4, interpolate=interpolate)
    errors, squares = np.zeros(2), np.zeros(2)
    for number, (placed, starts, size) in enumerate(real_tracks()):
        view = View((4.0, 2.0, 60.0, 58.0), (64, 64), flip_x=bool(number % 2))
        ends = starts[:, None] + np.arange(0, 7, 1 if interpolate else 2)
        arguments = (view, size, (4, 4), config, ends)
        target, counts = trajectory_target(placed, *arguments)
        coded = replace(placed, tracks=packed(placed.tracks))
        found, same = trajectory_target(coded, *arguments)
        assert np.array_equal(counts, same), "which steps are known is stored exactly"
        moves = config.points * counts.shape[2] * 2
        for part, columns in enumerate((slice(0, moves), slice(moves, None))):
            errors[part] += np.square(found[:, columns] - target[:, columns]).sum()
            squares[part] += np.square(target[:, columns]).sum()
    assert (squares > 100).all()
    assert (np.sqrt(errors / squares) < ROUNDING).all(), np.sqrt(errors / squares)
    assert (np.sqrt(errors / squares) > 0.01).all(), "the packed tracks were compared"


def test_some_positions_have_the_target_of_all():
    from shared.grid import View

    config = TrajectoryConfig()
    placed, starts, size = next(real_tracks())
    arguments = (View((0.0, 0.0, 64.0, 64.0), (64, 64)), size, (4, 4), config)
    ends = starts[:, None] + np.arange(7)
    for tracks in (placed.tracks, packed(placed.tracks)):
        each = replace(placed, tracks=tracks)
        target, counts = trajectory_target(each, *arguments, ends)
        positions = np.array([1, 5, 15])
        rows = (16 * np.arange(len(starts))[:, None] + positions).ravel()
        some, known = trajectory_target(each, *arguments, ends, positions)
        np.testing.assert_array_equal(known, counts[rows])
        np.testing.assert_allclose(some, target[rows], atol=1e-6)
