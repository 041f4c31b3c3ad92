"""Checkpoints of VideoMAE and VideoMAE V2 (.pth): reading them safely, names, configuration."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import InputError
from train.network.model_config import NUM_CHANNELS, ModelConfig

# A state dict does not say into how many heads its attention is cut. Their code's pairs:
ENCODER_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}  # S, B, L, H, g
DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}

_STATE_KEYS = ("model", "module")  # what VideoMAE and DeepSpeed call the weights
_ENCODER_PARTS = ("patch_embed.", "blocks.", "norm.")


def read_pth(path: Path) -> dict[str, Tensor]:
    """The state dict of a .pth file, under its own names.

    Nothing but tensors and plain values is unpickled. The `argparse.Namespace` that VideoMAE
    stores beside its weights is such a plain value; it is not used.

    Raises:
        InputError: the file holds other objects, is damaged, or has no state dict.
    """
    if not path.is_file():
        raise InputError("missing-file", f"{path} does not exist")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            "unsafe-file",
            f"{path} is refused: it is no pickle of tensors and plain values only, and unpickling "
            f"anything else could run code ({reason}); ask its maker for safetensors",
        ) from error
    except Exception as error:  # the bytes of a damaged pickle can spell any error
        reason = str(error).split("\n")[0]
        raise InputError(
            "damaged-file", f"{path} is no intact PyTorch file ({type(error).__name__}: {reason})"
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


def from_videomae(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of VideoMAE; what is unknown keeps its name.

    Pretraining has `encoder.`, `decoder.`, as here; classifiers have no prefix; encoders taken
    out for other uses have `backbone.`.
    """
    return {_rename(key): tensor for key, tensor in theirs.items()}


def _rename(key: str) -> str:
    key = key.removeprefix("backbone.")
    if key.startswith(_ENCODER_PARTS):
        return f"encoder.{key}"
    if key.startswith("fc_norm."):
        return "head.norm." + key.removeprefix("fc_norm.")
    if key.startswith("head."):
        return "classifiers.label." + key.removeprefix("head.")
    return key


def infer_config(state: Mapping[str, Tensor], told: Mapping[str, Any]) -> ModelConfig:
    """The configuration that the shapes of a state dict (our names) speak of.

    Args:
        state: weights.
        told: fields that the weights do not speak of (image_size, num_frames, num_heads, ...);
            they go before what is read or assumed: 16 frames of 224 pixels, VideoMAE's heads.

    Raises:
        InputError: there is no video transformer in it, or its number of heads must be told.
    """
    kernel = state.get("encoder.patch_embed.proj.weight")
    if kernel is None or kernel.dim() != 5 or kernel.shape[1] != NUM_CHANNELS:
        raise InputError(
            "wrong-format",
            "the file holds no VideoMAE encoder (patch_embed.proj.weight of 5 dimensions and "
            f"{NUM_CHANNELS} channels); it begins with {', '.join(list(state)[:5])}",
        )
    width, _, tubelet_size, patch_size, _ = kernel.shape
    depth, mlp_ratio = _stack(state, "encoder", width)
    fields: dict[str, Any] = {
        "patch_size": patch_size,
        "tubelet_size": tubelet_size,
        "width": width,
        "depth": depth,
        "mlp_ratio": mlp_ratio,
        "num_heads": _heads("num_heads", width, ENCODER_HEADS, told),
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
            "decoder_heads": _heads("decoder_heads", decoder_width, DECODER_HEADS, told),
            "prediction_dim": None if output_dim == pixels else output_dim,
        }
    return ModelConfig.from_dict({**fields, **told})


def _stack(state: Mapping[str, Tensor], name: str, width: int) -> tuple[int, float]:
    """Number of blocks of the encoder or decoder, and the MLP's hidden width over the width."""
    depth = sum(key.startswith(f"{name}.blocks.") and key.endswith("norm1.weight") for key in state)
    first = state.get(f"{name}.blocks.0.mlp.fc1.weight")
    if first is None:
        raise InputError("wrong-format", f"the file holds no {name}.blocks.0.mlp.fc1.weight")
    return depth, first.shape[0] / width


def _heads(name: str, width: int, known: Mapping[int, int], told: Mapping[str, Any]) -> int:
    if name in told:
        return told[name]
    if width not in known:
        raise InputError(
            "missing-option",
            f"weights do not say their number of attention heads, and {width} channels are none of "
            f"VideoMAE's ({', '.join(map(str, known))}); tell {name}",
        )
    return known[width]
