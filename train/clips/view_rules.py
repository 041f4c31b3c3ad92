"""Rules for sampling and cropping the frames of a clip. A recipe chooses them by name.

A frame rule is a function `(length, num_frames, places, *, options) -> int64 [num_frames]`. It
returns increasing frame numbers of a clip of `length` frames. `places`, float [num_frames] in 0..1,
decides where they lie: random numbers in training, one constant per view in evaluation.

A crop is a function `(width, height, rng, *, options) -> (x1, y1, x2, y2)` in whole pixels of the
stored frame. Keyword-only parameters are the options of a recipe's table `frames` or `crop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from shared.errors import InputError
from shared.track_window import spread_frames
from train.tables.nested import check_name
from train.tables.typed import Choice

Box = tuple[int, int, int, int]

# ---------------------------------------------------------------------------------------------
# Frames
# ---------------------------------------------------------------------------------------------


SHORT = ("spread", "repeat")


def dense(
    length: int,
    num_frames: int,
    places: np.ndarray,
    *,
    stride: int,
    short: str = "spread",
    begins_every: int = 1,
) -> np.ndarray:
    """A window of frames at distances of `stride`; places[0] decides where the window starts.

    Args:
        begins_every: a window begins at a multiple of so many frames. With the frames of a tubelet
            (stride times tubelet_size) few tracks are needed (shared/track_window.py).
        short: what happens to a clip that is shorter than the window. spread: the frames are spread
            evenly over the whole clip, and some are repeated. repeat: they keep their distance, and
            the last frame fills the rest (VideoMAE's code), which makes a still end.
    """
    if stride < 1:
        raise InputError("out-of-range", f"stride is {stride} frames; it must be at least 1")
    if begins_every < 1:
        raise InputError(
            "out-of-range", f"begins_every is {begins_every} frames; it must be at least 1"
        )
    check_name("short", short, SHORT)
    span = (num_frames - 1) * stride + 1
    if length < span and short == "repeat":
        return np.minimum(stride * np.arange(num_frames, dtype=np.int64), length - 1)
    if length < span:
        return spread_frames(length, num_frames)
    last = (length - span) // begins_every
    begin = begins_every * min(int(places[0] * (last + 1)), last)
    return begin + stride * np.arange(num_frames, dtype=np.int64)


def segments(length: int, num_frames: int, places: np.ndarray) -> np.ndarray:
    """One frame of each of `num_frames` equal segments of the clip (TSN, Wang et al. 2016)."""
    edge = length / num_frames
    chosen = np.floor((np.arange(num_frames) + places) * edge).astype(np.int64)
    return chosen.clip(0, length - 1)


FRAME_RULES: dict[str, Callable[..., np.ndarray]] = {"dense": dense, "segments": segments}


def view_places(kind: str, segment: int, num_segments: int, num_frames: int) -> np.ndarray:
    """The `places` of one of `num_segments` views in evaluation, as in VideoMAE's code.

    Dense windows go from the first window of the clip to the last. Segment views are shifted by a
    share of a segment. A single view is in the middle.
    """
    if num_segments == 1:
        return np.full(num_frames, 0.5)
    return np.full(num_frames, segment / (num_segments - (kind == "dense")))


def grid_places(
    length: int, num_frames: int, stride: int, segment: int, num_segments: int
) -> np.ndarray:
    """The `places` of a dense view whose window starts at a multiple of the stride.

    VideoMAE's test code first takes every `stride`-th frame of the clip, and cuts windows of
    `num_frames` out of these at even distances, rounded down. A single view is in the middle.
    """
    kept = -(-length // stride)
    room = max(kept - num_frames, 0)
    first = room // 2 if num_segments == 1 else int(segment * room / (num_segments - 1))
    span = (num_frames - 1) * stride + 1
    # dense() starts at the whole part of places[0] times the number of windows.
    return np.full(num_frames, (stride * first + 0.5) / max(length - span + 1, 1))


# ---------------------------------------------------------------------------------------------
# Crops
# ---------------------------------------------------------------------------------------------


def multi_scale(
    width: int, height: int, rng: np.random.Generator, *, scales: tuple[float, ...]
) -> Box:
    """A crop whose sides are a scale times the short side (Wang et al. 2016, "scale jittering").

    The scales of the two sides are at most one step of `scales` apart. The position is uniform; the
    code of TSN and VideoMAE chooses one of 13 fixed positions.
    """
    if not scales or not all(0.0 < scale <= 1.0 for scale in scales):
        raise InputError("out-of-range", f"scales are {scales}; each must be above 0 and at most 1")
    across = int(rng.integers(len(scales)))
    down = int(rng.integers(max(0, across - 1), min(len(scales), across + 2)))
    short = min(width, height)
    return _place(width, height, short * scales[across], short * scales[down], rng)


def random_resized(
    width: int,
    height: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """A crop with a random share of the area and a random aspect ratio (Szegedy et al. 2015).

    Args:
        area: smallest and largest share of the area of the frame.
        aspect: smallest and largest ratio width / height.
    """
    if not (0.0 < area[0] <= area[1] <= 1.0 and 0.0 < aspect[0] <= aspect[1]):
        raise InputError(
            "out-of-range",
            f"area is {area} and aspect is {aspect}; both must be increasing "
            "pairs above 0, and area at most 1",
        )
    for _ in range(10):
        pixels = width * height * rng.uniform(*area)
        ratio = np.exp(rng.uniform(*np.log(aspect)))
        wide, high = np.sqrt(pixels * ratio), np.sqrt(pixels / ratio)
        if wide <= width and high <= height:
            return _place(width, height, wide, high, rng)
    return centre(width, height, rng)


def shift(width: int, height: int, rng: np.random.Generator, *, pixels: int) -> Box:
    """The centred square, shifted by up to `pixels` of the stored frame in each direction.

    Outside of the frame the border is repeated.
    """
    if pixels < 0:
        raise InputError("out-of-range", f"pixels is {pixels}; it must be at least 0")
    x1, y1, x2, y2 = centre(width, height, rng)
    dx, dy = (int(value) for value in rng.integers(-pixels, pixels + 1, size=2))
    return x1 + dx, y1 + dy, x2 + dx, y2 + dy


def centre(width: int, height: int, rng: np.random.Generator) -> Box:
    """The largest centred square."""
    return square_along(width, height, 0, 1)


CROPS: dict[str, Callable[..., Box]] = {
    "multi_scale": multi_scale,
    "random_resized": random_resized,
    "shift": shift,
    "centre": centre,
}


def least_side(crop: Choice) -> float:
    """The shortest possible side of a crop, as a share of the short side of the frame."""
    options = crop.options
    if crop.kind == "multi_scale":
        return min(options["scales"])
    if crop.kind == "random_resized":
        narrow, wide = options["aspect"]
        return math.sqrt(options["area"][0] * min(narrow, 1 / wide, 1.0))
    return 1.0


def square_along(width: int, height: int, number: int, count: int) -> Box:
    """Square `number` of `count` squares at even distances along the long side.

    The sides of a square are the short side of the frame. One square is the centre; three are both
    ends and the centre.
    """
    short = min(width, height)
    share = 0.5 if count == 1 else number / (count - 1)
    x1 = round((width - short) * share)
    y1 = round((height - short) * share)
    return x1, y1, x1 + short, y1 + short


def _place(width: int, height: int, wide: float, high: float, rng: np.random.Generator) -> Box:
    wide, high = max(1, min(round(wide), width)), max(1, min(round(high), height))
    x1 = int(rng.integers(width - wide + 1))
    y1 = int(rng.integers(height - high + 1))
    return x1, y1, x1 + wide, y1 + high
