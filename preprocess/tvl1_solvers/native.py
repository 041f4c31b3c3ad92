"""Builds and calls the C++ solver of TV-L1 flow and the patch search (cpp/).

The solver is compiled on first use, in a few seconds, with the C++ compiler of the machine (`CXX`,
else g++) and for its processor. The library is kept in $XDG_CACHE_HOME/mofo or ~/.cache/mofo. Its
name is a hash of the sources, the compiler and the processor. Several processes may compile at the
same time: each writes a file of its own and renames it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from preprocess.tvl1_solvers.presets import (
    PatchSearch,
    Preset,
    gaussian_taps,
    level_sizes,
    pyramid_sigma,
)

SOURCES = Path(__file__).parent / "cpp"
FLAGS = ["-std=c++17", "-O3", "-shared", "-fPIC", "-w", "-fno-math-errno", "-fno-trapping-math"]
# Each operation is rounded separately, as in PyTorch. The flow is then the same, bit for bit, on
# every processor and without a compiler. This costs a tenth of the speed.
FLAGS += ["-ffp-contract=off"]
FOR_THIS_PROCESSOR = ["-march=native"]

MOST_ROUNDS = 8  # of the patch search, in cpp/patches.h


class UnavailableError(Exception):
    """This machine cannot compile or load the solver; the message says why."""


class _Numbers(ctypes.Structure):
    """The struct in cpp/numbers.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "num_levels", "warps_fine", "warps", "iterations_fine", "iterations", "rounds",
            "median", "primal_dual", "central", "presmooth_radius", "pyramid_radius",
        )),
        *((name, ctypes.c_double) for name in (
            "attachment", "tightness", "primal_step", "dual_step", "dual_kept", "cubic", "stop",
        )),
    ]  # fmt: skip


