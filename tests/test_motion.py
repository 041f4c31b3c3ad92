"""Motion maps and boxes: equation 1, reduction, companding, and boxes of drawn motion."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from preprocess.box_run.shards import _corners as corner_vertices
from preprocess.box_run.shards import _textures as textures_of
from preprocess.flow.motion_maps import motion_map, reduce_maps
from preprocess.motion_boxes.boxes import motion_boxes
from preprocess.motion_boxes.contours import contour_vertices
from preprocess.motion_boxes.evidence import motion_evidence, texture_maps
from preprocess.motion_boxes.presets import (
    OF_BOUNDARIES,
    PRESETS,
    MotionParameters,
    read_parameters,
)
from shared.motion_maps import LEVELS, compand, expand
from shared.schema import LARGEST_VERTEX


def test_motion_map_is_equation_1():
    """Against derivatives worked out by numpy, which uses the same central differences."""
    flow = np.random.default_rng(0).normal(size=(3, 2, 20, 30))
    along_y, along_x = np.gradient(flow, axis=(2, 3))
    expected = np.sqrt((along_x**2 + along_y**2).sum(axis=1))
    np.testing.assert_allclose(motion_map(torch.from_numpy(flow)).numpy(), expected, rtol=1e-12)


def test_equal_motion_everywhere_is_no_motion_boundary():
    flow = torch.full((1, 2, 16, 16), 3.25)
    assert motion_map(flow).abs().max() == 0


def test_motion_map_of_a_zoom_is_its_rate():
    """u = a x, v = a y: the map is a * sqrt(2) everywhere, the borders included."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    flow = 0.5 * torch.stack([x, y])[None]
    torch.testing.assert_close(motion_map(flow), torch.full((1, 12, 16), 0.5 * 2**0.5))


@given(
    st.integers(4, 40),
    st.integers(4, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_reduced_maps_are_means_over_areas(height, width, small_height, small_width, seed):
    small = (min(small_height, height), min(small_width, width))
    maps = torch.from_numpy(np.random.default_rng(seed).random((2, height, width)))
    reduced = reduce_maps(maps, small)
    assert reduced.shape == (2, *small)
    torch.testing.assert_close(reduced.mean((1, 2)), maps.mean((1, 2)))
    # Enlarging each cell by the ratio and averaging whole pixels gives the same.
    enlarged = maps.repeat_interleave(small[0], 1).repeat_interleave(small[1], 2)
    expected = enlarged.reshape(2, small[0], height, small[1], width).mean((2, 4))
    torch.testing.assert_close(reduced, expected)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)),
        elements=st.floats(0, 50, width=32),
    )
)
@settings(deadline=None)
def test_companding_is_exact_to_its_step(maps):
    values, scale = compand(maps)
    assert values.dtype == np.uint8 and scale.dtype == np.float32
    restored = expand(values, scale)
    assert restored.dtype == np.float32
    largest = maps.max(axis=(1, 2))
    # Levels are equal steps of the square root.
    root = np.abs(np.sqrt(restored) - np.sqrt(maps)).max(axis=(1, 2))
    assert np.all(root <= np.sqrt(largest) / LEVELS * 0.501 + 1e-18)
    assert np.array_equal(scale == 0, largest < LEVELS**2 * np.float32(1e-45))


def drawn_maps(boxes, size=(60, 80), value=0.5):
    """Maps float32 [T, h, w] that are `value` in x1:x2, y1:y2 of each frame's boxes."""
    maps = np.zeros((len(boxes), *size), dtype=np.float32)
    for frame, frame_boxes in enumerate(boxes):
        for x1, y1, x2, y2 in frame_boxes:
            maps[frame, y1:y2, x1:x2] = value
    return maps


EXACT = MotionParameters(sigma=0.0)


def test_boxes_enclose_what_moves_half_open():
    boxes, scores, _ = motion_boxes(drawn_maps([[(10, 20, 30, 40)], [(11, 22, 33, 44)]]), EXACT)
    assert boxes.tolist() == [[10, 20, 30, 40], [11, 22, 33, 44]]
    assert scores.tolist() == [1, 1]
    assert boxes.dtype == scores.dtype == np.float32


def test_the_two_largest_contours_count():
    large, middle, small = (10, 10, 30, 30), (50, 40, 60, 50), (70, 5, 74, 9)
    boxes, scores, _ = motion_boxes(drawn_maps([[small, middle, large]]), EXACT)
    assert boxes[0].tolist() == [10, 10, 60, 50]
    assert scores[0] == pytest.approx(500 / 516)
    one, *_ = motion_boxes(
        drawn_maps([[small, middle, large]]), dataclasses.replace(EXACT, contours=1)
    )
    assert one[0].tolist() == list(large)
    near = dataclasses.replace(EXACT, largest_distance=0.2)
    assert motion_boxes(drawn_maps([[middle, large]]), near)[0][0].tolist() == list(large)


