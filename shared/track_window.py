"""Which frames of a clip tracks start at, if they are stored for one kind of training window.

A target of tracks needs those that start at the first frame of each tubelet of a window. With
stride 3 and tubelets of 2 frames that is every sixth frame, and tracks of 6 steps from there cover
each frame once. Tracks from every frame hold the same motion six times.

Letters: F frames of a clip, T frames of a window, S frames where tracks start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import InputError


def spread_frames(length: int, num_frames: int) -> np.ndarray:
    """int64 [num_frames], not decreasing: frames at even distances over a clip of `length` frames.

    This is the window of a clip that is shorter than the window; some frames are repeated.
    """
    return np.rint(np.linspace(0, length - 1, num_frames)).astype(np.int64)


@dataclass(frozen=True)
class TrackWindow:
    """Windows of `frames` input frames at distances of `stride`, cut into tubelets.

    A window begins at a multiple of `every` frames. In a clip that is shorter than a window, the
    input frames are spread over the clip.

    Attributes:
        frames: T, a multiple of `tubelet`.
        stride: distance of two input frames in frames of the video.
        tubelet: input frames of a tubelet.

    Raises:
        InputError: a number is not allowed.
    """

    frames: int
    stride: int
    tubelet: int

    def __post_init__(self) -> None:
        if min(self.frames, self.stride, self.tubelet) < 1 or self.frames % self.tubelet:
            raise InputError(
                "out-of-range",
                f"--track-window is {self}; all three numbers must be at least 1, and the first "
                "must be a multiple of the third",
            )

    @classmethod
    def parse(cls, text: str) -> TrackWindow:
        """The inverse of `str`: "16x3x2" has 16 frames, stride 3 and tubelets of 2 frames."""
        parts = text.split("x")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
            raise InputError(
                "bad-setting",
                f"--track-window is {text!r}; write FRAMESxSTRIDExTUBELET, such as 16x3x2",
            )
        return cls(*(int(part) for part in parts))

    def __str__(self) -> str:
        return f"{self.frames}x{self.stride}x{self.tubelet}"

    @property
    def every(self) -> int:
        """Distance of two starts in a clip that is not shorter than a window."""
        return self.stride * self.tubelet

    @property
    def span(self) -> int:
        """Frames from the first to the last input frame of a window, both included."""
        return (self.frames - 1) * self.stride + 1

    def starts(self, num_frames: int) -> np.ndarray:
        """int64 [S], increasing: the first frames of the tubelets of all windows of a clip."""
        if num_frames < self.span:
            return np.unique(spread_frames(num_frames, self.frames)[:: self.tubelet])
        last_window = (num_frames - self.span) // self.every
        return self.every * np.arange(last_window + self.frames // self.tubelet, dtype=np.int64)

    def possible_starts(self, frames: np.ndarray, num_seen: int, ended: bool) -> np.ndarray:
        """Those of some frames of a clip that `starts` may hold, as far as can be known.

        Args:
            frames: int64 [K], increasing.
            num_seen: how many frames of the clip are known to exist.
            ended: whether the clip has no others.
        """
        if ended:
            return np.intersect1d(frames, self.starts(num_seen))
        if num_seen < self.span:
            return frames  # it depends on how long the clip is
        return frames[frames % self.every == 0]
