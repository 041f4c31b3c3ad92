"""Which tokens of a clip are hidden from the encoder: one function a mask, chosen by a recipe.

Letters: T' tubelets along time, R rows and Q columns of the patch grid, N = T' * R * Q tokens,
t-major (index = t * R * Q + row * Q + column). True is masked, False is visible. Every mask has
the same count for every clip, because a batch must stack.

A mask is a function `(scene, rng, *, options) -> bool [N]`; its keyword-only parameters are the
options that a recipe's `mask` table may hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.errors import InputError
from shared.masking import tube_mask


@dataclass(frozen=True)
class Scene:
    """What a mask may look at.

    Attributes:
        time_steps: T', tubelets along time.
        inside: bool [R, Q], True where the patch centre lies in the union of the motion boxes of
            the sampled frames, after crop, resize and flip; all False without boxes.
    """

    time_steps: int
    inside: np.ndarray


def tube(scene: Scene, rng: np.random.Generator, *, mask_ratio: float) -> np.ndarray:
    """Random positions, the same at every time step (VideoMAE, Tong et al. 2022, sec. 3.3)."""
    _check_ratio("mask_ratio", mask_ratio)
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
    _check_ratio("mask_ratio", mask_ratio)
    _check_ratio("inside_ratio", inside_ratio)
    positions = tube_mask(scene.inside.ravel(), mask_ratio, inside_ratio, rng)
    return np.tile(positions, scene.time_steps)


MASKS: dict[str, Callable[..., np.ndarray]] = {"tube": tube, "motion_tube": motion_tube}

NEEDS_BOXES = {"motion_tube"}
"""Masks that look at `scene.inside`: without a boxes dataset they cannot be drawn."""


def _check_ratio(name: str, ratio: float) -> None:
    if not 0.0 < ratio < 1.0:
        raise InputError(f"{name} is {ratio}; a share above 0 and below 1 is allowed")
