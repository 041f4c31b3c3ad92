"""How a clip is decoded, cut, resized, mirrored and recoloured; the same for all its frames.

Geometry is always a `shared.grid.View`, so that the motion boxes follow the pixels. RandAugment's
rotations, shears and shifts are left out for that reason: timm does not tell which it has drawn.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_ops
from torchvision.transforms import RandomErasing

from shared.errors import InputError
from shared.grid import View
from train.clips.crops import Box

SHRINK_LINEAR = 1.5  # factor up to which a resize interpolates; beyond it, it averages

# ---------------------------------------------------------------------------------------------
# Pixels
# ---------------------------------------------------------------------------------------------


def jpeg_reduction(crop: Box, size: int) -> int:
    """1, 2, 4 or 8: by how much a JPEG may be shrunk while decoding and the crop still fill `size`.

    libjpeg then computes fewer coefficients, which is several times faster than a resize later.
    """
    side = min(crop[2] - crop[0], crop[3] - crop[1])
    return next(factor for factor in (8, 4, 2, 1) if side >= factor * size or factor == 1)


# OpenCV writes RGB by itself at full size only.
_READ_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_jpeg(jpeg: np.ndarray, reduction: int) -> np.ndarray:
    """RGB uint8 [H, W, 3] of JPEG bytes, shrunk by `reduction` (sizes round up)."""
    frame = cv2.imdecode(jpeg, _READ_FLAGS[reduction])
    if frame is None:
        raise InputError(
            "a frame is not a readable JPEG; `make verify` of this dataset lists damaged shards"
        )
    return frame if reduction == 1 else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)


def cut(frame: np.ndarray, crop: Box, out: np.ndarray, flip_x: bool, flip_y: bool) -> None:
    """Write the crop of an RGB frame, resized once and mirrored, into out uint8 [S, S, 3].

    The crop is in pixels of `frame` and may reach beyond it: the border is repeated.
    """
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = crop
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        margins = (max(0, -y1), max(0, y2 - height), max(0, -x1), max(0, x2 - width))
        frame = cv2.copyMakeBorder(frame, *margins, cv2.BORDER_REPLICATE)
        x1, x2 = x1 + margins[2], x2 + margins[2]
        y1, y2 = y1 + margins[0], y2 + margins[0]
    part = frame[y1:y2, x1:x2]
    if part.shape == out.shape:
        out[:] = part
    else:
        # Averaging keeps fine texture from flickering where the crop is much larger than the
        # output. Up to SHRINK_LINEAR, interpolation still looks at every pixel, in a fifth of the
        # time: 256 lines to 224 are a factor of 1.14.
        shrinks = min(part.shape[0] / out.shape[0], part.shape[1] / out.shape[1]) > SHRINK_LINEAR
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(part, (out.shape[1], out.shape[0]), dst=out, interpolation=how)
    if flip_x or flip_y:
        cv2.flip(out, -1 if flip_x and flip_y else int(flip_x), dst=out)


def source_view(
    crop: Box,
    stored_size: tuple[int, int],
    source_size: tuple[int, int],
    size: int,
    flip_x: bool = False,
    flip_y: bool = False,
) -> View:
    """The same crop in source pixels, in which the motion boxes are; sizes are width, height."""
    scale_x = source_size[0] / stored_size[0]
    scale_y = source_size[1] / stored_size[1]
    x1, y1, x2, y2 = crop
    moved = (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)
    return View(moved, (size, size), flip_x, flip_y)


# ---------------------------------------------------------------------------------------------
# Colours and erasing
# ---------------------------------------------------------------------------------------------

COLOUR_OPERATIONS = [
    *("AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "SolarizeIncreasing"),
    *("SolarizeAdd", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing"),
    "SharpnessIncreasing",
]


class ColourAugment:
    """RandAugment's colour operations (Cubuk et al. 2020; "inc1" set of timm) on a whole clip.

    Args:
        magnitude: of 10.
        layers: operations one after another.
        magnitude_std: normal spread of the magnitude.
    """

    def __init__(self, magnitude: int, layers: int, magnitude_std: float) -> None:
        hparams = {"magnitude_std": magnitude_std}
        operations = rand_augment_ops(magnitude, 0.5, hparams, COLOUR_OPERATIONS)
        self._augment = RandAugment(operations, num_layers=layers)

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frames uint8 [T, H, W, 3] -> the same shape.

        The frames are stacked into one tall picture, so that operations which look at a histogram
        treat all alike and the clip does not flicker.
        """
        with seeded_globals(rng):
            tall = self._augment(Image.fromarray(frames.reshape(-1, *frames.shape[2:])))
        return np.asarray(tall).reshape(frames.shape)


def erase(frames: np.ndarray, probability: float, rng: np.random.Generator) -> None:
    """Random erasing (Zhong et al. 2020): one rectangle of all frames becomes noise, in place.

    frames uint8 [T, H, W, 3]; with `probability`, an area of 2% to a third of the picture.
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
    """Libraries that draw from global generators draw from `rng` inside, and leave no trace."""
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
