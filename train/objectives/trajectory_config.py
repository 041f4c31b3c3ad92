"""Which trajectories are predicted (MME): the options of a recipe, and what follows from them.

Letters: K points of a patch, L stored steps of a track, S steps of a target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.errors import InputError
from shared.tracks import NUM_BINS
from train.tables.nested import check_name

# What is predicted, and how many numbers of each point and step: displacements, HOG; of the others
# see train/objectives/fixed_places.py.
TRACKS = "tracks"
KINDS = {TRACKS: (2, NUM_BINS), "flow": (2,), "hog": (NUM_BINS,), "hof": (9,), "mbh": (16,)}
HISTOGRAMS = ("hof", "mbh")  # one of all points of a patch, not one a point


@dataclass(frozen=True)
class TrajectoryConfig:
    """Which tracks are predicted, and what of them. Default: MME."""

    kind: str = TRACKS
    """tracks: points are followed. flow, hog, hof, mbh: what is found at places that stay."""
    length: int = 6
    """Frames of the video that a track goes on for (L)."""
    points: int = 4
    """Tracks of a patch (K), a square number: each starts nearest the middle of its K-th part."""
    positions: bool = True
    """Whether displacements are predicted; of kind tracks."""
    shape: bool = True
    """Whether HOG is predicted; of kind tracks."""
    decoders: int = 1
    """1: displacements and HOG leave one decoder. 2: each has its own, of the same size."""
    stabilised: bool | None = None
    """Whether tracks must be free of the camera's motion (flows made with --stabilise), or must
    have it; without a value they are taken as they are."""
    interpolate: bool = True
    """Steps from frame to frame of the video; without, from one given frame to the next."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError("out-of-range", f"length is {self.length}; at least 1 is allowed")
        if self.points < 1 or math.isqrt(self.points) ** 2 != self.points:
            raise InputError(
                "out-of-range",
                f"points is {self.points}; a square number is allowed (1, 4, 9, ...)",
            )
        check_name("kind", self.kind, tuple(KINDS))
        if self.kind != TRACKS and not (self.positions and self.shape):
            raise InputError(
                "option-unused", f"positions and shape are options of kind tracks, not {self.kind}"
            )
        if not (self.positions or self.shape):
            raise InputError(
                "option-conflict", "positions and shape are both off: nothing is left to predict"
            )
        if self.decoders not in (1, 2):
            raise InputError("out-of-range", f"decoders is {self.decoders}; 1 and 2 are allowed")
        if self.decoders == 2 and not (self.kind == TRACKS and self.positions and self.shape):
            raise InputError(
                "option-conflict",
                "decoders is 2, but there are not both displacements and HOG to share",
            )

    @property
    def needs_hog(self) -> bool:
        return self.shape if self.kind == TRACKS else self.kind == "hog"

    def step_frames(self, stride: int) -> int:
        """Frames of the video from one step of a target to the next."""
        return 1 if self.interpolate else stride

    def track_length(self, stride: int) -> int:
        """Steps that tracks must have: of places that stay one step is read at each frame."""
        return self.length if self.kind == TRACKS else self.step_frames(stride)

    def num_steps(self, stride: int) -> int:
        """S, steps of a target where given frames are `stride` apart.

        Raises:
            InputError: without interpolation, no track reaches the next given frame.
        """
        steps = self.length if self.interpolate else self.length // stride
        if steps < 1:
            raise InputError(
                "out-of-range",
                f"length is {self.length}, and without interpolation frames are {stride} apart; "
                f"at least {stride} is allowed",
            )
        return steps

    def part_sizes(self, stride: int) -> tuple[int, ...]:
        """Numbers that are predicted for a token: of tracks displacements and HOG, 0 where off."""
        places = 1 if self.kind in HISTOGRAMS else self.points
        number = places * self.num_steps(stride)
        channels = KINDS[self.kind]
        if self.kind == TRACKS:
            channels = (channels[0] * self.positions, channels[1] * self.shape)
        return tuple(number * each for each in channels)
