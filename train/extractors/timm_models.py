"""Any image model of timm, which is given each frame alone."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from shared.errors import InputError
from train.extractors.extractor import FrameExtractor, shape_of_frames
from train.weights.files import read_safetensors

CLASSIFIERS = ("head", "fc", "classifier")
"""Names of the classifiers of timm's models, whose weights are left out."""


class TimmExtractor(FrameExtractor):
    """Tokens are the patches of a transformer, or the places of the last map of a network."""

    def of_frames(self, frames: Tensor) -> Tensor:
        return patch_tokens(self.model, frames)


def patch_tokens(model: nn.Module, frames: Tensor) -> Tensor:
    """Frames [B, 3, S, S] -> tokens [B, n, D] of a model of timm, without class tokens."""
    found: Tensor = model.forward_features(frames)  # type: ignore[operator]
    if found.ndim == 3:
        return found[:, getattr(model, "num_prefix_tokens", 0) :]
    channels_last = found.shape[-1] == model.num_features and found.shape[1] != model.num_features
    return found.flatten(1, 2) if channels_last else found.flatten(2).transpose(1, 2)


def read_timm(name: str, weights: Path | None, seed: int, num_frames: int) -> TimmExtractor:
    """Build a model of timm, with the weights of a safetensors file or with random ones.

    Raises:
        InputError: timm has no such model, or the file is of another model.
    """
    if not timm.is_model(name):
        like = difflib.get_close_matches(name, timm.list_models(), 3)
        raise InputError(
            "unknown-name",
            f"timm has no model {name!r}; "
            + (f"like it are {', '.join(like)}" if like else "`timm.list_models()` lists them"),
        )
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False, num_classes=0)
    if weights is not None:
        tensors, _ = read_safetensors(weights)
        missing, further = model.load_state_dict(tensors, strict=False)
        others = [key for key in further if key.split(".")[0] not in CLASSIFIERS]
        if missing or others:
            raise InputError(
                "other-kind",
                f"{weights} does not hold the weights of {name}: {len(missing)} are missing and "
                f"{len(others)} are left over, such as {(missing + others)[0]}",
            )
    data: Any = model.pretrained_cfg
    side = data["input_size"][1]
    with torch.inference_mode():
        tokens = patch_tokens(model.eval(), torch.zeros(1, 3, side, side))
    _, count, width = tokens.shape
    shape = shape_of_frames(side, count, width, num_frames)
    return TimmExtractor(model, shape, data["mean"], data["std"])
