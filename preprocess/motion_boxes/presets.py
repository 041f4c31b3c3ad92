"""The parameters of motion boxes, and named presets of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from preprocess.flow.boundaries import GREY_LEVEL
from shared.errors import InputError


@dataclass(frozen=True)
class MotionParameters:
    """How maps become boxes. Lengths are pixels of a map with 240 lines.

    The steps run in this order. A step does nothing when its parameter has the neutral value.

    Attributes:
        texture: power of the picture's texture that maps are multiplied by; see `texture_maps`.
        frames_before, frames_after: whose maps are summed with the frame's own, as many as there
            are.
        border: margin set to 0.
        sigma_before: of the Gaussian before the thresholds.
        peak_share: values under this share of the frame's maximum are dropped.
        deviations: values under this many standard deviations of the frame are dropped.
        sigma: of the Gaussian after them.
        mean_factor: a pixel moves where the result exceeds this many times the frame's mean.
        least_kept: and it reaches this many pixels per frame per pixel.
        least_motion: nothing moves in a frame whose map stays below this, in pixels per frame per
            pixel.
        contours: how many of the largest contours the box encloses.
        smallest_share: the second contour counts only when it holds at least this share of the
            motion (sum of the map) that the first holds.
        largest_distance: the second contour counts only when the centres are nearer than this share
            of the diagonal.
        largest_side: a box over this share of the width or height is replaced by the next frame's.
        smallest_area: so is a box under this share of the area.
    """

    texture: float = 0.0
    frames_before: int = 0
    frames_after: int = 0
    border: float = 0.0
    sigma_before: float = 0.0
    peak_share: float = 0.0
    deviations: float = 0.0
    sigma: float = 5.625  # 3 px at 128 lines
    mean_factor: float = 1.0
    least_kept: float = 0.0
    least_motion: float = 0.01
    contours: int = 2
    smallest_share: float = 0.0
    largest_distance: float = 1.0
    largest_side: float = 1.0
    smallest_area: float = 0.0

    def __post_init__(self) -> None:
        if self.contours < 1:
            raise InputError(f"contours is {self.contours}; 1 or more is allowed")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                raise InputError(f"{field.name} is {value}; a number from 0 is allowed")


PRESETS: dict[str, MotionParameters] = {
    # There are few numbers, and none needs to be exact. Texture weights a motion boundary, because
    # flow is a guess where there is no texture. The sum over 9 frames keeps the box steady where
    # flow flickers. A threshold of 1.25 times the mean removes background noise that the mean
    # itself lets through. A second contour that is much weaker than the first is noise more often
    # than an object. benchmarks/results/boxes.md lists what else was tried.
    "default": MotionParameters(
        texture=1.0, frames_before=4, frames_after=4, mean_factor=1.25, smallest_share=0.4
    ),
    # The text of MOFO (section 3.1) states the steps and no numbers: smooth, threshold, the two
    # largest contours. The mean is the threshold without a parameter.
    "paper": MotionParameters(least_motion=0.0),
    # The public code, on maps of its own (preprocess/flow/boundaries.py), which it rounds down to
    # whole grey levels before the first and after the last step.
    "mofo-code": MotionParameters(
        border=8.0,
        sigma_before=1.0,
        peak_share=0.4,
        deviations=1.5,
        sigma=30.0,
        mean_factor=0.0,
        least_kept=GREY_LEVEL,
        least_motion=GREY_LEVEL,
        largest_distance=0.4,
        largest_side=0.7,
        smallest_area=0.01,
    ),
}


OF_BOUNDARIES = ("mofo-code",)
"""Presets for the maps of preprocess/flow/boundaries.py; the others are for those of equation 1."""


def read_parameters(preset: str, changes: Sequence[str] = ()) -> MotionParameters:
    """A preset with some of its numbers changed, each as text: ("sigma=4", "contours=1").

    Raises:
        InputError: an unknown preset or name, or a value that is not allowed.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; {', '.join(PRESETS)} are known")
    numbers = dataclasses.asdict(PRESETS[preset])
    for change in changes:
        name, _, text = change.partition("=")
        if name not in numbers:
            raise InputError(f"{change}: no number is called {name!r}; {', '.join(numbers)} are")
        try:
            numbers[name] = type(numbers[name])(text)
        except ValueError:
            raise InputError(f"{change}: {text!r} is not a number as {name} needs it") from None
    return MotionParameters(**numbers)
