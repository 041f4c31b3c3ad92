"""The patch search as Triton kernels, for whole batches on a GPU.

`patch_flow` replaces `patches.patch_flow`. A launch is one round: each lane of a program takes one
patch, reads the displacements of the round before, and writes its own. What has no inner loop,
such as the derivatives and the mean over patches, stays in PyTorch. Operations have the order of
patches.py and are rounded separately (`EXACT`), so the flow is the same bit for bit.

With TRITON_INTERPRET=1 the kernels run on the CPU, which tests use if there is no GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from preprocess.tvl1_solvers.cuda import EXACT
from preprocess.tvl1_solvers.patches import cut_patches, densify
from preprocess.tvl1_solvers.presets import PATCH, PatchSearch

BLOCK = 64  # patches per program
SHARE = tl.constexpr(1.0 / PATCH**2)


@triton.jit
def _column(
    first, second, across, down, x, y, whole_x, whole_y, share_x, share_y, width, height, known, i,
    GRADIENT: tl.constexpr,
):  # fmt: skip
    """Sums down column i of each patch: differences, their squares, and their products with both
    derivatives."""
    total = share_x * 0.0
    squares = share_x * 0.0
    by_x = share_x * 0.0
    by_y = share_x * 0.0
    rest_x = 1.0 - share_x
    rest_y = 1.0 - share_y
    left = tl.minimum(tl.maximum(whole_x + i, 0), width - 1)
    right = tl.minimum(tl.maximum(whole_x + i + 1, 0), width - 1)
    for j in range(8):
        above = tl.minimum(tl.maximum(whole_y + j, 0), height - 1) * width
        below = tl.minimum(tl.maximum(whole_y + j + 1, 0), height - 1) * width
        value = rest_x * rest_y * tl.load(second + above + left, known, 0.0)
        value += share_x * rest_y * tl.load(second + above + right, known, 0.0)
        lower = rest_x * share_y * tl.load(second + below + left, known, 0.0)
        lower += share_x * share_y * tl.load(second + below + right, known, 0.0)
        at = (y + j) * width + x + i
        difference = value + lower - tl.load(first + at, known, 0.0)
        total += difference
        squares += difference * difference
        if GRADIENT:
            by_x += difference * tl.load(across + at, known, 0.0)
            by_y += difference * tl.load(down + at, known, 0.0)
    return total, squares, by_x, by_y


@triton.jit
def _floor(values):
    """int32; Triton's own floor takes tiny negative numbers for zero on a GPU."""
    whole = values.to(tl.int32)
    return tl.where(whole.to(tl.float32) > values, whole - 1, whole)


@triton.jit
def _sums(
    first, second, across, down, x, y, u, v, width, height, known, GRADIENT: tl.constexpr
):  # fmt: skip
    """Sums over each patch; the order is that of `patches._total`."""
    at_x = tl.minimum(tl.maximum(x.to(tl.float32) + u, -8.0), width.to(tl.float32))
    at_y = tl.minimum(tl.maximum(y.to(tl.float32) + v, -8.0), height.to(tl.float32))
    whole_x = _floor(at_x)
    whole_y = _floor(at_y)
    share_x = at_x - whole_x.to(tl.float32)
    share_y = at_y - whole_y.to(tl.float32)
    total = share_x * 0.0
    squares = share_x * 0.0
    by_x = share_x * 0.0
    by_y = share_x * 0.0
    for half in tl.static_range(2):
        t0, s0, x0, y0 = _column(
            first, second, across, down, x, y, whole_x, whole_y, share_x, share_y, width, height,
            known, half, GRADIENT,
        )  # fmt: skip
        t4, s4, x4, y4 = _column(
            first, second, across, down, x, y, whole_x, whole_y, share_x, share_y, width, height,
            known, half + 4, GRADIENT,
        )  # fmt: skip
        t2, s2, x2, y2 = _column(
            first, second, across, down, x, y, whole_x, whole_y, share_x, share_y, width, height,
            known, half + 2, GRADIENT,
        )  # fmt: skip
        t6, s6, x6, y6 = _column(
            first, second, across, down, x, y, whole_x, whole_y, share_x, share_y, width, height,
            known, half + 6, GRADIENT,
        )  # fmt: skip
        total += (t0 + t4) + (t2 + t6)
        squares += (s0 + s4) + (s2 + s6)
        by_x += (x0 + x4) + (x2 + x6)
        by_y += (y0 + y4) + (y2 + y6)
    return total, squares - total * total * SHARE, by_x, by_y


@triton.jit
def _cost(first, second, x, y, u, v, width, height, known):
    _total, cost, _by_x, _by_y = _sums(
        first, second, first, first, x, y, u, v, width, height, known, False
    )
    return cost


