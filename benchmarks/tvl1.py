"""Compares TV-L1 flow with OpenCV's: quality and speed on the same pairs in one run.

    python -m benchmarks.tvl1 --samples ../shared/samples

The command takes about five minutes on two cores and writes benchmarks/results/tvl1-DATE-HOST.json.

Times of one thread are CPU seconds of that thread: the lowest of several runs, with ours and
OpenCV's in turn, so that other work on the machine hardly changes their ratio. OpenCV runs with its
defaults, and ours runs as the pipeline calls `tvl1_flow`. Presets were chosen on frames 5 and 6 of
the sample clips, on RubberWhale and on toy clips of another seed. Frames 17 and 18 and the toy
clips of this benchmark were not used for that.

The floor of a primal-dual iteration is, per pixel, 21 multiplications and 24 additions, 2 inverse
roots, and 10 numbers read and 6 written. Comparisons and permutations run in parallel on other
units. The benchmark times each of these alone on the same core: 24 multiplications with as many
additions, the exact roots and divisions, and moving these bytes to and from memory (which is
avoided by keeping rows in cache).
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.flow_measures import distances, end_point_error, energy
from benchmarks.options import out_option, samples_option
from benchmarks.record import host_kind, processor_name
from benchmarks.tvl1_pairs import CLIPS, Pair, clip_frames, clip_pairs, rubberwhale, toy_pairs
from preprocess.flow.tvl1 import PRESETS, tvl1_flow
from preprocess.tvl1_solvers import eager as tvl1_eager
from preprocess.tvl1_solvers import native as tvl1_native
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.run_record import command_line, git_commit, versions

MULTIPLY_ADDS, INVERSE_ROOTS = 24, 2  # per pixel and iteration, see above
BYTES = 4 * (10 + 6)
RESULTS = Path(__file__).parent / "results"

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@samples_option("Folder of sample clips and RubberWhale.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, metavar="COUNT",
              help="Number of our runs; the fastest one counts.")  # fmt: skip
@out_option("tvl1-DATE-HOST")
@user_errors
def main(samples: Path, repeats: int, out: Path | None) -> None:
    if not samples.is_dir():
        raise InputError("missing-folder", f"no folder {samples}; give --samples FOLDER")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    host = host_kind()
    record: dict[str, Any] = {
        "command": command_line(),
        "git_commit": git_commit(),
        "date": str(date.today()),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": versions() | {"opencv": cv2.__version__},
    }
    print(f"{record['processor']}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    record["rubberwhale"] = on_rubberwhale(rubberwhale(samples), repeats)
    record["clips"] = {
        name: on_clips(name, clip_pairs(samples, frame), repeats)
        for name, frame in (("frames 5, 6 (tuned on)", 5), ("frames 17, 18", 17))
    }
    record["toy"] = on_toy(toy_pairs(24))
    record["sizes"] = at_sizes(samples, repeats)
    record["all_cores"] = on_all_cores(samples)
    record["paths"] = of_paths(samples)
    record["warm_start"] = warm_start(samples)
    record["floor"] = floor(samples, repeats)
    record["gpu"] = on_gpu(samples)
    path = out or RESULTS / f"tvl1-{record['date']}-{host}.json"
    write_atomically(path, json.dumps(record, indent=1).encode() + b"\n")
    print(f"\n{path}")


# ------------------------------------------------------------------------------- flow and time


def opencv(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # A new solver each time: after a small frame it keeps a lower number of scales.
    solver: Any = cv2.optflow  # OpenCV's own types lack it
    return solver.DualTVL1OpticalFlow_create().calc(first, second, None).transpose(2, 0, 1)


def ours(preset: str = "fast") -> Flow:
    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        one, other = tensors(first, second)
        return tvl1_flow(one, other, preset)[0].numpy()

    return flow


def tensors(*frames: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(frame)[None] for frame in frames]


def timed(flow: Flow, pair: Pair, repeats: int) -> tuple[np.ndarray, float]:
    """The flow, and the lowest CPU seconds of this thread."""
    seconds = []
    for _ in range(repeats):
        began = time.thread_time()
        result = flow(pair.first, pair.second)
        seconds.append(time.thread_time() - began)
    return result, min(seconds)


def against_opencv(pair: Pair, preset: str, repeats: int) -> dict:
    """Compute both flows of a pair; ours is timed before and after OpenCV's."""
    flow = ours(preset)
    flow(pair.first, pair.second)
    _, before = timed(flow, pair, repeats)
    theirs, their_seconds = timed(opencv, pair, 1)
    mine, after = timed(flow, pair, repeats)
    seconds = min(before, after)
    row = {
        "name": pair.name,
        "size": list(pair.first.shape[::-1]),
        "seconds": seconds,
        "opencv_seconds": their_seconds,
        "times_faster": their_seconds / seconds,
        "energy": energy(mine, pair.first, pair.second),
        "opencv_energy": energy(theirs, pair.first, pair.second),
        "median_distance_px": float(np.median(distances(mine, theirs))),
    }
    if pair.truth is not None:
        row["error_px"] = end_point_error(mine, pair.truth, pair.valid)
        row["opencv_error_px"] = end_point_error(theirs, pair.truth, pair.valid)
    return row


