"""V-JEPA 2 and Hiera from Hugging Face folders, by the code of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shared.errors import InputError
from train.extractors.extractor import (
    Extractor,
    FrameExtractor,
    VideoExtractor,
    shape_of_frames,
)
from train.network.model_config import ModelConfig

KINDS = ("vjepa2", "hiera")
"""`model_type` in config.json of the folders that are read."""


def read_huggingface(folder: Path, kind: str, num_frames: int) -> Extractor:
    """Read a model from a folder; nothing is downloaded, and only safetensors files are read.

    Args:
        kind: one of KINDS.
        num_frames: frames of a clip for an image model. V-JEPA 2 has its own number.

    Raises:
        InputError: transformers is not installed, or the folder is not readable.
    """
    try:
        import transformers
    except ImportError:
        raise InputError(
            "missing-package",
            f"{folder} holds a model of kind {kind}, which transformers computes, and that is not "
            "installed; run `.venv/bin/pip install transformers`",
        ) from None
    name = {"vjepa2": "VJEPA2Model", "hiera": "HieraModel"}[kind]
    kind_of_model: Any = getattr(transformers, name, None)
    if kind_of_model is None:
        raise InputError(
            "missing-package",
            f"transformers {transformers.__version__} has no {name}, which {folder} needs; run "
            "`.venv/bin/pip install --upgrade transformers`",
        )
    try:
        model: Any = kind_of_model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            "wrong-format", f"{folder} is not a whole {kind} folder: {first}"
        ) from None
    if kind == "vjepa2":
        return VideoExtractor(model, _shape_of_vjepa2(model.config))
    side = int(model.config.image_size[0])
    with torch.inference_mode():
        tokens = model(torch.zeros(1, 3, side, side)).last_hidden_state
    _, count, width = tokens.shape
    return FrameExtractor(model, shape_of_frames(side, count, width, num_frames))


def _shape_of_vjepa2(config: Any) -> ModelConfig:
    return ModelConfig(
        image_size=config.crop_size,
        num_frames=config.frames_per_clip,
        patch_size=config.patch_size,
        tubelet_size=config.tubelet_size,
        width=config.hidden_size,
        num_heads=config.num_attention_heads,
    )
