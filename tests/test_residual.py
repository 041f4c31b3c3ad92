"""Residual lengths: the fit of the camera's motion, what is left of the flow, and its storage."""

import numpy as np
import pytest
import torch
from dataset_fixtures import checksums, make_dataset, run_flows

from preprocess.flow.pipeline import FlowOptions
from preprocess.flow.residual import residual_lengths
from shared.motion_maps import expand, has_residual, read_maps
from shared.shard_index import read_index
from shared.shards import ShardReader

HEIGHT, WIDTH = 96, 160


def plane_flow(a=0.0, b=0.0, c=0.0, d=0.0, e=0.0, f=0.0, g=0.0, h=0.0) -> torch.Tensor:
    """Flow [1, 2, H, W] of a plane, x and y from the middle in units of half the width."""
    y, x = np.meshgrid(
        (np.arange(HEIGHT) - (HEIGHT - 1) / 2) * 2 / WIDTH,
        (np.arange(WIDTH) - (WIDTH - 1) / 2) * 2 / WIDTH,
        indexing="ij",
    )
    u = a + b * x + c * y + g * x * x + h * x * y
    v = d + e * x + f * y + g * x * y + h * y * y
    return torch.from_numpy(np.stack([u, v])[None].astype(np.float32))


CAMERAS = {
    "still": {},
    "pan": {"a": 7.0, "d": -3.0},
    "zoom": {"b": 5.0, "f": 5.0},
    "turn": {"c": -4.0, "e": 4.0},
    "tilted plane": {"a": 2.0, "b": 1.0, "f": 3.0, "g": 4.0, "h": -2.0},
}


@pytest.mark.parametrize("camera", CAMERAS)
def test_nothing_is_left_of_a_camera_alone(camera):
    lengths = residual_lengths(plane_flow(**CAMERAS[camera]), (48, 80))
    assert lengths.shape == (1, 48, 80) and lengths.dtype == np.float32
    assert lengths.max() < 0.02


@pytest.mark.parametrize("camera", CAMERAS)
def test_an_object_keeps_its_own_motion_under_any_camera(camera):
    """A third of the frame moves by (3, 4) more than the camera says, and noise lies on all."""
    flow = plane_flow(**CAMERAS[camera])
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, flow.shape)).float()
    flow = flow + noise
    flow[0, :, 20:84, 10:90] += torch.tensor([3.0, 4.0])[:, None, None]
    [lengths] = residual_lengths(flow, (48, 80))
    assert np.median(lengths[12:40, 7:43]) == pytest.approx(5, abs=0.1)
    outside = np.ones((48, 80), bool)
    outside[9:43, 4:46] = False
    assert np.median(lengths[outside]) < 0.2
    assert lengths[outside].max() < 1


def test_what_covers_most_of_the_frame_passes_for_the_background():
    flow = torch.zeros(1, 2, HEIGHT, WIDTH)
    flow[0, 0, :, 40:] = 4.0
    [lengths] = residual_lengths(flow, (48, 80))
    assert np.median(lengths[:, :18]) == pytest.approx(4, abs=0.1)
    assert np.median(lengths[:, 22:]) < 0.1


def test_a_pair_is_fitted_by_itself():
    """Other pairs of the batch do not change a bit of it, however the clip is cut into chunks."""
    flows = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 2, 40, 60))).float()
    together = residual_lengths(flows, (20, 30))
    apart = [residual_lengths(flows[i : i + 1], (20, 30))[0] for i in range(5)]
    assert np.array_equal(together, np.stack(apart))


def test_smallest_pictures_and_constant_flow_are_fitted():
    assert residual_lengths(torch.full((2, 2, 16, 16), 30.0), (4, 4)).max() < 0.05
    assert residual_lengths(torch.zeros(1, 2, 2, 2), (1, 1)).shape == (1, 1, 1)


def test_residual_lengths_lie_beside_the_maps_of_equation_1():
    flow = FlowOptions(("tvl1", "motion-vectors"), stabilise="warp", keep_unstabilised=True,
                       lengths=True, boundaries=True)  # fmt: skip
    with_residual = {output for output in flow.outputs if flow.has_residual(output)}
    assert with_residual == {"tvl1", "motion-vectors", "tvl1-unstabilised"}
    for output in flow.outputs:
        assert ("residual" in flow.config(output)) == (output in with_residual)


def test_shards_hold_them_and_do_without(tmp_path):
    layout = make_dataset(tmp_path, num_clips=2)
    done = run_flows(layout, "--no-residual")
    assert done.exit_code == 0, done.output
    without = checksums(layout.flows)
    with ShardReader(layout.flows / "00000.h5", "flows") as reader:
        assert not has_residual(reader)
    assert "residual" not in read_index(layout.flows).config

    # A finished dataset stays as it is until --overwrite is given.
    done = run_flows(layout)
    assert done.exit_code == 0 and "reuse" in done.output, done.output
    assert checksums(layout.flows) == without
    assert run_flows(layout, "--residual").exit_code == 1

    done = run_flows(layout, "--overwrite")
    assert done.exit_code == 0, done.output
    assert read_index(layout.flows).config["residual"] == "planar"
    with ShardReader(layout.flows / "00000.h5", "flows") as reader:
        first, last = reader.pair("/clip/frames", 1)
        lengths = expand(*read_maps(reader, 1, first, last, "residual"))
        maps = expand(*read_maps(reader, 1, first, last))
    assert lengths.shape == maps.shape
    assert lengths.max() > 0.5, "the drawn object moves"
    assert np.array_equal(lengths[-1], lengths[-2]), "the last frame repeats the last pair"