# ------------------------------------------------------------------------------------ quality


def on_rubberwhale(pair: Pair, repeats: int) -> dict:
    print("\nRubberWhale, 584x388, one thread      error px   energy    ms/pair   times OpenCV")
    rows = {}
    for preset in ("fast", "exact", "ipol", "opencv"):
        row = rows[preset] = against_opencv(pair, preset, repeats if preset == "fast" else 1)
        if preset == "fast":
            print(
                f"  OpenCV, defaults {row['opencv_error_px']:27.4f} {row['opencv_energy']:8.4f} "
                f"{1000 * row['opencv_seconds']:10.1f}"
            )
        print(
            f"  {preset:<17} {row['error_px']:26.4f} {row['energy']:8.4f} "
            f"{1000 * row['seconds']:10.1f} {row['times_faster']:14.1f}"
        )
    print(f"  preset opencv: median distance {rows['opencv']['median_distance_px']:.4f} px")
    return rows


def on_clips(name: str, pairs: list[Pair], repeats: int) -> dict:
    rows = [against_opencv(pair, "fast", repeats) for pair in tqdm(pairs, name, leave=False)]
    parity = [
        np.median(
            distances(ours("opencv")(pair.first, pair.second), opencv(pair.first, pair.second))
        )
        for pair in tqdm(pairs, "parity", leave=False)
    ]
    print(f"\n{len(rows)} pairs of clips, {name}     energy  OpenCV's    ms/pair   times OpenCV")
    for row in rows:
        print(
            f"  {row['name'][:36]:<36} {row['energy']:8.4f} {row['opencv_energy']:9.4f} "
            f"{1000 * row['seconds']:10.1f} {row['times_faster']:14.1f}"
        )
    summary = {
        "not_above_opencv": sum(row["energy"] <= row["opencv_energy"] for row in rows),
        "energy_ratio_mean": float(np.mean([r["energy"] / r["opencv_energy"] for r in rows])),
        "times_faster_median": float(np.median([row["times_faster"] for row in rows])),
        "times_faster_least": min(row["times_faster"] for row in rows),
        "parity_px": sorted(float(x) for x in parity),
    }
    print(
        f"  energy not above OpenCV's on {summary['not_above_opencv']} of {len(rows)}, "
        f"{summary['energy_ratio_mean']:.3f} of it on average; "
        f"{summary['times_faster_median']:.0f} times faster (median; "
        f"least {summary['times_faster_least']:.0f})\n"
        f"  preset opencv: median distance from OpenCV's flow {np.median(parity):.4f} px "
        f"(median over pairs), within 0.05 px on {sum(x <= 0.05 for x in parity)} of {len(rows)}"
    )
    return summary | {"pairs": rows}


def on_toy(pairs: list[Pair]) -> dict:
    rows = [against_opencv(pair, "fast", 3) for pair in pairs]
    error, theirs = (np.array([row[k] for row in rows]) for k in ("error_px", "opencv_error_px"))
    summary = {
        "error_px": float(error.mean()),
        "opencv_error_px": float(theirs.mean()),
        "error_not_above_opencv": int((error <= theirs).sum()),
        "energy_not_above_opencv": sum(row["energy"] <= row["opencv_energy"] for row in rows),
        "ms_per_pair": 1000 * float(np.median([row["seconds"] for row in rows])),
        "times_faster_median": float(np.median([row["times_faster"] for row in rows])),
    }
    print(
        f"\n{len(rows)} toy pairs with true flow, 64x64: error {error.mean():.3f} px, OpenCV's "
        f"{theirs.mean():.3f} px; energy not above OpenCV's on "
        f"{summary['energy_not_above_opencv']}; {summary['ms_per_pair']:.2f} ms a pair, "
        f"{summary['times_faster_median']:.0f} times faster"
    )
    return summary | {"pairs": rows}


# -------------------------------------------------------------------------------------- speed