def test_without_motion_there_is_no_box():
    maps = drawn_maps([[], [(10, 20, 30, 40)], [(10, 20, 30, 40)]])
    maps[2] *= 0.001
    boxes, scores, _ = motion_boxes(maps, EXACT)
    assert np.isnan(boxes).all(axis=1).tolist() == [True, False, True]
    assert scores.tolist() == [0, 1, 0]
    assert motion_boxes(maps[:0], EXACT)[0].shape == (0, 4)


@pytest.mark.parametrize("preset", PRESETS)
@given(seed=st.integers(0, 999), height=st.integers(4, 40), width=st.integers(4, 60))
@example(seed=0, height=26, width=4)  # equal edges, whose quantile must not be rounded past them
@settings(deadline=None, max_examples=15)
def test_boxes_lie_inside_and_scores_are_shares(preset, seed, height, width):
    rng = np.random.default_rng(seed)
    maps = (rng.random((5, height, width)) ** 8).astype(np.float32)
    boxes, scores, contours = motion_boxes(maps, PRESETS[preset])
    found = boxes[~np.isnan(boxes).any(axis=1)]
    assert np.isnan(boxes).any(axis=1).sum() == np.isnan(boxes).all(axis=1).sum()
    assert np.all(found[:, :2] >= 0) and np.all(found[:, 2:] <= (width, height))
    assert np.all(found[:, :2] < found[:, 2:])
    assert np.all((0 <= scores) & (scores <= 1.0001))
    assert len(contours) == len(maps)
    # Boxes are half-open, and vertices the centres of pixels.
    for box, of_frame in zip(boxes, contours, strict=True):
        if PRESETS[preset].steady_frames:  # neighbours decide about the box
            assert not of_frame or not np.isnan(box).any()
            continue
        assert np.isnan(box).any() == (of_frame == [])
        if of_frame:
            vertices = np.concatenate(of_frame)
            ends = np.concatenate([vertices.min(axis=0) - 0.5, vertices.max(axis=0) + 0.5])
            assert np.array_equal(ends, box)


def test_presets_find_a_moving_square_in_noise():
    rng = np.random.default_rng(3)
    truth = np.array([20, 16, 44, 40])
    maps = drawn_maps([[tuple(truth)]] * 6, size=(64, 85), value=0.4)
    maps += 0.02 * rng.random(maps.shape, dtype=np.float32)
    for preset, least in (("default", 0.5), ("paper", 0.5), ("mofo-code", 0.1)):
        scale = 8 * 3 if preset in OF_BOUNDARIES else 1  # flows of a window, lines of a kernel
        boxes, *_ = motion_boxes(maps * np.float32(scale), PRESETS[preset])
        for box in boxes:
            inner = np.minimum(box[2:], truth[2:]) - np.maximum(box[:2], truth[:2])
            areas = np.prod(box[2:] - box[:2]), np.prod(truth[2:] - truth[:2])
            overlap = np.prod(inner.clip(0))
            assert overlap / (sum(areas) - overlap) >= least, (preset, box)


def test_a_weak_second_contour_does_not_count():
    large, weak = (10, 10, 30, 30), (50, 40, 66, 52)  # 400 and 192 pixels
    maps = drawn_maps([[large, weak]])
    for share, expected in ((0.4, [10, 10, 66, 52]), (0.5, list(large))):
        parameters = dataclasses.replace(EXACT, smallest_share=share)
        assert motion_boxes(maps, parameters)[0][0].tolist() == expected


def test_a_window_sums_maps_on_both_sides():
    maps = drawn_maps([[(10 * k, 20, 10 * k + 10, 30)] for k in range(5)])
    window = dataclasses.replace(EXACT, frames_before=1, frames_after=2, contours=1)
    boxes, *_ = motion_boxes(maps, window)
    assert boxes[:, 0].tolist() == [0, 0, 10, 20, 30]
    assert boxes[:, 2].tolist() == [30, 40, 50, 50, 50]


def test_stored_vertices_are_the_contours_in_source_pixels():
    large, small = (10, 10, 30, 30), (50, 40, 66, 52)
    maps = drawn_maps([[large, small], []])
    frames = contour_vertices(motion_boxes(maps, EXACT)[2], np.array([2.0, 3.0]))
    assert [vertices.dtype for vertices in frames] == [np.int16] * 2
    assert frames[1].shape == (0, 3)
    for number, (x1, y1, x2, y2) in enumerate((large, small)):
        x, y = frames[0][frames[0][:, 0] == number, 1:].T
        assert (x.min(), x.max()) == (2 * x1 + 1, 2 * x2 - 1)  # centres of pixels
        assert (y.min(), y.max()) == (3 * y1 + 2, 3 * y2 - 1)


