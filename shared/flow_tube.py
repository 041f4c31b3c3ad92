"""A tube mask that follows the flow (MGMAE, Huang et al., ICCV 2023, "motion guided masking").

The visible positions are drawn at random at one time step, the base. From there they are carried
along the flow through the other time steps, so that the same part of an object is visible at all
times. The number of positions is exact at every time step. Details are those of the public code
(github.com/MCG-NJU/MGMAE): a map that is a mixture of Gaussians around the visible positions of the
base frame, backward warping, places without correspondence keep the map of the base, and the
positions with the largest sums of the map are visible.

The code warps the map anew from each input frame to the next, which blurs it. Here every point
remembers the place in the base that it came from, and the map is computed there.

Letters: T' time steps, R x Q positions, m points along the side of a position.
"""

from __future__ import annotations

import numpy as np

from shared.errors import InputError
from shared.scene import Scene

FINE = 3
"""m: flow is followed from 3 x 3 points of each position, about as many as tracks start from."""
HOLE = 1 - 1e-6  # factor on the map where a point has no correspondence
BASES = ("middle", "first", "random")


def flow_tube(
    scene: Scene,
    rng: np.random.Generator,
    *,
    mask_ratio: float,
    base: str = "middle",
    spread: float = 1.0,
    stabilised: bool | None = None,  # noqa: ARG001 - says which flow is read
) -> np.ndarray:
    """A tube that moves with the flow, bool [N], True = masked.

    Args:
        base: the time step where visible positions are drawn: middle, first or random.
        spread: width of the Gaussians around visible positions, in positions; the Gaussian is
            exp(-(distance / spread)**2).
        stabilised: whether tracks must be without camera motion (flows made with --stabilise) or
            with it. Visible positions follow the picture only with it. Without a value both are
            accepted.
    """
    count = scene.masked_positions(mask_ratio)
    if base not in BASES:
        raise InputError("unknown-name", f"base is {base!r}; allowed: {', '.join(BASES)}")
    if not spread > 0.0:
        raise InputError("out-of-range", f"spread is {spread}; it must be above 0")
    (rows, columns), steps = scene.grid, scene.time_steps
    assert scene.flow is not None, "flow_tube needs the flow of the clip"
    assert scene.flow.shape == (steps - 1, rows * FINE, columns * FINE, 2), scene.flow.shape
    first = {"middle": steps // 2, "first": 0, "random": int(rng.integers(steps))}[base]
    visible = rng.permutation(rows * columns)[count:]
    centres = np.stack([visible % columns, visible // columns], axis=1) + 0.5
    ties = rng.random(scene.grid)
    mask = np.ones((steps, rows * columns), dtype=np.bool_)
    if visible.size == 0:
        return mask.ravel()
    for step, (places, held) in enumerate(base_places(scene.flow, first)):
        # Of equal values those win that come from the base and not from a filled hole.
        values = _mixture(places, centres, spread) * np.where(held, 1.0, HOLE)
        sums = values.reshape(rows, FINE, columns, FINE).sum(axis=(1, 3))
        # Among positions that no visible one comes near, the choice is random.
        order = np.lexsort((ties.ravel(), -sums.ravel().round(9)))
        mask[step, order[: visible.size]] = False
    return mask.ravel()


Places = tuple[np.ndarray, np.ndarray]
"""Places float64 [mR, mQ, 2], and whether they were reached from the base, bool [mR, mQ]."""


def base_places(flow: np.ndarray, base: int) -> list[Places]:
    """Where each point of each time step was, or will be, at the base.

    Args:
        flow: float32 [T' - 1, m * R, m * Q, 2], see `Scene.flow`.
        base: 0 to T' - 1.

    Returns:
        For each of the T' time steps the places, x and y in positions, and whether the point is
        followed all the way. A point without correspondence has its own place.
    """
    own = fine_points(flow.shape[1:3])
    found = [(own, np.ones(own.shape[:2], np.bool_))] * (len(flow) + 1)
    for step in range(base - 1, -1, -1):  # a point goes to the base with the flow
        found[step] = _gathered(flow[step], *found[step + 1], own)
    for step in range(base, len(flow)):  # a point has come from the base
        found[step + 1] = _arrived(flow[step], *found[step], own)
    return found


def fine_points(shape: tuple[int, ...]) -> np.ndarray:
    """float64 [m * R, m * Q, 2]: x and y of the fine points in positions."""
    row, column = np.indices(shape[:2])
    return (np.stack([column, row], axis=-1) + 0.5) / FINE


def _gathered(
    flow: np.ndarray, later: np.ndarray, later_held: np.ndarray, own: np.ndarray
) -> Places:
    """The places of points whose flow leads to points with the places `later`."""
    ends = own + flow
    known, nearest = nearest_points(ends)
    column, row = nearest[known].T
    places, held = own.copy(), np.zeros(known.shape, np.bool_)
    places[known] = later[row, column] + (ends[known] - own[row, column])
    held[known] = later_held[row, column]
    return places, held


def _arrived(
    flow: np.ndarray, earlier: np.ndarray, earlier_held: np.ndarray, own: np.ndarray
) -> Places:
    """The places of the points where points with the places `earlier` arrive.

    If several points arrive at one, the one that moved furthest wins: what moves is in front.
    """
    ends = own + flow
    known, nearest = nearest_points(ends)
    moved = np.linalg.norm(flow[known], axis=-1)
    order = np.argsort(moved, kind="stable")  # of several values for one point the last one stays
    column, row = nearest[known][order].T
    places, held = own.copy(), np.zeros(known.shape, np.bool_)
    places[row, column] = earlier[known][order] + (own[row, column] - ends[known][order])
    held[row, column] = earlier_held[known][order]
    return places, held


def nearest_points(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether ends [mR, mQ, 2] lie in the grid, bool [mR, mQ], and the column and row of the fine
    point that is nearest to each of them, int64 [mR, mQ, 2]."""
    known = np.isfinite(ends).all(axis=-1)
    size = np.array(ends.shape[1::-1])
    nearest = np.floor(np.where(known[..., None], ends, -1.0) * FINE).astype(np.int64)
    known &= ((nearest >= 0) & (nearest < size)).all(axis=-1)
    return known, nearest


def _mixture(places: np.ndarray, centres: np.ndarray, spread: float) -> np.ndarray:
    """The map of the base at places [mR, mQ, 2]: the largest of the Gaussians around centres."""
    across, down = (places[..., axis, None] - centres[:, axis] for axis in (0, 1))
    return np.exp(-(across * across + down * down).min(axis=-1) / spread**2)
