"""The target of motion descriptors: histograms of how the parts of a patch move and look.

Before networks, the best features for actions were histograms along dense trajectories (Wang et al.
2013): of optical flow (HOF), of motion boundaries (MBH), and of oriented gradients (HOG). This
target is those histograms, at fixed places. A token has c x c cells and S steps of time, with a
histogram of each kind for each of them.

Every histogram becomes the square root of its share (Arandjelovic and Zisserman 2012), over all
cells and steps of the token: how strong a motion is then counts less than what kind of motion it
is. In the shares of MBH a small constant is added to the sum, so that the noise of flow in a patch
at rest is not made as large as a motion.

Letters: N tokens of a clip, T' time steps, R x Q patches, K points of a patch, S steps of a
tubelet, C = c * c cells, U frames of the video in a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import InputError
from train.objectives.flow_histograms import DIRECTIONS, hof_sums, mbh_sums, motion_boundaries
from train.objectives.sampled_flow import SampledFlow
from train.objectives.target import ClipCut, LossWords, ShownView
from train.objectives.tracked_points import nearest_starts, view_scale
from train.tables.nested import check_positive

if TYPE_CHECKING:
    from torch import Tensor

HOF_BINS = DIRECTIONS + 1
MBH_BINS = 2 * DIRECTIONS


@dataclass(frozen=True)
class Descriptors(SampledFlow):
    """HOF and MBH that the workers compute from the tracks of the flows shards, and HOG of the
    input frames. The points of a cell vote in its histograms, and all frames of the video from one
    step to the next."""

    name = "descriptors"
    points: int = 16
    """Points of a patch (K), a square number that `cells` divides along a side."""
    cells: int = 2
    """Cells along the side of a patch (c)."""
    still: float = 0.3
    """Flow that is shorter, in pixels of the view per frame, counts as still in HOF."""
    quiet: float = 0.002
    """What is added to the mean change of flow of a patch, in pixels per pixel and frame, before
    MBH is divided by it."""
    shape: bool = True
    """Whether HOG of the patch are predicted too."""
    shape_share: float = 0.25
    """Share of HOG in the weight of the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        side = math.isqrt(self.points)
        if self.cells < 1 or side % self.cells:
            raise InputError(
                "out-of-range",
                f"cells is {self.cells}; it must divide the {side} points along a side of a patch",
            )
        check_positive(self, "still", "quiet")
        if not 0.0 < self.shape_share < 1.0:
            raise InputError(
                "out-of-range",
                f"shape_share is {self.shape_share}; it must be above 0 and below 1 (shape = false "
                "leaves HOG out)",
            )

    @property
    def words(self) -> LossWords:
        if self.shape:
            return LossWords("motion descriptors and shape", "rest and even histograms", "rest")
        return LossWords("motion descriptors", "that nothing moves", "rest")

    @property
    def needs_order(self) -> bool:
        return True

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:
        super().check(cut, flips)
        if self.shape and self.cells > cut.model.patch_size:
            raise InputError(
                "out-of-range",
                f"cells is {self.cells}, and a patch has {cut.model.patch_size} pixels a side",
            )

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        return (sum(self.part_sizes(cut)),)

    def part_sizes(self, cut: ClipCut) -> tuple[int, int, int]:
        """How many numbers of a token are HOF, MBH and HOG, in this order."""
        places, shape = self.cells**2 * self.num_steps(cut), 0
        if self.shape:
            from train.objectives.orientations import DIRECTIONS as GRADIENT_DIRECTIONS

            shape = GRADIENT_DIRECTIONS * places
        return HOF_BINS * places, MBH_BINS * places, shape

    def of_view(self, shown: ShownView, cut: ClipCut) -> dict[str, np.ndarray]:
        """target float32 [N, C * S * 25]: HOF by cell, step and bin (still is the last one), minus
        the histogram of rest; then MBH by cell, step, component and direction. counts bool [N, C *
        S * 25], whether a point of the cell has a known motion. With `shape` also token int64 [N],
        the number of the token."""
        begins, ends = self._steps_of(shown, cut)
        frames = np.arange(begins[0], ends[-1])
        placed = shown.tracks(frames)
        per_side, grid = math.isqrt(self.points), cut.model.grid
        points, within = nearest_starts(
            placed.grid, shown.view, shown.source_size, (grid * per_side, grid * per_side)
        )
        tracks = placed.tracks.at(np.arange(math.prod(placed.grid)), hog=False)
        moves, known = tracks.displacements[:, :, 0], tracks.num_steps > 0
        scale = view_scale(placed.size, shown.source_size, shown.view)
        changes, whole = motion_boundaries(moves, known, points, placed.grid, placed.size, scale)
        cells = self._cells_of_points(grid)
        of_frame = cells.max() + 1
        places = np.arange(len(frames))[:, None, None] * of_frame + cells

        def histograms(
            sums: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
            values: np.ndarray,
            are_known: np.ndarray,
        ) -> tuple[np.ndarray, np.ndarray]:
            # Values [U, rows, columns, ...] of points -> mean votes over the points of a cell and
            # the frames of a step [N, C, S, bins], and bool [N, C, S, 1].
            voting = places[are_known]
            votes = sums(values[are_known], voting, len(frames) * of_frame)
            number = np.bincount(voting, minlength=len(frames) * of_frame)
            by_frame = np.column_stack([votes, number]).reshape(len(frames), of_frame, -1)
            by_step = np.stack([by_frame[begin - frames[0] : end - frames[0]].sum(axis=0)
                                for begin, end in zip(begins, ends, strict=True)])  # fmt: skip
            by_token = self._by_token(by_step, cut)
            total, number = by_token[..., :-1], by_token[..., -1:]
            return total / np.maximum(number, 1), number > 0

        hof, hof_counts = histograms(
            partial(hof_sums, still=self.still),
            moves[:, points] * scale,
            known[:, points] & within,
        )
        mbh, mbh_counts = histograms(mbh_sums, changes, whole & within)
        # The square roots of the shares of a token have a mean square of 1 over all known bins,
        # that of MBH less where little changes.
        number = np.maximum(hof_counts.sum(axis=(1, 2, 3), keepdims=True), 1)
        total = hof.sum(axis=(1, 2, 3), keepdims=True)
        shares = np.sqrt(hof / np.maximum(total, 1e-6) * number * HOF_BINS)
        shares[..., -1] -= math.sqrt(HOF_BINS) * hof_counts[..., 0]  # what a patch at rest has
        number = np.maximum(mbh_counts.sum(axis=(1, 2, 3), keepdims=True), 1)
        total = mbh.sum(axis=(1, 2, 3), keepdims=True) + self.quiet * number
        roots = np.sqrt(mbh / total * number * MBH_BINS)
        values = [shares, roots]
        counts = [np.broadcast_to(each, part.shape)
                  for each, part in zip((hof_counts, mbh_counts), values, strict=True)]  # fmt: skip
        target, are_known = (np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
                             for parts in (values, counts))  # fmt: skip
        found = {"target": target.astype(np.float32), "counts": are_known}
        return found | {"token": np.arange(len(target))} if self.shape else found

    def _steps_of(self, shown: ShownView, cut: ClipCut) -> tuple[np.ndarray, np.ndarray]:
        """The frames of the clip at which each step begins and ends, int64 [T' * S].

        A step has all frames of the video up to the next step, and the last one ends one gap
        between input frames after the last of them. The input frames of a clip that is shorter than
        the window lie closer than the stride, or repeat: a step has at least one frame.
        """
        length = cut.model.tubelet_size // self.num_steps(cut)
        begins = shown.frames[::length]
        gap = max(1, int(shown.frames[-1] - shown.frames[-2])) if len(shown.frames) > 1 else 1
        ends = np.append(begins[1:], min(shown.frames[-1] + gap, shown.num_frames))
        return begins, np.maximum(ends, begins + 1)

    def _cells_of_points(self, grid: int) -> np.ndarray:
        """int64 [rows, columns]: the cell of each point, 0 to R * Q * C - 1, patch by patch."""
        along = np.arange(grid * self.cells).repeat(math.isqrt(self.points) // self.cells)
        patch, cell = np.divmod(along, self.cells)
        patches = patch[:, None] * grid + patch
        within: np.ndarray = cell[:, None] * self.cells + cell
        return patches * self.cells**2 + within

    def _by_token(self, values: np.ndarray, cut: ClipCut) -> np.ndarray:
        """[T' * S, R * Q * C, bins] -> [N, C, S, bins]."""
        steps, cells, bins = self.num_steps(cut), self.cells**2, values.shape[-1]
        axes = values.reshape(-1, steps, cut.model.grid**2, cells, bins)  # T', S, R * Q, C, bins
        return np.moveaxis(axes, 1, 3).reshape(-1, cells, steps, bins)

    def of_batch(
        self, batch: dict[str, Tensor], num_decoded: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        weight = batch["counts"].float()
        if not self.shape:
            return batch["target"], weight
        import torch

        from train.network.autoencoder import take_tokens
        from train.objectives.orientations import gradient_shares

        shapes = gradient_shares(batch["clips"], cut.model, self.cells, self.num_steps(cut))
        histograms = take_tokens(shapes, batch["token"])
        *of_motion, shape = self.part_sizes(cut)
        motion = sum(of_motion)
        total = motion + shape
        weights = (
            weight * ((1 - self.shape_share) * total / motion),
            torch.full_like(histograms, self.shape_share * total / shape),
        )
        return torch.cat([batch["target"], histograms], dim=2), torch.cat(weights, dim=2)
