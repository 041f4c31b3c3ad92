"""The motion maps of MOFO's public code: windows, clipping, kernels, and boxes made of them."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.flow.boundaries import (
    GREY_LEVEL,
    OVERLAP,
    WINDOW,
    boundary_map,
    decided,
    window_sums,
)
from preprocess.motion_boxes.boxes import motion_boxes
from preprocess.motion_boxes.presets import PRESETS


def slowly(flows: np.ndarray, frame: int) -> np.ndarray:
    """The map of one frame as the code goes about it: derivatives flow by flow, then their sum."""
    first = min(max(frame - 3, 0), max(0, len(flows) - 8))
    kernel = np.array([[-1, 0, 1]] * 3, dtype=np.float64)
    lengths = []
    for component in range(2):
        across, down = np.zeros((2, *flows.shape[2:]))
        for flow in flows[first : first + 8, component].clip(-20, 20):
            across += cv2.filter2D(flow, -1, kernel, borderType=cv2.BORDER_REPLICATE)
            down += cv2.filter2D(flow, -1, kernel.T, borderType=cv2.BORDER_REPLICATE)
        lengths.append(np.hypot(across, down))
    return np.mean(lengths, axis=0)


@given(num_flows=st.integers(1, 20), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_maps_are_those_of_a_slow_loop(num_flows, seed):
    flows = np.random.default_rng(seed).normal(size=(num_flows, 2, 9, 7)) * 15
    sums = window_sums(torch.from_numpy(flows), 0, range(num_flows))
    found = boundary_map(sums).numpy()
    expected = [slowly(flows, frame) for frame in range(num_flows)]
    assert found == pytest.approx(np.stack(expected), abs=1e-9)


@given(lengths=st.lists(st.integers(1, 15), min_size=1, max_size=6))
def test_chunks_give_the_windows_of_the_whole_clip(lengths):
    """Each chunk has the last OVERLAP frames before it, as decoders hand them over."""
    ends = np.cumsum(lengths)
    num_frames = int(ends[-1])
    if num_frames < 2:
        return
    flows = torch.arange(num_frames - 1.0).square()[:, None, None, None].expand(-1, 2, 1, 1) / 99
    found, done = [], 0
    for end in map(int, ends):
        first = max(0, done - OVERLAP)
        known = max(0, done - 1)
        is_last = end == num_frames
        new = range(decided(known, False), decided(end - 1, is_last))
        if end >= 2 and new:
            found.append(window_sums(flows[first : end - 1], first, new))
        done = end
    whole = window_sums(flows, 0, range(num_frames - 1))
    assert torch.equal(torch.cat(found), whole)


def test_a_window_is_eight_flows_and_flow_is_clipped():
    flows = torch.full((12, 2, 4, 4), 50.0)
    assert torch.all(window_sums(flows, 0, range(12)) == 20.0 * WINDOW)
    steps = torch.arange(12.0)[:, None, None, None].expand(12, 2, 4, 4)
    sums = window_sums(steps, 0, range(12))[:, 0, 0, 0]
    assert sums.tolist() == [28.0] * 4 + [36.0, 44.0, 52.0, 60.0] + [60.0] * 4


def test_an_edge_of_motion_counts_three_times_its_step():
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0, :, 4:] = 2.0
    found = boundary_map(flow)[0]
    assert torch.all(found[:, 3:5] == 3.0) and torch.all(found[:, :3] == 0)  # v does not move


def test_what_is_below_a_grey_level_has_no_box():
    maps = np.zeros((2, 64, 85), dtype=np.float32)
    maps[:, 20:44, 24:50] = 20.0
    boxes, *_ = motion_boxes(maps, PRESETS["mofo-code"])
    assert np.isfinite(boxes).all()
    assert np.isnan(motion_boxes(maps / 20 * GREY_LEVEL * 0.9, PRESETS["mofo-code"])[0]).all()
