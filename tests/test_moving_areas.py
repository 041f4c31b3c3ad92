"""The table of what moves: its bits, the area of a window, and the patches that this fills."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from preprocess.motion_boxes.moving import covered_cells, moving_areas
from shared.grid import View, canonical_view, inside_boxes
from shared.moving_areas import (
    FILLED_SHARE,
    MOVING_SHARE,
    moving_positions,
    pack_areas,
    unpack_areas,
    window_area,
)

AREAS = st.tuples(st.integers(0, 6), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays.arrays(np.bool_, shape)
)


@given(AREAS)
def test_packed_areas_unpack_to_the_same(areas):
    packed = pack_areas(areas)
    height, width = areas.shape[1:]
    assert packed.shape == (len(areas), -(-height * width // 8))
    assert np.array_equal(unpack_areas(packed, areas.shape[1:]), areas)


@given(AREAS, st.randoms(use_true_random=False))
def test_the_area_of_a_window_is_what_moves_often_enough(areas, order):
    area = window_area(areas)
    counts, moving = areas.sum(axis=0), areas.any(axis=(1, 2)).sum()
    often = (counts > 0) & (counts >= MOVING_SHARE * moving)
    assert np.array_equal(area, often if often.any() else counts > 0)
    assert area.any() == areas.any()
    # Still frames and the order of frames change nothing.
    shuffled = [*areas, *np.zeros_like(areas[:2])]
    order.shuffle(shuffled)
    if len(areas):
        assert np.array_equal(window_area(np.stack(shuffled)), area)


def test_a_bad_frame_decides_nothing_and_a_fast_object_counts_everywhere():
    areas = np.zeros((16, 8, 8), np.bool_)
    areas[:, 2:4, 2:4] = True
    areas[5] = areas[9] = True
    assert np.array_equal(window_area(areas), areas[0])  # 2 of 16 frames are too few
    fast = np.zeros((8, 8, 8), np.bool_)
    fast[np.arange(8), np.arange(8), np.arange(8)] = True
    assert np.array_equal(window_area(fast), np.eye(8, dtype=np.bool_))
    assert not window_area(np.zeros((4, 8, 8), np.bool_)).any()


@given(
    areas=arrays.arrays(np.bool_, (3, 12, 16)),
    crop=st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(8, 60), st.integers(8, 40)),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_flips_of_a_view_flip_its_positions(areas, crop, flips):
    x, y, width, height = crop
    box = (float(x), float(y), float(x + width), float(y + height))
    plain = moving_positions(areas, View(box, (64, 64)), (128, 96), 16)
    flipped = moving_positions(areas, View(box, (64, 64), *flips), (128, 96), 16)
    assert plain.shape == (4, 4)
    assert np.array_equal(flipped, plain[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1])


@given(st.tuples(*[st.integers(0, 14)] * 4))
def test_a_moving_rectangle_of_whole_patches_is_its_box(edges):
    (x1, x2), (y1, y2) = sorted(edges[:2]), sorted(edges[2:])
    areas = np.zeros((2, 28, 28), np.bool_)
    areas[:, 2 * y1 : 2 * y2, 2 * x1 : 2 * x2] = True
    view = canonical_view(224, 224)
    box = np.tile(16.0 * np.array([x1, y1, x2, y2]), (2, 1)) if areas.any() else [[np.nan] * 4]
    expected = inside_boxes(np.array(box), view)
    assert np.array_equal(moving_positions(areas, view, (224, 224), 16), expected)


@pytest.mark.parametrize(("cells", "expected"), [(3, False), (4, True)])
def test_a_patch_moves_if_a_quarter_of_it_does(cells, expected):
    assert FILLED_SHARE == 0.25
    areas = np.zeros((1, 4, 4), np.bool_)
    areas[0].flat[[0, 1, 4, 5][:cells]] = True
    view = View((0.0, 0.0, 16.0, 16.0), (16, 16))
    assert moving_positions(areas, view, (16, 16), 16).tolist() == [[expected]]


def test_contours_are_filled_as_far_as_the_box_reaches():
    square = np.array([[2, 1], [2, 6], [7, 6], [7, 1]], np.float32) + 0.5
    box = np.array([[0, 2, 5, 10], [np.nan] * 4], np.float32)
    areas = moving_areas([[square], []], box, (8, 10))
    expected = np.zeros((2, 8, 10), np.bool_)
    expected[0, 2:7, 2:5] = True
    assert np.array_equal(areas, expected)


@given(st.lists(st.tuples(*[st.floats(0, 9)] * 4), max_size=3))
def test_cells_of_annotated_boxes_have_their_centre_inside(boxes):
    found = covered_cells(np.array(boxes, np.float64).reshape(-1, 4), (6, 9))
    for row in range(6):
        for column in range(9):
            inside = [x1 <= column + 0.5 < x2 and y1 <= row + 0.5 < y2 for x1, y1, x2, y2 in boxes]
            assert found[row, column] == any(inside)
