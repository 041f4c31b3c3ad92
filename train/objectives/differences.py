"""The target of pixels and frame differences, each predicted by a decoder of its own.

MotionMAE (Yang et al. 2022, arXiv 2210.04154) and MAM2 (Song et al. 2022, arXiv 2210.05234) predict
what a patch looks like and how it changes from frame to frame. MAM2 has a decoder for each of the
two; its appearance target are codes of a VQGAN, for which normalised pixels stand here, as in
MotionMAE. Differences need no flow and no other shards.

Letters: B clips, T frames, N tokens, C = 3 channels, P pixels of a tubelet and channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import InputError
from train.network.model_config import ModelConfig
from train.objectives.target import ClipCut, ClipTarget, LossWords
from train.tables.nested import check_name, check_positive

if TYPE_CHECKING:
    from torch import Tensor

SCALES = ("clip", "patch", "none")
QUIET = 0.01  # in units of 0..1, added to the root mean square of differences: noise stays small


@dataclass(frozen=True)
class PixelsAndDifferences(ClipTarget):
    """Normalised pixels, and the differences of frames in all three channels.

    A difference is a frame minus the frame `gap` before it. For the first frames of a clip, which
    have none before them, it is the frame `gap` after them minus the frame.
    """

    name = "pixels_and_differences"
    picture = "pixels"
    words = LossWords(
        "normalised pixels and frame differences",
        "every patch's mean colour and that nothing changes",
        "mean of each patch, no change",
    )

    gap: int = 1
    """Input frames from one frame of a difference to the other."""
    scale: str = "clip"
    """What differences are divided by: the root mean square of the differences of the whole clip
    (clip), that of the tubelet and channel (patch), or nothing (none). With patch the noise of
    patches at rest becomes as large as motion."""
    decoders: int = 2
    """With 2, pixels and differences each have a decoder of the same size. With 1 they share it."""
    weight: float = 1.0
    """Weight of the differences in the loss, relative to the pixels."""

    def __post_init__(self) -> None:
        check_name("scale", self.scale, SCALES)
        if self.gap < 1:
            raise InputError("out-of-range", f"gap is {self.gap}; it must be at least 1")
        if self.decoders not in (1, 2):
            raise InputError("out-of-range", f"decoders is {self.decoders}; it must be 1 or 2")
        check_positive(self, "weight")

    def check(self, cut: ClipCut, flips: tuple[str, ...]) -> None:
        most = cut.model.num_frames // 2
        if self.gap > most:
            raise InputError(
                "out-of-range",
                f"gap is {self.gap}; it must be at most {most}, half of the frames of a clip",
            )

    def num_values(self, cut: ClipCut) -> tuple[int, ...]:
        each = cut.model.patch_dim
        return (each, each) if self.decoders == 2 else (2 * each,)

    def of_clips(self, clips: Tensor, model: ModelConfig) -> Tensor:
        """float32 [B, N, 2 * patch_dim]: normalised pixels, then differences in the same order."""
        import torch

        from train.objectives.pixels import normalised_pixels

        return torch.cat([normalised_pixels(clips, model), self.differences(clips, model)], dim=2)

    def of_batch(
        self, batch: dict[str, Tensor], num_decoded: int, cut: ClipCut
    ) -> tuple[Tensor, Tensor | None]:
        import torch

        target, _ = super().of_batch(batch, num_decoded, cut)
        if self.weight == 1.0:
            return target, None
        # The weights average 1, so that the loss has the same scale for each of them.
        parts = torch.tensor([1.0, self.weight]) * (2 / (1 + self.weight))
        each = parts.repeat_interleave(cut.model.patch_dim)
        return target, each.to(target.device, non_blocking=True).expand_as(target)

    def differences(self, clips: Tensor, model: ModelConfig) -> Tensor:
        """Scaled differences float32 [B, N, patch_dim] of standardised clips [B, 3, T, H, W]."""
        import torch

        from train.network.autoencoder import split_tubelets
        from train.objectives.pixels import unstandardise

        pixels = unstandardise(clips.float())  # 0..1
        moved = pixels[:, :, self.gap :] - pixels[:, :, : -self.gap]
        differences = torch.cat([moved[:, :, : self.gap], moved], dim=2)
        tubelets = split_tubelets(differences, model)  # [B, N, C, P]
        if self.scale != "none":
            over = (1, 2, 3) if self.scale == "clip" else (3,)
            mean_square = tubelets.square().mean(dim=over, keepdim=True)
            tubelets = tubelets / (mean_square.sqrt() + QUIET)
        return tubelets.transpose(2, 3).flatten(2)
