"""Mixup and cutmix of clips, their labels and their motion boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from timm.data.mixup import cutmix_bbox_and_lam, mixup_target
from torch import Tensor

from shared.grid import positions_inside
from train.clips.augment import seeded_globals
from train.network.model_config import ModelConfig
from train.options.config import AugmentConfig


@dataclass(frozen=True)
class ClipMixer:
    """Mixes each clip of a batch with its mirror image in the batch's order, all by one share.

    Motion boxes are mixed as the pixels are, so that the cross-attention head can be trained with
    the same augmentation as the mean head. Cutmix pastes a rectangle through all frames: the tokens
    whose patch centre lies in it are inside where the pasted clip's are. Mixup shows both clips
    everywhere: a token is inside where either's is, since both motions are there to be seen.

    Attributes:
        config: alphas and label smoothing; without alphas labels are smoothed and nothing is mixed.
        model: whose patch grid it is.
        num_classes: by kind of label.
    """

    config: AugmentConfig
    model: ModelConfig
    num_classes: Mapping[str, int]

    def __call__(
        self,
        clips: Tensor,
        inside: Tensor,
        labels: Mapping[str, Tensor],
        rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Mix a batch.

        Args:
            clips: float [B, 3, T, H, W].
            inside: bool [B, N].
            labels: int64 [B] by kind.
            rng: decides method, share and place.

        Returns:
            clips, inside, and targets float [B, classes] by kind, whose rows add up to 1.
        """
        share, cuts = self._draw(rng)
        if cuts:
            clips, inside, share = self._cutmix(clips, inside, share, rng)
        elif share < 1.0:
            clips = torch.lerp(clips.flip(0), clips, share)
            inside = inside | inside.flip(0)
        targets = {
            kind: mixup_target(values, self.num_classes[kind], share, self.config.label_smoothing)
            for kind, values in labels.items()
        }
        return clips, inside, targets

    def _draw(self, rng: np.random.Generator) -> tuple[float, bool]:
        """The share that stays of each clip, and whether the rest is pasted in (cutmix)."""
        mixup, cutmix = self.config.mixup_alpha, self.config.cutmix_alpha
        cuts = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
        alpha = cutmix if cuts else mixup
        return (float(rng.beta(alpha, alpha)) if alpha > 0 else 1.0), cuts

    def _cutmix(
        self, clips: Tensor, inside: Tensor, share: float, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, float]:
        with seeded_globals(rng):
            (top, bottom, left, right), share = cutmix_bbox_and_lam(clips.shape, share)
        top, bottom, left, right = int(top), int(bottom), int(left), int(right)
        mixed = clips.clone()
        mixed[..., top:bottom, left:right] = clips.flip(0)[..., top:bottom, left:right]
        size = (self.model.image_size, self.model.image_size)
        box = np.array([left, top, right, bottom], dtype=np.float32)
        pasted = torch.from_numpy(positions_inside(box, size, self.model.patch_size).ravel())
        pasted = pasted.repeat(self.model.time_steps).to(inside.device, non_blocking=True)
        return mixed, torch.where(pasted, inside.flip(0), inside), float(share)
