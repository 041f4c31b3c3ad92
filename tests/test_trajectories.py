"""Tracks against a slow loop, on motion that is known, and through storage."""

import math

import numpy as np
import pytest
import torch
from camera_fixtures import camera_flow
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from preprocess.flow.camera import total_flow
from preprocess.flow.options import TrackOptions
from preprocess.flow.tracks import make_tracks, median_filter, orientation_maps
from shared.randomness import counter_generator
from shared.tracks import (
    DISPLACEMENT_UNIT,
    HOG_UNIT,
    LARGEST_HOG,
    MIRRORED_BINS,
    NUM_BINS,
    Tracks,
    grid_shape,
    quantised,
    restored,
    start_points,
)


def random_clip(num_frames, height, width, speed, *key):
    rng = counter_generator("trajectories", *key)
    frames = rng.integers(0, 256, (num_frames, height, width), dtype=np.uint8)
    flows = rng.normal(0, speed, (num_frames - 1, 2, height, width)).astype(np.float32)
    return torch.from_numpy(frames), torch.from_numpy(flows)


# ------------------------------------------------------------------ the same by loops


def slow_median(plane):
    height, width = plane.shape
    result = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            around = [
                plane[min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            ]
            result[y, x] = sorted(around)[4]
    return result


def slow_bilinear(value_at, x, y):
    """Between the four whole numbers around (x, y)."""
    left, top = math.floor(x), math.floor(y)
    share_x, share_y = x - left, y - top
    return (
        value_at(left, top) * (1 - share_x) * (1 - share_y)
        + value_at(left + 1, top) * share_x * (1 - share_y)
        + value_at(left, top + 1) * (1 - share_x) * share_y
        + value_at(left + 1, top + 1) * share_x * share_y
    )


def slow_hog(frame, cell, x, y):
    """9 numbers for the cells around the pixel corners next to (x, y), interpolated."""
    height, width = frame.shape

    def grey(column, row):
        return float(frame[min(max(row, 0), height - 1), min(max(column, 0), width - 1)])

    def cell_mean(corner_x, corner_y):
        total, num_pixels = np.zeros(NUM_BINS), 0
        for row in range(corner_y - cell // 2, corner_y + cell // 2):
            for column in range(corner_x - cell // 2, corner_x + cell // 2):
                if not (0 <= row < height and 0 <= column < width):
                    continue
                along_x = (grey(column + 1, row) - grey(column - 1, row)) / 2
                along_y = (grey(column, row + 1) - grey(column, row - 1)) / 2
                degrees = math.degrees(math.atan2(along_y, along_x)) % 180
                lower = int(degrees // 20)
                share = degrees / 20 - lower
                length = math.sqrt(along_x**2 + along_y**2)
                total[lower % NUM_BINS] += (1 - share) * length
                total[(lower + 1) % NUM_BINS] += share * length
                num_pixels += 1
        return total / num_pixels

    return slow_bilinear(cell_mean, x, y)


def slow_square_hog(pictures, options, x, y):
    """HOG of each cell of a square around (x, y), channel by channel; cells outside of the frame
    take the place of the nearest pixel corner."""
    height, width = pictures[0].shape
    middle = (options.cells - 1) / 2
    found = []
    for picture in pictures:
        for row in range(options.cells):
            for column in range(options.cells):
                at_x = min(max(x + (column - middle) * options.cell, 0), width)
                at_y = min(max(y + (row - middle) * options.cell, 0), height)
                found.append(slow_hog(picture, options.cell, at_x, at_y))
    return np.concatenate(found)


def slow_tracks(frames, flows, options, residual=None, colour=None):
    """One track after another, one step after another."""
    pictures = frames.numpy()[None] if colour is None else colour.numpy().transpose(3, 0, 1, 2)
    frames, flows = frames.numpy(), flows.numpy().astype(np.float64)
    recorded = flows if residual is None else residual.numpy().astype(np.float64)
    num_frames, height, width = frames.shape

    def smooth(fields):
        if options.max_flow:
            fields = np.clip(fields, -options.max_flow, options.max_flow)
        return [[slow_median(plane) for plane in field] for field in fields]

    flows, recorded = smooth(flows), smooth(recorded)
    rows, columns = grid_shape((height, width), options.points)
    shape = (num_frames, rows * columns, options.length)
    displacements, hog = np.zeros((*shape, 2)), np.zeros((*shape, options.layout.num_values))
    num_steps = np.zeros(shape[:2], dtype=int)
    for first in range(num_frames):
        for point in range(rows * columns):
            x = (point % columns + 0.5) * width / columns
            y = (point // columns + 0.5) * height / rows
            for step in range(options.length):
                if first + step >= len(flows):
                    break

                def at(plane, x=x, y=y):
                    def value(i, j):
                        return plane[min(max(j, 0), height - 1), min(max(i, 0), width - 1)]

                    return slow_bilinear(value, x - 0.5, y - 0.5)

                after_x = x + at(flows[first + step][0])
                after_y = y + at(flows[first + step][1])
                if not (0 <= after_x < width and 0 <= after_y < height):
                    break
                displacements[first, point, step] = [at(p) for p in recorded[first + step]]
                hog[first, point, step] = slow_square_hog(pictures[:, first + step], options, x, y)
                num_steps[first, point] += 1
                x, y = after_x, after_y
    return Tracks(displacements, num_steps, hog)


@pytest.mark.parametrize(
    ("num_frames", "options", "speed"),
    [
        (5, TrackOptions(length=3, points=5, cell=4), 2.0),
        (3, TrackOptions(length=6, points=3, cell=6, max_flow=1.0), 4.0),
        (4, TrackOptions(length=2, points=4, cell=2, max_flow=0.0), 6.0),
    ],
    ids=["some leave", "clip ends first", "not clipped"],
)
def test_against_the_slow_loop(num_frames, options, speed):
    frames, flows = random_clip(num_frames, 17, 22, speed, options.points)
    fast, slow = make_tracks(frames, flows, options), slow_tracks(frames, flows, options)
    assert np.array_equal(fast.num_steps, slow.num_steps)
    assert len(np.unique(slow.num_steps)) > 1, "some tracks end early"
    assert np.allclose(fast.displacements, slow.displacements, atol=1e-3)
    assert np.allclose(fast.hog, slow.hog, atol=1e-2)
    assert fast.num_steps.dtype == np.uint8 and fast.displacements.dtype == np.float32


@pytest.mark.parametrize(("channels", "cells"), [("rgb", 1), ("grey", 2), ("rgb", 3)])
def test_hog_of_channels_and_cells_against_the_slow_loop(channels, cells):
    options = TrackOptions(length=3, points=4, cell=4, channels=channels, cells=cells)
    frames, flows = random_clip(4, 13, 18, 2.0, "colour")
    colour = None
    if channels == "rgb":
        rng = np.random.default_rng(cells)
        colour = torch.from_numpy(rng.integers(0, 256, (*frames.shape, 3), dtype=np.uint8))
    fast = make_tracks(frames, flows, options, colour=colour)
    slow = slow_tracks(frames, flows, options, colour=colour)
    number = {"rgb": 3, "grey": 1}[channels] * cells**2 * 9
    assert fast.hog.shape[-1] == options.layout.num_values == number
    assert np.allclose(fast.hog, slow.hog, atol=2e-2)
    assert np.array_equal(fast.displacements, make_tracks(frames, flows, TrackOptions(
        length=3, points=4, cell=4)).displacements)  # fmt: skip


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, False), (False, True), (True, True)])
def test_flipped_frames_have_flipped_hog(flip_x, flip_y):
    """By `HogLayout.flipped`, for each channel and cell."""
    options = TrackOptions(length=2, points=4, cell=4, channels="rgb", cells=2)
    frames, flows = random_clip(3, 16, 16, 0.0, "flip")
    flows = torch.zeros_like(flows)
    rng = np.random.default_rng(3)
    colour = torch.from_numpy(rng.integers(0, 256, (*frames.shape, 3), dtype=np.uint8))
    axes = [1] * flip_y + [2] * flip_x
    hog = make_tracks(frames, flows, options, colour=colour).hog.reshape(3, 4, 4, 2, -1)
    mirrored = make_tracks(frames.flip(axes), flows, options, colour=colour.flip(axes)).hog
    expected = np.flip(hog, axes)[..., options.layout.flipped(flip_x, flip_y)]
    assert np.allclose(mirrored.reshape(hog.shape), expected, atol=0.02)
    assert not np.allclose(mirrored.reshape(hog.shape), np.flip(hog, axes), atol=1.0)


def test_residual_motion_against_the_slow_loop():
    options = TrackOptions(length=3, points=4, cell=4)
    frames, flows = random_clip(5, 16, 20, 1.5, "followed")
    _, residual = random_clip(5, 16, 20, 1.0, "recorded")
    fast = make_tracks(frames, flows, options, residual)
    slow = slow_tracks(frames, flows, options, residual)
    assert np.array_equal(fast.num_steps, slow.num_steps)
    assert np.allclose(fast.displacements, slow.displacements, atol=1e-3)
    assert np.allclose(fast.hog, slow.hog, atol=1e-2), "HOG follows what the points started on"


PLANES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-9, 9, width=32)
)


