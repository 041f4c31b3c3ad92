"""TV-L1 optical flow: coarse to fine, warped, total variation against absolute residual.

    flow = tvl1_flow(first, second)            # (B, H, W) each -> (B, 2, H, W)

The energy is that of Zach, Pock and Bischof (A duality based approach for realtime TV-L1 optical
flow, DAGM 2007), the parameters those of Sanchez Perez, Meinhardt-Llopis and Facciolo (IPOL
2013); the default presets minimise it with the primal-dual iteration of Chambolle and Pock (JMIV
2011), which needs far fewer iterations than their alternation (presets `opencv`, `ipol`).

One algorithm, three ways to run it, chosen by where the frames are:

    tvl1_solvers/native.py  CPU: C++ compiled on first use, one thread, pair after pair
    tvl1_solvers/cuda.py    CUDA: Triton kernels, the whole batch at once
    tvl1_solvers/eager.py   plain PyTorch: the reference, and the fallback without a compiler

The flow of a pair depends on its two frames (and `initial`) alone, bit for bit: not on the batch,
not on pairs before it, not on the processor, and not on which of the three computed it. Nothing
less is enough: the energy has several minima where something is occluded, and noise of 1e-5 grey
values moves up to a third of the pixels of a real pair by more than 1e-4 px, some by several px.
"""

from __future__ import annotations

import functools
import warnings

import torch

from preprocess.tvl1_solvers import eager, native
from preprocess.tvl1_solvers.presets import PRESETS, SMALLEST_SIDE, Preset
from shared.errors import InputError

__all__ = ["PRESETS", "SMALLEST_SIDE", "tvl1_flow"]


def tvl1_flow(
    first: torch.Tensor,
    second: torch.Tensor,
    preset: str = "fast",
    initial: torch.Tensor | None = None,
) -> torch.Tensor:
    """Flow of B independent pairs of grey frames.

    Args:
        first, second: (B, H, W), uint8 or float with values 0..255, at least 16 px a side.
        preset: "fast" (default), "exact" (lowest energy), "opencv" (cv2.optflow's results with
            its defaults), "ipol" (the parameters of the IPOL article).
        initial: (B, 2, H, W) flow to start from, for example that of the pair before; None is
            zero. It steers the coarsest level only, so a wrong one does little harm.

    Returns:
        (B, 2, H, W) float32 on the device of `first`: u (right), then v (down), in pixels per
        frame: second(x + u, y + v) looks like first(x, y).

    Raises:
        InputError: sizes under 16 px, unequal shapes, dtypes or devices, values that are not
            finite, unknown presets.
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
        return native.solve(first, second, initial, preset)
    except native.Unavailable as reason:
        _warn_slow(str(reason))
    return eager.solve(first, second, initial, preset, eager.EAGER)


def _solve_cuda(
    first: torch.Tensor, second: torch.Tensor, initial: torch.Tensor | None, preset: Preset
) -> torch.Tensor:
    with torch.cuda.device(first.device):  # Triton launches on the current one
        kernels, reason = _cuda_kernels(first.device)
        if preset.scheme != "primal-dual":
            reason = "no kernel of a GPU is written for the preset"
        if reason:
            _warn_slow(reason)
        return eager.solve(first, second, initial, preset, kernels)


@functools.cache
def _cuda_kernels(device: torch.device) -> tuple[eager.Kernels, str]:
    """Triton's where they work, else PyTorch's and why. They are tried out on a small picture:
    without a C compiler, for example, it is the first launch that fails."""
    try:
        from preprocess.tvl1_solvers import cuda

        nothing = torch.zeros(1, SMALLEST_SIDE, SMALLEST_SIDE, device=device)
        eager.solve(nothing, nothing, None, PRESETS["fast"], cuda.FUSED)
    except Exception as error:  # Triton and the tools it calls fail with many types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return eager.EAGER, f"Triton's kernels do not run: {lines[0]}"
    return cuda.FUSED, ""


@functools.cache
def _warn_slow(reason: str) -> None:
    warnings.warn(
        f"TV-L1 flow runs in plain PyTorch, many times slower, same results: {reason}",
        RuntimeWarning,
        stacklevel=4,
    )


def _check(
    first: torch.Tensor, second: torch.Tensor, preset: str, initial: torch.Tensor | None
) -> None:
    if preset not in PRESETS:
        raise InputError(f"unknown flow preset {preset!r}: choose one of {', '.join(PRESETS)}")
    if first.ndim != 3:
        raise InputError(f"frames of shape {tuple(first.shape)}: (B, H, W) grey values are needed")
    if (first.shape, first.dtype, first.device) != (second.shape, second.dtype, second.device):
        raise InputError(
            f"the frames of a pair differ: {_describe(first)} against {_describe(second)}; "
            "resize, convert or move one of them"
        )
    if first.dtype != torch.uint8 and not first.dtype.is_floating_point:
        raise InputError(f"frames of {first.dtype}: uint8 or float grey values 0..255 are needed")
    height, width = first.shape[1:]
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"frames of {width}x{height} px: flow needs at least {SMALLEST_SIDE} px a side; "
            "enlarge them or leave the clip out"
        )
    for frames in (first, second) if first.dtype.is_floating_point else ():
        if not bool(frames.isfinite().all()):
            raise InputError("frames hold NaN or infinite values; grey values 0..255 are needed")
    if initial is not None:
        expected = (first.shape[0], 2, height, width)
        if tuple(initial.shape) != expected:
            raise InputError(
                f"initial flow of shape {tuple(initial.shape)}: {expected} is needed, u then v"
            )
        if not bool(initial.isfinite().all()):
            raise InputError("the initial flow holds NaN or infinite values")


def _describe(frames: torch.Tensor) -> str:
    return f"{tuple(frames.shape)} {frames.dtype} on {frames.device}"
