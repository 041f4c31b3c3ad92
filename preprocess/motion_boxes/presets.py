"""Parameters of motion boxes, and named presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from preprocess.flow.boundaries import GREY_LEVEL
from shared.errors import InputError


@dataclass(frozen=True)
class MotionParameters:
    """How motion maps become boxes. Lengths are in pixels of a map with a short side of 240.

    The steps run in the order of the attributes. The default of most parameters switches their
    step off.

    Attributes:
        residual: 1 uses the residual lengths (preprocess/flow/residual.py) where the shard has
            them. 0 uses the motion maps, and so does a shard without residual lengths.
        texture: maps are multiplied by the texture of the frame to this power; see `texture_maps`.
        frames_before, frames_after: the maps of this many frames before and after are added to the
            frame's own map. The window is cut at the ends of the clip.
        border: margin that is set to 0.
        sigma_before: standard deviation of the Gaussian before the thresholds.
        peak_share: values below this share of the frame's maximum are set to 0.
        deviations: values below this many standard deviations of the frame are set to 0.
        sigma: standard deviation of the Gaussian after the thresholds.
        mean_factor: a pixel moves if its value exceeds this many times the frame's mean.
        least_kept: a pixel moves only if its value also reaches this, in pixels per frame per
            pixel.
        least_motion: a frame has no motion if its motion map does not exceed this, in pixels per
            frame per pixel.
        least_residual: a frame has no motion if its residual lengths do not exceed this, in pixels
            of the flow per frame.
        contours: number of contours that the box encloses, the largest first.
        smallest_share: a further contour counts only if it holds at least this share of the motion
            (sum of the map) that the first contour holds.
        largest_distance: a further contour counts only if its centre lies within this share of the
            diagonal from the centre of the first.
        largest_side: a box with a side above this share of the width or height is replaced by the
            box of the next frame.
        smallest_area: a box with less than this share of the area is replaced likewise.
        steady_frames: number of frames before and after that decide the box of a frame together
            with it; see `steady_boxes`. 0 gives each frame its own box.
        steady_share: quantile of each edge among their boxes, 0 outermost, 1 innermost.
        least_boxes: a frame has no box if fewer of these frames have one.
    """

    residual: int = 0
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
    least_residual: float = 0.5
    contours: int = 2
    smallest_share: float = 0.0
    largest_distance: float = 1.0
    largest_side: float = 1.0
    smallest_area: float = 0.0
    steady_frames: int = 0
    steady_share: float = 0.5
    least_boxes: int = 1

    def __post_init__(self) -> None:
        if self.contours < 1:
            raise InputError("out-of-range", f"contours is {self.contours}; it must be at least 1")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                raise InputError(
                    "out-of-range",
                    f"{field.name} is {value}; it must be a finite number of at least 0",
                )
        for name in ("residual", "steady_share"):
            value = getattr(self, name)
            if value > 1:
                raise InputError("out-of-range", f"{name} is {value}; it must be at most 1")


PRESETS: dict[str, MotionParameters] = {
    # Residual lengths fill what moves, where equation 1 draws its edges, and a panning or zooming
    # camera leaves nothing. Texture weights them, because flow is a guess where there is no
    # texture. A low threshold over three frames finds all that moves, with some background. The
    # background differs from frame to frame, so the 13 frames that decide a box remove it. On still
    # video with codec noise the lengths stay below half a pixel. benchmarks/results/boxes.md lists
    # the other variants that were measured; none of the numbers needs to be exact.
    "default": MotionParameters(
        residual=1,
        texture=1.0,
        frames_before=1,
        frames_after=1,
        sigma=1.5,
        mean_factor=1.1,
        least_motion=0.1,
        smallest_share=0.4,
        steady_frames=6,
        steady_share=0.7,
        least_boxes=2,
    ),
    # MOFO (section 2.1) names the steps but no numbers: smoothing, a threshold, the two largest
    # contours. The mean serves as threshold, because it needs no number.
    "paper": MotionParameters(least_motion=0.0),
    # MOFO's public code. It has maps of its own (preprocess/flow/boundaries.py), and rounds them
    # down to whole grey levels before the first step and after the last.
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
"""Presets for the maps of preprocess/flow/boundaries.py. The others take the maps of equation 1."""


def read_parameters(preset: str, changes: Sequence[str] = ()) -> MotionParameters:
    """Read a preset, with some of its numbers changed by text such as "sigma=4".

    Raises:
        InputError: the preset or a name is unknown, or a value is not allowed.
    """
    if preset not in PRESETS:
        raise InputError("unknown-name", f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    numbers = dataclasses.asdict(PRESETS[preset])
    for change in changes:
        name, _, text = change.partition("=")
        if name not in numbers:
            raise InputError(
                "unknown-key", f"{change}: unknown number {name!r}; known: {', '.join(numbers)}"
            )
        try:
            numbers[name] = type(numbers[name])(text)
        except ValueError:
            kind = "a whole number" if isinstance(numbers[name], int) else "a number"
            raise InputError("bad-setting", f"{change}: {text!r} is not {kind}") from None
    return MotionParameters(**numbers)
