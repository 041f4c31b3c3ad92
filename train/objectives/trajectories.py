"""The target of motion: trajectories of tracked points (MME), or motion at fixed positions.

train/objectives/tracked_points.py and train/objectives/fixed_places.py compute the targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import InputError
from train.clips.table import MotionNeeds
from train.clips.view_rules import least_side
from train.objectives.fixed_places import fixed_target, frames_to_read
from train.objectives.target import ClipCut, LossWords, ShownView, Target
from train.objectives.tracked_points import trajectory_target
from train.objectives.trajectory_config import KINDS, TRACKS, TrajectoryConfig

if TYPE_CHECKING:
    from torch import Tensor

_STILL, _EVEN = ("that nothing moves", "rest"), ("even histograms", "even histograms")
_WORDS = {
    "positions": LossWords("displacements of points", *_STILL),
    "shape": LossWords("histograms of oriented gradients", *_EVEN),
    "flow": LossWords("flow", *_STILL),
    "hog": LossWords("histograms of oriented gradients", *_EVEN),
    "hof": LossWords("histograms of flow", *_EVEN),
    "mbh": LossWords("motion boundary histograms", *_EVEN),
}


@dataclass(frozen=True)
class Trajectories(TrajectoryConfig, Target):
    """Displacements and histograms that the workers compute from the tracks of the flows shards.

    Displacements are scaled, so that zeros mean that nothing moves. The mean over a patch is
    subtracted from histograms, so that zeros mean that all bins are equal.
    """

    name = "trajectories"
    has_own_table = True
    needs_flows = True
    picture = "tracks"

    @property
    def words(self) -> LossWords:
        predicted = [part for part in ("positions", "shape") if getattr(self, part)]
        words = [_WORDS[part] for part in (predicted if self.kind == TRACKS else [self.kind])]
        joined = (" and ".join(getattr(each, f.name) for each in words) for f in fields(LossWords))
        return LossWords(*joined)

    @property
    def predicts_displacements(self) -> bool:
        """Whether displacements of points are predicted."""
        return self.kind == TRACKS and self.positions

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:
        if "time" in flips:
            raise InputError(
                "option-conflict",
                "flips has 'time', but points are tracked only forward in time; leave 'time' out",
            )
        if not self.interpolate and cut.stride < 2:
            raise InputError(
                "option-needs-another",
                "trajectories.interpolate is false, which needs frames of kind dense with a "
                "stride of 2 or more; otherwise there are no frames between the input frames",
            )

    def needed_motion(self, cut: ClipCut) -> MotionNeeds:
        # Rounded down: it does not matter if two of forty points share a start.
        across = cut.model.grid * math.isqrt(self.points) / least_side(cut.crop)
        return MotionNeeds(
            track_length=self.track_length(cut.stride),
            track_points=math.floor(across),
            hog=self.needs_hog,
            stabilised=self.stabilised,
        )

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        sizes = self.part_sizes(cut.stride)
        return sizes if self.decoders == 2 else (sum(sizes),)

    def of_view(self, shown: ShownView, cut: ClipCut) -> dict[str, np.ndarray]:
        """target float32 [N, D], and counts bool [N, K, S]: whether a step is in the loss."""
        grid = (cut.model.grid, cut.model.grid)
        geometry = (shown.view, shown.source_size, grid)
        ends = self.step_ends(shown.frames, cut.model.time_steps, cut.stride)
        if self.kind == TRACKS:
            placed = shown.tracks(shown.first_frames)
            target, counts = trajectory_target(placed, *geometry, self, ends)
        else:
            frames, lengths, places = frames_to_read(ends, shown.num_frames)
            placed = shown.tracks(frames)
            target, counts = fixed_target(placed, lengths, places, *geometry, self)
        return {"target": target, "counts": counts}

    def of_batch(
        self, batch: dict[str, Tensor], num_decoded: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        return batch["target"], loss_weights(batch["counts"], self, cut.stride)


def loss_weights(counts: Tensor, config: TrajectoryConfig, stride: int) -> Tensor:
    """The weight of each number of the target in the loss.

    For tracks, displacements and HOG have the same total weight, although their numbers differ. If
    all steps count, the mean weight is 1.

    Args:
        counts: bool [B, M, K, S]; [B, M, 1, S] for histograms.

    Returns:
        float32 [B, M, D].
    """
    import torch

    parts = config.part_sizes(stride)
    share = sum(parts) / sum(number > 0 for number in parts)
    weights = [
        counts.unsqueeze(-1).expand(*counts.shape, each).flatten(2) * (share / number)
        for number, each in zip(parts, KINDS[config.kind], strict=True)
        if number
    ]
    return torch.cat(weights, dim=2)
