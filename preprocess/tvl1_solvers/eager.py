"""Computes TV-L1 flow in PyTorch. The fast implementations are tested against this one.

It works on one batch at a time, on any device, with element-wise float32 arithmetic. The flow of a
pair therefore does not depend on the rest of the batch, and the fast implementations give the same
bits, because they do the same operations in the same order. Letters: B pairs, H height, W width.

    flow  (B, 2, H, W)  u, v
    dual  (B, 4, H, W)  px and py of u, px and py of v: |(px, py)| <= 1
    data  (B, 4, H, W)  the linearised data term: unit gradient ex, ey; residual at zero flow and
                        longest step, both divided by the gradient's length
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from preprocess.tvl1_solvers.presets import Preset, gaussian_taps, level_sizes, pyramid_sigma

# A gradient below 1/1000 grey value per pixel is rounding noise: its direction gets no weight.
SMALLEST_GRADIENT_SQUARED = 1e-6


@dataclass(frozen=True)
class Kernels:
    """The two expensive steps; cuda.py has its own."""

    linearise: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Preset], torch.Tensor]
    """(first, second, flow, preset) -> data; first and second as `Level` holds them."""
    primal_dual: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, int, Preset], tuple[torch.Tensor, torch.Tensor]
    ]
    """(flow, dual, data, iterations, preset) -> flow, dual"""


@dataclass(frozen=True)
class Level:
    """Both frames at one size."""

    first: torch.Tensor
    """(B, H, W)"""
    second: torch.Tensor
    """(B, C, H, W): the frame, then its central differences in x and y where they are used."""


def solve(
    first: torch.Tensor,
    second: torch.Tensor,
    initial: torch.Tensor | None,
    preset: Preset,
    kernels: Kernels,
) -> torch.Tensor:
    """Compute flow (B, 2, H, W) of float32 frames (B, H, W), coarse to fine.

    It starts from `initial`, or from zero; `preset.starts` is what starts.py is for.
    """
    sizes = level_sizes(first.shape[1], first.shape[2], preset)
    levels = _pyramid(first, second, sizes, preset)
    flow = first.new_zeros(first.shape[0], 2, *sizes[-1])
    if initial is not None:
        flow = initial
        for size in sizes[1:]:
            flow = resize_flow(flow, size)
    dual = first.new_zeros(first.shape[0], 4, *sizes[-1])
    for i in reversed(range(len(levels))):
        if flow.shape[2:] != sizes[i]:
            flow = resize_flow(flow, sizes[i])
            dual = _resize_dual(dual, sizes[i], preset.dual_kept)
        finest = i == 0
        flow, dual = _solve_level(levels[i], flow, dual, preset, finest, kernels)
    return flow


def _solve_level(
    level: Level,
    flow: torch.Tensor,
    dual: torch.Tensor,
    preset: Preset,
    finest: bool,
    kernels: Kernels,
) -> tuple[torch.Tensor, torch.Tensor]:
    warps = preset.warps_fine if finest else preset.warps
    iterations = preset.iterations_fine if finest else preset.iterations
    for _ in range(warps):
        data = kernels.linearise(level.first, level.second, flow, preset)
        if preset.scheme == "primal-dual":
            for _ in range(preset.rounds):
                flow = median(flow, preset.median)
                flow, dual = kernels.primal_dual(flow, dual, data, iterations, preset)
        else:
            flow, dual = _relaxed(flow, dual, data, iterations, preset)
    return flow, dual


# ------------------------------------------------------------------------------- pyramid


def _pyramid(
    first: torch.Tensor, second: torch.Tensor, sizes: list[tuple[int, int]], preset: Preset
) -> list[Level]:
    levels = []
    blur_taps = gaussian_taps(pyramid_sigma(preset))
    first, second = (_blur(x, gaussian_taps(preset.presmooth)) for x in (first, second))
    for i, size in enumerate(sizes):
        if i > 0:
            first, second = (resize(_blur(x, blur_taps), size) for x in (first, second))
        planes = [second]
        if preset.gradient == "central":
            planes += _central_differences(second)
        levels.append(Level(first, torch.stack(planes, 1)))
    return levels


def _blur(image: torch.Tensor, taps: list[float]) -> torch.Tensor:
    for axis in (-2, -1):
        if len(taps) == 1:
            break
        size = image.shape[axis]
        at = torch.arange(size, device=image.device)
        total = image * taps[0]
        for i, tap in enumerate(taps[1:], 1):
            before = image.index_select(axis, (at - i).clamp(min=0))
            after = image.index_select(axis, (at + i).clamp(max=size - 1))
            total = total + (before + after) * tap
        image = total
    return image


def _central_differences(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    padded = pad_replicate(image, 1)
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * 0.5
    along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * 0.5
    return along_x, along_y


def pad_replicate(image: torch.Tensor, pad: int) -> torch.Tensor:
    """(..., H, W) -> (..., H + 2 pad, W + 2 pad), the border repeated."""
    for axis in (-2, -1):
        size = image.shape[axis]
        at = torch.arange(-pad, size + pad, device=image.device).clamp(0, size - 1)
        image = image.index_select(axis, at)
    return image


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, pixel centres at half integers, rows first: (..., H, W) -> (..., *size)."""
    for axis, to in ((-2, size[0]), (-1, size[1])):
        from_ = image.shape[axis]
        centre = (torch.arange(to, dtype=torch.float64, device=image.device) + 0.5) * (from_ / to)
        centre = (centre - 0.5).clamp(min=0)
        index = centre.long().clamp(max=from_ - 2)
        share = (centre - index).clamp(max=1).float()
        share = share[:, None] if axis == -2 else share
        low, high = image.index_select(axis, index), image.index_select(axis, index + 1)
        image = low + (high - low) * share
    return image


