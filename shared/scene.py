"""What a mask may look at, and what all masks check.

Letters: T' tubelets along time, R rows and Q columns of the patch grid, P = R * Q positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import InputError
from shared.masking import round_half_up


@dataclass(frozen=True)
class Scene:
    """A clip as a mask sees it.

    Attributes:
        time_steps: T', tubelets along time.
        inside: bool [R, Q], True where the patch centre lies in what crop, resize and flip leave
            of the union of the sampled frames' motion boxes (`inside_boxes`, shared/grid.py); all
            False without boxes.
        motion: float32 [T', R, Q], mean motion over each tubelet of the sampled frames, at least 0,
            after crop, resize and flip; None where no mask needs it.
    """

    time_steps: int
    inside: np.ndarray
    motion: np.ndarray | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """R, Q."""
        return self.inside.shape

    def masked_positions(self, mask_ratio: float) -> int:
        """How many of the P positions a mask of this ratio hides at a time step.

        Raises:
            InputError: the ratio is not a share.
        """
        check_share("mask_ratio", mask_ratio)
        return round_half_up(mask_ratio * self.inside.size)


def check_share(name: str, share: float) -> None:
    if not 0.0 < share < 1.0:
        raise InputError(
            "out-of-range", f"{name} is {share}; a share above 0 and below 1 is allowed"
        )
