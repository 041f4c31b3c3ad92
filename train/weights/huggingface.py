"""Hugging Face VideoMAE: writes its folders, and converts parameter names and configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import InputError
from shared.files import write_atomically
from train.network.autoencoder import MaskedAutoencoder
from train.network.head import VideoClassifier
from train.network.model_config import NUM_CHANNELS, ModelConfig
from train.weights.files import safetensors_image
from train.weights.model_card import model_card, preprocessor_config
from train.weights.usage import Usage

# transformers always uses PyTorch's default for the decoder's last norm and for fc_norm, and not
# layer_norm_eps of the configuration.
FIXED_NORM_EPS = 1e-5
DEFAULT_EPS = {"layer_norm_eps": 1e-12, "head_norm_eps": FIXED_NORM_EPS}  # without a config.json
FILES = ("README.md", "preprocessor_config.json", "model.safetensors", "config.json")
OWN_KEY = "mofo"  # of config.json: how the model is used, as `Usage` has it
UNNAMED = re.compile(r"LABEL_\d+")

# Names of this project -> names of transformers, which has separate query, key and value matrices.
_OUTSIDE_BLOCKS = {
    "encoder.patch_embed.proj": "videomae.embeddings.patch_embeddings.projection",
    "encoder.norm": "videomae.layernorm",
    "encoder_to_decoder": "encoder_to_decoder",
    "mask_token": "mask_token",
    "decoder.norm": "decoder.norm",
    "decoder.head": "decoder.head",
    "head.norm": "fc_norm",
    "classifiers.label": "classifier",
}
_BLOCKS = {"encoder.blocks": "videomae.encoder.layer", "decoder.blocks": "decoder.decoder_layers"}
_INSIDE_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    # names of transformers 4, which transformers 5 reads too
    "attn.q_bias": "attention.attention.q_bias",
    "attn.v_bias": "attention.attention.v_bias",
}
_QKV = ("query", "key", "value")
_NEWER_NAMES = {".query.bias": ".q_bias", ".value.bias": ".v_bias"}  # transformers 5 to 4


def export_huggingface(
    folder: Path,
    model: MaskedAutoencoder | VideoClassifier,
    class_names: Iterable[str] | None = None,
    usage: Usage | None = None,
    facts: Sequence[str] = (),
) -> None:
    """Write a folder that `from_pretrained` and `pipeline` of transformers read.

    Args:
        folder: config.json, preprocessor_config.json, README.md (a model card) and
            model.safetensors are written into it.
        model: a masked autoencoder (VideoMAEForPreTraining), or a classifier with the mean head
            and one kind of label (VideoMAEForVideoClassification).
        class_names: names of the classes for id2label; None takes those of `usage`, or else gives
            LABEL_0, LABEL_1, ...
        usage: how the model is used.
        facts: further sentences for the model card.

    Raises:
        InputError: Hugging Face's VideoMAE does not support the model.
    """
    folder, usage = Path(folder), usage or Usage()
    if isinstance(model, VideoClassifier):
        if model.head.config.kind != "mean" or list(model.num_classes) != ["label"]:
            raise InputError(
                "not-supported",
                "Hugging Face's VideoMAE has only the head mean and one kind of label, and this "
                f"model has the head {model.head.config.kind} and {', '.join(model.num_classes)}; "
                "export to FILE.safetensors instead",
            )
        if class_names is None:
            class_names = usage.class_names.get("label")
        names = _names(class_names, model.num_classes["label"])
        architecture, config = "VideoMAEForVideoClassification", model.encoder.config
    else:
        architecture, config, names = "VideoMAEForPreTraining", model.config, None
    fields = huggingface_config(config, architecture, names)
    if kept := replace(usage, class_names={}).to_dict():
        fields[OWN_KEY] = kept
    image = safetensors_image(to_huggingface(model.state_dict()), {"format": "pt"})
    write_atomically(folder / "model.safetensors", image)
    card = model_card(config, usage, names, facts)
    write_atomically(folder / "README.md", card.encode())
    _write_json(folder / "preprocessor_config.json", preprocessor_config(config))
    _write_json(folder / "config.json", fields)  # last: a folder with it is complete


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def usage_of(fields: Mapping[str, Any], folder: Path) -> Usage:
    """What a config.json says about the use of a classifier.

    Raises:
        InputError: an entry is not as it must be.
    """
    usage = Usage.from_dict(fields.get(OWN_KEY) or {}, folder / "config.json")
    table = fields.get("id2label")
    if not isinstance(table, Mapping) or not table:
        return usage
    try:
        names = [str(table[str(number)]) for number in range(len(table))]
    except KeyError as error:
        raise InputError(
            "damaged-file", f"{folder / 'config.json'}: id2label has no class {error}"
        ) from None
    if all(UNNAMED.fullmatch(name) for name in names):  # names that nobody chose
        return usage
    return replace(usage, class_names={"label": names})


def hub_overrides(fields: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """The fields of ModelConfig in a config.json of VideoMAE V2 on the Hub; None for others.

    Its models come with code of their own (`trust_remote_code`), which is not needed here: the
    tensors have the names of VideoMAE's code, with the prefix `model.`.

    Raises:
        InputError: the model has something that this project does not have.
    """
    if not str(fields.get("model_type", "")).lower().startswith("videomaev2"):
        return None
    theirs = fields.get("model_config")
    if not isinstance(theirs, Mapping):
        raise InputError(
            "damaged-file", f"{folder / 'config.json'} has no model_config; download it again"
        )
    for name, allowed in (
        *(("in_chans", NUM_CHANNELS), ("cos_attn", False), ("use_learnable_pos_emb", False)),
        *(("qkv_bias", True), ("qk_scale", None)),
    ):
        if theirs.get(name, allowed) != allowed:
            raise InputError(
                "not-supported",
                f"{folder / 'config.json'}: {name} is {theirs[name]!r}; allowed: {allowed!r}",
            )
    names = {
        "num_frames": "num_frames",
        "num_heads": "num_heads",
        "layer_norm_eps": "layer_norm_eps",
    }
    found = {ours: theirs[name] for name, ours in names.items() if name in theirs}
    if "img_size" in theirs:
        found["image_size"] = _square(theirs, "img_size", 224)
    return found


def has_names_of(theirs: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the parameter names of transformers."""
    return any("embeddings.patch_embeddings.projection" in key for key in theirs)