def resize_flow(
    flow: torch.Tensor,
    size: tuple[int, int],
    resize: Callable[[torch.Tensor, tuple[int, int]], torch.Tensor] = resize,
) -> torch.Tensor:
    """Flow (B, 2, H, W) at another size, in px of that size; `resize` may be a faster one."""
    wider, higher = size[1] / flow.shape[3], size[0] / flow.shape[2]
    resized = resize(flow, size)
    return torch.stack([resized[:, 0] * wider, resized[:, 1] * higher], dim=1)


def _resize_dual(dual: torch.Tensor, size: tuple[int, int], kept: float) -> torch.Tensor:
    dual = resize(dual, size) * kept
    dual[:, 0::2, :, -1] = 0  # no difference across the right and the lower border
    dual[:, 1::2, -1, :] = 0
    return dual


def _no_dual(flow: torch.Tensor) -> torch.Tensor:
    return torch.cat([flow, flow], 1).zero_()


# ------------------------------------------------------------------------------- warping


def cubic_weights(t: torch.Tensor, a: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Cubic convolution (Keys 1981) at fraction t for taps -1..2, and its derivative."""
    s = 1 - t
    weights = [
        a * t * s * s,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * s - (a + 3)) * s * s + 1,
        a * s * t * t,
    ]
    slopes = [
        a * s * (s - 2 * t),
        (3 * (a + 2) * t - 2 * (a + 3)) * t,
        (3 * (a + 2) * s - 2 * (a + 3)) * s * -1,
        -a * t * (t - 2 * s),
    ]
    return weights, slopes


def linearise(
    first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor, preset: Preset
) -> torch.Tensor:
    """Linearise |I1(x + u) - I0(x)| at `flow` (Zach et al., eq. 5 and 6) -> data."""
    height, width = first.shape[1:]
    x = torch.arange(width, dtype=torch.float32, device=flow.device)
    y = torch.arange(height, dtype=torch.float32, device=flow.device)[:, None]
    u, v = flow.unbind(1)
    at_x, at_y = x + u, y + v
    on_x, on_y = at_x.clamp(0, width - 1), at_y.clamp(0, height - 1)
    value, along_x, along_y = _sample(second, on_x, on_y, preset)

    # Targets outside the frame say nothing; the data term fades within one pixel.
    fade = (1 - (at_x - on_x).abs() - (at_y - on_y).abs()).clamp(min=0)
    along_x, along_y = along_x * fade, along_y * fade
    residual = (value - first) * fade - along_x * u - along_y * v
    squared = along_x * along_x + along_y * along_y
    inverse = 1 / square_root(squared.clamp(min=SMALLEST_GRADIENT_SQUARED))
    bound = squared * inverse * (preset.attachment * preset.reach)
    return torch.stack([along_x * inverse, along_y * inverse, residual * inverse, bound], 1)


def _sample(
    second: torch.Tensor, x: torch.Tensor, y: torch.Tensor, preset: Preset
) -> tuple[torch.Tensor, ...]:
    """Value and gradient of the second frame at (B, H, W) positions inside it."""
    padded = pad_replicate(second, 2)
    stride, planes = padded.shape[3], padded.flatten(2)
    column, row = x.long(), y.long()
    across, slope_across = cubic_weights(x - column, preset.cubic)
    down, slope_down = cubic_weights(y - row, preset.cubic)
    corner = ((row + 1) * stride + column + 1).flatten(1)[:, None]
    results = [torch.zeros_like(second) for _ in range(3)]  # value, d/dx, d/dy of each plane
    for j in range(4):
        value, slope = torch.zeros_like(second), torch.zeros_like(second)
        for i in range(4):
            at = (corner + (j * stride + i)).expand(-1, planes.shape[1], -1)
            pixel = planes.gather(2, at).view_as(second)
            value = value + across[i][:, None] * pixel
            slope = slope + slope_across[i][:, None] * pixel
        results[0] = results[0] + down[j][:, None] * value
        results[1] = results[1] + down[j][:, None] * slope
        results[2] = results[2] + slope_down[j][:, None] * value
    if preset.gradient == "central":
        return results[0].unbind(1)
    return tuple(result[:, 0] for result in results)


# ---------------------------------------------------------------------- inner iterations


def primal_dual(
    flow: torch.Tensor, dual: torch.Tensor, data: torch.Tensor, iterations: int, preset: Preset
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chambolle and Pock (2011), algorithm 1; the data term's proximal step in closed form."""
    primal, dual_step = preset.steps
    pull = primal / preset.reach
    for _ in range(iterations):
        moved = flow + _divergence(dual) * primal
        new = moved - _toward_data(moved, data, pull)
        gradient = _forward_differences(new * 2 - flow)
        dual = _project(dual + gradient * dual_step)
        flow = new
    return flow, dual


def _relaxed(
    flow: torch.Tensor, dual: torch.Tensor, data: torch.Tensor, iterations: int, preset: Preset
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zach et al. (2007), eq. 8 to 11, until the flow of a pair changes no more."""
    primal, dual_step = preset.steps
    enough = preset.stop * preset.stop * flow.shape[2] * flow.shape[3]
    active = torch.ones(flow.shape[0], dtype=torch.bool, device=flow.device)
    for _ in range(preset.rounds):
        flow = _where(active, median(flow, preset.median), flow)
        for _ in range(iterations):
            new = flow - _toward_data(flow, data) + _divergence(dual) * primal
            gradient = _forward_differences(new)
            length = square_root(_squared_lengths(gradient))
            new_dual = (dual + gradient * dual_step) * (1 / (length * dual_step + 1))
            change = (new - flow).square()
            flow, dual = _where(active, new, flow), _where(active, new_dual, dual)
            # One sum a pair: a batched sum may add in another order for another batch.
            sums = torch.stack([pair.sum(dtype=torch.float64) for pair in change])
            active = active & (sums > enough)
            if not bool(active.any()):
                return flow, dual
    return flow, dual


def _where(active: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(active[:, None, None, None], new, old)


def _toward_data(flow: torch.Tensor, data: torch.Tensor, share: float = 1.0) -> torch.Tensor:
    """The step of the thresholding operator: along the gradient, at most `bound` long; a share
    of it."""
    direction, residual, bound = data[:, :2], data[:, 2:3], data[:, 3:]
    amount = residual + direction[:, :1] * flow[:, :1] + direction[:, 1:] * flow[:, 1:]
    return direction * (torch.minimum(torch.maximum(amount, -bound), bound) * share)


def _divergence(dual: torch.Tensor) -> torch.Tensor:
    """Backward differences, the negative adjoint of `_forward_differences`: (B, 2, H, W)."""
    along_x, along_y = dual[:, 0::2].clone(), dual[:, 1::2].clone()
    along_x[..., 1:] -= dual[:, 0::2, :, :-1]
    along_y[..., 1:, :] -= dual[:, 1::2, :-1]
    return along_x + along_y


def _forward_differences(flow: torch.Tensor) -> torch.Tensor:
    gradient = _no_dual(flow)
    gradient[:, 0::2, :, :-1] = flow[..., 1:] - flow[..., :-1]
    gradient[:, 1::2, :-1, :] = flow[..., 1:, :] - flow[..., :-1, :]
    return gradient


def _squared_lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Squared length of (px, py) of both components, as wide as `vectors`."""
    squared = vectors[:, 0::2].square() + vectors[:, 1::2].square()
    return squared.repeat_interleave(2, 1)


def _project(dual: torch.Tensor) -> torch.Tensor:
    return dual * (1 / square_root(_squared_lengths(dual).clamp(min=1)))


def square_root(x: torch.Tensor) -> torch.Tensor:
    """Rounded as IEEE 754 says; PyTorch's own root of float32 may be off by a bit on a CPU."""
    return x.double().sqrt().float()


# -------------------------------------------------------------------------------- median


def median(flow: torch.Tensor, side: int) -> torch.Tensor:
    """Median over side x side pixels of each component, border repeated; side 0 does nothing."""
    if side == 0:
        return flow
    height, width = flow.shape[2:]
    padded = pad_replicate(flow, side // 2)
    window = [padded[..., j : j + height, i : i + width] for j in range(side) for i in range(side)]
    # Neither the smallest nor the largest of n / 2 + 2 values is the median: drop both, take
    # one more value in, and so on down to three.
    size = len(window) // 2 + 2
    kept, waiting = window[:size], window[size:]
    while True:
        for i in range(1, len(kept)):
            kept[0], kept[i] = torch.minimum(kept[0], kept[i]), torch.maximum(kept[0], kept[i])
        for i in range(1, len(kept) - 1):
            kept[i], kept[-1] = torch.minimum(kept[i], kept[-1]), torch.maximum(kept[i], kept[-1])
        kept = kept[1:-1]
        if not waiting:
            return kept[0]
        kept.append(waiting.pop(0))


EAGER = Kernels(linearise=linearise, primal_dual=primal_dual)
