"""A tube mask that shows moving and still positions in a fixed proportion (TrackMAE).

Vandeghen, Thoker, Van Droogenbroeck, Ghanem, "TrackMAE: Video Representation Learning via Track
Mask and Predict", CVPR 2026. The positions are divided into two halves, those whose points move
most and the others. A fixed share of the visible positions is drawn from the first half. So the
encoder sees neither the background alone nor the moving objects alone. Details are those of the
public code (github.com/rvandeghen/TrackMAE); docs/methods.md lists the differences.

Letters: T' time steps, R x Q positions, P = R * Q, m points along the side of a position.
"""

from __future__ import annotations

import numpy as np

from shared.errors import InputError
from shared.flow_tube import FINE, fine_points, nearest_points
from shared.scene import Scene, round_half_up

EQUAL = 6  # digits, of positions per time step, up to which motions are equal


def motion_bins(
    scene: Scene,
    rng: np.random.Generator,
    *,
    mask_ratio: float,
    moving_share: float = 0.5,
    stabilised: bool | None = None,  # noqa: ARG001 - says which flow is read
) -> np.ndarray:
    """A tube whose visible positions are drawn from the moving and the still half of the grid.

    Args:
        moving_share: share of the visible positions that lie in the moving half, 0 to 1. If a half
            has too few positions, the other half fills the rest.
        stabilised: whether tracks must be without camera motion (flows made with --stabilise) or
            with it. Without a value both are accepted.

    Returns:
        bool [N], True = masked; the same positions at every time step.
    """
    num_visible = scene.inside.size - scene.masked_positions(mask_ratio)
    if not 0.0 <= moving_share <= 1.0:
        raise InputError("out-of-range", f"moving_share is {moving_share}; 0 to 1 is allowed")
    assert scene.flow is not None, "motion_bins needs the flow of the clip"
    motion = mean_steps(scene.flow).ravel().round(EQUAL)
    # Among positions with the same motion, the choice of the half is random.
    order = np.lexsort((rng.random(motion.size), -motion))
    half = (motion.size + 1) // 2
    moving, still = rng.permutation(order[:half]), rng.permutation(order[half:])
    wanted = round_half_up(moving_share * num_visible)
    num_moving = min(max(wanted, num_visible - still.size), moving.size)
    positions = np.ones(motion.size, dtype=np.bool_)
    positions[moving[:num_moving]] = False
    positions[still[: num_visible - num_moving]] = False
    return np.tile(positions, scene.time_steps)


def mean_steps(flow: np.ndarray) -> np.ndarray:
    """How far the points of each position move in a time step, as a mean.

    Points start at the first time step and are followed through all others.

    Args:
        flow: float32 [T' - 1, m * R, m * Q, 2], see `Scene.flow`.

    Returns:
        float64 [R, Q], in positions per time step. A point counts until it leaves the grid; one
        that is never known counts as still.
    """
    places = fine_points(flow.shape[1:3])
    length, number = np.zeros(places.shape[:2]), np.zeros(places.shape[:2])
    for step in flow.astype(np.float64):
        inside, nearest = nearest_points(places)
        column, row = np.where(inside[..., None], nearest, 0).T
        moves = step[row.T, column.T]
        known = inside & np.isfinite(moves).all(axis=-1)
        length += np.where(known, np.linalg.norm(moves, axis=-1), 0.0)
        number += known
        places = np.where(known[..., None], places + moves, np.nan)
    means = length / np.maximum(number, 1)
    rows, columns = (side // FINE for side in means.shape)
    of_positions: np.ndarray = means.reshape(rows, FINE, columns, FINE).mean(axis=(1, 3))
    return of_positions
