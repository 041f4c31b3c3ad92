"""Boxes of residual lengths, floors under which nothing moves, boxes that neighbours agree on."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from dataset_fixtures import make_dataset, run_boxes, run_flows
from errors import refuses

from preprocess.motion_boxes.boxes import motion_boxes
from preprocess.motion_boxes.presets import PRESETS, MotionParameters, read_parameters
from preprocess.motion_boxes.steady import steady_boxes
from shared.shards import ShardReader

DEFAULT = PRESETS["default"]
NONE = (np.nan,) * 4


def steady(boxes, **parameters):
    numbers = {"steady_frames": 2, "steady_share": 0.5} | parameters
    return steady_boxes(np.array(boxes, np.float32), MotionParameters(**numbers))


def test_one_wrong_box_changes_nothing():
    right, wrong = (10, 20, 30, 40), (0, 0, 100, 100)
    assert steady([right, right, wrong, right, right]).tolist() == [list(right)] * 5


def test_edges_are_quantiles_from_the_outside_to_the_inside():
    """Left edges 0 to 4, right edges 10 to 14: at three quarters lie 3 and 11."""
    boxes = [(i, 2 * i, 10 + i, 20 + 2 * i) for i in range(5)]
    assert steady(boxes, steady_share=0.75)[2].tolist() == [3, 6, 11, 22]
    assert steady(boxes, steady_share=0.0)[2].tolist() == [0, 0, 14, 28]
    assert steady(boxes, steady_share=0.6)[2] == pytest.approx([2.4, 4.8, 11.6, 23.2])


def test_a_frame_without_a_box_is_held_by_its_neighbours():
    box = (1, 2, 3, 4)
    held = steady([box, NONE, NONE, box, NONE, NONE, NONE])
    assert np.isnan(held).any(axis=1).tolist() == [False] * 6 + [True]
    assert held[1].tolist() == list(box)


def test_too_few_boxes_and_boxes_that_lie_apart_give_none():
    box = (1, 2, 3, 4)
    assert np.isnan(steady([NONE, box, NONE], least_boxes=2)).all()
    apart = [(0, 0, 4, 4), (10, 0, 14, 4), (20, 0, 24, 4)]
    assert np.isnan(steady(apart, steady_share=0.9)).all()
    assert steady(np.empty((0, 4))).shape == (0, 4)


def blob_maps(num_frames=20, height=64, width=96):
    """An object that moves, in both kinds of map: its outline, and all of it."""
    maps = np.full((num_frames, height, width), 0.02, np.float32)
    residual = maps.copy()
    for frame in range(num_frames):
        x = 30 + frame // 2
        residual[frame, 20:45, x : x + 25] = 2.0
        maps[frame, 20:45, x : x + 25] = 1.0
        maps[frame, 22:43, x + 2 : x + 23] = 0.02
    return maps, residual


def test_the_default_takes_residual_lengths_and_does_without():
    maps, residual = blob_maps()
    elsewhere = np.zeros_like(maps)
    elsewhere[:, 5:15, 5:15] = 1.0
    boxes, *_ = motion_boxes(elsewhere, DEFAULT, residual=residual)
    assert boxes[10] == pytest.approx([35, 20, 60, 45], abs=2)
    boxes, *_ = motion_boxes(maps, DEFAULT)
    assert boxes[10] == pytest.approx([35, 20, 60, 45], abs=2)
    boxes, *_ = motion_boxes(elsewhere, dataclasses.replace(DEFAULT, residual=0), residual=residual)
    assert boxes[10] == pytest.approx([5, 5, 15, 15], abs=1)


def test_noise_under_the_floor_has_no_box():
    """Lengths as on still video: they reach 0.4 px here and there, and something different moves
    each time."""
    rng = np.random.default_rng(0)
    noise = (0.4 * rng.random((30, 64, 96)) ** 4).astype(np.float32)
    boxes, scores, contours = motion_boxes(noise, DEFAULT, residual=noise)
    assert np.isnan(boxes).all() and not scores.any() and not any(contours)
    pulse = noise.copy()
    pulse[15] *= 5  # a key frame: what it shows is no motion that lasts
    assert np.isnan(motion_boxes(pulse, DEFAULT, residual=pulse)[0]).all()


def test_repeated_frames_keep_the_box_of_their_neighbours():
    """Film shown at another rate repeats a frame now and then: nothing moves between the two."""
    maps, residual = blob_maps()
    residual[::5] = 0
    boxes, scores, contours = motion_boxes(maps, DEFAULT, residual=residual)
    assert not np.isnan(boxes).any()
    assert boxes[10] == pytest.approx([35, 20, 60, 45], abs=2)
    assert contours[10] == [] and contours[11] != [] and scores[10] == 0


@pytest.mark.parametrize("change", ["residual=2", "steady_share=1.5"])
def test_what_is_not_a_share_is_refused(change):
    with refuses("out-of-range", *change.split("=")):
        read_parameters("default", [change])


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    layout = make_dataset(tmp_path_factory.mktemp("boxes"), num_clips=2)
    done = run_flows(layout)
    assert done.exit_code == 0, done.output
    return layout


def boxes_of(folder):
    with ShardReader(folder / "00000.h5", "boxes") as reader:
        return reader["/box/xyxy"]


def test_boxes_come_from_the_residual_lengths_of_a_shard(flows):
    done = run_boxes(flows)
    assert done.exit_code == 0 and "residual lengths of" in done.output, done.output
    done = run_boxes(flows, "--set", "residual=0", "--name", "maps")
    assert done.exit_code == 0, done.output
    boxes, of_maps = boxes_of(flows.boxes), boxes_of(flows.boxes_of("maps"))
    assert not np.isnan(boxes).any() and not np.array_equal(boxes, of_maps)
    config = json.loads((flows.boxes / "dataset.json").read_text())["config"]
    assert config["residual"] == 1 and config["steady_frames"] == 6


def test_flows_without_residual_lengths_still_give_boxes(flows, tmp_path):
    layout = dataclasses.replace(flows, out=tmp_path)
    shutil.copytree(flows.videos, layout.videos)
    shutil.copy(flows.manifest, layout.manifest)
    assert run_flows(layout, "--no-residual").exit_code == 0
    done = run_boxes(layout)
    assert done.exit_code == 0 and "no residual lengths" in done.output, done.output
    done = run_boxes(flows, "--set", "residual=0", "--name", "maps")
    assert np.array_equal(boxes_of(layout.boxes), boxes_of(flows.boxes_of("maps")))
