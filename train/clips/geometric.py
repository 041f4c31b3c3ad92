"""The geometric operations of RandAugment, which move the motion boxes with the pixels.

RandAugment (Cubuk et al. 2020) draws each operation from fifteen: ten on colours and five that
move pixels. Angles, shears and shifts are those of timm's "inc1", which VideoMAE uses. Pixels are
moved by torchvision (transforms.v2). A token stays inside if its patch centre comes from a patch
that was inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

GEOMETRIC_OPERATIONS = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
LARGEST = 10.0
"""The largest magnitude, at which the following limits are reached."""
DEGREES, SHEAR, SHARE = 30.0, 0.3, 0.45
"""Limits of rotation, of shear (offset for a pixel of height or width), and of shift (share of the
side)."""
GREY = [124.0, 116.0, 104.0]
"""ImageNet's mean colour, which fills what comes from outside the picture (VideoMAE)."""


@dataclass(frozen=True)
class Movement:
    """One geometric operation with its parameters, as torchvision's `affine` takes them.

    Attributes:
        angle: rotation in degrees about the centre, clockwise.
        translate: shift in pixels, to the right and down.
        shear: shear in degrees along x and y, about the top left corner.
    """

    angle: float = 0.0
    translate: tuple[int, int] = (0, 0)
    shear: tuple[float, float] = (0.0, 0.0)

    def of_frames(self, frames: np.ndarray) -> np.ndarray:
        """Move frames uint8 [T, H, W, 3], with bilinear interpolation."""
        moved = self._moved(torch.from_numpy(frames).permute(0, 3, 1, 2), "bilinear", GREY)
        return moved.permute(0, 2, 3, 1).contiguous().numpy()

    def of_inside(self, inside: np.ndarray, size: int) -> np.ndarray:
        """Move which patches are inside the motion box, bool [T', g, g].

        Args:
            size: H and W of the frames in pixels.

        Returns:
            bool [T', g, g]; patches that come from outside the picture are outside the box.
        """
        grid = inside.shape[1]
        patch = size // grid
        pixels = torch.from_numpy(inside.repeat(patch, 1).repeat(patch, 2)).to(torch.uint8)
        moved = self._moved(pixels[:, None], "nearest", [0.0])[:, 0]
        middle = patch // 2
        return moved[:, middle::patch, middle::patch].bool().numpy()

    def _moved(self, pictures: torch.Tensor, how: str, fill: list[float]) -> torch.Tensor:
        # torchvision turns and shifts about the centre; RandAugment shears about the corner.
        return V.affine(
            pictures,
            angle=self.angle,
            translate=list(self.translate),
            scale=1.0,
            shear=list(self.shear),
            interpolation=InterpolationMode(how),
            fill=fill,
            center=[0.0, 0.0] if any(self.shear) else None,
        )


def draw_movement(name: str, magnitude: float, size: int, rng: np.random.Generator) -> Movement:
    """One of GEOMETRIC_OPERATIONS at a magnitude of 0 to 10, in a random direction.

    Args:
        size: H and W of the frames in pixels.
    """
    signed = magnitude / LARGEST * (1 if rng.random() < 0.5 else -1)
    if name == "Rotate":
        return Movement(angle=DEGREES * signed)
    if name.startswith("Shear"):
        degrees = math.degrees(math.atan(SHEAR * signed))
        return Movement(shear=(degrees, 0.0) if name == "ShearX" else (0.0, degrees))
    pixels = round(SHARE * signed * size)
    return Movement(translate=(pixels, 0) if name == "TranslateXRel" else (0, pixels))


def magnitude_of(mean: float, deviation: float, rng: np.random.Generator) -> float:
    """A normal magnitude, cut to 0..10, as timm draws it."""
    return float(np.clip(rng.normal(mean, deviation), 0.0, LARGEST))
