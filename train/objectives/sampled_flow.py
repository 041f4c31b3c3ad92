"""What targets share that are made of flow at fixed points of a patch: velocities, descriptors.

Flow between frames comes from tracks of one step. A target has K points in a patch, and S steps in
a tubelet. All tokens are predicted, also visible ones, because a single frame does not show the
answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.errors import InputError
from train.clips.table import MotionNeeds
from train.clips.view_rules import least_side
from train.objectives.point_rules import check_square, refuse_time
from train.objectives.target import ClipCut, Target


@dataclass(frozen=True)
class SampledFlow(Target):
    """A target that the workers compute from the tracks of the flows shards."""

    needs_flows = True
    predicts_visible = True
    points: int = 4
    """Points of a patch (K), a square number. The patch is divided into K cells; each point is the
    one nearest to the centre of its cell."""
    steps: int = 4
    """Steps of a tubelet (S). A tubelet with fewer frames has one step per frame."""
    stabilised: bool | None = True
    """Whether tracks must be without camera motion (flows made with --stabilise) or with it.
    Without a value both are accepted."""

    def __post_init__(self) -> None:
        check_square(self.points)
        if self.steps < 1:
            raise InputError("out-of-range", f"steps is {self.steps}; it must be at least 1")

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:
        refuse_time(flips)
        depth = cut.model.tubelet_size
        if depth % self.num_steps(cut):
            raise InputError(
                "out-of-range",
                f"steps is {self.steps}; it must divide the {depth} frames of a tubelet",
            )

    def num_steps(self, cut: ClipCut) -> int:
        """S, the steps of a tubelet."""
        return min(self.steps, cut.model.tubelet_size)

    def needed_motion(self, cut: ClipCut) -> MotionNeeds:
        across = cut.model.grid * math.isqrt(self.points) / least_side(cut.crop)
        return MotionNeeds(
            track_length=1, track_points=math.floor(across), stabilised=self.stabilised
        )
