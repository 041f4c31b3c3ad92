"""RandAugment with all operations: boxes move with the pixels; VideoMAE's frames of tests."""

import math

import numpy as np
import pytest
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st

from shared.randomness import counter_generator
from train.clips.augment import ALL_OPERATIONS, ColourAugment, FullAugment
from train.clips.geometric import GEOMETRIC_OPERATIONS, Movement, draw_movement, magnitude_of
from train.clips.view_rules import dense, grid_places
from train.options.config import AugmentConfig

SIZE, PATCH = 64, 8
GRID = SIZE // PATCH


def marked(inside: np.ndarray) -> np.ndarray:
    """A clip of two frames that is white where patches are inside, and black elsewhere."""
    white = inside.repeat(PATCH, 1).repeat(PATCH, 2)
    return np.broadcast_to(white[..., None] * np.uint8(255), (len(inside), SIZE, SIZE, 3)).copy()


@pytest.mark.parametrize("name", GEOMETRIC_OPERATIONS)
def test_inside_patches_are_where_their_pixels_went(name):
    """The centres of inside patches are white after every movement, those of others are not."""
    inside = np.zeros((2, GRID, GRID), bool)
    inside[0, 2:5, 3:6], inside[1, 4:7, 1:4] = True, True
    for seed in range(12):
        rng = counter_generator(seed)
        movement = draw_movement(name, magnitude_of(7, 2.0, rng), SIZE, rng)
        frames, moved = movement.of_frames(marked(inside)), movement.of_inside(inside, SIZE)
        middle = PATCH // 2
        centres = frames[:, middle::PATCH, middle::PATCH].min(axis=3)
        # Interpolation mixes a centre that lies on a border, and grey comes from outside.
        assert moved[centres == 255].all() and not moved[centres == 0].any()
        assert (centres == 255).any()


def test_shifts_and_quarter_turns_are_exact():
    inside = np.zeros((1, GRID, GRID), bool)
    inside[0, 1, 2] = True
    right = Movement(translate=(2 * PATCH, 0)).of_inside(inside, SIZE)
    assert np.argwhere(right).tolist() == [[0, 1, 4]]
    down = Movement(translate=(0, 3 * PATCH)).of_inside(inside, SIZE)
    assert np.argwhere(down).tolist() == [[0, 4, 2]]
    gone = Movement(translate=(-3 * PATCH, 0)).of_inside(inside, SIZE)
    assert not gone.any()


def test_a_shear_moves_a_row_in_proportion_to_its_height():
    frames = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    frames[:, :, 20:24] = 255
    sheared = Movement(shear=(math.degrees(math.atan(0.25)), 0.0)).of_frames(frames)
    places = [np.flatnonzero(row[:, 0] > 128).mean() for row in sheared[0]]
    shift = np.diff(places).mean()
    assert abs(shift) == pytest.approx(0.25, abs=0.03) and places[0] == pytest.approx(21.5, abs=1)


def test_magnitudes_have_timms_limits():
    assert abs(draw_movement("Rotate", 10, SIZE, counter_generator(0)).angle) == 30
    assert (
        max(map(abs, draw_movement("TranslateXRel", 10, 200, counter_generator(0)).translate)) == 90
    )
    assert max(draw_movement("ShearY", 0, SIZE, counter_generator(0)).shear) == 0
    drawn = [magnitude_of(7, 0.5, counter_generator(n)) for n in range(300)]
    assert np.mean(drawn) == pytest.approx(7, abs=0.15) and max(drawn) <= 10
    signs = {
        np.sign(draw_movement("Rotate", 5, SIZE, counter_generator(n)).angle) for n in range(20)
    }
    assert signs == {-1, 1}


def test_all_operations_are_drawn_and_depend_on_the_generator_alone():
    frames = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    inside = np.ones((2, GRID, GRID), bool)
    augment = FullAugment(7, 4, 0.5)
    moved = 0
    for seed in range(12):
        one = augment(frames, inside, counter_generator(seed))
        again = augment(frames, inside, counter_generator(seed))
        np.testing.assert_array_equal(one[0], again[0])
        np.testing.assert_array_equal(one[1], again[1])
        assert one[0].shape == frames.shape and one[0].dtype == np.uint8
        assert one[1].shape == inside.shape
        moved += not one[1].all()
    assert 2 < moved < 12 and inside.all() and len(ALL_OPERATIONS) == 15
    colours = ColourAugment(7, 4, 0.5)
    assert colours(frames, counter_generator(0)).shape == frames.shape


def test_operations_without_layers_are_refused():
    with refuses("option-unused", "rand_operations", "all", "rand_layers"):
        AugmentConfig(rand_operations="all")
    with refuses("unknown-name", "rand_operations", "'shapes'", "colour, all"):
        AugmentConfig(rand_layers=2, rand_operations="shapes")


def videomae_windows(length: int, num_frames: int, stride: int, segments: int) -> list[list[int]]:
    """The frames of VideoMAE's test views, as kinetics.py of its code takes them."""
    kept = list(range(0, length, stride))
    while len(kept) < num_frames:
        kept.append(kept[-1])
    step = max(1.0 * (len(kept) - num_frames) / (segments - 1), 0)
    return [kept[int(n * step) : int(n * step) + num_frames] for n in range(segments)]


@given(st.integers(1, 300), st.integers(1, 16), st.integers(1, 6), st.integers(2, 7))
def test_windows_on_the_stride_grid_are_videomaes(length, num_frames, stride, segments):
    expected = videomae_windows(length, num_frames, stride, segments)
    for segment in range(segments):
        places = grid_places(length, num_frames, stride, segment, segments)
        found = dense(length, num_frames, places, stride=stride, short="repeat")
        if len(range(0, length, stride)) >= num_frames:
            assert found.tolist() == expected[segment]
        else:  # the code repeats the last frame of the grid, here it is the last frame of the clip
            assert found[: len(set(expected[segment]))].tolist() == sorted(set(expected[segment]))


def test_a_short_clip_repeats_its_tail_by_option():
    places = np.zeros(4)
    assert dense(6, 4, places, stride=3, short="repeat").tolist() == [0, 3, 5, 5]
    assert dense(6, 4, places, stride=3).tolist() == [0, 2, 3, 5]
    assert dense(10, 4, places, stride=3, short="repeat").tolist() == [0, 3, 6, 9]
    with refuses("unknown-name", "short", "'loop'", "spread, repeat"):
        dense(6, 4, places, stride=3, short="loop")
