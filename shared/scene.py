"""The input of masks, and the number of positions that they hide. True is masked.

Letters: T' tubelets along time, R rows and Q columns of the patch grid, P = R * Q positions.

MOFO, section 2.2: a share `mask_ratio` of all tubes is masked (90%), and a share `inside_ratio` of
those inside the motion box (75%). Both are not possible if the box covers more than
(1 - mask_ratio) / (1 - inside_ratio) of the grid. The total is then kept: see `masked_counts`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.errors import InputError

INSIDES = ("box", "positions")
"""What decides which positions are inside: the motion box, or which of them move."""


@dataclass(frozen=True)
class Scene:
    """The data of a clip that masks use.

    Attributes:
        time_steps: T', tubelets along time.
        inside: bool [R, Q], True if the centre of the patch lies in the box of the sampled frames
            (`window_box`), after crop, resize and flip (`inside_boxes` in shared/grid.py); all
            False without boxes.
        motion: float32 [T', R, Q], mean motion in each tubelet of the sampled frames after crop,
            resize and flip, at least 0; None if no mask needs it.
        flow: float32 [T' - 1, m * R, m * Q, 2], how far the picture moves from each time step to
            the next at m x m points of each position (`FINE` of shared/flow_tube.py): x to the
            right and y down, in positions; NaN where this is not known. None if no mask needs it.
        moving: bool [R, Q], True if the patch moves in the sampled frames, after crop, resize and
            flip (`moving_positions` in shared/moving_areas.py); None if no mask needs it.
    """

    time_steps: int
    inside: np.ndarray
    motion: np.ndarray | None = None
    flow: np.ndarray | None = None
    moving: np.ndarray | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """R, Q."""
        return self.inside.shape

    def masked_positions(self, mask_ratio: float) -> int:
        """The number of the P positions that a mask of this ratio hides at a time step.

        Raises:
            InputError: the ratio is not above 0 and below 1.
        """
        check_share("mask_ratio", mask_ratio)
        return round_half_up(mask_ratio * self.inside.size)


def check_share(name: str, share: float) -> None:
    if not 0.0 < share < 1.0:
        raise InputError(
            "out-of-range", f"{name} is {share}; a share above 0 and below 1 is allowed"
        )


def round_half_up(value: float) -> int:
    """floor(x + 0.5). Python rounds to even numbers, with which counts would not be monotonic."""
    return math.floor(value + 0.5)


def masked_counts(
    num_positions: int, num_inside: int, mask_ratio: float, inside_ratio: float
) -> tuple[int, int]:
    """Compute the number of masked positions, and how many of them lie inside the box.

    With k = round(mask_ratio * n): inside = clamp(round(inside_ratio * m), max(0, k - (n - m)),
    min(m, k)). If nothing or everything is inside (m = 0 or m = n), the mask is plain random.

    Args:
        num_positions: n, positions of the grid.
        num_inside: m, positions inside the motion box, 0..n.
        mask_ratio: share of all positions to mask, 0..1.
        inside_ratio: share of the positions inside to mask, 0..1, as far as the total allows.

    Returns:
        (masked positions, masked positions inside), both int.
    """
    assert 0 <= num_inside <= num_positions, (num_inside, num_positions)
    assert 0.0 <= mask_ratio <= 1.0 and 0.0 <= inside_ratio <= 1.0, (mask_ratio, inside_ratio)
    num_masked = round_half_up(mask_ratio * num_positions)
    wanted = round_half_up(inside_ratio * num_inside)
    fewest = max(0, num_masked - (num_positions - num_inside))
    most = min(num_inside, num_masked)
    return num_masked, min(max(wanted, fewest), most)


def tube_mask(
    inside: np.ndarray, mask_ratio: float, inside_ratio: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw one tube mask that is uniform inside the box and uniform outside it.

    Args:
        inside: bool [P], True if the position lies inside the motion box.
        mask_ratio, inside_ratio: see `masked_counts`.
        rng: from `counter_generator(seed, epoch, clip_id, view)`.

    Returns:
        bool [P], True = masked; the same positions at every time step of the clip.
    """
    assert inside.dtype == np.bool_ and inside.ndim == 1, (inside.dtype, inside.shape)
    num_masked, masked_inside = masked_counts(
        inside.size, int(inside.sum()), mask_ratio, inside_ratio
    )
    order = rng.permutation(inside.size)
    order_inside = order[inside[order]]
    order_outside = order[~inside[order]]
    mask = np.zeros(inside.size, dtype=np.bool_)
    mask[order_inside[:masked_inside]] = True
    mask[order_outside[: num_masked - masked_inside]] = True
    return mask
