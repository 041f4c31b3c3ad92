"""Reads checkpoints of VideoMAE and VideoMAE V2 (.pth): safely, with names and configuration."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import InputError
from train.network.model_config import NUM_CHANNELS, ModelConfig

# A state dict does not contain the number of attention heads. VideoMAE's code has these pairs:
ENCODER_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}  # S, B, L, H, g
DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}

# Names of the weights in files of VideoMAE, DeepSpeed, and training frameworks.
_STATE_KEYS = ("model", "module", "state_dict", "model_state_dict")
_OBJECT = re.compile(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)")  # what PyTorch refuses
_ENCODER_PARTS = ("patch_embed.", "blocks.", "norm.")


def read_pth(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a .pth file, with its own names.

    Only tensors and plain values are unpickled. The `argparse.Namespace` that VideoMAE stores
    beside the weights is such a plain value; it is not used.

    Raises:
        InputError: the file holds other objects, is damaged, or has no state dict.
    """
    if not path.is_file():
        raise InputError("missing-file", f"{path} does not exist")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "unsafe-file",
            f"{path} is refused: it is not a pickle of only tensors and plain values, and "
            f"unpickling anything else could run code ({_refused(str(error))}); ask its author for "
            "safetensors",
        ) from error
    except Exception as error:  # a damaged pickle can raise any error
        reason = str(error).split("\n")[0]
        raise InputError(
            "damaged-file",
            f"{path} is not an intact PyTorch file ({type(error).__name__}: {reason})",
        ) from error
    found = content if isinstance(content, Mapping) else {}
    state = next((found[key] for key in _STATE_KEYS if key in found), found)
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        described = ", ".join(map(str, found)) if found else type(content).__name__
        raise InputError(
            "wrong-format",
            f"{path} holds no weights under {' or '.join(map(repr, _STATE_KEYS))}; "
            f"found: {described or 'nothing'}",
        )
    return dict(state)


def _refused(reason: str) -> str:
    """The object that PyTorch refuses to unpickle; its message begins with advice to do it."""
    if match := _OBJECT.search(reason):
        return f"it holds {match[1] or match[2]}"
    return reason.rpartition("WeightsUnpickler error: ")[2].split("\n")[0]


def from_videomae(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of VideoMAE, after `plain_names`; unknown names do not change.

    Pretraining has the prefixes `encoder.` and `decoder.` of this project. Classifiers and encoders
    have no prefix.
    """
    return {_rename(key): tensor for key, tensor in theirs.items()}


def _rename(key: str) -> str:
    if key.startswith(_ENCODER_PARTS):
        return f"encoder.{key}"
    if key.startswith("fc_norm."):
        return "head.norm." + key.removeprefix("fc_norm.")
    if key.startswith("head."):
        return "classifiers.label." + key.removeprefix("head.")
    return key


def infer_config(
    state: Mapping[str, Tensor], overrides: Mapping[str, Any], source: str
) -> ModelConfig:
    """Infer the configuration from the shapes of a state dict with the names of this project.

    Args:
        state: weights.
        overrides: fields that the weights do not contain (image_size, num_frames, num_heads, ...).
            They replace the defaults: 16 frames of 224 pixels, and the heads of VideoMAE.
        source: the file, for messages.

    Raises:
        InputError: there is no video transformer, or its number of heads must be given.
    """
    kernel = state.get("encoder.patch_embed.proj.weight")
    if kernel is None or kernel.dim() != 5 or kernel.shape[1] != NUM_CHANNELS:
        raise InputError(
            "wrong-format",
            f"{source} holds no VideoMAE encoder, which has patch_embed.proj.weight with 5 "
            f"dimensions and {NUM_CHANNELS} channels; the file starts with "
            f"{', '.join(list(state)[:5])}",
        )
    width, _, tubelet_size, patch_size, _ = kernel.shape
    depth, mlp_ratio = _stack(state, "encoder", width)
    fields: dict[str, Any] = {
        "patch_size": patch_size,
        "tubelet_size": tubelet_size,
        "width": width,
        "depth": depth,
        "mlp_ratio": mlp_ratio,
        "num_heads": _heads("num_heads", width, ENCODER_HEADS, overrides),
    }
    head = state.get("decoder.head.weight")
    if head is not None:
        output_dim, decoder_width = head.shape
        depth, mlp_ratio = _stack(state, "decoder", decoder_width)
        pixels = tubelet_size * patch_size**2 * NUM_CHANNELS
        fields |= {
            "decoder_width": decoder_width,
            "decoder_depth": depth,
            "decoder_mlp_ratio": mlp_ratio,
            "decoder_heads": _heads("decoder_heads", decoder_width, DECODER_HEADS, overrides),
            "prediction_dim": None if output_dim == pixels else output_dim,
        }
    return ModelConfig.from_dict({**fields, **overrides})


def _stack(state: Mapping[str, Tensor], name: str, width: int) -> tuple[int, float]:
    """Number of blocks of encoder or decoder, and the ratio of MLP width to width."""
    depth = sum(key.startswith(f"{name}.blocks.") and key.endswith("norm1.weight") for key in state)
    first = state.get(f"{name}.blocks.0.mlp.fc1.weight")
    if first is None:
        raise InputError(
            "wrong-format",
            f"the file holds no {name}.blocks.0.mlp.fc1.weight; give a file of VideoMAE weights",
        )
    return depth, first.shape[0] / width


def _heads(name: str, width: int, known: Mapping[int, int], overrides: Mapping[str, Any]) -> int:
    if name in overrides:
        return overrides[name]
    if width not in known:
        raise InputError(
            "missing-option",
            f"the weights do not contain the number of attention heads, and {width} channels is "
            f"not a width of VideoMAE ({', '.join(map(str, known))}); give --set {name}=...",
        )
    return known[width]