@given(PLANES)
def test_median_of_nine(plane):
    assert np.array_equal(
        median_filter(torch.from_numpy(plane)[None])[0].numpy(), slow_median(plane)
    )


# ------------------------------------------------------------------ motion that is known


def test_points_follow_a_pan_and_leave():
    frames, _ = random_clip(9, 40, 60, 0.0)
    flows = torch.tensor([2.5, -1.25]).view(1, 2, 1, 1).expand(8, 2, 40, 60)
    tracks = make_tracks(frames, flows, TrackOptions(points=8))
    starts = start_points((40, 60), grid_shape((40, 60), 8))
    for first in range(9):
        left = 8 - first  # flows until the clip ends
        for (x, y), steps, moves in zip(
            starts, tracks.num_steps[first], tracks.displacements[first], strict=True
        ):
            inside = sum(x + 2.5 * n < 60 and y - 1.25 * n >= 0 for n in range(1, 7))
            assert steps == min(inside, left)
            assert np.allclose(moves[:steps], [2.5, -1.25]) and (moves[steps:] == 0).all()
    assert (tracks.hog[tracks.num_steps == 0] == 0).all()


def test_large_flow_is_clipped_by_option():
    frames, _ = random_clip(3, 64, 64, 0.0)
    flows = torch.full((2, 2, 64, 64), 25.0)
    for max_flow, expected in ((20.0, 20.0), (0.0, 25.0)):
        tracks = make_tracks(frames, flows, TrackOptions(points=4, max_flow=max_flow))
        assert tracks.displacements[0, 0, 0].tolist() == [expected, expected]


