"""Masks: functions that choose the tokens of a clip that are hidden from the encoder.

Letters: T' tubelets along time, R rows and Q columns of the patch grid, N = T' * R * Q tokens,
t-major (index = t * R * Q + row * Q + column). True is masked, False is visible. A mask hides the
same number of tokens in every clip, because clips are stacked to a batch.

A mask is a function `(scene, rng, *, options) -> bool [N]`. Its keyword-only parameters are the
options of a recipe's `mask` table. `MASKS`, at the end, lists all masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.errors import InputError
from shared.flow_tube import flow_tube
from shared.motion_bins import motion_bins
from shared.motion_cells import PARTS
from shared.rectangles import ASPECT, draw_aspect, nearest_cells, sides
from shared.scene import INSIDES, Scene, check_share, round_half_up, tube_mask
from shared.weighted_draws import drawn_by_weight

__all__ = ["MASKS", "Mask", "Scene"]

# ---------------------------------------------------------------------------------------------
# Masks that are the same at every time step, or do not depend on time
# ---------------------------------------------------------------------------------------------


def tube(scene: Scene, rng: np.random.Generator, *, mask_ratio: float) -> np.ndarray:
    """Random positions, the same at every time step (VideoMAE, Tong et al. 2022, sec. 3.3)."""
    check_share("mask_ratio", mask_ratio)
    nothing_inside = np.zeros(scene.inside.size, dtype=np.bool_)
    positions = tube_mask(nothing_inside, mask_ratio, mask_ratio, rng)
    return np.tile(positions, scene.time_steps)


def motion_tube(
    scene: Scene,
    rng: np.random.Generator,
    *,
    mask_ratio: float,
    inside_ratio: float,
    inside: str = "box",
) -> np.ndarray:
    """A tube that masks `inside_ratio` of the positions where motion is (MOFO, sec. 2.2).

    A share `mask_ratio` of all positions is masked. If both shares are not possible, the total is
    kept: see `masked_counts` in shared/scene.py.

    Args:
        inside: "box" for the positions in the motion box of the clip's frames; "positions" for
            those that move in them.
    """
    check_share("mask_ratio", mask_ratio)
    if not 0.0 <= inside_ratio <= 1.0:
        raise InputError("out-of-range", f"inside_ratio is {inside_ratio}; 0 to 1 is allowed")
    _check_name("inside", inside, INSIDES)
    where = scene.inside if inside == "box" else scene.moving
    assert where is not None, "the mask needs the table of what moves in the clip"
    positions = tube_mask(where.ravel(), mask_ratio, inside_ratio, rng)
    return np.tile(positions, scene.time_steps)


def random(scene: Scene, rng: np.random.Generator, *, mask_ratio: float) -> np.ndarray:
    """Random tokens in space and time (Feichtenhofer et al. 2022, sec. 3, "agnostic")."""
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
    """One rectangle, the same at every time step, at a uniformly random place in the grid.

    Args:
        aspect: smallest and largest width / height, as far as the grid allows.
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
    """Rectangles over random spans of time (BEVT, Wang et al. 2022; MME's 40%).

    Time is divided into spans of random lengths. Each span has rectangles of its own at random
    places, until the required number of positions is hidden.

    Args:
        min_positions: smallest size of a rectangle, as long as so many positions are missing.
        aspect: smallest and largest width / height, before the grid cuts a side.
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
    """A union of random rectangles with `count` cells, bool [R, Q]; the last one is cut to fit."""
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


# ---------------------------------------------------------------------------------------------
# Masks that move: simulated motion (SMM) and the clip's own motion (MGM)
#
# Fan et al., "Motion-Guided Masking for Spatiotemporal Representation Learning", ICCV 2023. Both
# hide the same number of positions, k = round(mask_ratio * R * Q), at every time step: `dense` as
# one rectangle, `sparse` as scattered positions. The exact count, and details that the paper leaves
# open (it has no code), lead to these choices:
#
# - A rectangle consists of the k cells nearest to its centre, see shared/rectangles.py. Its area is
#   constant in a clip, so changes of scale of a simulated object become changes of aspect.
# - 75% of 14 x 14 is a square with a side of 12.12 cells. It can move by only 1.9 cells in each
#   direction inside the grid, so the possible positions differ little.
# - A simulated rectangle stays inside the grid and is reflected at its borders. A simulated pattern
#   leaves on one side and comes back on the other, because it would lose positions otherwise.
# - MGM's rectangle is centred on the cell with the largest motion. Near a border, where it is cut
#   off, it grows to the other sides until it has k cells.
# ---------------------------------------------------------------------------------------------

PATTERNS = ("dense", "sparse")
VELOCITIES = ("step", "clip")
FIRST_STEPS = ("random", "motion")
ROUNDING = 1e-5  # relative difference of motion up to which two cells are equally good


def smm(
    scene: Scene,
    rng: np.random.Generator,
    *,
    mask_ratio: float,
    pattern: str = "dense",
    velocity: str = "step",
    speed: tuple[float, float] = (0.5, 2.0),
    aspect: tuple[float, float] | None = None,
) -> np.ndarray:
    """Simulated motion masking (sec. 3.2): a mask that moves independently of the clip.

    Args:
        pattern: "dense" for a rectangle; "sparse" for random positions that move together.
        velocity: "step" draws a velocity for each time step (eq. 5). "clip" draws one for the clip,
            so that the mask moves in a straight line until a border reflects it.
        speed: smallest and largest speed, cells per time step; the direction is uniform.
        aspect: smallest and largest width / height of the dense rectangle, as far as the grid
            allows. It changes from one random value to another along the clip. None is 3/4 to 4/3.
    """
    aspect = _check_pattern(pattern, aspect)
    count = scene.masked_positions(mask_ratio)
    _check_name("velocity", velocity, VELOCITIES)
    moves = scene.time_steps - 1
    velocities = _draw_velocities(rng, speed, max(1, moves) if velocity == "step" else 1)
    if velocity == "clip":
        velocities = np.repeat(velocities, max(1, moves), axis=0)
    if pattern == "sparse":
        return _moving_pattern(scene, rng, count, velocities[:moves]).ravel()
    first, last = np.log(draw_aspect(rng, aspect, 2))
    size = sides(count, np.exp(np.linspace(first, last, scene.time_steps)), scene.grid)
    room = np.array(scene.grid[::-1]) - size
    centre = np.empty_like(size)
    place = rng.random(2) * room[0]
    reflected = velocities[0]
    for t in range(scene.time_steps):
        centre[t] = size[t] / 2 + place
        if t < moves:
            now = velocities[t] if velocity == "step" else reflected
            place, reflected = _bounce(place, now, room[t + 1])
    return nearest_cells(centre, size, scene.grid, count, rng.random(scene.grid)).ravel()


def mgm(
    scene: Scene,
    rng: np.random.Generator,
    *,
    mask_ratio: float,
    pattern: str = "dense",
    first: str = "random",
    aspect: tuple[float, float] | None = None,
    top: int = PARTS,  # noqa: ARG001 - says how motion is read
    before: bool = False,  # noqa: ARG001 - the same
) -> np.ndarray:
    """Motion-guided masking (sec. 3.3): a mask at the places with the largest motion.

    At a time step where nothing moves the mask stays as it was at the step before.

    Args:
        pattern: "dense" for a rectangle around the largest motion of each time step; "sparse" for
            positions drawn one after another with a probability proportional to their motion.
        first: "random" places the mask of the first time step at random, as the paper does;
            "motion" places it by the motion, as at all other steps.
        aspect: smallest and largest width / height of the dense rectangle, drawn at each time step.
            None is 3/4 to 4/3.
        top: of the 16 equal parts of a position, how many with the most motion are averaged; 16 is
            the mean over the position.
        before: whether the motion of a frame is that from the frame before it, as codecs store it,
            and not that to the next frame. `top` and `before` decide what is in `scene.motion`
            (`MotionPooling` in shared/motion_cells.py).
    """
    aspect = _check_pattern(pattern, aspect)
    count = scene.masked_positions(mask_ratio)
    assert scene.motion is not None, "mgm needs the motion of the clip"
    assert scene.motion.shape == (scene.time_steps, *scene.grid), scene.motion.shape
    _check_name("first", first, FIRST_STEPS)
    motion = scene.motion.reshape(scene.time_steps, -1).astype(np.float64)
    if first == "random":
        motion[0] = 0.0  # every place is then equally likely
    # For each time step the last one in which something moves, or the first.
    moves = (motion > 0).any(axis=1)
    source = np.maximum.accumulate(np.where(moves, np.arange(scene.time_steps), 0))
    if pattern == "sparse":
        return drawn_by_weight(motion, count, rng)[source].ravel()
    columns = scene.grid[1]
    ties = rng.random(scene.grid)
    # If nothing moves, every cell is an equally good centre. So are cells whose motion differs by
    # rounding alone, which depends on the processor.
    nearly = motion >= motion.max(axis=1, keepdims=True) * (1 - ROUNDING)
    largest = np.where(nearly, rng.random(motion.shape), -1.0)
    row, column = np.divmod(largest.argmax(axis=1), columns)
    centre = np.stack([column, row], axis=1) + 0.5
    size = sides(count, draw_aspect(rng, aspect, scene.time_steps), scene.grid)
    return nearest_cells(centre, size, scene.grid, count, ties)[source].ravel()


def _check_name(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError("unknown-name", f"{option} is {value!r}; allowed: {', '.join(allowed)}")


def _check_pattern(pattern: str, aspect: tuple[float, float] | None) -> tuple[float, float]:
    _check_name("pattern", pattern, PATTERNS)
    if pattern == "sparse" and aspect is not None:
        raise InputError("option-unused", "the sparse pattern does not use aspect; leave it out")
    return ASPECT if aspect is None else aspect


def _draw_velocities(
    rng: np.random.Generator, speed: tuple[float, float], count: int
) -> np.ndarray:
    """float64 [count, 2]: cells per time step along x and y."""
    if not 0.0 <= speed[0] <= speed[1] < float("inf"):
        raise InputError(
            "out-of-range",
            f"speed is {speed}; two numbers of cells per time step, the smaller first, are allowed",
        )
    angles = rng.uniform(0.0, 2 * np.pi, count)
    lengths = rng.uniform(*speed, count)
    return lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _bounce(
    place: np.ndarray, velocity: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Place and velocity [2] after a time step, reflected between 0 and `room`."""
    span = np.maximum(room, 1e-9)  # a rectangle that fills the grid stays
    phase = np.mod(place + velocity, 2 * span)
    returns = phase > span
    return np.where(returns, 2 * span - phase, phase), np.where(returns, -velocity, velocity)


