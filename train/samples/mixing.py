"""Mixup and cutmix of clips with their labels and motion boxes."""

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
    """Mixes clip i of a batch with clip B - 1 - i. All clips have the same share.

    Motion boxes are mixed like the pixels, so that the cross-attention head is trained with the
    same augmentation as the mean head. Cutmix pastes a rectangle of the other clip into all frames:
    a token with its patch centre in the rectangle is inside if it is inside in the other clip.
    Mixup blends both clips: a token is inside if it is inside in one of them, because both motions
    are visible.

    Attributes:
        config: alphas and label smoothing. Without alphas, labels are smoothed and nothing is
        mixed. model: defines the patch grid. num_classes: number of classes of each kind of label.
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
            labels: int64 [B] for each kind.
            rng: draws the method, the share and the rectangle.

        Returns:
            clips, inside, and for each kind targets float [B, classes]; each row sums to 1.
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
        """Draw the share of the own clip, and whether the other clip is pasted in (cutmix)."""
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
