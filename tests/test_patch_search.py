"""The patch search and the choice of a start: right, the same on every path, and worth it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.flow_measures import distances, end_point_error
from benchmarks.large_motion import rendered
from preprocess.flow.tvl1 import tvl1_flow
from preprocess.tvl1_solvers import eager, native, starts
from preprocess.tvl1_solvers.patches import patch_flow, patch_starts
from preprocess.tvl1_solvers.presets import PATCH, PRESETS, PatchSearch, Starts, search_sizes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def compiled():
    try:
        native.load()
    except native.UnavailableError as reason:
        pytest.skip(str(reason))


def textures(seed: int, height: int, width: int, count: int = 1) -> torch.Tensor:
    """float32 [count, height, width]: smooth noise, grey values."""
    noise = np.random.default_rng(seed).uniform(0, 255, (count, height // 3 + 2, width // 3 + 2))
    planes = [cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in noise]
    return torch.from_numpy(np.stack(planes)).float()


def moved_pair(motion: tuple[int, int], height=64, width=80) -> tuple[torch.Tensor, torch.Tensor]:
    """A texture, and the same moved by whole pixels: right, down."""
    x, y = motion
    around = max(abs(x), abs(y))
    texture = textures(5, height + 2 * around, width + 2 * around)
    inside = texture[:, around : around + height, around : around + width]
    moved = texture[:, around - y : around - y + height, around - x : around - x + width]
    return inside.contiguous(), moved.contiguous()


# ------------------------------------------------------------------------------ it is right


def slow_round(
    first: np.ndarray, second: np.ndarray, start: np.ndarray, steps: int
) -> dict[tuple[int, int], np.ndarray]:
    """One round without neighbours, in float64 and patch by patch: {(x, y): displacement}."""
    height, width = first.shape
    gradient_y, gradient_x = (
        (np.roll(np.pad(first, 1, "edge"), -1, axis) - np.roll(np.pad(first, 1, "edge"), 1, axis))
        [1:-1, 1:-1] / 2
        for axis in (0, 1)
    )  # fmt: skip

    def read(x, y):
        across, down = x - np.floor(x), y - np.floor(y)
        x, y = int(np.floor(x)), int(np.floor(y))
        rows = np.clip(np.arange(y, y + PATCH + 1), 0, height - 1)
        columns = np.clip(np.arange(x, x + PATCH + 1), 0, width - 1)
        around = second[np.ix_(rows, columns)]
        line = around[:, :-1] * (1 - across) + around[:, 1:] * across
        return line[:-1] * (1 - down) + line[1:] * down

    found = {}
    for y in patch_starts(height):
        for x in patch_starts(width):
            part = np.s_[y : y + PATCH, x : x + PATCH]
            slopes = np.stack([gradient_x[part].ravel(), gradient_y[part].ravel()])
            slopes = slopes - slopes.mean(1, keepdims=True)
            begin = start[:, y + PATCH // 2, x + PATCH // 2]
            here, best, kept = begin.copy(), np.inf, begin
            for _ in range(steps):
                at = np.clip(np.array([x, y]) + here, -PATCH, (width, height))
                difference = (read(*at) - first[part]).ravel()
                difference -= difference.mean()
                if difference @ difference >= best:
                    break
                best, kept = difference @ difference, here
                here = here - np.linalg.solve(slopes @ slopes.T, slopes @ difference)
            found[x, y] = kept if np.hypot(*(kept - begin)) <= PATCH else begin
    return found


def test_patches_go_where_a_slow_loop_sends_them():
    first, second = moved_pair((2, -1), 24, 32)
    second = second + 9  # a change of the mean changes nothing
    start = np.random.default_rng(2).normal(0, 1, (2, 24, 32)) + np.array([[[1.5]], [[-1]]])
    numbers = PatchSearch(distances=(9,), steps=8)  # no neighbour is nine patches away
    flow = patch_flow(first, second, torch.from_numpy(start).float()[None], 0, numbers)[0]
    found = slow_round(first[0].double().numpy(), second[0].double().numpy(), start, 8)
    alone = {(0, 0): (0, 0), (24, 0): (31, 0), (0, 16): (0, 23), (24, 16): (31, 23)}
    for patch, (x, y) in alone.items():  # a corner's pixel is in one patch: its flow is the patch's
        assert flow[:, y, x].numpy() == pytest.approx(found[patch], abs=1e-3), patch


def test_a_displacement_spreads_from_patch_to_patch(compiled):
    first, second = moved_pair((11, 3))
    start = torch.zeros(1, 2, 64, 80)
    start[:, 0, 28:36, 36:44], start[:, 1, 28:36, 36:44] = 11, 3  # one patch knows it
    truth = np.array([11.0, 3.0])[:, None, None]
    errors = []
    for rounds in ((1,), (1, 2, 1, 2, 1, 2, 1, 2)):
        flow = native.patch_flow(first, second, start, 0, PatchSearch(distances=rounds))
        errors.append(distances(flow.numpy()[0, :, 12:-12, 12:-20], truth).mean())
    assert errors[1] < 0.05 < 1 < errors[0]


def test_the_grid_finds_what_no_neighbour_knows(compiled):
    first, second = moved_pair((-14, 9))
    inside = np.s_[0, :, 12:-12, 24:-12]
    for radius, low, high in ((0, 3, 99), (6, 3, 99), (16, 0, 0.1)):
        flow = native.patch_flow(first, second, torch.zeros(1, 2, 64, 80), radius, PatchSearch())
        error = distances(flow.numpy()[inside], np.array([-14.0, 9.0])[:, None, None])
        assert low <= np.median(error) <= high, radius


@given(st.integers(8, 40), st.integers(8, 40), st.floats(-60, 60), st.floats(-60, 60))
@settings(max_examples=15, deadline=None)
def test_every_pixel_has_the_flow_of_patches_that_cover_it(height, width, u, v):
    """Flat frames: no patch moves, so all of them keep the flow to start from."""
    grey = torch.full((1, height, width), 77.0)
    start = torch.tensor([u, v]).view(1, 2, 1, 1).expand(1, 2, height, width)
    flow = patch_flow(grey, grey, start, 0, PatchSearch())
    assert torch.allclose(flow, start, rtol=1e-5)


@given(st.integers(8, 500))
def test_patches_cover_a_side_and_end_at_its_border(side):
    places = patch_starts(side)
    assert places[0] == 0
    assert places[-1] == side - PATCH
    assert all(0 < later - earlier <= 4 for earlier, later in pairwise(places))


@given(st.integers(16, 2000), st.integers(16, 2000))
def test_levels_halve_until_they_are_small(height, width):
    sizes = search_sizes(height, width, PatchSearch())
    assert sizes[0] == (round(height / 2), round(width / 2))
    assert all(min(size) >= PATCH for size in sizes)
    assert min(sizes[-1]) < 2 * PatchSearch().smallest_side


@pytest.mark.parametrize("seed", [20, 21])
def test_large_motion_is_followed(seed):
    """Seeds that nothing was chosen on. The patch search is as good as the whole of OpenCV's DIS
    at 20 px; at 60 px only this preset finds the object."""
    for motion, others in ((20, 1.0), (60, 0.5)):
        pair = rendered(seed, motion)
        frames = [torch.from_numpy(each)[None] for each in (pair.first, pair.second)]
        solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flows = {
            "large": tvl1_flow(*frames, "large")[0].numpy(),
            "fast": tvl1_flow(*frames, "fast")[0].numpy(),
            "dis": solver.calc(pair.first, pair.second, None).transpose(2, 0, 1),
        }
        errors = {
            name: end_point_error(flow, pair.truth, pair.valid) for name, flow in flows.items()
        }
        assert errors["large"] < others * min(errors["fast"], errors["dis"]), errors


# ------------------------------------------------------------------------------- the choice


def test_each_pixel_takes_the_flow_that_fits():
    first, second = moved_pair((5, 0))
    truth = torch.zeros(1, 2, 64, 80)
    truth[:, 0] = 5
    wrong = torch.zeros_like(truth)
    left = torch.arange(80) < 40
    one, other = torch.where(left, truth, wrong), torch.where(left, wrong, truth)
    frames = torch.cat([first, second]), torch.cat([second, first])
    flows = [torch.cat([flow, -truth]) for flow in (one, other)]
    chosen = starts.choose(*frames, flows, Starts())
    inside = np.s_[..., 8:66]
    assert (chosen == truth)[inside].float().mean() > 0.95
    assert torch.equal(starts.choose(*frames, flows[:1], Starts()), one)


def test_a_flow_that_does_not_lead_back_loses():
    grey = torch.full((2, 40, 40), 90.0)  # brightness says nothing
    motion = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 40, 40)
    strays, returns = torch.cat([2 * motion, motion]), torch.cat([motion, -motion])
    assert torch.equal(starts.choose(grey, grey, [strays, returns], Starts())[..., 8:-8, 8:-8],
                       motion[..., 8:-8, 8:-8])  # fmt: skip


def test_an_initial_flow_takes_the_place_of_the_search():
    first, second = moved_pair((30, 0), 64, 128)
    inside = np.zeros((64, 128), bool)
    inside[12:-12, 12:-44] = True
    truth = np.zeros((2, 64, 128))
    truth[0] = 30
    right, wrong = torch.zeros(1, 2, 64, 128), torch.zeros(1, 2, 64, 128)
    right[:, 0], wrong[:, 0] = 30, -30
    errors = [
        end_point_error(
            tvl1_flow(first, second, "large", initial=initial)[0].numpy(), truth, inside
        )
        for initial in (right, wrong)
    ]
    assert errors[0] < 0.1
    assert errors[1] > 10


# --------------------------------------------------------------- it is the same on every path


@given(
    st.tuples(st.integers(8, 30), st.integers(8, 30)),
    st.integers(0, 4),
    st.sampled_from([(), (1,), (1, 2), (3, 1, 1)]),
    st.integers(1, 9),
    st.integers(0, 2**31),
)
@settings(max_examples=20, deadline=None)
def test_the_search_is_the_same_in_cpp_and_pytorch(
    compiled, size, grid_radius, distances, steps, seed
):
    first, second = textures(seed, *size, 2), textures(seed, *size, 2).roll((1, 2), (1, 2))
    generator = torch.Generator().manual_seed(seed)
    second += torch.rand(second.shape, generator=generator) * 20
    first[1, :, : size[1] // 2] = 50  # no texture
    start = torch.randn(2, 2, *size, generator=generator) * 4
    numbers = PatchSearch(distances=distances, steps=steps, grid_step=2)
    there = native.patch_flow(first, second, start, grid_radius, numbers)
    assert torch.equal(there, patch_flow(first, second, start, grid_radius, numbers))
    one = native.patch_flow(first[1:], second[1:], start[1:], grid_radius, numbers)
    assert torch.equal(one, there[1:])


@given(
    st.tuples(st.integers(2, 60), st.integers(2, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@settings(max_examples=30, deadline=None)
@example((37, 43), (7, 12))  # one vector, with pixels further apart than two vectors
def test_resizing_is_the_same_in_cpp_and_pytorch(compiled, size, to):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
    assert torch.equal(native.resize(images, to), eager.resize(images, to))


@pytest.mark.parametrize("size", [(16, 16), (37, 130)])
def test_large_is_the_same_in_cpp_and_pytorch(compiled, size):
    first, second = textures(3, *size, 2), textures(3, *size, 2).roll((2, -5), (1, 2))
    nearer = Starts(search=PatchSearch(grid_reach=12))  # a wide grid takes its time in PyTorch
    flows = [
        starts.solve(first, second, None, replace(PRESETS["large"], starts=nearer), parts)
        for parts in (starts.NATIVE, starts.EAGER)
    ]
    assert torch.equal(*flows)


TRITON = """
import torch
from preprocess.tvl1_solvers import cuda_patches, patches
from preprocess.tvl1_solvers.presets import PatchSearch
generator = torch.Generator().manual_seed(0)
small = torch.rand(1, 1, 6, 8, generator=generator) * 255
first = torch.nn.functional.interpolate(small, size=(13, 18), mode="bilinear")[0]
second = first.roll(2, 2) + torch.rand(1, 13, 18, generator=generator) * 9
start = torch.randn(1, 2, 13, 18, generator=generator) * 3
numbers = PatchSearch(distances=(1,), steps=3, grid_step=2)
fused, plain = (
    module.patch_flow(first, second, start, 2, numbers) for module in (cuda_patches, patches)
)
assert plain.abs().max() > 1
assert torch.equal(fused, plain)
"""


def test_the_triton_kernels_compute_the_same():
    pytest.importorskip("triton")
    result = subprocess.run(
        [sys.executable, "-c", TRITON],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("capability", [80, 90])  # A100, H100 and H200
def test_the_triton_kernels_become_machine_code(capability, tmp_path, monkeypatch):
    """Down to what the GPU executes, which needs none; products and sums round by themselves."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from preprocess.tvl1_solvers import cuda_patches

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = {"corner_x": "*i32", "corner_y": "*i32", "BLOCK": "constexpr"}
    types |= dict.fromkeys(("width", "height", "count", "radius", "step"), "i32")
    types |= dict.fromkeys(("columns", "rows", "distance", "steps"), "i32")
    for kernel in (cuda_patches._grid_kernel, cuda_patches._round_kernel):
        names = kernel.arg_names
        source = ASTSource(
            kernel,
            {name: types.get(name, "*fp32") for name in names},
            {(names.index("BLOCK"),): cuda_patches.BLOCK},
        )
        made = triton.compile(source, GPUTarget("cuda", capability, 32), cuda_patches.EXACT)
        assert made.asm["cubin"]
        for inexact in ("fma.", ".approx", ".ftz", "div.full"):
            assert inexact not in made.asm["ptx"], inexact