def test_the_camera_is_not_recorded():
    """Under a moving camera, points of a still scene follow it and record nothing."""
    homography = np.array([[1.0, 0.02, 3], [-0.02, 1, -2], [0, 0, 1]])
    size = (48, 64)
    still = np.zeros((2, *size), dtype=np.float32)
    full = torch.from_numpy(np.stack([total_flow(still, homography)] * 4))
    frames, _ = random_clip(5, *size, 0.0)
    residual = torch.from_numpy(np.stack([still] * 4))
    tracks = make_tracks(frames, full, TrackOptions(points=6, length=4), residual)
    assert (tracks.displacements == 0).all()
    alone = make_tracks(frames, full, TrackOptions(points=6, length=4))
    assert np.array_equal(tracks.num_steps, alone.num_steps)
    assert np.array_equal(tracks.hog, alone.hog)
    assert np.abs(alone.displacements).max() > 2
    assert np.allclose(full[0], camera_flow(homography, size))


@pytest.mark.parametrize("degrees", range(0, 180, 20))
def test_an_edge_falls_into_its_orientation(degrees):
    y, x = np.mgrid[:40, :40]
    towards = np.cos(np.radians(degrees)) * x + np.sin(np.radians(degrees)) * y
    ramp = torch.from_numpy(2 * (towards - towards.min())).float()[None]
    hog = orientation_maps(ramp, 8)[0, :, 20, 20]
    assert hog.argmax() == degrees // 20
    assert hog[degrees // 20].item() == pytest.approx(2, abs=0.01), "the ramp's slope"
    assert hog.sum().item() == pytest.approx(2, abs=0.01)


def test_mirrored_frames_have_mirrored_tracks():
    """What a trainer does on a flip: x negated, grid reversed, bin k to (9 - k) % 9."""
    frames, flows = random_clip(4, 24, 32, 1.0, "flip")
    mirrored_flows = flows.flip(3) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    options = TrackOptions(length=3, points=6, cell=4)
    tracks = make_tracks(frames, flows, options)
    mirrored = make_tracks(frames.flip(2), mirrored_flows, options)
    rows, columns = grid_shape((24, 32), 6)

    def flipped(values):
        grid = values.reshape(4, rows, columns, *values.shape[2:])
        return grid[:, :, ::-1].reshape(values.shape)

    assert np.array_equal(flipped(tracks.num_steps), mirrored.num_steps)
    expected = flipped(tracks.displacements) * [-1, 1]
    assert np.allclose(mirrored.displacements, expected, atol=1e-3)
    assert np.allclose(mirrored.hog, flipped(tracks.hog)[..., MIRRORED_BINS], atol=0.02)


def test_chunks_that_overlap_give_what_the_clip_gives():
    frames, flows = random_clip(20, 24, 32, 1.0, "chunks")
    options = TrackOptions(length=4, points=6, cell=4)
    whole = make_tracks(frames, flows, options)
    first = make_tracks(frames[:12], flows[:11], options)
    rest = make_tracks(frames[8:], flows[8:], options)  # 4 = L frames of overlap
    for name in ("displacements", "num_steps", "hog"):
        joined = np.concatenate([getattr(first, name)[:8], getattr(rest, name)])
        assert np.array_equal(joined, getattr(whole, name))


# ------------------------------------------------------------------ grid, storage, options


@given(st.integers(16, 400), st.integers(16, 400), st.integers(1, 60))
def test_the_grid_fills_the_frame(height, width, points):
    rows, columns = grid_shape((height, width), points)
    assert (columns if width <= height else rows) == points
    starts = start_points((height, width), (rows, columns))
    assert starts.shape == (rows * columns, 2)
    assert (starts > 0).all() and (starts < [width, height]).all()
    assert np.allclose(starts + starts[::-1], [width, height], atol=1e-3), "symmetric"


def test_the_default_grid_has_four_points_a_patch_in_the_smallest_crop():
    starts = start_points((240, 320), grid_shape((240, 320), TrackOptions().points))
    side = 0.66 * 240
    for left, top in ((0, 0), (81, 41), (320 - side, 240 - side)):
        inside = ((starts >= [left, top]) & (starts < [left + side, top + side])).all(axis=1)
        assert inside.sum() >= 0.97 * 4 * 14 * 14


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_storage_keeps_what_it_promises(seed):
    rng = counter_generator("storage", seed)
    displacements = rng.normal(0, 10, (3, 4, 6, 2)).astype(np.float32)
    num_steps = rng.integers(0, 7, (3, 4), dtype=np.uint8)
    hog = rng.uniform(0, LARGEST_HOG, (3, 4, 6, 9)).astype(np.float32) ** rng.uniform(0, 1)
    stored = quantised(Tracks(displacements, num_steps, hog))
    dtypes = {name: str(array.dtype) for name, array in stored.items()}
    assert dtypes == {"displacements": "int16", "steps": "uint8", "hog": "uint8"}
    back = restored(**stored)
    assert np.abs(back.displacements - displacements).max() <= DISPLACEMENT_UNIT / 2 + 1e-5
    assert (np.abs(np.sqrt(back.hog / HOG_UNIT) - np.sqrt(hog / HOG_UNIT)) < 0.51).all()
    assert np.array_equal(back.num_steps, num_steps)
    again = quantised(back)
    assert all(np.array_equal(again[name], stored[name]) for name in stored)


def test_without_hog():
    frames, flows = random_clip(3, 20, 20, 1.0)
    tracks = make_tracks(frames, flows, TrackOptions(cell=0, points=4))
    assert tracks.hog.shape == (3, 16, 6, 0)


def test_options_out_of_range_are_named():
    for options, *named in (
        ({"length": 0}, "length is 0", "1 to 255"),
        ({"points": 0}, "points is 0", "1 to 1024"),
        ({"cell": 7}, "cell is 7", "even"),
        ({"max_flow": -1.0}, "max-flow is -1.0"),
        ({"max_flow": math.nan}, "max-flow is nan"),
    ):
        with refuses("out-of-range", *named):
            TrackOptions(**options)
