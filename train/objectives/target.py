"""The base class of targets. A target is what the decoder predicts for each decoded token.

A target is a frozen dataclass; its fields are its options in a recipe. To add a target, write a
class in a new file and add it to `TARGETS` (train/objectives/registry.py). Functions that use torch
import it themselves, so that a mistake in a recipe is reported without the seconds that torch
needs.

Letters: B clips, N tokens of a clip, M decoded tokens (all masked ones, or the share that a decoder
mask chooses), D numbers of a token, T' time steps.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from shared.grid import View
from shared.track_window import TrackWindow
from train.clips.table import MotionNeeds
from train.clips.tracks import PlacedTracks
from train.network.model_config import NUM_CHANNELS, ModelConfig
from train.tables.typed import Choice

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LossWords:
    """The loss of a target in words.

    The loss is a mean squared error. The loss of predicting zeros is logged beside it
    (`mean_predictor_loss`). A model that learns has a lower loss.

    Attributes:
        target: what is predicted, such as "normalised pixels".
        zeros: the meaning of a prediction of zeros, such as "every patch's mean colour".
        level: a short name for the loss of zeros, for charts and the progress bar.
    """

    target: str
    zeros: str
    level: str


@dataclass(frozen=True)
class ClipCut:
    """How a recipe cuts clips into tokens.

    Attributes:
        model: defines the patch grid and the tubelets.
        stride: distance in frames of the video between two input frames; 1 if it is not fixed.
        crop: the crop rule.
        window: the windows, if the tubelets of all clips begin at the same distances; otherwise
            None.
    """

    model: ModelConfig
    stride: int
    crop: Choice
    window: TrackWindow | None = None


@dataclass(frozen=True)
class ShownView:
    """A view of a clip in the form that a target gets.

    Attributes:
        frames: int64 [T], the input frames, as frames of the clip.
        first_frames: int64 [T'], the first frame of each tubelet.
        num_frames: number of frames of the clip.
        view: crop and flips, in source pixels.
        source_size: (width, height) of the source in pixels.
        tracks: reads the tracks that start at frames int64 [K] of the clip.
        motion: reads the mean motion of each patch, float32 [T', rows, columns].
    """

    frames: np.ndarray
    first_frames: np.ndarray
    num_frames: int
    view: View
    source_size: tuple[int, int]
    tracks: Callable[[np.ndarray], PlacedTracks]
    motion: Callable[[], np.ndarray]


class Target(ABC):
    """What the decoder predicts."""

    name: ClassVar[str]
    """The name in a recipe: `target = "name"`."""
    has_own_table: ClassVar[bool] = False
    """Whether the options have a table with the name of the target, beside `target`, instead of
    being part of `target`. Trajectories need it because they have an option `kind`."""
    needs_flows: ClassVar[bool] = False
    """Whether the target reads flows shards; `needed_motion` has the details."""
    predicts_visible: ClassVar[bool] = False
    """Whether visible tokens are predicted too. This is useful if the target is not the input."""
    picture: ClassVar[str] = ""
    """How train/pictures/ draws a prediction: pixels, tracks, or "" for no picture."""

    @property
    def needs_order(self) -> bool:
        """Whether input frames must be in the order of the video."""
        return False

    @property
    @abstractmethod
    def words(self) -> LossWords:
        """The loss in words."""

    @abstractmethod
    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        """How many numbers each decoder predicts for a token. There are one or two decoders."""

    @abstractmethod
    def of_batch(
        self, batch: dict[str, Tensor], num_decoded: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        """The target of the decoded tokens of a batch, computed on the device.

        Args:
            batch: "clips" float32 [B, 3, T, H, W], standardised; "mask" bool [B, N] (True =
                masked); "decoded" bool [B, N] if only some of these are decoded; and the results
                of `of_view` for the decoded tokens, [B, M, ...].
            num_decoded: M. Counting the mask would wait for the GPU.

        Returns:
            target float32 [B, M, D], and weights in the loss of the same shape (None: all 1).
        """

    def of_view(self, shown: ShownView, cut: ClipCut) -> dict[str, np.ndarray]:
        """Arrays [N, ...] by name that a worker computes for all tokens of a view."""
        return {}

    def of_tokens(
        self, shown: ShownView, cut: ClipCut, tokens: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The same arrays [P, ...] of the tokens int64 [P] alone.

        A target overrides it if it need not compute the others.
        """
        return {name: values[tokens] for name, values in self.of_view(shown, cut).items()}

    def needed_motion(self, cut: ClipCut) -> MotionNeeds | None:
        """The data that the target needs from the flows shards; None for none."""
        return None

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:  # noqa: B027 - may stay empty
        """Refuse a recipe that this target does not work with.

        Raises:
            InputError: the recipe has such an option; the message names it.
        """

    def to_tables(self) -> dict[str, Any]:
        """The target in the form of a recipe: `target`, and its own table if it has one."""
        assert dataclasses.is_dataclass(self)
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.has_own_table:
            return {"target": self.name, self.name: options}
        return {"target": {"kind": self.name, **options} if options else self.name}


class ClipTarget(Target):
    """A target that is computed from the input clips alone."""

    @abstractmethod
    def of_clips(self, clips: Tensor, model: ModelConfig) -> Tensor:
        """The target of all tokens, float32 [B, N, D], of standardised clips [B, 3, T, H, W]."""

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        import torch

        side, num_frames = cut.model.image_size, cut.model.num_frames
        clip = torch.zeros(1, NUM_CHANNELS, num_frames, side, side)
        return (self.of_clips(clip, cut.model).shape[-1],)

    def of_batch(
        self, batch: dict[str, Tensor], num_decoded: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        from train.objectives.pixels import masked_targets

        target = self.of_clips(batch["clips"], cut.model)
        decoded = batch.get("decoded", batch["mask"])
        return masked_targets(target, decoded, num_decoded), None


@dataclass(frozen=True)
class NormalisedPixels(ClipTarget):
    """The pixels of each tubelet, normalised per tubelet: the target of VideoMAE and MOFO.

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
