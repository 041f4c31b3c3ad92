"""The target of motion: trajectories of tracked points (MME), or motion at fixed positions.

train/objectives/tracked_points.py and train/objectives/fixed_places.py compute the targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import InputError
from shared.tracks import HogLayout
from train.clips.table import MotionNeeds
from train.clips.view_rules import least_side
from train.objectives.fixed_places import fixed_target, frames_to_read
from train.objectives.point_rules import refuse_time
from train.objectives.target import ClipCut, LossWords, ShownView, Target
from train.objectives.tracked_points import trajectory_target
from train.objectives.trajectory_config import TRACKS, TrajectoryConfig

if TYPE_CHECKING:
    from torch import Tensor

_STILL, _EVEN = ("that nothing moves", "rest"), ("even histograms", "even histograms")
_EMPTY = ("empty histograms", "empty histograms")
_ALIKE = ("that patches move as a whole", "shared motion")
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
        parts = [self.kind]
        if self.kind == TRACKS:
            parts = [part for part in ("positions", "shape") if getattr(self, part)]
        words = [_WORDS[part] for part in [*parts, *(["hog"] if self.fixed_hog else [])]]
        # Zeros mean something else with the mean of displacements off, or that of histograms on.
        changed = {_STILL[0]: _ALIKE} if self.centred else {}
        changed |= {} if self.normalise else {_EVEN[0]: _EMPTY}
        words = [
            LossWords(each.target, *changed.get(each.zeros, (each.zeros, each.level)))
            for each in words
        ]
        joined = (" and ".join(getattr(each, f.name) for each in words) for f in fields(LossWords))
        return LossWords(*joined)

    @property
    def needs_order(self) -> bool:
        return not self.interpolate

    @property
    def predicts_displacements(self) -> bool:
        """Whether the displacements of each point are predicted, normalised over a patch."""
        each_point = self.kind == TRACKS and self.positions and self.merge == "none"
        return each_point and self.normalise and not self.centred

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:
        refuse_time(flips)
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
            hog=self.hog_layout if self.needs_hog else None,
            stabilised=self.stabilised,
            track_window=cut.window if self._takes_windows else None,
        )

    @property
    def _takes_windows(self) -> bool:
        """Whether tracks from the tubelets of windows are enough. At fixed positions each frame
        needs its own, and only HOG of one cell of grey frames is stored with them."""
        plain = not self.needs_hog or self.hog_layout == HogLayout()
        return self.kind == TRACKS and not self.fixed_hog and plain

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        sizes = self.part_sizes(cut.stride)
        return sizes if self.decoders == 2 else (sum(sizes),)

    def of_view(self, shown: ShownView, cut: ClipCut) -> dict[str, np.ndarray]:
        """target float32 [N, D], counts bool [N, K, S]: whether a step is known; with HOG at fixed
        positions also hog_counts, the same for its points."""
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
        arrays = {"target": target, "counts": counts}
        if self.fixed_hog:
            frames, lengths, places = frames_to_read(ends, shown.num_frames)
            placed = shown.tracks(frames)
            hog, known = fixed_target(placed, lengths, places, *geometry, self.of_fixed_hog)
            arrays = {
                "target": np.concatenate([target, hog], axis=1),
                "counts": counts,
                "hog_counts": known,
            }
        return arrays

    def of_tokens(
        self, shown: ShownView, cut: ClipCut, tokens: np.ndarray
    ) -> dict[str, np.ndarray]:
        if self.kind != TRACKS or self.fixed_hog:
            return super().of_tokens(shown, cut, tokens)
        # A tube has the same positions at all time steps: tracks of the others are not decoded.
        grid = (cut.model.grid, cut.model.grid)
        times, places = np.divmod(tokens, grid[0] * grid[1])
        positions, rows = np.unique(places, return_inverse=True)
        ends = self.step_ends(shown.frames, cut.model.time_steps, cut.stride)
        target, counts = trajectory_target(
            shown.tracks(shown.first_frames), shown.view, shown.source_size, grid, self, ends,
            positions,
        )  # fmt: skip
        rows = times * len(positions) + rows
        if not np.array_equal(rows, np.arange(len(target))):
            target, counts = target[rows], counts[rows]
        return {"target": target, "counts": counts}

    def of_batch(
        self, batch: dict[str, Tensor], num_decoded: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        counts, of_hog = batch["counts"], batch.get("hog_counts")
        return batch["target"], loss_weights(counts, self, cut.stride, of_hog)


def loss_weights(
    counts: Tensor, config: TrajectoryConfig, stride: int, hog_counts: Tensor | None = None
) -> Tensor:
    """The weight of each number of the target in the loss.

    Motion and HOG have the same total weight, although their numbers differ; without `equal_parts`
    each number has the same. If all steps count, the mean weight is 1. Without `loss_mask` all
    steps count.

    Args:
        counts: bool [B, M, K, S]; [B, M, 1, S] for histograms and merged tracks.
        hog_counts: bool [B, M, K, S], of HOG at fixed positions.

    Returns:
        float32 [B, M, D].
    """
    import torch

    parts, channels = config.part_sizes(stride), config.part_channels
    share = sum(parts) / len(parts)
    known = [counts] * len(parts)
    if config.fixed_hog:
        assert hog_counts is not None
        known[-1] = hog_counts
    weights = []
    for number, each, some in zip(parts, channels, known, strict=True):
        counted = some if config.loss_mask else torch.ones_like(some)
        expanded = counted.unsqueeze(-1).expand(*some.shape, each)
        weights.append(expanded.flatten(2) * (share / number if config.equal_parts else 1.0))
    return torch.cat(weights, dim=2)
