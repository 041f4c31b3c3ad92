"""Where flow starts that survives large motion: several flows at a small size, and for each pixel
the best of them.

Starting from nothing on a shallow pyramid is best for small motion, and on a deep one for large
textureless surfaces. Two patch searches find small objects that move far: one from a deep pyramid,
and one from a grid of displacements. Which flow is best at a pixel is decided by brightness, and by
whether the flow of the second frame leads back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from preprocess.tvl1_solvers import eager, native
from preprocess.tvl1_solvers.eager import pad_replicate, square_root
from preprocess.tvl1_solvers.patches import bilinear, patch_flow
from preprocess.tvl1_solvers.presets import (
    PatchSearch,
    Preset,
    Starts,
    level_sizes,
    search_sizes,
)

Solve: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, "torch.Tensor | None", Preset], torch.Tensor
]
"""(first, second, initial, preset) -> flow: TV-L1 on one implementation."""
PatchFlow: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, int, PatchSearch], torch.Tensor
]
"""(first, second, start, grid_radius, numbers) -> flow, see `patches.patch_flow`."""
Resize: TypeAlias = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
"""(images, (height, width)) -> images, see `eager.resize`."""


@dataclass(frozen=True)
class Parts:
    """The expensive parts on one implementation."""

    solve: Solve
    patch_flow: PatchFlow
    resize: Resize

    def resize_flow(self, flow: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Flow (B, 2, H, W) at another (height, width), in px of that size."""
        return eager.resize_flow(flow, size, self.resize)


EAGER = Parts(functools.partial(eager.solve, kernels=eager.EAGER), patch_flow, eager.resize)
NATIVE = Parts(native.solve, native.patch_flow, native.resize)


def solve(
    first: torch.Tensor,
    second: torch.Tensor,
    initial: torch.Tensor | None,
    preset: Preset,
    parts: Parts,
) -> torch.Tensor:
    """Compute flow (B, 2, H, W) of float32 frames (B, H, W), with the start that the preset wants.

    An initial flow takes the place of the preset's own start.
    """
    if preset.starts is None:
        return parts.solve(first, second, initial, preset)
    if initial is None:
        initial = _start(first, second, preset, preset.starts, parts)
    return parts.solve(first, second, initial, replace(preset, max_levels=preset.starts.level + 1))


def _start(
    first: torch.Tensor, second: torch.Tensor, preset: Preset, starts: Starts, parts: Parts
) -> torch.Tensor:
    """Flow (B, 2, H, W), computed at the size of `starts.level`."""
    # Flow from the second frame to the first is computed in the same batch.
    levels = [(torch.cat([first, second]), torch.cat([second, first]))]
    for size in search_sizes(*first.shape[1:], starts.search):
        one, other = levels[-1]
        levels.append((parts.resize(one, size), parts.resize(other, size)))
    size = level_sizes(*first.shape[1:], preset)[: starts.level + 1][-1]
    one, other = (parts.resize(frames, size) for frames in levels[1])
    quick = replace(
        preset, presmooth=0.0, warps_fine=starts.warps, iterations_fine=starts.iterations
    )
    flows = [
        parts.solve(one, other, None, replace(quick, max_levels=count))
        for count in starts.max_levels
    ]
    for grid in (False, True):
        initial = parts.resize_flow(_search(levels, grid, starts.search, parts), size)
        flows.append(parts.solve(one, other, initial, replace(quick, max_levels=1)))
    return parts.resize_flow(choose(one, other, flows, starts), tuple(first.shape[1:]))


def _search(
    levels: list[tuple[torch.Tensor, torch.Tensor]], grid: bool, numbers: PatchSearch, parts: Parts
) -> torch.Tensor:
    """Flow of the patch search at half of the size; the first of the levels has the full size."""
    height, width = levels[0][0].shape[1:]
    levels, radius = levels[1:], 0
    if grid:
        least = numbers.grid_smallest_side
        levels = [each for each in levels if min(each[0].shape[1:]) >= least] or levels[:1]
        reach = min(numbers.grid_reach, max(height, width) // 3)
        radius = round(reach * levels[-1][0].shape[1] / height)
    coarsest = levels[-1][0]
    flow = coarsest.new_zeros(len(coarsest), 2, *coarsest.shape[1:])
    for first, second in reversed(levels):
        if flow.shape[2:] != first.shape[1:]:
            flow = parts.resize_flow(flow, tuple(first.shape[1:]))
        flow = parts.patch_flow(first, second, flow, radius, numbers)
        radius = 0
    return flow


def choose(
    first: torch.Tensor, second: torch.Tensor, flows: list[torch.Tensor], starts: Starts
) -> torch.Tensor:
    """For each pixel the flow that fits best, float32 (B, 2, H, W).

    Args:
        first, second: (2 B, H, W): the frames, and again with both exchanged.
        flows: (2 B, 2, H, W) each: from first to second. Of two that fit as well, the earlier one
            is taken.
        starts: the costs.
    """
    count = len(first) // 2
    best, least = flows[0][:count], first.new_full((), torch.inf)
    for flow in flows:
        there, back = flow[:count], flow[count:]
        cost = _cost(first[:count], second[:count], there, back, starts)
        best = torch.where((cost < least)[:, None], there, best)
        least = torch.minimum(cost, least)
    return best


def _cost(
    first: torch.Tensor,
    second: torch.Tensor,
    there: torch.Tensor,
    back: torch.Tensor,
    starts: Starts,
) -> torch.Tensor:
    """(B, H, W): how badly a flow fits, from brightness and from the flow that leads back, as a
    sum over a window."""
    height, width = first.shape[1:]
    at_x = torch.arange(width, dtype=torch.float32, device=first.device) + there[:, 0]
    at_y = torch.arange(height, dtype=torch.float32, device=first.device)[:, None] + there[:, 1]
    x, y = at_x.clamp(0, width - 1), at_y.clamp(0, height - 1)
    column, row = x.long(), y.long()
    across, down = x - column, y - row
    seen, back_u, back_v = (
        bilinear(each, column, row, across, down) for each in (second, back[:, 0], back[:, 1])
    )
    off_u, off_v = there[:, 0] + back_u, there[:, 1] + back_v
    off = square_root(off_u * off_u + off_v * off_v).clamp(max=1)
    cost = (first - seen).abs().clamp(max=starts.unlike) + off * starts.strayed
    inside = (at_x == x) & (at_y == y)
    return _window_sum(torch.where(inside, cost, starts.left), starts.window)


def _window_sum(values: torch.Tensor, side: int) -> torch.Tensor:
    height, width = values.shape[1:]
    padded = pad_replicate(values, side // 2)
    total = padded[:, :height]
    for j in range(1, side):
        total = total + padded[:, j : j + height]
    padded, total = total, total[:, :, :width]
    for i in range(1, side):
        total = total + padded[:, :, i : i + width]
    return total