def at_sizes(samples: Path, repeats: int) -> dict:
    """One thread, all pairs of a size together."""
    whale = rubberwhale(samples)
    sets = {
        "320x240": [pair.resized(320, 240) for pair in clip_pairs(samples, 17)],
        "584x388": [whale, Pair("back", whale.second, whale.first)],
    }
    print("\none thread              pairs   ms/pair   OpenCV's   times OpenCV")
    results = {}
    for size, pairs in sets.items():
        rows = [against_opencv(pair, "fast", repeats) for pair in tqdm(pairs, size, leave=False)]
        mine, theirs = (sum(row[k] for row in rows) for k in ("seconds", "opencv_seconds"))
        results[size] = {
            "pairs": len(rows),
            "ms_per_pair": 1000 * mine / len(rows),
            "opencv_ms_per_pair": 1000 * theirs / len(rows),
            "times_faster": theirs / mine,
        }
        print(
            f"  {size:<20} {len(rows):6d} {1000 * mine / len(rows):9.2f} "
            f"{1000 * theirs / len(rows):10.1f} {theirs / mine:14.1f}"
        )
    return results


def on_all_cores(samples: Path) -> dict:
    """One process per core against the threads of OpenCV, in wall-clock time."""
    cores = os.cpu_count() or 1
    pairs = [pair.resized(320, 240) for pair in clip_pairs(samples, 17)]
    context = multiprocessing.get_context("spawn")
    barrier, rounds = context.Barrier(cores + 1), 3
    workers = [
        context.Process(target=_work, args=(pairs[i::cores], 10, rounds, barrier))
        for i in range(cores)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()  # all have compiled and warmed up
    mine, theirs = [], []
    cv2.setNumThreads(cores)
    for _ in range(rounds):
        began = time.perf_counter()
        barrier.wait()
        barrier.wait()
        mine.append((time.perf_counter() - began) / 10)
        began = time.perf_counter()
        for pair in pairs:
            opencv(pair.first, pair.second)
        theirs.append(time.perf_counter() - began)
    cv2.setNumThreads(1)
    for worker in workers:
        worker.join()
    rate, their_rate = len(pairs) / min(mine), len(pairs) / min(theirs)
    print(
        f"\nall {cores} cores, 320x240: {rate:.0f} pairs/s, OpenCV with {cores} threads "
        f"{their_rate:.2f} pairs/s: {rate / their_rate:.0f} times faster"
    )
    return {"pairs_per_s": rate, "opencv_pairs_per_s": their_rate, "times": rate / their_rate}


def _work(pairs: list[Pair], laps: int, rounds: int, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    flow = ours()
    flow(pairs[0].first, pairs[0].second)
    barrier.wait()
    for _ in range(rounds):
        barrier.wait()
        for _ in range(laps):
            for pair in pairs:
                flow(pair.first, pair.second)
        barrier.wait()


def of_paths(samples: Path) -> dict:
    """C++ against plain PyTorch: speed, and whether both give the same bits."""
    preset = PRESETS["fast"]
    pairs = [pair.resized(320, 240) for pair in clip_pairs(samples, 17)[:6]]

    def native(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        one, other = (x.float() for x in tensors(first, second))
        return tvl1_native.solve(one, other, None, preset)[0].numpy()

    def eager(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        one, other = (x.float() for x in tensors(first, second))
        return tvl1_eager.solve(one, other, None, preset, tvl1_eager.EAGER)[0].numpy()

    native_seconds = eager_seconds = 0.0
    equal = 0
    for pair in pairs:
        there, seconds = timed(native, pair, 3)
        native_seconds += seconds
        plain, seconds = timed(eager, pair, 1)
        eager_seconds += seconds
        equal += np.array_equal(there, plain)
    print(
        f"\nplain PyTorch, 320x240: {1000 * eager_seconds / len(pairs):.0f} ms a pair, "
        f"{eager_seconds / native_seconds:.0f} times the C++ solver's; the same flow, bit for bit, "
        f"on {equal} of {len(pairs)} pairs"
    )
    return {
        "eager_ms_per_pair": 1000 * eager_seconds / len(pairs),
        "native_ms_per_pair": 1000 * native_seconds / len(pairs),
        "pairs": len(pairs),
        "equal_pairs": equal,
    }


# --------------------------------------------------------------------------------- warm start


def warm_start(samples: Path) -> dict:
    """Flow that starts from the flow of the pair before, and from one in the wrong direction."""
    ratios = []
    for name in CLIPS:
        a, b, c = tensors(*clip_frames(samples / name, 17, 3))
        cold, warm = tvl1_flow(b, c), tvl1_flow(b, c, initial=tvl1_flow(a, b))
        values = [energy(x[0].numpy(), b[0].numpy(), c[0].numpy()) for x in (cold, warm)]
        ratios.append(values[1] / values[0])
    errors: dict[str, list[float]] = {"zero": [], "truth": [], "reversed truth": []}
    for pair in toy_pairs(24):
        assert pair.truth is not None
        truth = torch.from_numpy(pair.truth)[None]
        for start, initial in (("zero", None), ("truth", truth), ("reversed truth", -truth)):
            first, second = tensors(pair.first, pair.second)
            flow = tvl1_flow(first, second, initial=initial)[0].numpy()
            errors[start].append(end_point_error(flow, pair.truth, pair.valid))
    means = {start: float(np.mean(values)) for start, values in errors.items()}
    print(
        f"\nwarm start from the pair before: energy {np.mean(ratios):.4f} of a cold start's, lower "
        f"on {sum(ratio < 1 for ratio in ratios)} of {len(ratios)}\n  toy error when started from "
        + ", ".join(f"{start} {value:.3f} px" for start, value in means.items())
    )
    return {"energy_ratios": ratios, "toy_error_px": means}


# -------------------------------------------------------------------------------------- floor


def floor(samples: Path, repeats: int) -> dict:
    """Time per pixel and iteration, beside that of arithmetic and of memory alone."""
    pair = clip_pairs(samples, 17)[0].resized(320, 240)
    first, second = (x.float() for x in tensors(pair.first, pair.second))
    counts = (20, 220)
    least: dict[int, float] = {}
    for _ in range(3 * repeats):
        for count in counts:
            preset = replace(PRESETS["fast"], max_levels=1, warps_fine=1, iterations_fine=count)
            began = time.thread_time()
            tvl1_native.solve(first, second, None, preset)
            least[count] = min(least.get(count, np.inf), time.thread_time() - began)
    pixels = pair.first.size * (counts[1] - counts[0])
    measured = (least[counts[1]] - least[counts[0]]) / pixels
    multiply_adds, inverse_roots = arithmetic_rates()
    arithmetic, roots = MULTIPLY_ADDS / multiply_adds, INVERSE_ROOTS / inverse_roots
    memory = BYTES / copy_rate()
    print(
        f"\niteration: {1e9 * measured:.2f} ns a pixel ({measured / max(arithmetic, roots):.1f} "
        f"times the floor); alone, its multiplications and additions take {1e9 * arithmetic:.2f} "
        f"ns, its roots and divisions {1e9 * roots:.2f} ns, its {BYTES} bytes through memory "
        f"{1e9 * memory:.2f} ns"
    )
    times = {"": measured, "arithmetic_": arithmetic, "roots_": roots, "memory_": memory}
    return {f"{name}ns": 1e9 * seconds for name, seconds in times.items()}


def arithmetic_rates() -> list[float]:
    """Highest rates of one thread (arithmetic.cpp): multiply-adds and inverse roots per second."""
    source = Path(__file__).parent / "arithmetic.cpp"
    with tempfile.TemporaryDirectory() as scratch:
        library = Path(scratch) / "arithmetic.so"
        flags = [*tvl1_native.FLAGS, *tvl1_native.FOR_THIS_PROCESSOR]
        subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))
    rates, rounds, ignored = [], 50_000, ctypes.byref(ctypes.c_float())
    for run in (loaded.multiply_adds, loaded.inverse_roots):
        run.argtypes, run.restype = [ctypes.c_long, ctypes.POINTER(ctypes.c_float)], ctypes.c_long
        seconds = least_seconds(lambda run=run: run(rounds, ignored))
        rates.append(run(rounds, ignored) / seconds)
    return rates


def copy_rate() -> float:
    """Bytes per second that one thread moves to and from memory."""
    source = torch.zeros(64 << 20, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return 2 * source.numel() / least_seconds(lambda: target.copy_(source))


def least_seconds(work: Callable) -> float:
    seconds = []
    for _ in range(20):
        began = time.thread_time()
        work()
        seconds.append(time.thread_time() - began)
    return min(seconds)


def on_gpu(samples: Path) -> dict | str:
    if not torch.cuda.is_available():
        print("\nGPU: not run on a GPU")
        return "not run on a GPU"
    pairs = [pair.resized(320, 240) for pair in clip_pairs(samples, 17)]
    frames = [
        torch.from_numpy(np.stack([getattr(p, k) for p in pairs])).cuda()
        for k in ("first", "second")
    ]
    rates: dict[int, float] = {}
    for repeat in (1, 4, 16):
        first, second = (x.repeat(repeat, 1, 1) for x in frames)
        tvl1_flow(first, second)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(5):
            tvl1_flow(first, second)
        torch.cuda.synchronize()
        rate = 5 * len(first) / (time.perf_counter() - began)
        rates[len(first)] = rate
        print(f"\nGPU, 320x240, batches of {len(first)}: {rate:.0f} pairs/s")
    return {"device": torch.cuda.get_device_name(), "pairs_per_s": rates}


if __name__ == "__main__":
    main()
