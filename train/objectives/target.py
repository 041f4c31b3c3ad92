"""What a target is: what the decoder predicts of each hidden token, as one object.

A target is a frozen dataclass; its fields are its options in a recipe. To add one, write a class in
a file of its own and name it in `TARGETS` (train/objectives/registry.py). Functions that compute
with torch import it themselves, so that a mistake in a recipe is reported without waiting for it.

Letters: B clips, N tokens of a clip, M hidden tokens, D numbers of a token, T' time steps.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from shared.grid import View
from train.clips.table import MotionNeeds
from train.clips.tracks import PlacedTracks
from train.network.model_config import NUM_CHANNELS, ModelConfig
from train.tables.typed import Choice

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LossWords:
    """The loss of a target in words.

    The loss is a mean squared error. Beside it the loss of predicting zeros is logged
    (`mean_predictor_loss`): learning must fall below that.

    Attributes:
        target: what is predicted: "normalised pixels".
        zeros: what a prediction of zeros means: "every patch's mean colour".
        level: a short name for the loss of zeros, for charts and the progress bar.
    """

    target: str
    zeros: str
    level: str


@dataclass(frozen=True)
class ClipCut:
    """How a recipe cuts clips into tokens.

    Attributes:
        model: whose grid it is.
        stride: frames of the video between two given ones, 1 where that is not fixed.
        crop: which part of the frames is shown.
    """

    model: ModelConfig
    stride: int
    crop: Choice


@dataclass(frozen=True)
class ShownView:
    """A view of a clip, as a target may look at it.

    Attributes:
        first_frames: int64 [T'], frame of the clip that each tubelet begins with.
        num_frames: of the clip.
        view: crop and flips, in source pixels.
        source_size: (width, height) of the source in pixels.
        tracks: reads the tracks that start at frames int64 [K] of the clip.
        motion: reads the mean motion of each patch, float32 [T', rows, columns].
    """

    first_frames: np.ndarray
    num_frames: int
    view: View
    source_size: tuple[int, int]
    tracks: Callable[[np.ndarray], PlacedTracks]
    motion: Callable[[], np.ndarray]


class Target(ABC):
    """What the decoder predicts."""

    name: ClassVar[str]
    """As a recipe's `target` has it."""
    has_own_table: ClassVar[bool] = False
    """Whether options are in a table of the target's name, beside `target`, and not in `target`
    itself. Trajectories need one, as one of their options is called kind."""
    needs_flows: ClassVar[bool] = False
    """Whether flows shards are read; what of them is said by `needed_motion`."""
    predicts_visible: ClassVar[bool] = False
    """Whether visible tokens are predicted too. Of use where the target is not the input itself."""
    picture: ClassVar[str] = ""
    """What shows a prediction: pixels or tracks (train/pictures/); nothing by default."""

    @property
    @abstractmethod
    def words(self) -> LossWords:
        """The loss in words."""

    @abstractmethod
    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        """Numbers that are predicted for a token, by decoder; there are one or two decoders."""

    @abstractmethod
    def of_batch(
        self, batch: dict[str, Tensor], num_masked: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        """What is to be predicted of the hidden tokens of a batch on the device.

        Args:
            batch: "clips" float32 [B, 3, T, H, W] standardised, "mask" bool [B, N] (True = hidden),
                and what `of_view` gave of the hidden tokens, [B, M, ...].
            num_masked: M; asking the mask itself would make a GPU wait.

        Returns:
            target float32 [B, M, D], and weights of its numbers in the loss, alike (None: all 1).
        """

    def of_view(self, shown: ShownView, cut: ClipCut) -> dict[str, np.ndarray]:
        """What a reading process computes of a view, by name; arrays [N, ...], of all tokens."""
        return {}

    def needed_motion(self, cut: ClipCut) -> MotionNeeds | None:
        """What of the flows shards is read; None for nothing."""
        return None

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:  # noqa: B027 - may stay empty
        """Refuse a recipe that this target cannot be computed with.

        Raises:
            InputError: naming the option.
        """

    def to_tables(self) -> dict[str, Any]:
        """`target`, and the table of its name where it has its own, as a recipe has them."""
        assert dataclasses.is_dataclass(self)
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.has_own_table:
            return {"target": self.name, self.name: options}
        return {"target": {"kind": self.name, **options} if options else self.name}


class ClipTarget(Target):
    """A target that the model's own input gives. A target that is better predicted by 0 than by
    what is learned is of no use: `mean_predictor_loss` is the loss of zeros."""

    @abstractmethod
    def of_clips(self, clips: Tensor, model: ModelConfig) -> Tensor:
        """Standardised clips [B, 3, T, H, W] -> what is predicted of all tokens, float32
        [B, N, D]."""

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        import torch

        side, num_frames = cut.model.image_size, cut.model.num_frames
        clip = torch.zeros(1, NUM_CHANNELS, num_frames, side, side)
        return (self.of_clips(clip, cut.model).shape[-1],)

    def of_batch(
        self, batch: dict[str, Tensor], num_masked: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        from train.objectives.pixels import masked_targets

        target = self.of_clips(batch["clips"], cut.model)
        return masked_targets(target, batch["mask"], num_masked), None


@dataclass(frozen=True)
class NormalisedPixels(ClipTarget):
    """The pixels of each tubelet, normalised by itself: what VideoMAE and MOFO predict.

    See `train.objectives.pixels.normalised_pixels`.
    """

    name = "normalised_pixels"
    picture = "pixels"
    words = LossWords("normalised pixels", "every patch's mean colour", "mean of each patch")

    def of_clips(self, clips: Tensor, model: ModelConfig) -> Tensor:
        from train.objectives.pixels import normalised_pixels

        return normalised_pixels(clips, model)

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        return (cut.model.patch_dim,)