def test_vertices_beyond_what_is_stored_stay_at_its_end():
    """A frame of 40,000 pixels: int16 would wrap to negative places."""
    *_, contours = motion_boxes(drawn_maps([[(10, 10, 30, 30)]]), EXACT)
    [vertices] = contour_vertices(contours, np.array([2000.0, 3.0]))
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (21_000, LARGEST_VERTEX)
    corners = corner_vertices(np.array([[100.0, 0.0, 40_000.0, 800.0]]))
    assert corners[:, 1:].tolist() == [[100, 0], [32767, 0], [32767, 800], [100, 800]]


def test_windows_and_replacement_look_ahead():
    maps = drawn_maps([[], [], [(10, 20, 30, 40)]])
    window = dataclasses.replace(EXACT, frames_after=2, least_motion=0.0)
    assert np.isnan(motion_boxes(maps, window)[0][:2]).all()  # nothing moves in those frames
    maps[:2, 0, 0] = 0.01
    assert motion_boxes(maps, window)[0][:, 2].tolist() == [30, 30, 30]
    replaced = dataclasses.replace(EXACT, least_motion=0.0, smallest_area=0.01)
    boxes, _, contours = motion_boxes(maps, replaced)
    assert boxes.tolist() == [[10, 20, 30, 40]] * 3
    assert [len(of_frame) for of_frame in contours] == [1, 1, 1]
    assert all(np.array_equal(contours[k][0], contours[2][0]) for k in (0, 1))


def test_numbers_of_a_preset_can_be_changed():
    changed = read_parameters("default", ("sigma=4", "contours=1"))
    assert changed == dataclasses.replace(PRESETS["default"], sigma=4.0, contours=1)
    for preset, changes, code, *named in (
        ("best", (), "unknown-name", "'best'", "default, paper, mofo-code"),
        ("default", ("sigmas=4",), "unknown-key", "'sigmas'", "texture, frames_before"),
        ("default", ("sigma=wide",), "bad-setting", "sigma=wide", "'wide'"),
        ("default", ("contours=1.5",), "bad-setting", "'1.5'", "whole number"),
        ("default", ("sigma=-1",), "out-of-range", "sigma is -1.0"),
        ("default", ("contours=0",), "out-of-range", "contours is 0", "at least 1"),
        ("default", ("sigma=nan",), "out-of-range", "sigma is nan"),
    ):
        with refuses(code, *named):
            read_parameters(preset, changes)


def test_texture_is_the_mean_length_of_the_gradient():
    y, x = np.mgrid[:60, :80]
    picture = np.where(x < 40, 3 * x + 2 * y, 100).astype(np.uint8)
    texture = texture_maps(picture[None], (6, 8))
    assert texture.shape == (1, 6, 8) and texture.dtype == np.float32
    np.testing.assert_allclose(texture[0, 1:-1, 1:3], np.hypot(3, 2), rtol=1e-6)
    assert texture[0, :, 5:].max() == 0


def test_only_some_frames_are_in_memory_for_their_texture(monkeypatch):
    grey = np.random.default_rng(0).integers(0, 256, (10, 24, 32), dtype=np.uint8)
    files = [cv2.imencode(".png", picture)[1].reshape(-1) for picture in grey]
    read = []

    class Stored:
        def ragged(self, offsets, values, first, last):
            read.append((first, last))
            return files[first:last]

    monkeypatch.setattr("preprocess.box_run.shards.TEXTURE_FRAMES", 4)
    maps = np.zeros((9, 6, 8), dtype=np.float32)
    np.testing.assert_array_equal(
        textures_of(Stored(), 1, 10, maps), texture_maps(grey[1:], (6, 8))
    )
    assert read == [(1, 5), (5, 9), (9, 10)]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (3, 0), (2, 1), (20, 20)])
def test_motion_is_summed_over_a_window_that_the_ends_cut(before, after):
    maps = np.random.default_rng(0).gamma(0.5, 10, (9, 4, 5)).astype(np.float32)
    window = dataclasses.replace(EXACT, frames_before=before, frames_after=after)
    sums = motion_evidence(maps, window, None)
    for frame, found in enumerate(sums):
        near = maps[max(frame - before, 0) : frame + after + 1]
        np.testing.assert_allclose(found, near.sum(axis=0), rtol=1e-6)


def test_motion_counts_by_the_texture_that_it_lies_on():
    plain, textured = (10, 10, 30, 30), (50, 30, 70, 50)
    maps = drawn_maps([[plain, textured]])
    textures = np.full_like(maps, 0.5)
    textures[:, 30:50, 50:70] = 8
    weighted = dataclasses.replace(EXACT, texture=1.0, contours=1)
    boxes, scores, contours = motion_boxes(maps, weighted, textures)
    assert boxes[0].tolist() == list(textured)
    assert scores[0] == pytest.approx(0.5)  # a share of the motion, whatever the texture
    assert [len(found) for found in contours] == [1] and contours[0][0][:, 0].min() == 50.5
    both, *_ = motion_boxes(maps, dataclasses.replace(EXACT, texture=1.0), textures / textures)
    assert both[0].tolist() == [10, 10, 70, 50]