@triton.jit
def _grid_kernel(
    first, second, corner_x, corner_y, u_in, v_in, u_out, v_out,
    width, height, count, radius, step, BLOCK: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    first += pair * width * height
    second += pair * width * height
    patch = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = patch < count
    x = tl.load(corner_x + patch, known, 0)
    y = tl.load(corner_y + patch, known, 0)
    u = tl.load(u_in + pair * count + patch, known, 0.0)
    v = tl.load(v_in + pair * count + patch, known, 0.0)
    best = _cost(first, second, x, y, u, v, width, height, known)
    for down in range(-radius, radius + 1, step):
        for across in range(-radius, radius + 1, step):
            to_x = x + across
            to_y = y + down
            inside = (to_x >= -4) & (to_y >= -4) & (to_x <= width - 4) & (to_y <= height - 4)
            shift_u = (to_x - x).to(tl.float32)
            shift_v = (to_y - y).to(tl.float32)
            cost = _cost(first, second, x, y, shift_u, shift_v, width, height, known)
            better = inside & (cost < best)
            best = tl.where(better, cost, best)
            u = tl.where(better, shift_u, u)
            v = tl.where(better, shift_v, v)
    tl.store(u_out + pair * count + patch, u, known)
    tl.store(v_out + pair * count + patch, v, known)


@triton.jit
def _better_neighbour(
    first, second, u_in, v_in, x, y, u, v, best, column, row, columns, rows, width, height, known
):  # fmt: skip
    """The displacement of the patch at (column, row) of the round before, where it costs less."""
    inside = known & (column >= 0) & (row >= 0) & (column < columns) & (row < rows)
    at = row * columns + column
    other_u = tl.load(u_in + at, inside, 0.0)
    other_v = tl.load(v_in + at, inside, 0.0)
    cost = _cost(first, second, x, y, other_u, other_v, width, height, known)
    better = inside & (cost < best)
    return tl.where(better, other_u, u), tl.where(better, other_v, v), tl.where(better, cost, best)


@triton.jit
def _round_kernel(
    first, second, across, down, corner_x, corner_y, sum_across, sum_down, xx, xy, yy,
    u_in, v_in, u_out, v_out, cost_out,
    width, height, columns, rows, distance, steps, BLOCK: tl.constexpr,
):  # fmt: skip
    """One round: the best of the neighbours, then steps of Gauss and Newton."""
    count = columns * rows
    pair = tl.program_id(1).to(tl.int64)
    first += pair * width * height
    second += pair * width * height
    across += pair * width * height
    down += pair * width * height
    patch = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = patch < count
    x = tl.load(corner_x + patch, known, 0)
    y = tl.load(corner_y + patch, known, 0)
    u_in += pair * count
    v_in += pair * count
    here = pair * count + patch
    start_u = tl.load(u_in + patch, known, 0.0)
    start_v = tl.load(v_in + patch, known, 0.0)
    start_cost = _cost(first, second, x, y, start_u, start_v, width, height, known)
    column = patch % columns
    row = patch // columns
    for index in range(8):
        # left, right, above, below, then the corners: patches.NEIGHBOURS
        odd = index % 2 * 2 - 1
        right = tl.where(index < 2, odd, tl.where(index < 4, 0, odd))
        below = tl.where(index < 2, 0, tl.where(index < 4, odd, tl.where(index < 6, -1, 1)))
        start_u, start_v, start_cost = _better_neighbour(
            first, second, u_in, v_in, x, y, start_u, start_v, start_cost,
            column + right * distance, row + below * distance, columns, rows, width, height, known,
        )  # fmt: skip

    by_across = tl.load(sum_across + here, known, 0.0)
    by_down = tl.load(sum_down + here, known, 0.0)
    inverse_xx = tl.load(xx + here, known, 0.0)
    inverse_xy = tl.load(xy + here, known, 0.0)
    inverse_yy = tl.load(yy + here, known, 0.0)
    u = start_u
    v = start_v
    best_u = start_u
    best_v = start_v
    best = tl.full((BLOCK,), float("inf"), tl.float32)
    active = known
    for _step in range(steps):
        total, cost, by_x, by_y = _sums(
            first, second, across, down, x, y, u, v, width, height, known, True
        )
        active = active & (cost < best)
        best = tl.where(active, cost, best)
        best_u = tl.where(active, u, best_u)
        best_v = tl.where(active, v, best_v)
        by_x -= by_across * total * SHARE
        by_y -= by_down * total * SHARE
        u -= inverse_xx * by_x + inverse_xy * by_y
        v -= inverse_xy * by_x + inverse_yy * by_y
    moved_u = best_u - start_u
    moved_v = best_v - start_v
    near = moved_u * moved_u + moved_v * moved_v <= 64.0
    tl.store(u_out + here, tl.where(near, best_u, start_u), known)
    tl.store(v_out + here, tl.where(near, best_v, start_v), known)
    tl.store(cost_out + here, tl.where(near, best, start_cost), known)


def patch_flow(
    first: torch.Tensor,
    second: torch.Tensor,
    start: torch.Tensor,
    grid_radius: int,
    numbers: PatchSearch,
) -> torch.Tensor:
    """As patches.patch_flow."""
    first, second = first.contiguous(), second.contiguous()
    patches = cut_patches(first)
    places = patches.places
    rows, columns = len(places.y), len(places.x)
    u, v = (each.contiguous() for each in places.at_centres(start))
    buffers = [(torch.empty_like(u), torch.empty_like(v)) for _ in range(2)]
    cost = torch.empty_like(u)
    height, width = first.shape[1:]
    corners = [each.int() for each in places.corners()]
    grid = triton.cdiv(rows * columns, BLOCK), len(first)
    if grid_radius > 0:
        found = torch.empty_like(u), torch.empty_like(v)
        _grid_kernel[grid](
            first, second, *corners, u, v, *found,
            width, height, rows * columns, grid_radius, numbers.grid_step, BLOCK=BLOCK, **EXACT,
        )  # fmt: skip
        u, v = found
    for i, distance in enumerate(numbers.distances):
        found = buffers[i % 2]
        _round_kernel[grid](
            first, second, patches.across.contiguous(), patches.down.contiguous(), *corners,
            patches.sum_across, patches.sum_down, *patches.inverse, u, v, *found, cost,
            width, height, columns, rows, distance, numbers.steps, BLOCK=BLOCK, **EXACT,
        )  # fmt: skip
        u, v = found
    return densify(first, second, patches, u, v, cost)
