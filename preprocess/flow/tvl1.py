"""Computes TV-L1 optical flow, coarse to fine.

    flow = tvl1_flow(first, second)            # [B, H, W] each -> [B, 2, H, W]

The energy is the total variation of the flow plus the absolute difference between the first frame
and the warped second one, as in Zach, Pock and Bischof (A duality based approach for realtime TV-L1
optical flow, DAGM 2007). The parameters are those of Sanchez Perez, Meinhardt-Llopis and Facciolo
(IPOL 2013). The default presets minimise it with the primal-dual iteration of Chambolle and Pock
(JMIV 2011), which needs far fewer iterations than the alternation of the first two papers (presets
`opencv`, `ipol`).

The preset `large` chooses a start for each pixel among several flows at a small size, two of them
from a patch search (tvl1_solvers/starts.py).

There are three implementations of the same algorithm:

    native.py                   CPU: C++ compiled on first use, one thread, pair by pair
    cuda.py, cuda_patches.py    CUDA: Triton kernels, the whole batch at once
    eager.py, patches.py        PyTorch: the reference, and the fallback without a compiler

All files lie in tvl1_solvers/.

The flow of a pair depends only on its two frames (and on `initial`), bit for bit. It depends
neither on the batch, nor on earlier pairs, nor on the processor, nor on the implementation. A
tolerance would not be enough: the energy has several minima where something is occluded, and noise
of 1e-5 grey values moves up to a third of the pixels of a real pair by more than 1e-4 px, some of
them by several px.
"""

from __future__ import annotations

import functools
import warnings

import torch

from preprocess.tvl1_solvers import eager, native, starts
from preprocess.tvl1_solvers.presets import PRESETS, SMALLEST_SIDE, Preset
from shared.errors import InputError

__all__ = ["PRESETS", "SMALLEST_SIDE", "tvl1_flow"]


def tvl1_flow(
    first: torch.Tensor,
    second: torch.Tensor,
    preset: str = "fast",
    initial: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the flow of B independent pairs of grey frames.

    Args:
        first, second: [B, H, W], uint8 or float 0..255, at least 16 px a side.
        preset: "fast" (default), "large" (follows motion of up to 80 px), "exact" (lowest energy),
            "opencv" (the results of cv2.optflow with its defaults) or "ipol" (the parameters of
            the IPOL article).
        initial: float [B, 2, H, W], flow to start from, such as that of the previous pair; None is
            zero. Only the coarsest level starts from it, so a wrong value does little harm. The
            preset "large" then searches for no start of its own, and takes it at 0.41 of the size.

    Returns:
        float32 [B, 2, H, W] on the device of `first`: u (right), then v (down), pixels per frame.
        second(x + u, y + v) looks like first(x, y).

    Raises:
        InputError: frames are smaller than 16 px, shapes, dtypes or devices differ, a value is not
            finite, or the preset is unknown.
    """
    _check(first, second, preset, initial)
    numbers = PRESETS[preset]
    first, second = first.float(), second.float()
    initial = None if initial is None else initial.to(first)
    with torch.no_grad():
        if first.shape[0] == 0:
            return first.new_zeros(0, 2, *first.shape[1:])
        if first.is_cuda:
            return _solve_cuda(first, second, initial, numbers)
        return _solve_cpu(first, second, initial, numbers)


def _solve_cpu(
    first: torch.Tensor, second: torch.Tensor, initial: torch.Tensor | None, preset: Preset
) -> torch.Tensor:
    try:
        return starts.solve(first, second, initial, preset, starts.NATIVE)
    except native.UnavailableError as reason:
        _warn_slow(str(reason))
    return starts.solve(first, second, initial, preset, starts.EAGER)


def _solve_cuda(
    first: torch.Tensor, second: torch.Tensor, initial: torch.Tensor | None, preset: Preset
) -> torch.Tensor:
    with torch.cuda.device(first.device):  # Triton launches kernels on the current device
        parts, reason = _cuda_parts(first.device)
        if preset.scheme != "primal-dual":
            reason = "there is no GPU kernel for this preset"
        if reason:
            _warn_slow(reason)
        return starts.solve(first, second, initial, preset, parts)


@functools.cache
def _cuda_parts(device: torch.device) -> tuple[starts.Parts, str]:
    """The parts in Triton if its kernels work, else those in PyTorch and the reason.

    They are tried on a small frame, because only the first launch fails without a C compiler.
    """
    try:
        from preprocess.tvl1_solvers import cuda, cuda_patches

        parts = starts.Parts(
            functools.partial(eager.solve, kernels=cuda.FUSED),
            cuda_patches.patch_flow,
            eager.resize,
        )
        nothing = torch.zeros(1, SMALLEST_SIDE, SMALLEST_SIDE, device=device)
        starts.solve(nothing, nothing, None, PRESETS["large"], parts)
    except Exception as error:  # Triton and the tools it calls fail with many types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return starts.EAGER, f"Triton's kernels do not run: {lines[0]}"
    return parts, ""


@functools.cache
def _warn_slow(reason: str) -> None:
    warnings.warn(
        f"TV-L1 flow runs in PyTorch, which is many times slower with the same results: {reason}",
        RuntimeWarning,
        stacklevel=4,
    )


def _check(
    first: torch.Tensor, second: torch.Tensor, preset: str, initial: torch.Tensor | None
) -> None:
    if preset not in PRESETS:
        raise InputError(
            "unknown-name", f"unknown flow preset {preset!r}; known: {', '.join(PRESETS)}"
        )
    if first.ndim != 3:
        raise InputError(
            "wrong-type",
            f"frames have the shape {tuple(first.shape)}; grey frames (B, H, W) are needed",
        )
    if (first.shape, first.dtype, first.device) != (second.shape, second.dtype, second.device):
        raise InputError(
            "wrong-type",
            f"the frames of a pair differ: {_describe(first)} and {_describe(second)}; "
            "resize, convert or move one of them",
        )
    if first.dtype != torch.uint8 and not first.dtype.is_floating_point:
        raise InputError(
            "wrong-type",
            f"frames have the dtype {first.dtype}; uint8 or float grey values 0..255 are needed",
        )
    height, width = first.shape[1:]
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            "out-of-range",
            f"frames have {width}x{height} px, but flow needs at least {SMALLEST_SIDE} px a side; "
            "enlarge them, or leave the clip out",
        )
    for frames in (first, second) if first.dtype.is_floating_point else ():
        if not bool(frames.isfinite().all()):
            raise InputError(
                "not-finite", "frames have NaN or infinite values; grey values 0..255 are needed"
            )
    if initial is not None:
        expected = (first.shape[0], 2, height, width)
        if tuple(initial.shape) != expected:
            raise InputError(
                "wrong-type",
                f"the initial flow has the shape {tuple(initial.shape)}; {expected} is needed, u "
                "then v",
            )
        if not bool(initial.isfinite().all()):
            raise InputError("not-finite", "the initial flow has NaN or infinite values")


def _describe(frames: torch.Tensor) -> str:
    return f"{tuple(frames.shape)} {frames.dtype} on {frames.device}"
