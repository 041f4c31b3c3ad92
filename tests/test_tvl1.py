"""TV-L1 flow: right, the same on every path, independent of the batch, clear in its errors."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from errors import refuses

from benchmarks.flow_measures import distances, end_point_error, energy
from preprocess.flow import tvl1
from preprocess.flow.tvl1 import PRESETS, tvl1_flow
from preprocess.tvl1_solvers import native as tvl1_native
from preprocess.tvl1_solvers import starts
from preprocess.tvl1_solvers.eager import SMALLEST_GRADIENT_SQUARED
from preprocess.tvl1_solvers.presets import gaussian_taps, level_sizes

ROOT = Path(__file__).resolve().parents[1]


Pair = tuple[torch.Tensor, torch.Tensor, np.ndarray]


def textured_pair(motion, height=72, width=96, seed=0) -> Pair:
    """A sum of waves, and the same seen through `motion(x, y) -> (u, v)`: first, second, flow.

    second(x + u, y + v) = first(x, y) holds exactly, as both are drawn from the formula.
    """
    rng = np.random.default_rng(seed)
    waves = [
        (rng.normal(0, 0.35, 2), rng.uniform(0, 2 * np.pi), rng.uniform(3, 10)) for _ in range(24)
    ]

    def picture(x, y):
        return 128 + sum(a * np.sin(k[0] * x + k[1] * y + phase) for k, phase, a in waves)

    y, x = np.mgrid[:height, :width].astype(np.float64)
    u, v = motion(x, y)
    truth = np.stack(np.broadcast_arrays(u, v, x)[:2])
    second = picture(x, y)
    first = picture(x + truth[0], y + truth[1])
    frames = (torch.from_numpy(f).float()[None] for f in (first, second))
    return *frames, truth


def inner_error(flow: torch.Tensor, truth: np.ndarray, margin: int = 8) -> float:
    """Without the border, where the target may lie outside the frame."""
    inside = np.zeros(truth.shape[1:], bool)
    inside[margin:-margin, margin:-margin] = True
    return end_point_error(flow[0].numpy(), truth, inside)


def eager(first, second, preset, initial=None):
    return starts.solve(first, second, initial, preset, starts.EAGER)


def compiled(first, second, preset, initial=None):
    return starts.solve(first, second, initial, preset, starts.NATIVE)


@pytest.fixture(scope="module")
def native():
    try:
        tvl1_native.load()
    except tvl1_native.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def rubberwhale(samples):
    """first, second (H, W) uint8, true flow, where it is known, OpenCV's flow."""
    folder = samples / "flow" / "rubberwhale"
    frames = [cv2.imread(str(folder / f"frame0{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (4, 5)]
    truth = cv2.readOpticalFlow(str(folder / "frame04_to_frame05.flo")).transpose(2, 0, 1)
    return *frames, truth, (np.abs(truth) < 1e9).all(0), opencv_flow(*frames)


def opencv_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    solver = cv2.optflow.DualTVL1OpticalFlow_create()
    return solver.calc(first, second, None).transpose(2, 0, 1)


def flow_of(first: np.ndarray, second: np.ndarray, preset: str) -> np.ndarray:
    frames = (torch.from_numpy(frame)[None] for frame in (first, second))
    return tvl1_flow(*frames, preset)[0].numpy()


# ------------------------------------------------------------------------------ it is right


@pytest.mark.parametrize("preset", PRESETS)
def test_a_translation_is_found(preset):
    first, second, truth = textured_pair(lambda x, y: (1.3, -0.7))
    flow = tvl1_flow(first, second, preset)
    assert flow.shape == (1, 2, 72, 96)
    assert flow.dtype == torch.float32
    assert inner_error(flow, truth) < 0.1


@pytest.mark.parametrize("preset", PRESETS)
def test_an_affine_motion_is_found(preset):
    first, second, truth = textured_pair(
        lambda x, y: (0.02 * (x - 48) - 0.01 * (y - 36) + 0.5, 0.01 * (x - 48) + 0.015 * (y - 36))
    )
    assert inner_error(tvl1_flow(first, second, preset), truth) < 0.1


@pytest.mark.parametrize("preset", ["fast", "large", "exact"])
def test_a_motion_of_several_pixels_is_found_through_the_pyramid(preset):
    first, second, truth = textured_pair(lambda x, y: (7.0, 4.0), height=96, width=128)
    assert inner_error(tvl1_flow(first, second, preset), truth, margin=20) < 0.15


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_frames_do_not_move(preset):
    first, _, _ = textured_pair(lambda x, y: (0.0, 0.0))
    assert tvl1_flow(first, first, preset).abs().max() < 1e-3


def test_flat_frames_do_not_move():
    grey = torch.full((1, 32, 32), 90, dtype=torch.uint8)
    assert tvl1_flow(grey, grey).abs().max() < 1e-6


@pytest.mark.parametrize("preset", ["fast", "large", "exact"])
def test_rubberwhale_is_at_least_as_good_as_opencvs(rubberwhale, preset):
    first, second, truth, known, opencv = rubberwhale
    flow = flow_of(first, second, preset)
    assert energy(flow, first, second) <= energy(opencv, first, second)
    if preset != "exact":
        assert end_point_error(flow, truth, known) <= 0.156


def test_preset_opencv_is_opencvs_flow(rubberwhale):
    first, second, _, _, opencv = rubberwhale
    assert np.median(distances(flow_of(first, second, "opencv"), opencv)) < 0.02


@pytest.mark.parametrize("clip", ["ssv2/2003.mp4", "ssv2/862.mp4", "epic100/tile_r2c2.mp4"])
def test_preset_opencv_is_opencvs_flow_on_clips(samples, clip):
    reader = cv2.VideoCapture(str(samples / clip))
    frames = [cv2.cvtColor(reader.read()[1], cv2.COLOR_BGR2GRAY) for _ in range(6)][-2:]
    halves = [cv2.resize(f, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for f in frames]
    away = distances(flow_of(*halves, "opencv"), opencv_flow(*halves))
    assert np.median(away) < 0.05


def test_exact_has_the_lowest_energy():
    first, second, _ = textured_pair(lambda x, y: (2 * np.sin(y / 9), np.where(x < 48, 1.5, -1.5)))
    energies = {
        preset: energy(tvl1_flow(first, second, preset)[0].numpy(), first[0], second[0])
        for preset in PRESETS
    }
    assert min(energies, key=energies.get) == "exact"


def test_an_initial_flow_reaches_motions_that_zero_does_not():
    first, second, truth = textured_pair(lambda x, y: (26.0, 0.0), height=64, width=96, seed=3)
    initial = torch.tensor([24.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 64, 96)
    inside = np.zeros((64, 96), bool)
    inside[8:-8, 8:-40] = True
    warm = end_point_error(tvl1_flow(first, second, initial=initial)[0].numpy(), truth, inside)
    cold = end_point_error(tvl1_flow(first, second)[0].numpy(), truth, inside)
    assert warm < 0.2 < cold


def test_an_initial_flow_of_zero_changes_nothing():
    first, second, _ = textured_pair(lambda x, y: (1.0, 0.5))
    zero = torch.zeros(1, 2, 72, 96)
    assert torch.equal(tvl1_flow(first, second, initial=zero), tvl1_flow(first, second))


# --------------------------------------------------------------- it is the same on every path


def mixed_batch() -> tuple[torch.Tensor, torch.Tensor]:
    motions = [(0.4, 0.1), (-3.2, 1.9), (0.0, 0.0), (1.7, -5.1), (0.9, 0.9)]
    pairs = [
        textured_pair(lambda x, y, m=m: m, height=41, width=53, seed=i)[:2]
        for i, m in enumerate(motions)
    ]
    noise = torch.rand(1, 41, 53, generator=torch.Generator().manual_seed(0)) * 255
    pairs.append((noise, noise.flip(2)))
    return tuple(torch.cat(frames) for frames in zip(*pairs, strict=True))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", ["native", "eager"])
def test_a_pair_does_not_depend_on_its_batch(path, preset, request):
    if path == "native":
        request.getfixturevalue("native")
    first, second = mixed_batch()
    numbers = replace(PRESETS[preset], iterations=9, iterations_fine=9, rounds=2)
    solve = compiled if path == "native" else eager
    whole = solve(first, second, numbers)
    for rows in ([0], [5, 1], [3, 0, 4]):
        assert torch.equal(solve(first[rows], second[rows], numbers), whole[rows])
    assert torch.equal(solve(first, second, numbers), whole)


@pytest.mark.parametrize("size", [(16, 16), (17, 130), (41, 53), (64, 64), (33, 258)])
@pytest.mark.parametrize("preset", PRESETS)
def test_one_warp_is_the_same_in_cpp_and_pytorch(native, preset, size):
    first, second, _ = textured_pair(lambda x, y: (0.9, np.sin(x / 10)), *size)
    numbers = replace(
        PRESETS[preset], max_levels=1, warps_fine=1, iterations_fine=13, rounds=1, stop=0.0
    )
    initial = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(1)) * 3 - 1.5
    there = compiled(first, second, numbers, initial)
    assert torch.equal(there, eager(first, second, numbers, initial))


@pytest.mark.parametrize("preset", PRESETS)
def test_flow_is_the_same_in_cpp_and_pytorch(native, preset):
    first, second, _ = textured_pair(lambda x, y: (2.1 + np.sin(y / 20), 0.02 * x - 1))
    there = compiled(first, second, PRESETS[preset])
    assert torch.equal(there, eager(first, second, PRESETS[preset]))


def test_rubberwhale_is_the_same_in_cpp_and_pytorch(native, rubberwhale):
    # At occlusions the energy has several minima, and which one is taken hangs on the last bit:
    # only the same bits all the way give the same flow.
    first, second, *_ = rubberwhale
    frames = (torch.from_numpy(f)[None].float() for f in (first, second))
    plain = eager(*frames, PRESETS["fast"])[0].numpy()
    assert np.array_equal(plain, flow_of(first, second, "fast"))


@pytest.mark.parametrize("flags", [[], ["-mavx2", "-mfma"]])
def test_narrower_vectors_give_the_same_flow(native, flags, monkeypatch, request):
    first, second, _ = textured_pair(lambda x, y: (1.0, np.cos(x / 12)), 40, 75)
    expected = {name: compiled(first, second, PRESETS[name]) for name in ("fast", "large")}
    monkeypatch.setattr(tvl1_native, "FOR_THIS_PROCESSOR", flags)
    request.getfixturevalue("fresh_build")
    for name, flow in expected.items():
        assert torch.equal(compiled(first, second, PRESETS[name]), flow)


TRITON = """
import torch
from preprocess.tvl1_solvers import cuda as tvl1_cuda, eager as tvl1_eager
from preprocess.tvl1_solvers.presets import Preset
tvl1_cuda.BLOCK = 512  # the interpreter takes its time per program, not per pixel
frames = torch.rand(2, 2, 16, 19, generator=torch.Generator().manual_seed(0)) * 100
for gradient in ("interpolant", "central"):
    preset = Preset(max_levels=1, warps_fine=1, iterations_fine=2, gradient=gradient)
    fused, eager = (
        tvl1_eager.solve(frames[0], frames[1], None, preset, kernels)
        for kernels in (tvl1_cuda.FUSED, tvl1_eager.EAGER)
    )
    assert eager.abs().max() > 0.01
    assert torch.equal(fused, eager), gradient
"""


def run_python(code: str, **variables: str) -> None:
    """Run code in a fresh process at the repository root."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


def test_the_triton_kernels_compute_the_same():
    pytest.importorskip("triton")
    run_python(TRITON, TRITON_INTERPRET="1")


# ------------------------------------------------------------------------- building the solver


@pytest.fixture
def fresh_build(tmp_path, monkeypatch):
    """The cache folder of a machine that has compiled nothing yet."""

    def forget():
        tvl1_native._load_once.cache_clear()
        tvl1._warn_slow.cache_clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield tmp_path / "mofo"
    forget()


@pytest.mark.parametrize(
    ("compiler", "complaint"),
    [("no-such-compiler", "'no-such-compiler' is not on the PATH"), ("false", "false failed on")],
)
def test_without_a_compiler_flow_warns_once_and_is_the_same(
    native, compiler, complaint, monkeypatch, request
):
    first, second, _ = textured_pair(lambda x, y: (1.0, 0.3))
    expected = tvl1_flow(first, second)
    monkeypatch.setenv("CXX", compiler)
    folder = request.getfixturevalue("fresh_build")
    with pytest.warns(RuntimeWarning, match=complaint) as caught:
        flows = [tvl1_flow(first, second) for _ in range(2)]
    assert len(caught) == 1
    assert all(torch.equal(flow, expected) for flow in flows)
    assert not list(folder.glob("*"))  # nothing half-built stays


def test_several_processes_build_at_once(native, fresh_build):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=tvl1_native.load) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.suffix for path in fresh_build.iterdir()] == [".so"]


def test_without_a_place_to_keep_it_the_solver_is_still_built(native, fresh_build):
    fresh_build.touch()  # a file where the folder should be
    tvl1_native.load()


def test_flow_does_not_depend_on_what_memory_held(native):
    first, second, _ = textured_pair(lambda x, y: (1.0, np.cos(x / 12)), 40, 75)
    expected = tvl1_flow(first, second)
    for _ in range(5):
        blocks = [np.full(count, np.nan, np.float32) for count in range(64, 8192, 64)]
        del blocks  # the allocator hands these out next
        assert torch.equal(tvl1_flow(first, second), expected)


@pytest.mark.parametrize("capability", [80, 90])  # A100, H100 and H200
def test_the_triton_kernels_become_machine_code(capability, tmp_path, monkeypatch):
    """Down to what the GPU executes, which needs none; products and sums round by themselves."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from preprocess.tvl1_solvers import cuda as tvl1_cuda

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fixed = {
        "BLOCK": tvl1_cuda.BLOCK,
        "a": PRESETS["fast"].cubic,
        "SMALLEST_SQUARED": SMALLEST_GRADIENT_SQUARED,
        "CENTRAL": True,
    }
    numbers = {"width": "i32", "height": "i32"}
    numbers |= dict.fromkeys(("primal", "pull", "dual_step", "weight"), "fp32")
    for kernel in (tvl1_cuda._iteration_kernel, tvl1_cuda._linearise_kernel):
        names = kernel.arg_names
        source = ASTSource(
            kernel,
            {name: "constexpr" if name in fixed else numbers.get(name, "*fp32") for name in names},
            {(names.index(name),): value for name, value in fixed.items() if name in names},
        )
        made = triton.compile(source, GPUTarget("cuda", capability, 32), tvl1_cuda.EXACT)
        assert made.asm["cubin"]
        # Older versions of Triton take tiny numbers for zero in roots and divisions. All of these
        # are 1 / sqrt(x) with an x of at least this, so that they never meet one.
        assert SMALLEST_GRADIENT_SQUARED > np.finfo(np.float32).tiny
        text = made.asm["ptx"].replace("sqrt.rn.ftz.", "sqrt.rn.").replace("div.rn.ftz.", "div.rn.")
        for inexact in ("fma.", ".approx", ".ftz", "div.full"):
            assert inexact not in text, inexact


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton's kernels run here")
def test_where_triton_does_not_run_its_reason_is_given():
    parts, reason = tvl1._cuda_parts(torch.device("cpu"))
    assert parts is starts.EAGER
    assert reason.startswith("Triton's kernels do not run: ")


def test_loading_the_solver_leaves_floating_point_as_it_is(native):
    tiny = np.array([1e-40], np.float32)  # flushed to zero where a library was built fast-math
    assert (tiny * np.float32(0.5))[0] > 0


# -------------------------------------------------------------------------------- user errors


FRAMES = torch.zeros(2, 20, 24)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ((FRAMES, FRAMES, "best"), "unknown-name", ("'best'", "opencv, ipol, fast")),
        ((FRAMES[0], FRAMES[0]), "wrong-type", ("(20, 24)", "(B, H, W)")),
        ((FRAMES, FRAMES[:1]), "wrong-type", ("(2, 20, 24) torch.float32 on cpu", "(1, 20, 24)")),
        ((FRAMES, FRAMES.byte()), "wrong-type", ("torch.float32 on cpu", "torch.uint8")),
        ((FRAMES.int(), FRAMES.int()), "wrong-type", ("torch.int32", "uint8 or float")),
        ((FRAMES[:, :15], FRAMES[:, :15]), "out-of-range", ("24x15 px", "16 px")),
        ((FRAMES / 0, FRAMES), "not-finite", ("frames", "NaN")),
        ((FRAMES, FRAMES + float("inf")), "not-finite", ("frames", "infinite")),
        (
            (FRAMES, FRAMES, "fast", torch.zeros(2, 20, 24)),
            "wrong-type",
            ("initial flow", "(2, 20, 24)", "(2, 2, 20, 24)"),
        ),
        (
            (FRAMES, FRAMES, "fast", torch.full((2, 2, 20, 24), float("nan"))),
            "not-finite",
            ("initial flow",),
        ),
    ],
)
def test_wrong_input_is_named(arguments, code, named):
    with refuses(code, *named):
        tvl1_flow(*arguments)


def test_an_empty_batch_gives_an_empty_flow():
    assert tvl1_flow(FRAMES[:0], FRAMES[:0]).shape == (0, 2, 20, 24)


def test_bytes_and_floats_give_the_same_flow():
    frames = torch.randint(0, 256, (2, 30, 40), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        flows = [tvl1.tvl1_flow(*frames.to(kind).split(1)) for kind in (torch.uint8, torch.float64)]
    assert torch.equal(*flows)


# ----------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("preset", PRESETS)
def test_pyramid_levels_shrink_to_no_less_than_16_px(preset):
    sizes = level_sizes(240, 427, PRESETS[preset])
    assert sizes[0] == (240, 427)
    assert all(min(size) >= 16 for size in sizes)
    assert level_sizes(16, 500, PRESETS[preset]) == [(16, 500)]


@pytest.mark.parametrize("sigma", [0.0, 0.4, 0.8, 2.0])
def test_gaussian_taps_sum_to_one(sigma):
    taps = gaussian_taps(sigma)
    assert taps[0] + 2 * sum(taps[1:]) == pytest.approx(1)
    assert taps == sorted(taps, reverse=True)
