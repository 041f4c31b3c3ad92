"""RandAugment and random erasing, the same for all frames of a clip.

By default RandAugment has only its operations on colours. With all operations it also rotates,
shears and shifts (geometric.py), and the motion boxes move with the pixels.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_ops
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms import RandomErasing

from train.clips.geometric import GEOMETRIC_OPERATIONS, draw_movement, magnitude_of

COLOUR_OPERATIONS = [
    *("AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "SolarizeIncreasing"),
    *("SolarizeAdd", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing"),
    "SharpnessIncreasing",
]


ALL_OPERATIONS = (*COLOUR_OPERATIONS, *GEOMETRIC_OPERATIONS)
_MEAN, _STD = (np.array(each, np.float32) for each in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
APPLIED = 0.5  # timm applies each drawn operation with this probability


class FullAugment:
    """All fifteen operations of RandAugment for a whole clip and its motion boxes.

    Args:
        magnitude, layers, magnitude_std: as for `ColourAugment`.
    """

    def __init__(self, magnitude: int, layers: int, magnitude_std: float) -> None:
        hparams = {"magnitude_std": magnitude_std}
        colours = rand_augment_ops(magnitude, 1.0, hparams, COLOUR_OPERATIONS)
        self._colours = dict(zip(COLOUR_OPERATIONS, colours, strict=True))
        self._drawn = (magnitude, magnitude_std)
        self._layers = layers

    def __call__(
        self, frames: np.ndarray, inside: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment frames uint8 [T, S, S, 3] and inside bool [T', g, g]; shapes stay the same."""
        for name in rng.choice(ALL_OPERATIONS, self._layers):
            if rng.random() >= APPLIED:
                continue
            if name in self._colours:
                frames = _as_one_picture(self._colours[name], frames, rng)
            else:
                magnitude = magnitude_of(*self._drawn, rng)
                movement = draw_movement(name, magnitude, frames.shape[1], rng)
                frames = movement.of_frames(frames)
                inside = movement.of_inside(inside, frames.shape[1])
        return frames, inside


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
        return _as_one_picture(self._augment, frames, rng)


def _as_one_picture(
    operation: Callable[[Image.Image], Image.Image], frames: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    with seeded_globals(rng):
        tall = operation(Image.fromarray(frames.reshape(-1, *frames.shape[2:])))
    return np.asarray(tall).reshape(frames.shape)


def erase(frames: np.ndarray, probability: float, rng: np.random.Generator) -> None:
    """Random erasing (Zhong et al. 2020): fill the same rectangle of all frames with noise, in
    place.

    After standardisation the noise is normal with mean 0 and deviation 1, as in VideoMAE's code,
    but rounded to bytes and cut off at 0 and 255. Each frame has its own noise.

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
    noise = rng.standard_normal((len(frames), height, width, 3), dtype=np.float32)
    levels = noise * (255 * _STD) + 255 * _MEAN
    frames[:, y : y + height, x : x + width] = np.clip(np.rint(levels), 0, 255)


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
