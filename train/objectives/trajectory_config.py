"""The options of trajectories (MME) in a recipe, and numbers that follow from them.

Letters: K points of a patch, L stored steps of a track, S steps of a target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import InputError
from shared.tracks import CHANNELS, NUM_BINS, HogLayout
from train.objectives.point_rules import check_square
from train.tables.nested import check_name

# The numbers per point and step of each kind. Tracks have displacements and HOG; for the others see
# train/objectives/fixed_places.py.
TRACKS = "tracks"
KINDS = {TRACKS: (2, NUM_BINS), "flow": (2,), "hog": (NUM_BINS,), "hof": (9,), "mbh": (16,)}
HISTOGRAMS = ("hof", "mbh")  # one histogram per patch, not one per point
MERGES = ("none", "mean", "max")
UNIT = (
    20.0  # pixels, and grey values per pixel: the divisor without normalisation, as in MME's code
)


@dataclass(frozen=True)
class TrajectoryConfig:
    """Which parts of tracks are predicted. The defaults are those of MME."""

    kind: str = TRACKS
    """tracks follows points. flow, hog, hof and mbh describe motion or shape at fixed positions."""
    length: int = 6
    """Length of a track in frames of the video (L)."""
    points: int = 4
    """Tracks of a patch (K), a square number. The patch is divided into K cells; each track starts
    nearest to the centre of its cell."""
    positions: bool = True
    """Whether displacements are predicted. Only for kind tracks."""
    shape: bool = True
    """Whether HOG is predicted. Only for kind tracks."""
    fixed_hog: bool = False
    """Whether HOG at fixed positions is predicted beside the rest (MME, table 5). For kind tracks
    it takes the place of HOG along the track, so that shape must be false."""
    hog_channels: str = "grey"
    """What HOG is computed of: grey frames, or each of the rgb channels. flows must have been made
    with the same --track-channels."""
    hog_cells: int = 1
    """Cells of HOG along each side of the square around a point. flows must have been made with the
    same --track-cells."""
    merge: str = "none"
    """How the tracks of a patch become one: not (none), their mean, or the one that moves furthest
    (max). Only for kind tracks."""
    normalise: bool = True
    """Whether numbers are normalised over their patch. Without it displacements, flow and
    histograms are divided by 20 pixels, and HOG by 20 grey values per pixel."""
    centred: bool = False
    """Whether the mean over the patch is subtracted from displacements and flow before they are
    divided by what is left of them, as MME's text has it (sec. 3.3). Without it a patch that moves
    as a whole keeps its motion."""
    equal_parts: bool = True
    """Whether displacements and HOG have the same weight in the loss (true), or each of their
    numbers has, as in MME's code (false)."""
    loss_mask: bool = True
    """Whether steps outside of the frame or the clip are left out of the loss. Without it their
    target is zero."""
    decoders: int = 1
    """With 1, one decoder predicts displacements and HOG. With 2, each has a decoder of the same
    size."""
    stabilised: bool | None = None
    """Whether tracks must be without camera motion (flows made with --stabilise) or with it.
    Without a value both are accepted."""
    interpolate: bool = True
    """Whether a step is from one frame of the video to the next (true), or from one input frame to
    the next (false). Input frames of a clip that is shorter than the window lie closer than the
    stride, and then the steps are shorter too."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError("out-of-range", f"length is {self.length}; it must be at least 1")
        check_square(self.points)
        check_name("kind", self.kind, tuple(KINDS))
        if self.kind != TRACKS and not (self.positions and self.shape):
            raise InputError(
                "option-unused",
                "positions and shape are options of kind tracks, and kind is "
                f"{self.kind}; leave them out",
            )
        if not (self.positions or self.shape):
            raise InputError(
                "option-conflict",
                "positions and shape are both false, so that there is nothing "
                "to predict; leave one out",
            )
        if self.decoders not in (1, 2):
            raise InputError("out-of-range", f"decoders is {self.decoders}; it must be 1 or 2")
        self._check_parts()

    def _check_parts(self) -> None:
        check_name("merge", self.merge, MERGES)
        if self.merge != "none" and self.kind != TRACKS:
            raise InputError(
                "option-unused",
                f"merge is {self.merge}, but kind {self.kind} has no tracks to merge; leave it out",
            )
        has_hog = self.kind == "hog" or (self.kind == TRACKS and self.shape)
        if self.fixed_hog and has_hog:
            raise InputError(
                "option-conflict",
                f"fixed_hog is true, but kind {self.kind} predicts HOG already; leave it out, or "
                "set shape to false",
            )
        displaced = self.positions if self.kind == TRACKS else self.kind == "flow"
        if self.centred and not (self.normalise and displaced):
            raise InputError(
                "option-unused",
                "centred is an option of displacements and flow that are normalised over a patch "
                "(normalise); leave it out",
            )
        if not self.equal_parts and len(self.part_channels) != 2:
            raise InputError(
                "option-unused",
                "equal_parts weighs motion against HOG, and only one of them is predicted; leave "
                "it out",
            )
        check_name("hog_channels", self.hog_channels, tuple(CHANNELS))
        if self.hog_cells < 1:
            raise InputError(
                "out-of-range", f"hog_cells is {self.hog_cells}; it must be at least 1"
            )
        if self.hog_layout != HogLayout() and not self.needs_hog:
            raise InputError(
                "option-unused",
                f"hog_channels is {self.hog_channels} and hog_cells {self.hog_cells}, but no HOG "
                "is predicted; leave them out",
            )
        if self.decoders == 2 and len(self.part_channels) != 2:
            raise InputError(
                "option-conflict",
                "decoders is 2, but only motion and HOG together have two decoders: kind tracks "
                "with positions and shape, or fixed_hog; leave decoders at 1",
            )

    @property
    def needs_hog(self) -> bool:
        along = self.shape if self.kind == TRACKS else self.kind == "hog"
        return along or self.fixed_hog

    @property
    def hog_layout(self) -> HogLayout:
        """The numbers of HOG at a point and step."""
        return HogLayout(self.hog_channels, self.hog_cells)

    @property
    def part_channels(self) -> tuple[int, ...]:
        """Numbers of a point and step for each predicted part; HOG at fixed positions is last."""
        channels, hog = KINDS[self.kind], self.hog_layout.num_values
        if self.kind == TRACKS:
            channels = (2,) * self.positions + (hog,) * self.shape
        elif self.kind == "hog":
            channels = (hog,)
        return (*channels, hog) if self.fixed_hog else channels

    def step_frames(self, stride: int) -> int:
        """Largest number of frames of the video in a step of the target."""
        return 1 if self.interpolate else stride

    def track_length(self, stride: int) -> int:
        """Number of steps that stored tracks must have. At fixed positions each frame needs one
        step."""
        return self.length if self.kind == TRACKS else self.step_frames(stride)

    def num_steps(self, stride: int) -> int:
        """S, the steps of a target for input frames with distance `stride`.

        Raises:
            InputError: interpolate is false, and no track reaches the next input frame.
        """
        steps = self.length if self.interpolate else self.length // stride
        if steps < 1:
            raise InputError(
                "out-of-range",
                f"length is {self.length}, and interpolate is false with a stride of {stride}; "
                f"length must be at least {stride}",
            )
        return steps

    def step_ends(self, frames: np.ndarray, time_steps: int, stride: int) -> np.ndarray:
        """The frames where the steps of each tubelet begin and end.

        With `interpolate` they follow each other from the first frame of the tubelet on. Otherwise
        they are the input frames, and after the last one frames at the distance `stride`.

        Args:
            frames: int64 [T], the input frames of a view, not decreasing.
            time_steps: T', number of tubelets.

        Returns:
            int64 [T', S + 1], not decreasing; frames after the end of the clip can be among them.
            A step between two copies of a frame has no length.
        """
        steps, tubelet = self.num_steps(stride), len(frames) // time_steps
        if self.interpolate:
            return frames[::tubelet, None] + np.arange(steps + 1)
        further = frames[-1] + stride * np.arange(1, steps + 1)
        firsts = tubelet * np.arange(time_steps)
        ends: np.ndarray = np.concatenate([frames, further])[firsts[:, None] + np.arange(steps + 1)]
        return ends

    def part_sizes(self, stride: int) -> tuple[int, ...]:
        """How many numbers each predicted part of a token has, see `part_channels`."""
        per_patch = 1 if self.kind in HISTOGRAMS or self.merge != "none" else self.points
        points = [per_patch] * len(self.part_channels)
        if self.fixed_hog:
            points[-1] = self.points
        steps = self.num_steps(stride)
        return tuple(
            number * steps * each for number, each in zip(points, self.part_channels, strict=True)
        )

    @property
    def of_fixed_hog(self) -> TrajectoryConfig:
        """The options of HOG at fixed positions alone."""
        return TrajectoryConfig(
            kind="hog",
            length=self.length,
            points=self.points,
            hog_channels=self.hog_channels,
            hog_cells=self.hog_cells,
            interpolate=self.interpolate,
            normalise=self.normalise,
        )
