"""Boxes through crop, resize and flip, against pixels painted and moved by hand."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.grid import View, canonical_view, inside_boxes, positions_inside, window_box

NAN_BOX = np.full(4, np.nan, dtype=np.float32)


@st.composite
def integer_boxes(draw, width, height):
    x1, x2 = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    y1, y2 = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    assume(x2 > x1 and y2 > y1)
    return x1, y1, x2, y2


@given(
    integer_boxes(40, 30), integer_boxes(40, 30), st.booleans(), st.booleans(), st.integers(1, 3)
)
def test_view_moves_boxes_as_it_moves_pixels(box, crop, flip_x, flip_y, zoom):
    """Paint the box, cut, enlarge and mirror the picture: the painted part is the moved box."""
    picture = np.zeros((30, 40), dtype=bool)
    picture[box[1] : box[3], box[0] : box[2]] = True
    picture = picture[crop[1] : crop[3], crop[0] : crop[2]]
    picture = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    picture = picture[:, ::-1] if flip_x else picture
    picture = picture[::-1] if flip_y else picture
    moved = View(crop=crop, size=picture.shape, flip_x=flip_x, flip_y=flip_y).apply(np.array(box))
    if not picture.any():
        assert np.isnan(moved).all()
        return
    rows, columns = np.nonzero(picture)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(moved, expected, atol=1e-4)


@given(integer_boxes(40, 30), st.booleans(), st.booleans())
def test_flipping_twice_is_nothing(box, flip_x, flip_y):
    view = View(crop=(0, 0, 40, 30), size=(30, 40), flip_x=flip_x, flip_y=flip_y)
    np.testing.assert_allclose(view.apply(view.apply(np.array(box))), box, atol=1e-4)


def test_rows_without_motion_stay_without_a_box():
    view = View(crop=(0, 0, 10, 10), size=(20, 20))
    moved = view.apply(np.stack([NAN_BOX, [2, 2, 4, 4], [11, 0, 12, 3]]))
    assert np.isnan(moved[[0, 2]]).all() and moved[1].tolist() == [4, 4, 8, 8]


@pytest.mark.parametrize(
    ("size", "crop"), [((320, 240), (40, 0, 280, 240)), ((64, 65), (0, 0.5, 64, 64.5))]
)
def test_canonical_view_is_the_centre_square(size, crop):
    view = canonical_view(*size)
    assert view.crop == crop and view.size == (224, 224)


@given(st.lists(st.none() | integer_boxes(40, 30), max_size=6), st.floats(0, 1, width=32))
def test_window_box_has_quantiles_of_edges(boxes, share):
    """Those of numpy, counted from the outside; around all boxes where they leave no area."""
    rows = np.array([NAN_BOX if box is None else box for box in boxes]).reshape(-1, 4)
    found = window_box(rows, share)
    real = np.array([box for box in boxes if box is not None])
    if len(real) == 0:
        assert np.isnan(found).all()
        return
    low, high = np.quantile(real[:, :2], share, axis=0), np.quantile(real[:, 2:], 1 - share, axis=0)
    if np.any(low > high - 1e-3):
        low, high = np.minimum(low, found[:2]), np.maximum(high, found[2:])
    np.testing.assert_allclose(found, [*low, *high], atol=1e-3)
    around = [*real[:, :2].min(axis=0), *real[:, 2:].max(axis=0)]
    assert window_box(rows, 0.0).tolist() == around


def test_a_few_wrong_boxes_do_not_decide_about_a_window():
    boxes = np.tile(np.array([10.0, 20, 30, 40], np.float32), (16, 1))
    boxes[::6] = (0, 0, 100, 100)  # 3 of 16
    assert window_box(boxes).tolist() == [10, 20, 30, 40]


def test_boxes_that_lie_apart_have_a_window_box_around_all():
    apart = np.array([[0, 0, 4, 4], [20, 0, 24, 4], [40, 0, 44, 4]], np.float32)
    assert window_box(apart, 0.9).tolist() == [0, 0, 44, 4]


@given(st.tuples(*[st.floats(-20, 240, width=32)] * 4))
def test_inside_means_patch_centre_inside(box):
    found = positions_inside(np.array(box), (64, 96), patch=16)
    assert found.shape == (4, 6)
    for row in range(4):
        for column in range(6):
            x, y = column * 16 + 8, row * 16 + 8
            assert found[row, column] == (box[0] <= x < box[2] and box[1] <= y < box[3])


def test_no_box_means_no_position_inside():
    assert not positions_inside(NAN_BOX, (224, 224)).any()
    outside = canonical_view(448, 224).apply(np.array([0.0, 0.0, 20.0, 224.0]))
    assert not positions_inside(outside, (224, 224)).any()


def test_boxes_beyond_the_crop_count_in_the_window():
    """One left of the crop and one in its middle: of what is shown the left part is inside, to a
    quarter of the way back from the right edge of the latter."""
    view = canonical_view(448, 224)  # shows x from 112 to 336
    boxes = np.array([[0, 0, 60, 224], NAN_BOX, [200, 96, 240, 128]], np.float32)
    inside = inside_boxes(boxes, view)
    # x to 240 - 180 / 4 - 112 = 83, y from 96 / 4 = 24 to 224 - 96 / 4 = 200
    assert inside[1:12, :5].all() and inside.sum() == 11 * 5
    assert inside_boxes(boxes[2:], view).sum() == 2 * 3  # 88 to 128, 96 to 128
    assert not inside_boxes(boxes[:1], view).any() and not inside_boxes(boxes[1:2], view).any()
