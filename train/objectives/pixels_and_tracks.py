"""The target of pixels and point tracks, each predicted by a decoder of its own (TrackMAE).

Vandeghen, Thoker, Van Droogenbroeck, Ghanem, "TrackMAE: Video Representation Learning via Track
Mask and Predict", CVPR 2026 (arXiv 2603.27268). Points start on a grid in the first input frame and
are followed through the clip. A token predicts how far the points that started at its position move
from the first frame of its tubelet to that of the next. The paper uses a learned tracker; here
these are the stored tracks of the flows shards, one chained to the next (train/clips/followed.py).
docs/methods.md compares the details with the public code.

Letters: B clips, N tokens of a clip, M decoded tokens, T' time steps, R x R patches, K points of a
patch, m = sqrt(K).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import InputError
from train.clips.followed import cell_centres, moved_points, paths_of_points
from train.clips.table import MotionNeeds
from train.clips.view_rules import least_side
from train.objectives.point_rules import check_square, refuse_time
from train.objectives.target import ClipCut, LossWords, ShownView, Target
from train.objectives.tracked_points import by_patch
from train.tables.nested import check_name, check_positive

if TYPE_CHECKING:
    from torch import Tensor

STARTS = ("clip", "tubelet")
SCALES = ("patch", "size", "none")


@dataclass(frozen=True)
class PixelsAndTracks(Target):
    """Normalised pixels, and the displacements of points from each time step to the next.

    The last time step, which has none after it, has the displacements of the step before. The loss
    is the mean over pixels plus `weight` times the mean over displacements. A token whose points
    are not all known has no displacements in the loss.
    """

    name = "pixels_and_tracks"
    needs_flows = True
    picture = "pixels"

    points: int = 4
    """Points of a patch (K), a square number."""
    upsample: bool = True
    """Whether only the centre of each patch is followed. The points of a patch are then
    interpolated between the centres of patches."""
    starts: str = "clip"
    """Where points start. clip: in the first input frame, so that a token predicts the point that
    started at its position, wherever it has gone. tubelet: in the first frame of each tubelet, so
    that a token predicts the points that lie in its patch."""
    scale: str = "patch"
    """How displacements are scaled. patch: the mean over the points of a patch is subtracted, and
    the result is divided by their standard deviation, for x and y apart. size: they are divided by
    their root mean square over the patch, and their mean stays. none: they are in pixels of the
    view."""
    quiet: float = 0.1
    """Pixels of the view that are added to the divisor, so that the rounding of stored tracks stays
    small. Not used with scale none."""
    weight: float = 1.0
    """Weight of the displacements in the loss; that of the pixels is 1."""
    stabilised: bool | None = None
    """Whether tracks must be without camera motion (flows made with --stabilise) or with it.
    Without a value both are accepted."""

    def __post_init__(self) -> None:
        check_square(self.points)
        check_name("starts", self.starts, STARTS)
        check_name("scale", self.scale, SCALES)
        if self.points == 1 and (self.upsample or self.scale == "patch"):
            raise InputError(
                "option-conflict",
                "points is 1, but upsample and the scale patch need several points in a patch; set "
                "upsample to false and scale to size or none",
            )
        check_positive(self, "quiet", "weight")

    @property
    def needs_order(self) -> bool:
        return True

    @property
    def words(self) -> LossWords:
        still = "that patches move as a whole" if self.scale == "patch" else "that nothing moves"
        return LossWords(
            "normalised pixels and point tracks",
            f"every patch's mean colour and {still}",
            "mean of each patch",
        )

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:
        refuse_time(flips)
        if cut.model.time_steps < 2:
            raise InputError(
                "out-of-range",
                f"num_frames is {cut.model.num_frames} and tubelet_size {cut.model.tubelet_size}; "
                "points move from one tubelet to the next, so at least 2 tubelets are needed",
            )

    def needed_motion(self, cut: ClipCut) -> MotionNeeds:
        across = self._followed_across(cut) / least_side(cut.crop)
        return MotionNeeds(
            track_length=1, track_points=math.floor(across), stabilised=self.stabilised
        )

    def _followed_across(self, cut: ClipCut) -> int:
        """Followed points along a side of the view."""
        return cut.model.grid * (1 if self.upsample else math.isqrt(self.points))

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        return cut.model.patch_dim, 2 * self.points

    def of_view(self, shown: ShownView, cut: ClipCut) -> dict[str, np.ndarray]:
        """target float32 [N, K * 2], by point and x, y; counts bool [N], whether all points of the
        token are known."""
        across, view, firsts = self._followed_across(cut), shown.view, shown.first_frames
        starts = cell_centres(view, (across, across))
        if self.starts == "clip":
            paths = paths_of_points(shown.tracks, firsts, starts, shown.source_size)
            moves = np.diff(paths, axis=0)  # [T' - 1, rows, columns, 2]
        else:
            places = np.repeat(starts[None], len(firsts) - 1, axis=0)
            ends = moved_points(shown.tracks, firsts[:-1], firsts[1:], places, shown.source_size)
            moves = ends - starts
        moves[np.diff(firsts) == 0] = np.nan  # between two copies of a frame nothing can move
        x1, y1, x2, y2 = view.crop
        height, width = view.size
        signs = np.where([view.flip_x, view.flip_y], -1.0, 1.0)
        moves = moves * signs * [width / (x2 - x1), height / (y2 - y1)]
        moves = np.concatenate([moves, moves[-1:]])
        per_side, grid = math.isqrt(self.points), (cut.model.grid, cut.model.grid)
        if self.upsample:
            moves = upsampled(moves, per_side)
        of_patches = by_patch(moves, grid, per_side)  # [N, K, 2]
        counts = np.isfinite(of_patches).all(axis=(1, 2))
        values = np.where(counts[:, None, None], of_patches, 0.0)
        target = self._scaled(values).reshape(len(values), -1).astype(np.float32)
        return {"target": target, "counts": counts}

    def _scaled(self, moves: np.ndarray) -> np.ndarray:
        """Displacements [N, K, 2] in pixels of the view, scaled."""
        if self.scale == "none":
            return moves
        if self.scale == "size":
            size = np.sqrt(np.square(moves).mean(axis=(1, 2), keepdims=True))
            return moves / (size + self.quiet)
        centred = moves - moves.mean(axis=1, keepdims=True)
        return centred / (moves.std(axis=1, ddof=1, keepdims=True) + self.quiet)

    def of_batch(
        self, batch: dict[str, Tensor], num_decoded: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        import torch

        from train.objectives.pixels import masked_targets, normalised_pixels

        pixels = normalised_pixels(batch["clips"], cut.model)
        pixels = masked_targets(pixels, batch.get("decoded", batch["mask"]), num_decoded)
        moves = batch["target"]
        # The loss is a mean over all numbers of a token; these weights make it the sum of the means
        # over its two parts.
        number = pixels.shape[2] + moves.shape[2]
        known = batch["counts"].unsqueeze(2).expand_as(moves).to(moves.dtype)
        weights = (
            torch.full_like(pixels, number / pixels.shape[2]),
            known * (self.weight * number / moves.shape[2]),
        )
        return torch.cat([pixels, moves], dim=2), torch.cat(weights, dim=2)


def upsampled(moves: np.ndarray, factor: int) -> np.ndarray:
    """Interpolate the points between those of a grid, with its corners kept.

    Args:
        moves: [T', R, Q, 2]; NaN where not known.
        factor: m, new points for each old one, along both axes.

    Returns:
        float64 [T', m * R, m * Q, 2]; NaN if a point with a share in it is not known.
    """
    down, across = (_between(side, factor) for side in moves.shape[1:3])
    known = np.isfinite(moves)
    filled = np.where(known, moves, 0.0)
    values = np.einsum("ar,trqx,bq->tabx", down, filled, across)
    missing = np.einsum("ar,trqx,bq->tabx", down > 0, ~known, across > 0)
    return np.where(missing, np.nan, values)


def _between(number: int, factor: int) -> np.ndarray:
    """Shares of `number` points in factor * number points from the first to the last."""
    places = np.linspace(0, number - 1, number * factor)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(number)), 0.0)
