"""TV-L1 optical flow, batched: Zach, Pock, Bischof (DAGM 2007), the duality method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from shared.errors import InputError

SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Preset:
    """Numbers of one quality level; names as in Sanchez Perez et al. (IPOL 2013), section 4."""

    scales: int
    warps: int
    iterations: int
    scale_step: float = 0.8
    attachment: float = 0.15
    tightness: float = 0.3
    time_step: float = 0.25


PRESETS = {
    "opencv": Preset(scales=5, warps=5, iterations=60),
    "ipol": Preset(scales=5, warps=5, iterations=60),
    "fast": Preset(scales=5, warps=3, iterations=20),
    "exact": Preset(scales=5, warps=10, iterations=60),
}


def tvl1_flow(
    first: torch.Tensor,
    second: torch.Tensor,
    preset: str = "fast",
    initial: torch.Tensor | None = None,
) -> torch.Tensor:
    """Flow of B independent pairs: (B, H, W) uint8 or float in 0..255 -> (B, 2, H, W) float32.

    u (right) then v (down), pixels per frame, from `first` to `second`. `initial` is a flow of
    the same shape as the result to start from. Raises InputError for sizes under 16 px,
    unequal shapes or dtypes, NaN values and unknown presets.
    """
    _check(first, second, preset, initial)
    numbers = PRESETS[preset]
    with torch.no_grad():
        return _solve(first.float(), second.float(), numbers, initial)


def _check(first, second, preset, initial) -> None:
    if preset not in PRESETS:
        raise InputError(f"unknown flow preset {preset!r}: choose one of {', '.join(PRESETS)}")
    if first.ndim != 3:
        raise InputError(f"frames of shape {tuple(first.shape)}: (B, H, W) grey values are needed")
    if first.shape != second.shape or first.dtype != second.dtype:
        raise InputError(
            f"the frames of a pair differ: {tuple(first.shape)} {first.dtype} against "
            f"{tuple(second.shape)} {second.dtype}; resize or convert one of them"
        )
    if min(first.shape[1:]) < SMALLEST_SIDE:
        height, width = first.shape[1:]
        raise InputError(f"frames of {width}x{height} px: flow needs {SMALLEST_SIDE} px a side")
    if first.dtype.is_floating_point and not bool((first.isfinite() & second.isfinite()).all()):
        raise InputError("frames hold NaN or infinite values; grey values 0..255 are needed")
    expected = (first.shape[0], 2, *first.shape[1:])
    if initial is not None and tuple(initial.shape) != expected:
        raise InputError(f"initial flow of shape {tuple(initial.shape)}: {expected} is needed")


def _sizes(height: int, width: int, numbers: Preset) -> list[tuple[int, int]]:
    sizes = [(height, width)]
    while len(sizes) < numbers.scales:
        factor = numbers.scale_step ** len(sizes)
        size = (round(height * factor), round(width * factor))
        if min(size) < SMALLEST_SIDE:
            break
        sizes.append(size)
    return sizes


def _resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _solve(first, second, numbers, initial):
    height, width = first.shape[1:]
    sizes = _sizes(height, width, numbers)
    pyramid = [torch.stack([first, second], 1)]
    for size in sizes[1:]:
        pyramid.append(_resize(pyramid[-1], size))
    flow = None
    if initial is not None:
        flow = _rescale_flow(initial.float(), sizes[-1])
    for images in reversed(pyramid):
        if flow is None:
            flow = torch.zeros_like(images)
        elif flow.shape != images.shape:
            flow = _rescale_flow(flow, tuple(images.shape[2:]))
        flow = _solve_scale(images[:, 0], images[:, 1], flow, numbers)
    return flow


def _rescale_flow(flow, size):
    scale = flow.new_tensor([size[1] / flow.shape[3], size[0] / flow.shape[2]]).view(1, 2, 1, 1)
    return _resize(flow, size) * scale


def _solve_scale(first, second, flow, numbers):
    batch, height, width = first.shape
    source = torch.stack([second, *_central_differences(second)], 1)
    xs = torch.arange(width, device=first.device, dtype=torch.float32)
    ys = torch.arange(height, device=first.device, dtype=torch.float32)[:, None]
    dual_x, dual_y = torch.zeros_like(flow), torch.zeros_like(flow)
    for _ in range(numbers.warps):
        grid = torch.stack(
            [
                (xs + flow[:, 0]) * (2 / (width - 1)) - 1,
                (ys + flow[:, 1]) * (2 / (height - 1)) - 1,
            ],
            -1,
        )
        warped = F.grid_sample(
            source, grid, mode="bicubic", padding_mode="border", align_corners=True
        )
        inside = (grid.abs() <= 1).all(-1)[:, None]
        gradient = warped[:, 1:] * inside
        constant = (warped[:, 0] - first) * inside[:, 0] - (gradient * flow).sum(1)
        flow, dual_x, dual_y = _iterate(flow, dual_x, dual_y, gradient, constant, numbers)
    return flow


def _central_differences(images):
    padded = F.pad(images[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return (
        (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * 0.5,
        (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * 0.5,
    )


def _iterate(flow, dual_x, dual_y, gradient, constant, numbers):
    """Inner iterations: thresholding (eq. 8) and the dual step of each component (eq. 11)."""
    step = numbers.attachment * numbers.tightness
    ratio = numbers.time_step / numbers.tightness
    squared = gradient.square().sum(1).clamp_(min=1e-9)
    for _ in range(numbers.iterations):
        residual = (gradient * flow).sum(1).add_(constant)
        amount = (residual / squared).clamp_(-step, step)
        divergence = dual_x + dual_y
        divergence[..., 1:] -= dual_x[..., :-1]
        divergence[..., 1:, :] -= dual_y[..., :-1, :]
        flow = flow - gradient * amount[:, None] + divergence.mul_(numbers.tightness)
        along_x = torch.zeros_like(flow)
        along_y = torch.zeros_like(flow)
        torch.sub(flow[..., 1:], flow[..., :-1], out=along_x[..., :-1])
        torch.sub(flow[..., 1:, :], flow[..., :-1, :], out=along_y[..., :-1, :])
        scale = torch.sqrt(along_x * along_x + along_y * along_y).mul_(ratio).add_(1).reciprocal_()
        dual_x = along_x.mul_(ratio).add_(dual_x).mul_(scale)
        dual_y = along_y.mul_(ratio).add_(dual_y).mul_(scale)
    return flow, dual_x, dual_y
