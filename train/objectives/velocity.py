"""The target of velocities: how fast, and in which direction, each part of a patch moves.

Values are in pixels of the view per frame. The flow target of MME
(train/objectives/fixed_places.py) is normalised over each patch. If only a tenth of a clip moves,
most of its loss is the noise of the flow in patches at rest (docs/findings.md). This target is not
normalised. Instead, long vectors are shortened: a vector w becomes g(w) = scale * w / (1 + |w| /
softness). The length |g(w)| is predicted beside the two components, because a model learns that
something moves long before it learns the direction.

Letters: N tokens of a clip, T' time steps, d frames of a tubelet, K points of a patch, S steps of a
tubelet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from train.objectives.sampled_flow import SampledFlow
from train.objectives.target import ClipCut, LossWords, ShownView
from train.objectives.tracked_points import by_patch, nearest_starts, view_scale
from train.tables.nested import check_positive

if TYPE_CHECKING:
    from torch import Tensor

VALUES = 3  # x, y, length


@dataclass(frozen=True)
class Velocity(SampledFlow):
    """Velocities, averaged over the frames of a step."""

    name = "velocity"
    softness: float = 2.0
    """The length, in pixels per frame, at which a vector is halved."""
    scale: float = 6.0
    """Factor on all values. With 6 the loss of predicting rest is about 1 on the toy dataset."""
    shape: bool = False
    """Whether the histograms of oriented gradients of the patch are predicted too, with the same
    total weight as the velocities (train/objectives/orientations.py)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "softness", "scale")

    @property
    def words(self) -> LossWords:
        if self.shape:
            return LossWords("velocities and shape", "rest and even histograms", "rest")
        return LossWords("velocities", "that nothing moves", "rest")

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        return (sum(self._part_sizes(cut)),)

    def _part_sizes(self, cut: ClipCut) -> tuple[int, int]:
        """How many numbers of a token are velocities, and how many are histograms."""
        histograms = 0
        if self.shape:
            from train.objectives.orientations import BINS, cells_of

            histograms = BINS * cells_of(cut.model) ** 2
        return self.points * self.num_steps(cut) * VALUES, histograms

    def of_view(self, shown: ShownView, cut: ClipCut) -> dict[str, np.ndarray]:
        """target float32 [N, K * S * 3], by point, step and value; counts bool [N, K, S], whether
        the point lies in the frame and a next frame exists; with `shape` also token int64 [N], the
        number of the token."""
        depth, steps = cut.model.tubelet_size, self.num_steps(cut)
        # The input frames: those of a clip that is shorter than the window lie closer than the
        # stride. The tracks of the clip's last frame have no step.
        frames = shown.frames.reshape(-1, depth)
        placed = shown.tracks(frames.ravel())
        per_side, grid = math.isqrt(self.points), cut.model.grid
        across = (grid * per_side, grid * per_side)
        points, within = nearest_starts(placed.grid, shown.view, shown.source_size, across)
        tracks = placed.tracks.at(points.ravel(), hog=False)
        vectors = tracks.displacements[:, :, 0].reshape(len(tracks.num_steps), *across, 2)
        vectors = vectors * view_scale(placed.size, shown.source_size, shown.view)
        known = (tracks.num_steps > 0).reshape(-1, *across) & within

        def by_step(values: np.ndarray) -> np.ndarray:
            # [T' * d, rows, columns, ...] -> sums over the frames of a step [N, K, S, ...]
            shape = (len(frames), steps, depth // steps, *values.shape[1:])
            summed = np.moveaxis(values.reshape(shape).sum(axis=2), 1, 3)
            return by_patch(summed, (grid, grid), per_side)

        number = by_step(known)
        mean = by_step(vectors * known[..., None]) / np.maximum(number, 1)[..., None]
        length = np.linalg.norm(mean, axis=-1, keepdims=True)
        soft = np.concatenate([mean, length], axis=-1) * (
            self.scale / (1.0 + length / self.softness)
        )
        target = soft.reshape(len(soft), -1).astype(np.float32)
        found = {"target": target, "counts": number > 0}
        return found | {"token": np.arange(len(target))} if self.shape else found

    def of_batch(
        self, batch: dict[str, Tensor], num_decoded: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        counts = batch["counts"].unsqueeze(-1)
        weight = counts.expand(*counts.shape[:-1], VALUES).flatten(2).float()
        if not self.shape:
            return batch["target"], weight
        import torch

        from train.network.autoencoder import take_tokens
        from train.objectives.orientations import oriented_gradients

        histograms = take_tokens(oriented_gradients(batch["clips"], cut.model), batch["token"])
        sizes = self._part_sizes(cut)
        half = sum(sizes) / 2
        weights = weight * (half / sizes[0]), torch.full_like(histograms, half / sizes[1])
        return torch.cat([batch["target"], histograms], dim=2), torch.cat(weights, dim=2)
