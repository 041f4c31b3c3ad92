"""The expensive steps of TV-L1 flow as Triton kernels, for whole batches on a GPU.

`FUSED` replaces `eager.EAGER`; the pyramid stays in PyTorch. Each launch is one iteration. A
program computes the new flow of its pixels and of their right and lower neighbours from the old
state, so the flow step and the dual step need only one pass. It reads flow, dual and data (10
numbers per pixel) and writes flow and dual (6). These 64 bytes per pixel are the least that an
iteration through memory can have; neighbours come from the cache.

Operations have the order of eager.py, are rounded separately (`EXACT`), and use exact roots and
divisions, so the flow is the same bit for bit.

With TRITON_INTERPRET=1 the kernels run on the CPU, which tests use if there is no GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from preprocess.tvl1_solvers.eager import SMALLEST_GRADIENT_SQUARED, Kernels
from preprocess.tvl1_solvers.presets import Preset

BLOCK = 256  # pixels per program
EXACT = {"enable_fp_fusion": False}  # a * b + c rounds twice, as in PyTorch


@triton.jit
def _new_flow(flow, dual, data, x, y, width, height, area, primal, pull):
    """Flow after the primal step at (x, y), and the same over-relaxed: u, v, bar_u, bar_v."""
    at = y * width + x
    known = (x < width) & (y < height)
    has_left = known & (x > 0)
    has_above = known & (y > 0)
    old_u = tl.load(flow + at, known, 0.0)
    old_v = tl.load(flow + area + at, known, 0.0)
    u_x = tl.load(dual + at, known, 0.0) - tl.load(dual + at - 1, has_left, 0.0)
    u_y = tl.load(dual + area + at, known, 0.0)
    u_y -= tl.load(dual + area + at - width, has_above, 0.0)
    v_x = tl.load(dual + 2 * area + at, known, 0.0)
    v_x -= tl.load(dual + 2 * area + at - 1, has_left, 0.0)
    v_y = tl.load(dual + 3 * area + at, known, 0.0)
    v_y -= tl.load(dual + 3 * area + at - width, has_above, 0.0)
    u = old_u + primal * (u_x + u_y)
    v = old_v + primal * (v_x + v_y)
    ex = tl.load(data + at, known, 0.0)
    ey = tl.load(data + area + at, known, 0.0)
    bound = tl.load(data + 3 * area + at, known, 0.0)
    amount = tl.load(data + 2 * area + at, known, 0.0) + ex * u + ey * v
    amount = pull * tl.minimum(tl.maximum(amount, -bound), bound)
    u -= ex * amount
    v -= ey * amount
    return u, v, 2 * u - old_u, 2 * v - old_v


@triton.jit
def _project(px, py):
    shrink = tl.div_rn(1.0, tl.sqrt_rn(tl.maximum(px * px + py * py, 1.0)))
    return px * shrink, py * shrink


@triton.jit
def _iteration_kernel(
    flow, dual, data, flow_out, dual_out,
    width, height, primal, pull, dual_step,
    BLOCK: tl.constexpr,
):  # fmt: skip
    area = width * height
    pair = tl.program_id(1).to(tl.int64)
    flow += pair * 2 * area
    flow_out += pair * 2 * area
    dual += pair * 4 * area
    dual_out += pair * 4 * area
    data += pair * 4 * area
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = at < area
    x = at % width
    y = at // width
    u, v, bar_u, bar_v = _new_flow(flow, dual, data, x, y, width, height, area, primal, pull)
    _, _, right_u, right_v = _new_flow(
        flow, dual, data, x + 1, y, width, height, area, primal, pull
    )
    _, _, below_u, below_v = _new_flow(
        flow, dual, data, x, y + 1, width, height, area, primal, pull
    )
    has_right = x < width - 1
    has_below = y < height - 1
    pxu = tl.load(dual + at, known, 0.0) + dual_step * tl.where(has_right, right_u - bar_u, 0.0)
    pyu = tl.load(dual + area + at, known, 0.0)
    pyu += dual_step * tl.where(has_below, below_u - bar_u, 0.0)
    pxv = tl.load(dual + 2 * area + at, known, 0.0)
    pxv += dual_step * tl.where(has_right, right_v - bar_v, 0.0)
    pyv = tl.load(dual + 3 * area + at, known, 0.0)
    pyv += dual_step * tl.where(has_below, below_v - bar_v, 0.0)
    pxu, pyu = _project(pxu, pyu)
    pxv, pyv = _project(pxv, pyv)
    tl.store(flow_out + at, u, known)
    tl.store(flow_out + area + at, v, known)
    tl.store(dual_out + at, pxu, known)
    tl.store(dual_out + area + at, pyu, known)
    tl.store(dual_out + 2 * area + at, pxv, known)
    tl.store(dual_out + 3 * area + at, pyv, known)


@triton.jit
def _cubic(t, a: tl.constexpr, TAP: tl.constexpr):
    """Weight and slope of tap TAP (0..3 for pixels -1..2) of cubic convolution at fraction t."""
    s = 1.0 - t
    if TAP == 0:
        weight = a * t * s * s
        slope = a * s * (s - 2.0 * t)
    elif TAP == 1:
        weight = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
        slope = (3.0 * (a + 2.0) * t - 2.0 * (a + 3.0)) * t
    elif TAP == 2:
        weight = ((a + 2.0) * s - (a + 3.0)) * s * s + 1.0
        slope = -(3.0 * (a + 2.0) * s - 2.0 * (a + 3.0)) * s
    else:
        weight = a * s * t * t
        slope = -a * t * (t - 2.0 * s)
    return weight, slope


@triton.jit
def _sample(image, column, row, across, down, width, height, a: tl.constexpr, known):
    """Value, d/dx and d/dy of an image at fractional positions, border repeated."""
    value = across * 0.0
    along_x = across * 0.0
    along_y = across * 0.0
    for j in tl.static_range(4):
        weight_y, slope_y = _cubic(down, a, j)
        y = tl.minimum(tl.maximum(row + (j - 1), 0), height - 1)
        line = across * 0.0
        line_slope = across * 0.0
        for i in tl.static_range(4):
            weight_x, slope_x = _cubic(across, a, i)
            x = tl.minimum(tl.maximum(column + (i - 1), 0), width - 1)
            pixel = tl.load(image + y * width + x, known, 0.0)
            line += weight_x * pixel
            line_slope += slope_x * pixel
        value += weight_y * line
        along_x += weight_y * line_slope
        along_y += slope_y * line
    return value, along_x, along_y


@triton.jit
def _linearise_kernel(
    first, second, flow, data,
    width, height, weight,
    a: tl.constexpr, SMALLEST_SQUARED: tl.constexpr, CENTRAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    area = width * height
    pair = tl.program_id(1).to(tl.int64)
    first += pair * area
    second += pair * area * (3 if CENTRAL else 1)
    flow += pair * 2 * area
    data += pair * 4 * area
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = at < area
    u = tl.load(flow + at, known, 0.0)
    v = tl.load(flow + area + at, known, 0.0)
    at_x = (at % width).to(tl.float32) + u
    at_y = (at // width).to(tl.float32) + v
    on_x = tl.minimum(tl.maximum(at_x, 0.0), (width - 1).to(tl.float32))
    on_y = tl.minimum(tl.maximum(at_y, 0.0), (height - 1).to(tl.float32))
    column = on_x.to(tl.int32)
    row = on_y.to(tl.int32)
    across = on_x - column.to(tl.float32)
    down = on_y - row.to(tl.float32)
    value, along_x, along_y = _sample(second, column, row, across, down, width, height, a, known)
    if CENTRAL:
        along_x, _, _ = _sample(second + area, column, row, across, down, width, height, a, known)
        along_y, _, _ = _sample(
            second + 2 * area, column, row, across, down, width, height, a, known
        )
    fade = tl.maximum(1.0 - tl.abs(at_x - on_x) - tl.abs(at_y - on_y), 0.0)
    along_x *= fade
    along_y *= fade
    residual = (value - tl.load(first + at, known, 0.0)) * fade - along_x * u - along_y * v
    squared = along_x * along_x + along_y * along_y
    inverse = tl.div_rn(1.0, tl.sqrt_rn(tl.maximum(squared, SMALLEST_SQUARED)))
    tl.store(data + at, along_x * inverse, known)
    tl.store(data + area + at, along_y * inverse, known)
    tl.store(data + 2 * area + at, residual * inverse, known)
    tl.store(data + 3 * area + at, weight * (squared * inverse), known)


def _grid(frames: torch.Tensor) -> tuple[int, int]:
    return triton.cdiv(frames.shape[-2] * frames.shape[-1], BLOCK), frames.shape[0]


def linearise(
    first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor, preset: Preset
) -> torch.Tensor:
    """As eager.linearise."""
    height, width = first.shape[1:]
    data = flow.new_empty(flow.shape[0], 4, height, width)
    _linearise_kernel[_grid(first)](
        first.contiguous(),
        second.contiguous(),
        flow.contiguous(),
        data,
        width,
        height,
        preset.attachment * preset.reach,
        a=preset.cubic,  # known when compiled: what follows from it is rounded once
        SMALLEST_SQUARED=SMALLEST_GRADIENT_SQUARED,
        CENTRAL=preset.gradient == "central",
        BLOCK=BLOCK,
        **EXACT,
    )
    return data


def primal_dual(
    flow: torch.Tensor, dual: torch.Tensor, data: torch.Tensor, iterations: int, preset: Preset
) -> tuple[torch.Tensor, torch.Tensor]:
    """As eager.primal_dual. The state goes to and fro between two buffers."""
    height, width = flow.shape[2:]
    primal, dual_step = preset.steps
    flow, dual = flow.contiguous(), dual.contiguous()
    buffers = [(torch.empty_like(flow), torch.empty_like(dual)) for _ in range(2)]
    for i in range(iterations):
        new_flow, new_dual = buffers[i % 2]
        _iteration_kernel[_grid(flow)](
            flow,
            dual,
            data,
            new_flow,
            new_dual,
            width,
            height,
            primal,
            primal / preset.reach,
            dual_step,
            BLOCK=BLOCK,
            **EXACT,
        )
        flow, dual = new_flow, new_dual
    return flow, dual


FUSED = Kernels(linearise=linearise, primal_dual=primal_dual)
