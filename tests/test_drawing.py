"""What pictures of clips have in common: outlines of boxes, brightness, points between pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.drawing import BOX_RGB, EDGE_RGB, FINE_BITS, draw_box, fixed_point, map_levels

WIDTH, HEIGHT = 30, 20


def drawn(box) -> np.ndarray:
    picture = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    draw_box(picture, np.array(box, np.float32))
    return picture


def test_outline_lies_along_the_border_of_a_half_open_box():
    picture = drawn([5, 4, 25, 16])
    assert np.all(picture[4:16, 5] == BOX_RGB) and np.all(picture[4:16, 24] == BOX_RGB)
    assert np.all(picture[4, 5:25] == BOX_RGB) and np.all(picture[15, 5:25] == BOX_RGB)
    assert np.all(picture[10, [3, 6, 23, 26]] == EDGE_RGB)
    assert np.all(picture[[2, 5, 14, 17], 10] == EDGE_RGB)
    changed = np.zeros((HEIGHT, WIDTH), bool)
    changed[2:18, 3:27] = True
    changed[6:14, 7:23] = False
    assert np.array_equal((picture != 200).any(axis=2), changed)


def test_no_box_is_not_drawn():
    assert np.all(drawn([np.nan] * 4) == 200)


@given(st.tuples(*[st.floats(-40, 40, width=32)] * 4))
def test_a_box_that_reaches_the_border_is_seen_there(corners):
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    picture = drawn([x1, y1, x2, y2])
    assert (picture == BOX_RGB).all(axis=2).any()


def test_the_whole_frame_is_outlined_within_it():
    picture = drawn([-5, -5, 40, 40])
    border = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    assert np.all(np.concatenate(border) == BOX_RGB)


def test_levels_rise_with_the_square_root():
    levels = map_levels(np.array([0.0, 0.25, 1.0, 4.0], np.float32), 1.0)
    assert levels.dtype == np.uint8 and levels.tolist() == [0, 127, 255, 255]
    assert not map_levels(np.ones((2, 2), np.float32), 0.0).any()


@pytest.mark.parametrize(("x", "y"), [(3, 7), (12, 4)])
def test_whole_numbers_lie_between_pixels(x, y):
    """A line along the border between two rows of pixels is as strong in both."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    points = fixed_point(np.array([[x, y], [x + 9, y]]))
    cv2.polylines(picture, [points[:, None]], False, (255, 255, 255), 1, cv2.LINE_AA, FINE_BITS)
    above, below = picture[y - 1, x + 4, 0], picture[y, x + 4, 0]
    assert above > 50 and abs(int(above) - int(below)) < 20
    assert fixed_point([[0.5, 1.0]]).tolist() == [[0, 8]]
