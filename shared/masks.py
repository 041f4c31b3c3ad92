"""Which tokens of a clip are hidden from the encoder: one function a mask, chosen by a recipe.

Letters: T' tubelets along time, R rows and Q columns of the patch grid, N = T' * R * Q tokens,
t-major (index = t * R * Q + row * Q + column). True is masked, False is visible. Every mask has
the same count for every clip, because a batch must stack.

A mask is a function `(scene, rng, *, options) -> bool [N]`; its keyword-only parameters are the
options that a recipe's `mask` table may hold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.masks_moving import mgm, smm
from shared.masks_static import block, cube, motion_tube, random, tube
from shared.scene import Scene

__all__ = ["MASKS", "NEEDS_BOXES", "NEEDS_MOTION", "Scene"]

MASKS: dict[str, Callable[..., np.ndarray]] = {
    "tube": tube,
    "motion_tube": motion_tube,
    "random": random,
    "block": block,
    "cube": cube,
    "smm": smm,
    "mgm": mgm,
}

NEEDS_BOXES = {"motion_tube"}
"""Masks that look at `scene.inside`: without a boxes dataset they cannot be drawn."""

NEEDS_MOTION = {"mgm"}
"""Masks that look at `scene.motion`: without motion maps they cannot be drawn."""