def _moving_pattern(
    scene: Scene, rng: np.random.Generator, count: int, velocities: np.ndarray
) -> np.ndarray:
    """bool [T', R, Q]: random positions, moved by whole cells with wrap-around.

    Args:
        velocities: float64 [T' - 1, 2], cells from one time step to the next.
    """
    first = np.zeros(scene.inside.size, dtype=np.bool_)
    first[rng.permutation(first.size)[:count]] = True
    first = first.reshape(scene.grid)
    places = np.concatenate([np.zeros((1, 2)), np.cumsum(velocities, axis=0)])
    moved = np.floor(places + 0.5).astype(int)
    return np.stack([np.roll(first, (down, across), axis=(0, 1)) for across, down in moved])


# ---------------------------------------------------------------------------------------------
# All masks by name
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mask:
    """A mask, and the data that it needs.

    Attributes:
        draw: `(scene, rng, *, options) -> bool [N]`.
        needs_boxes: whether it uses `scene.inside`, and so needs motion boxes.
        needs_motion: whether it uses `scene.motion`, and so needs motion maps.
        needs_flow: whether it uses `scene.flow`, and so needs tracks of points.
    """

    draw: Callable[..., np.ndarray]
    needs_boxes: bool = False
    needs_motion: bool = False
    needs_flow: bool = False


MASKS: dict[str, Mask] = {
    "tube": Mask(tube),
    "motion_tube": Mask(motion_tube, needs_boxes=True),
    "random": Mask(random),
    "block": Mask(block),
    "cube": Mask(cube),
    "smm": Mask(smm),
    "mgm": Mask(mgm, needs_motion=True),
    "flow_tube": Mask(flow_tube, needs_flow=True),
    "motion_bins": Mask(motion_bins, needs_flow=True),
}
"""All masks by the `kind` of a recipe's `mask` table."""
