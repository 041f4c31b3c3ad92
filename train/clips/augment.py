"""Augmentation of colours and random erasing, the same for all frames of a clip.

The rotations, shears and shifts of RandAugment are not used: they would move the motion boxes, and
timm does not return which operations it drew.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_ops
from torchvision.transforms import RandomErasing

COLOUR_OPERATIONS = [
    *("AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "SolarizeIncreasing"),
    *("SolarizeAdd", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing"),
    "SharpnessIncreasing",
]


class ColourAugment:
    """Colour operations of RandAugment (Cubuk et al. 2020; timm's "inc1") for a whole clip.

    Args:
        magnitude: strength of an operation, 0 to 10.
        layers: number of operations that are applied one after another.
        magnitude_std: standard deviation of the magnitude.
    """

    def __init__(self, magnitude: int, layers: int, magnitude_std: float) -> None:
        hparams = {"magnitude_std": magnitude_std}
        operations = rand_augment_ops(magnitude, 0.5, hparams, COLOUR_OPERATIONS)
        self._augment = RandAugment(operations, num_layers=layers)

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment frames uint8 [T, H, W, 3]; the result has the same shape.

        The frames are stacked into one tall picture, so that operations that use a histogram change
        all frames in the same way, and the clip does not flicker.
        """
        with seeded_globals(rng):
            tall = self._augment(Image.fromarray(frames.reshape(-1, *frames.shape[2:])))
        return np.asarray(tall).reshape(frames.shape)


def erase(frames: np.ndarray, probability: float, rng: np.random.Generator) -> None:
    """Random erasing (Zhong et al. 2020): fill the same rectangle of all frames with noise, in
    place.

    Args:
        frames: uint8 [T, H, W, 3].
        probability: of erasing. The rectangle covers 2% to a third of the picture.
        rng: draws the rectangle and the noise.
    """
    if rng.random() >= probability:
        return
    with seeded_globals(rng):
        picture = torch.empty(1, *frames.shape[1:3])
        y, x, height, width, _ = RandomErasing.get_params(picture, (0.02, 1 / 3), (0.3, 3.3), [0.0])
    shape = (len(frames), height, width, 3)
    frames[:, y : y + height, x : x + width] = rng.integers(0, 256, shape, dtype=np.uint8)


@contextlib.contextmanager
def seeded_globals(rng: np.random.Generator) -> Iterator[None]:
    """Seed the global random generators from `rng` inside, and restore their states at the end."""
    seed = int(rng.integers(2**32))
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
