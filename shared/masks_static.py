"""Masks that are the same at every time step, or know no time: see shared/masks.py."""

from __future__ import annotations

import numpy as np

from shared.errors import InputError
from shared.masking import round_half_up, tube_mask
from shared.rectangles import ASPECT, draw_aspect, nearest_cells, sides
from shared.scene import Scene, check_share


def tube(scene: Scene, rng: np.random.Generator, *, mask_ratio: float) -> np.ndarray:
    """Random positions, the same at every time step (VideoMAE, Tong et al. 2022, sec. 3.3)."""
    check_share("mask_ratio", mask_ratio)
    nothing_inside = np.zeros(scene.inside.size, dtype=np.bool_)
    positions = tube_mask(nothing_inside, mask_ratio, mask_ratio, rng)
    return np.tile(positions, scene.time_steps)


def motion_tube(
    scene: Scene, rng: np.random.Generator, *, mask_ratio: float, inside_ratio: float
) -> np.ndarray:
    """A tube that masks `inside_ratio` of the positions in the motion box (MOFO, sec. 3.2).

    `mask_ratio` of all positions are masked, and where both cannot hold this total wins: see
    shared/masking.py.
    """
    check_share("mask_ratio", mask_ratio)
    if not 0.0 <= inside_ratio <= 1.0:
        raise InputError("out-of-range", f"inside_ratio is {inside_ratio}; 0 to 1 is allowed")
    positions = tube_mask(scene.inside.ravel(), mask_ratio, inside_ratio, rng)
    return np.tile(positions, scene.time_steps)


def random(scene: Scene, rng: np.random.Generator, *, mask_ratio: float) -> np.ndarray:
    """Random tokens, wherever and whenever (Feichtenhofer et al. 2022, sec. 3, "agnostic")."""
    check_share("mask_ratio", mask_ratio)
    num_tokens = scene.time_steps * scene.inside.size
    mask = np.zeros(num_tokens, dtype=np.bool_)
    mask[rng.permutation(num_tokens)[: round_half_up(mask_ratio * num_tokens)]] = True
    return mask


def block(
    scene: Scene,
    rng: np.random.Generator,
    *,
    mask_ratio: float,
    aspect: tuple[float, float] = ASPECT,
) -> np.ndarray:
    """One rectangle, the same at every time step; it lies in the grid, everywhere as likely.

    Args:
        aspect: least and most width / height, as far as the grid allows.
    """
    count = scene.masked_positions(mask_ratio)
    size = sides(count, draw_aspect(rng, aspect, 1), scene.grid)
    room = np.array(scene.grid[::-1]) - size
    centre = size / 2 + rng.random((1, 2)) * room
    positions = nearest_cells(centre, size, scene.grid, count, rng.random(scene.grid))
    return np.tile(positions.ravel(), scene.time_steps)


def cube(
    scene: Scene,
    rng: np.random.Generator,
    *,
    mask_ratio: float,
    min_positions: int = 16,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> np.ndarray:
    """Rectangles that last for random spans of time (BEVT, Wang et al. 2022; MME's 40%).

    Time is cut into spans of random lengths; each has rectangles of its own, laid over each other
    at random until as many positions are hidden as at any other time.

    Args:
        min_positions: of a rectangle, as far as that many are still to be hidden.
        aspect: least and most width / height, before the grid cuts a side.
    """
    if min_positions < 1:
        raise InputError("out-of-range", f"min_positions is {min_positions}; at least 1 is allowed")
    count = scene.masked_positions(mask_ratio)
    steps: list[np.ndarray] = []
    while len(steps) < scene.time_steps:
        span = int(rng.integers(1, scene.time_steps - len(steps) + 1))
        steps += [_rectangles(scene.grid, count, min_positions, aspect, rng).ravel()] * span
    return np.concatenate(steps)


def _rectangles(
    grid: tuple[int, int],
    count: int,
    min_positions: int,
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """bool [R, Q], `count` True: a union of random rectangles, of the last as much as is needed."""
    hidden = np.zeros(grid, dtype=np.bool_)
    while (missing := count - int(hidden.sum())) > 0:
        area = rng.uniform(min(min_positions, missing), missing)
        size = sides(area, draw_aspect(rng, aspect, 1), grid)[0]
        width, height = np.maximum(np.floor(size + 0.5).astype(int), 1)
        left = int(rng.integers(grid[1] - width + 1))
        top = int(rng.integers(grid[0] - height + 1))
        fresh = np.zeros(grid, dtype=np.bool_)
        fresh[top : top + height, left : left + width] = True
        candidates = np.flatnonzero(fresh & ~hidden)
        hidden.flat[rng.permutation(candidates)[:missing]] = True
    return hidden
