"""Motion as what the decoder predicts: where points go and what surrounds them (MME), or what is
found at places that stay.

How targets are computed: train/objectives/tracked_points.py and train/objectives/fixed_places.py.
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
    """Read from the tracks of the flows shards by the processes that read clips.

    Displacements are normalised such that zeros mean that nothing moves. Histograms have the mean
    over a patch taken off, so that zeros mean that all bins are alike.
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
        """Whether it is predicted where points go."""
        return self.kind == TRACKS and self.positions

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:
        if "time" in flips:
            raise InputError(
                "option-conflict", "flips has 'time', but points were tracked forward in time only"
            )
        if not self.interpolate and cut.stride < 2:
            raise InputError(
                "option-needs-another",
                "trajectories.interpolate is off: frames must be of kind dense and a stride of 2 "
                "or more apart, or there is nothing between them",
            )

    def needed_motion(self, cut: ClipCut) -> MotionNeeds:
        # Down to whole numbers: one start of forty that two points share is no matter.
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
        """target float32 [N, D] and counts bool [N, K, S]: whether a step is in the loss."""
        grid = (cut.model.grid, cut.model.grid)
        geometry = (shown.view, shown.source_size, grid)
        if self.kind == TRACKS:
            placed = shown.tracks(shown.first_frames)
            target, counts = trajectory_target(placed, *geometry, self, cut.stride)
        else:
            frames, places = frames_to_read(shown.first_frames, shown.num_frames, self, cut.stride)
            placed = shown.tracks(frames)
            target, counts = fixed_target(placed, places, *geometry, self, cut.stride)
        return {"target": target, "counts": counts}

    def of_batch(
        self, batch: dict[str, Tensor], num_masked: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        return batch["target"], loss_weights(batch["counts"], self, cut.stride)


def loss_weights(counts: Tensor, config: TrajectoryConfig, stride: int) -> Tensor:
    """The weight in the loss of every number of targets.

    Of tracks displacements and HOG count alike, whatever their numbers; where all steps count the
    mean is 1.

    Args:
        counts: bool [B, M, K, S]; of histograms [B, M, 1, S].

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