class _SearchNumbers(ctypes.Structure):
    """The struct Numbers in cpp/patches.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "grid_radius", "grid_step", "rounds", "steps",
        )),
        ("distances", ctypes.c_int32 * MOST_ROUNDS),
    ]  # fmt: skip


def solve(
    first: torch.Tensor, second: torch.Tensor, initial: torch.Tensor | None, preset: Preset
) -> torch.Tensor:
    """As eager.solve, on the CPU, in one thread.

    Other Python threads can run at the same time.

    Raises:
        UnavailableError: the solver cannot be compiled or loaded.
    """
    library = load()
    batch, height, width = first.shape
    sizes = level_sizes(height, width, preset)
    presmooth, pyramid = gaussian_taps(preset.presmooth), gaussian_taps(pyramid_sigma(preset))
    primal_step, dual_step = preset.steps
    numbers = _Numbers(
        num_levels=len(sizes),
        warps_fine=preset.warps_fine,
        warps=preset.warps,
        iterations_fine=preset.iterations_fine,
        iterations=preset.iterations,
        rounds=preset.rounds,
        median=preset.median,
        primal_dual=preset.scheme == "primal-dual",
        central=preset.gradient == "central",
        presmooth_radius=len(presmooth) - 1,
        pyramid_radius=len(pyramid) - 1,
        attachment=preset.attachment,
        tightness=preset.tightness,
        primal_step=primal_step,
        dual_step=dual_step,
        dual_kept=preset.dual_kept,
        cubic=preset.cubic,
        stop=preset.stop,
    )
    first, second = first.contiguous(), second.contiguous()
    initial = None if initial is None else initial.contiguous()
    flow = torch.empty(batch, 2, height, width)
    status = library.tvl1_flow(
        first.data_ptr(),
        second.data_ptr(),
        None if initial is None else initial.data_ptr(),
        flow.data_ptr(),
        batch,
        (ctypes.c_int32 * (2 * len(sizes)))(*(side for size in sizes for side in size)),
        (ctypes.c_float * len(presmooth))(*presmooth),
        (ctypes.c_float * len(pyramid))(*pyramid),
        ctypes.byref(numbers),
    )
    if status != 0:
        raise MemoryError(f"out of memory in the flow of {width}x{height} px frames")
    return flow


def patch_flow(
    first: torch.Tensor,
    second: torch.Tensor,
    start: torch.Tensor,
    grid_radius: int,
    numbers: PatchSearch,
) -> torch.Tensor:
    """As patches.patch_flow, on the CPU, in one thread.

    Raises:
        UnavailableError: the solver cannot be compiled or loaded.
    """
    library = load()
    batch, height, width = first.shape
    distances = (ctypes.c_int32 * MOST_ROUNDS)(*numbers.distances)
    first, second, start = first.contiguous(), second.contiguous(), start.contiguous()
    flow = torch.empty(batch, 2, height, width)
    status = library.patch_flow(
        first.data_ptr(),
        second.data_ptr(),
        start.data_ptr(),
        flow.data_ptr(),
        batch,
        height,
        width,
        ctypes.byref(
            _SearchNumbers(
                grid_radius=grid_radius,
                grid_step=numbers.grid_step,
                rounds=len(numbers.distances),
                steps=numbers.steps,
                distances=distances,
            )
        ),
    )
    if status != 0:
        raise MemoryError(f"out of memory in the patch search of {width}x{height} px frames")
    return flow


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """As eager.resize of float32 images (..., H, W), on the CPU, in one thread.

    Raises:
        UnavailableError: the solver cannot be compiled or loaded.
    """
    library = load()
    images = images.contiguous()
    resized = torch.empty(*images.shape[:-2], *size)
    status = library.resize_images(
        images.data_ptr(),
        resized.data_ptr(),
        images.shape[:-2].numel(),
        (ctypes.c_int32 * 4)(*images.shape[-2:], *size),
    )
    if status != 0:
        raise MemoryError(f"out of memory for images of {size[1]}x{size[0]} px")
    return resized


def load() -> ctypes.CDLL:
    """Load the compiled solver, and compile it first if that is needed.

    Raises:
        UnavailableError: the solver cannot be compiled or loaded. Later calls fail without another
            attempt.
    """
    library, reason = _load_once()
    if library is None:
        raise UnavailableError(reason)
    return library


@functools.cache
def _load_once() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason why there is none."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(command[0]) is None:
        return None, f"the C++ compiler {command[0]!r} is not on the PATH"
    try:
        with tempfile.TemporaryDirectory() as scratch:  # a loaded library does not need its file
            path = _cache_folder(Path(scratch)) / f"tvl1-{_fingerprint(command)}.so"
            if not path.exists():
                _compile(command, path)
            library = ctypes.CDLL(str(path))
    except UnavailableError as error:
        return None, str(error)
    except OSError as error:
        return None, f"the compiled solver cannot be saved or loaded: {error}"
    pointer = ctypes.c_void_p
    library.tvl1_flow.argtypes = [pointer] * 4 + [ctypes.c_int64] + [pointer] * 4
    library.tvl1_flow.restype = ctypes.c_int
    sizes = [ctypes.c_int64, ctypes.c_int32, ctypes.c_int32]
    library.patch_flow.argtypes = [pointer] * 4 + sizes + [pointer]
    library.patch_flow.restype = ctypes.c_int
    library.resize_images.argtypes = [pointer, pointer, ctypes.c_int64, pointer]
    library.resize_images.restype = ctypes.c_int
    return library, ""


def _cache_folder(scratch: Path) -> Path:
    """The folder of compiled solvers, or `scratch` if that folder cannot be written to."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "mofo"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, or no home
        return scratch
    return folder if os.access(folder, os.W_OK) else scratch


def _fingerprint(command: list[str]) -> str:
    """A hash of everything that decides the compiled code."""
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    digest = hashlib.sha256()
    for part in (*command, version.stdout, *FLAGS, *FOR_THIS_PROCESSOR, _processor()):
        digest.update(part.encode() + b"\0")
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """What distinguishes processors of machines that share a cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _compile(command: list[str], path: Path) -> None:
    """Compile the solver to `path`.

    Raises:
        UnavailableError: the compiler fails.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        source = str(SOURCES / "solver.cpp")
        for flags in (FLAGS + FOR_THIS_PROCESSOR, FLAGS):  # not all compilers have -march=native
            result = subprocess.run(
                [*command, *flags, source, "-o", temporary],
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode == 0:
                os.replace(temporary, path)
                return
        reason = (result.stderr.strip().splitlines() or ["no message"])[0]
        raise UnavailableError(f"{shlex.join(command)} failed on {source}: {reason}")
    finally:
        Path(temporary).unlink(missing_ok=True)