def _names(class_names: Iterable[str] | None, count: int) -> list[str]:
    names = [f"LABEL_{i}" for i in range(count)] if class_names is None else list(class_names)
    if len(names) != count:
        raise InputError(
            "other-classes",
            f"there are {len(names)} class names, and the classifier has "
            f"{count} classes; give the classes.json of its dataset",
        )
    return names


def from_huggingface(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of transformers' VideoMAE models, after `plain_names`.

    Unknown names do not change.
    """
    theirs = {_older_name(key): tensor for key, tensor in theirs.items()}
    if not any(key.startswith("videomae.") for key in theirs):  # a bare VideoMAEModel
        theirs = {f"videomae.{key}": tensor for key, tensor in theirs.items()}
    outside = {there: here for here, there in _OUTSIDE_BLOCKS.items()}
    blocks = {there: here for here, there in _BLOCKS.items()}
    inside = {there: here for here, there in _INSIDE_BLOCK.items()}
    ours: dict[str, Tensor] = {}
    matrices: dict[str, dict[str, Tensor]] = {}
    for key, tensor in theirs.items():
        block, within = _split_block(key, blocks)
        if block is None:
            ours[_rename(key, outside)] = tensor
        elif match := re.fullmatch(r"attention\.attention\.(query|key|value)\.weight", within):
            matrices.setdefault(block, {})[match[1]] = tensor
        else:
            ours[f"{block}.{_rename(within, inside)}"] = tensor
    for block, parts in matrices.items():
        if len(parts) == len(_QKV):  # otherwise it is reported as missing
            ours[f"{block}.attn.qkv.weight"] = torch.cat([parts[name] for name in _QKV])
    return ours


def to_huggingface(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_huggingface`, in the names of transformers 4 (5 reads them too)."""
    theirs: dict[str, Tensor] = {}
    for key, tensor in ours.items():
        block, within = _split_block(key, _BLOCKS)
        if block is None:
            theirs[_rename(key, _OUTSIDE_BLOCKS)] = tensor
        elif within == "attn.qkv.weight":
            for name, part in zip(_QKV, tensor.chunk(3), strict=True):
                theirs[f"{block}.attention.attention.{name}.weight"] = part.clone()
        else:
            theirs[f"{block}.{_rename(within, _INSIDE_BLOCK)}"] = tensor
    return theirs


def model_config(theirs: Mapping[str, Any]) -> ModelConfig:
    """The configuration of this project from a config.json of VideoMAE.

    Raises:
        InputError: it is of another model, or needs something that this project does not have.
    """
    for name, allowed in (
        ("model_type", "videomae"),
        ("hidden_act", "gelu"),
        ("num_channels", NUM_CHANNELS),
        ("qkv_bias", True),
        ("qv_bias", True),
    ):
        if theirs.get(name, allowed) != allowed:
            raise InputError(
                "not-supported", f"config.json: {name} is {theirs[name]!r}; allowed: {allowed!r}"
            )
    width, decoder_width = theirs.get("hidden_size", 768), theirs.get("decoder_hidden_size", 384)
    return ModelConfig(
        image_size=_square(theirs, "image_size", 224),
        num_frames=theirs.get("num_frames", 16),
        patch_size=_square(theirs, "patch_size", 16),
        tubelet_size=theirs.get("tubelet_size", 2),
        width=width,
        depth=theirs.get("num_hidden_layers", 12),
        num_heads=theirs.get("num_attention_heads", 12),
        mlp_ratio=theirs.get("intermediate_size", 3072) / width,
        decoder_width=decoder_width,
        decoder_depth=theirs.get("decoder_num_hidden_layers", 4),
        decoder_heads=theirs.get("decoder_num_attention_heads", 6),
        decoder_mlp_ratio=theirs.get("decoder_intermediate_size", 1536) / decoder_width,
        layer_norm_eps=theirs.get("layer_norm_eps", 1e-12),
        head_norm_eps=theirs.get("head_norm_eps", FIXED_NORM_EPS),
    )


def huggingface_config(
    config: ModelConfig, architecture: str, class_names: Sequence[str] | None
) -> dict[str, Any]:
    """The config.json of a model for transformers; class_names only for a classifier.

    `head_norm_eps` is an addition of this project. transformers keeps it but computes with 1e-5, so
    that a model trained with 1e-6 has slightly different scores there. An import restores the
    value.

    Raises:
        InputError: Hugging Face's VideoMAE does not support the model.
    """
    supported = [("positions", "sincos-1d"), ("attention", "joint")]
    if class_names is None:
        supported.append(("decoder_output", "linear"))
    for name, value in supported:
        if getattr(config, name) != value:
            raise InputError(
                "not-supported",
                f"Hugging Face's VideoMAE has no {getattr(config, name)} {name}, only {value}; "
                "export to FILE.safetensors instead",
            )
    if class_names is None and config.output_dim != config.patch_dim:
        raise InputError(
            "not-supported",
            f"Hugging Face's VideoMAE predicts {config.patch_dim} numbers per tubelet, and this "
            f"decoder {config.output_dim}; export to FILE.safetensors instead",
        )
    labels = {} if class_names is None else _label_tables(class_names)
    return {
        "architectures": [architecture],
        "model_type": "videomae",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": NUM_CHANNELS,
        "num_frames": config.num_frames,
        "tubelet_size": config.tubelet_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": round(config.width * config.mlp_ratio),
        "hidden_act": "gelu",
        "qkv_bias": True,
        "use_mean_pooling": class_names is not None,  # drops the encoder's last norm
        "layer_norm_eps": config.layer_norm_eps,
        "head_norm_eps": config.head_norm_eps,
        "decoder_hidden_size": config.decoder_width,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": round(config.decoder_width * config.decoder_mlp_ratio),
        "norm_pix_loss": True,
        "initializer_range": 0.02,
        **labels,
    }


def _label_tables(class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(index): name for index, name in enumerate(class_names)},
        "label2id": {name: index for index, name in enumerate(class_names)},
    }


def _older_name(key: str) -> str:
    for newer, older in _NEWER_NAMES.items():
        if key.endswith(f".attention.attention{newer}"):
            return key.removesuffix(newer) + older
    return key


def _split_block(key: str, blocks: Mapping[str, str]) -> tuple[str | None, str]:
    """`A.3.rest` -> (`B.3`, `rest`) where blocks maps A to B; otherwise (None, key)."""
    for there, here in blocks.items():
        if match := re.fullmatch(rf"{re.escape(there)}\.(\d+)\.(.+)", key):
            return f"{here}.{match[1]}", match[2]
    return None, key


def _rename(key: str, names: Mapping[str, str]) -> str:
    if key in names:
        return names[key]
    stem, _, leaf = key.rpartition(".")
    return f"{names[stem]}.{leaf}" if stem in names else key


def _square(theirs: Mapping[str, Any], name: str, default: int) -> int:
    value = theirs.get(name, default)
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise InputError("not-supported", f"config.json: {name} is {value}; it must be square")
    return sides.pop()
