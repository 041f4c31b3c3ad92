"""Which frames of a clip the model sees: one function a rule, chosen by a recipe.

A rule is a function `(length, num_frames, places, *, options) -> int64 [num_frames]`, rising frame
numbers of a clip of `length` frames. `places` float [num_frames] in 0..1 decides where: random
numbers in training, one constant per view in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.errors import InputError


def dense(length: int, num_frames: int, places: np.ndarray, *, stride: int) -> np.ndarray:
    """A window of frames `stride` apart, begun at places[0] of where it may begin.

    A clip shorter than the window gives `num_frames` frames spread evenly over all of it, some
    twice, rather than a still tail of its last frame.
    """
    if stride < 1:
        raise InputError(f"stride is {stride} frames; at least 1 is allowed")
    span = (num_frames - 1) * stride + 1
    if length < span:
        return np.rint(np.linspace(0, length - 1, num_frames)).astype(np.int64)
    begin = min(int(places[0] * (length - span + 1)), length - span)
    return begin + stride * np.arange(num_frames, dtype=np.int64)


def segments(length: int, num_frames: int, places: np.ndarray) -> np.ndarray:
    """One frame of each of `num_frames` equal segments of the clip (TSN, Wang et al. 2016)."""
    edge = length / num_frames
    chosen = np.floor((np.arange(num_frames) + places) * edge).astype(np.int64)
    return chosen.clip(0, length - 1)


FRAME_RULES: dict[str, Callable[..., np.ndarray]] = {"dense": dense, "segments": segments}


def view_places(kind: str, segment: int, num_segments: int, num_frames: int) -> np.ndarray:
    """The places of one of `num_segments` views in evaluation, as VideoMAE's code has them: dense
    windows from the clip's first to its last, segments a share of a segment apart. A single view is
    in the middle."""
    if num_segments == 1:
        return np.full(num_frames, 0.5)
    return np.full(num_frames, segment / (num_segments - (kind == "dense")))
