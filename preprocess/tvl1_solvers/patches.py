"""The patch search of one level in PyTorch. The fast implementations are tested against this one.

Inverse compositional search as in Kroeger, Timofte, Dai and Van Gool (Fast optical flow using dense
inverse search, ECCV 2016), sections 2.1 to 2.3, with two differences. All patches of a round start
from the displacements of the round before, where OpenCV passes them from patch to patch in reading
order. And a level can start from the best of a grid of displacements.

Every sum over the 64 pixels of a patch has one order: down each of the 8 columns, then the columns
in pairs, see `_total`. Letters: B pairs, N patches, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from preprocess.tvl1_solvers.eager import pad_replicate
from preprocess.tvl1_solvers.presets import PATCH, PATCH_STRIDE, PatchSearch

SHARE = 1 / PATCH**2
LEAST_DETERMINANT = 1e-6
"""Of the squared gradients: where a patch has no texture, steps stay finite."""
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, -1), (-1, 1), (1, 1))
"""x, y of the patches that offer their displacement, in this order."""


@dataclass(frozen=True)
class Places:
    """Where the patches of a level lie: every 4 px, and the last ones at the border."""

    x: torch.Tensor
    """int64 [columns]: left pixels."""
    y: torch.Tensor
    """int64 [rows]: upper pixels."""

    def corners(self) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [N] each: left and upper pixels of all patches, row by row."""
        return self.x.repeat(len(self.y)), self.y.repeat_interleave(len(self.x))

    def at_centres(self, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """u and v, (B, N) each, of a flow (B, 2, H, W) in the middle of the patches."""
        centre = flow[:, :, self.y + PATCH // 2][..., self.x + PATCH // 2].flatten(2)
        return centre[:, 0], centre[:, 1]

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """(B, N, 8, 8): the patches of images (B, H, W)."""
        within = torch.arange(PATCH, device=images.device)
        x, y = (each[:, None, None] for each in self.corners())
        return images.flatten(1)[:, (y + within[:, None]) * images.shape[2] + x + within]


@dataclass(frozen=True)
class Patches:
    """The patches of one level of the first frame."""

    places: Places
    first: torch.Tensor
    """float32 (B, N, 8, 8)"""
    across: torch.Tensor
    down: torch.Tensor
    """float32 (B, H, W): derivatives of the first frame by x and y."""
    sum_across: torch.Tensor
    sum_down: torch.Tensor
    """(B, N): their sums over the patches."""
    inverse: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """(B, N) each: inverse of the matrix of squared gradients, xx, xy, yy."""


def patch_starts(side: int) -> list[int]:
    """First pixels of the patches along a side of a frame; the last patch ends at its border."""
    count = -(-(side - PATCH) // PATCH_STRIDE) + 1
    return [min(PATCH_STRIDE * i, side - PATCH) for i in range(count)]


def patch_flow(
    first: torch.Tensor,
    second: torch.Tensor,
    start: torch.Tensor,
    grid_radius: int,
    numbers: PatchSearch,
) -> torch.Tensor:
    """Flow of the patch search at one level.

    Args:
        first, second: float32 (B, H, W), grey values 0..255; sides of at least 8 px.
        start: float32 (B, 2, H, W), the flow to start from; a patch takes that of its centre.
        grid_radius: each patch also tries a grid of displacements up to this along an axis, every
            `numbers.grid_step` px; 0 for none.
        numbers: parameters.

    Returns:
        float32 (B, 2, H, W), u and v in px.
    """
    patches = cut_patches(first)
    u, v = patches.places.at_centres(start)
    if grid_radius > 0:
        reach = range(-grid_radius, grid_radius + 1, numbers.grid_step)
        u, v = _best_of_grid(patches, second, u, v, reach)
    for distance in numbers.distances:
        u, v = _best_of_neighbours(patches, second, u, v, distance)
        u, v = _descend(patches, second, u, v, numbers.steps)
    return densify(first, second, patches, u, v, _cost(patches, second, u, v))


def cut_patches(first: torch.Tensor) -> Patches:
    """The patches of frames float32 (B, H, W)."""
    height, width = first.shape[1:]
    padded = pad_replicate(first, 1)
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * 0.5
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * 0.5
    x, y = (torch.tensor(patch_starts(side), device=first.device) for side in (width, height))
    places = Places(x, y)
    gx, gy = places.cut(across), places.cut(down)
    sum_x, sum_y = _total(gx), _total(gy)
    xx = _total(gx * gx) - sum_x * sum_x * SHARE
    xy = _total(gx * gy) - sum_x * sum_y * SHARE
    yy = _total(gy * gy) - sum_y * sum_y * SHARE
    determinant = (xx * yy - xy * xy).clamp(min=LEAST_DETERMINANT)
    inverse = (yy / determinant, -xy / determinant, xx / determinant)
    return Patches(places, places.cut(first), across, down, sum_x, sum_y, inverse)


def _total(values: torch.Tensor) -> torch.Tensor:
    """(..., 8, 8) -> (...): the sum over a patch."""
    column = values[..., 0, :]
    for j in range(1, PATCH):
        column = column + values[..., j, :]
    a = column.unbind(-1)
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))


def read_at(
    patches_x: torch.Tensor,
    patches_y: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    width: int,
    height: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where a displaced patch reads: its corner's whole pixel (x, y), and the fractions.

    A patch goes no further than just outside of the frame, whose border is repeated.
    """
    x = (patches_x.float() + u).clamp(-PATCH, width)
    y = (patches_y.float() + v).clamp(-PATCH, height)
    whole_x, whole_y = x.floor(), y.floor()
    return whole_x.long(), whole_y.long(), x - whole_x, y - whole_y


def bilinear(
    image: torch.Tensor, x: torch.Tensor, y: torch.Tensor, across: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """Values of images (B, H, W) at whole pixels x, y (B, ...) plus fractions, border repeated."""
    height, width = image.shape[1:]
    left, right = x.clamp(0, width - 1), (x + 1).clamp(0, width - 1)
    above, below = y.clamp(0, height - 1) * width, (y + 1).clamp(0, height - 1) * width

    def pixel(at: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).gather(1, at.flatten(1)).view(at.shape)

    rest_x, rest_y = 1 - across, 1 - down
    upper = rest_x * rest_y * pixel(above + left) + across * rest_y * pixel(above + right)
    return upper + (rest_x * down * pixel(below + left) + across * down * pixel(below + right))


def _differences(
    patches: Patches, second: torch.Tensor, u: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """(B, N, 8, 8): the displaced patches of the second frame minus those of the first."""
    height, width = second.shape[1:]
    x, y, across, down = read_at(*patches.places.corners(), u, v, width, height)
    within = torch.arange(PATCH, device=second.device)
    shape = (*u.shape, PATCH, PATCH)
    return (
        bilinear(
            second,
            (x[..., None, None] + within).expand(shape),
            (y[..., None, None] + within[:, None]).expand(shape),
            across[..., None, None],
            down[..., None, None],
        )
        - patches.first
    )


def _cost(patches: Patches, second: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    difference = _differences(patches, second, u, v)
    return _cost_of(difference, _total(difference))


def _cost_of(difference: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    return _total(difference * difference) - total * total * SHARE


def _best_of_grid(
    patches: Patches,
    second: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    reach: range,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of the given displacements and of a grid, those left out that leave the frame by
    more than half of a patch."""
    height, width = second.shape[1:]
    corner_x, corner_y = patches.places.corners()
    best = _cost(patches, second, u, v)
    for down in reach:
        y = corner_y + down
        for across in reach:
            x = corner_x + across
            inside = (x >= -PATCH // 2) & (y >= -PATCH // 2)
            inside &= (x <= width - PATCH // 2) & (y <= height - PATCH // 2)
            shift_u, shift_v = torch.full_like(u, across), torch.full_like(v, down)
            cost = _cost(patches, second, shift_u, shift_v)
            better = inside & (cost < best)
            best = torch.where(better, cost, best)
            u, v = torch.where(better, shift_u, u), torch.where(better, shift_v, v)
    return u, v


def _best_of_neighbours(
    patches: Patches, second: torch.Tensor, u: torch.Tensor, v: torch.Tensor, distance: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each patch the best of its displacement and of those of its neighbours."""
    rows, columns = len(patches.places.y), len(patches.places.x)
    row = torch.arange(rows, device=u.device).repeat_interleave(columns)
    column = torch.arange(columns, device=u.device).repeat(rows)
    best, best_u, best_v = _cost(patches, second, u, v), u, v
    for right, below in NEIGHBOURS:
        x, y = column + right * distance, row + below * distance
        known = (x >= 0) & (y >= 0) & (x < columns) & (y < rows)
        at = torch.where(known, y * columns + x, 0)
        other_u, other_v = u[:, at], v[:, at]
        cost = _cost(patches, second, other_u, other_v)
        better = known & (cost < best)
        best = torch.where(better, cost, best)
        best_u = torch.where(better, other_u, best_u)
        best_v = torch.where(better, other_v, best_v)
    return best_u, best_v


def _descend(
    patches: Patches,
    second: torch.Tensor,
    start_u: torch.Tensor,
    start_v: torch.Tensor,
    steps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps of Gauss and Newton until the cost falls no more; a patch that would go further than
    its side stays."""
    u, v = best_u, best_v = start_u, start_v
    best = torch.full_like(u, torch.inf)
    active = torch.ones_like(u, dtype=torch.bool)
    xx, xy, yy = patches.inverse
    gx, gy = patches.places.cut(patches.across), patches.places.cut(patches.down)
    for _ in range(steps):
        difference = _differences(patches, second, u, v)
        total = _total(difference)
        cost = _cost_of(difference, total)
        active = active & (cost < best)
        best = torch.where(active, cost, best)
        best_u, best_v = torch.where(active, u, best_u), torch.where(active, v, best_v)
        x = _total(difference * gx) - patches.sum_across * total * SHARE
        y = _total(difference * gy) - patches.sum_down * total * SHARE
        u, v = u - (xx * x + xy * y), v - (xy * x + yy * y)
    moved_u, moved_v = best_u - start_u, best_v - start_v
    near = moved_u * moved_u + moved_v * moved_v <= PATCH**2
    return torch.where(near, best_u, start_u), torch.where(near, best_v, start_v)


def densify(
    first: torch.Tensor,
    second: torch.Tensor,
    patches: Patches,
    u: torch.Tensor,
    v: torch.Tensor,
    cost: torch.Tensor,
) -> torch.Tensor:
    """Flow (B, 2, H, W) of the displacements and costs (B, N) of patches.

    A pixel takes the weighted mean over the patches that cover it. The weight of a patch is
    1 / max(1, mean squared difference), times 1 / max(1, |difference|) at the pixel.
    """
    height, width = first.shape[1:]
    x, y = patches.places.x, patches.places.y
    u, v, cost = (each.unflatten(1, (len(y), len(x))) for each in (u, v, cost))
    whole_x, whole_y, across, down = read_at(x, y[:, None], u, v, width, height)
    weight = 1 / (cost * SHARE).clamp(min=1)
    column = torch.arange(width, device=first.device)
    row = torch.arange(height, device=first.device)
    # The first patch that covers a pixel; at most three do along each side.
    first_x = torch.searchsorted(x + PATCH, column, right=True)
    first_y = torch.searchsorted(y + PATCH, row, right=True)
    totals = [torch.zeros_like(first) for _ in range(3)]
    for rank_y in range(3):
        index_y = (first_y + rank_y).clamp(max=len(y) - 1)
        covers_y = (first_y + rank_y < len(y)) & (y[index_y] <= row)
        for rank_x in range(3):
            index_x = (first_x + rank_x).clamp(max=len(x) - 1)
            covers = (first_x + rank_x < len(x)) & (x[index_x] <= column) & covers_y[:, None]
            of_pixel = [
                each[:, index_y][..., index_x]
                for each in (whole_x, whole_y, across, down, weight, u, v)
            ]
            at_x = of_pixel[0] + (column - x[index_x])
            at_y = of_pixel[1] + (row - y[index_y])[:, None]
            there = bilinear(second, at_x, at_y, of_pixel[2], of_pixel[3])
            weight_here = of_pixel[4] / (there - first).abs().clamp(min=1)
            weight_here = torch.where(covers, weight_here, 0.0)
            totals[0] = totals[0] + weight_here
            totals[1] = totals[1] + weight_here * of_pixel[5]
            totals[2] = totals[2] + weight_here * of_pixel[6]
    return torch.stack([totals[1] / totals[0], totals[2] / totals[0]], 1)
