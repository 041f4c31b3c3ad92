"""Imports and exports weights.

Import: VideoMAE and VideoMAE V2 (.pth), Hugging Face VideoMAE (a folder), and safetensors files of
this project. Export: safetensors files of this project, and Hugging Face folders. Imports are
strict on what is needed: if a tensor is missing, left over or of another shape, the error lists it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.files import write_atomically
from train.network.autoencoder import MaskedAutoencoder, ModelConfig, VideoEncoder
from train.network.head import VideoClassifier, build_head
from train.network.head_config import HeadConfig
from train.weights import files, huggingface, videomae
from train.weights.names import plain_names
from train.weights.usage import Usage

Kind = Literal["pretraining", "classification", "encoder"]
Need = Literal["all", "encoder"]
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
MOST_LISTED = 10  # names of tensors in a message
FORMAT, FORMAT_VERSION = "mofo", 1  # in the metadata of safetensors files

# These fields must be equal, or an encoder computes something else with the weights. Clip length
# and image size may differ: position tables are computed for each size.
_ENCODER_FIELDS = (
    *("patch_size", "tubelet_size", "width", "depth", "num_heads"),
    *("positions", "attention", "layer_norm_eps"),
)
_CLIP_FIELDS = ("num_frames", "image_size")
_DECODER_FIELDS = (
    *("decoder_width", "decoder_depth", "decoder_heads", "decoder_output", "head_norm_eps"),
)


@dataclass(frozen=True)
class ImportedWeights:
    """The weights of a model, with the parameter names of this project."""

    kind: Kind
    """pretraining: a MaskedAutoencoder. classification: a VideoClassifier. encoder: only an
    encoder, with the prefix `encoder.`."""
    config: ModelConfig
    state_dict: dict[str, Tensor]
    source: str
    """The file or folder, for messages."""
    num_classes: dict[str, int] = field(default_factory=dict)
    """Number of classes of each kind of label; empty unless kind is classification."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The pooling head; used only if kind is classification."""
    usage: Usage = field(default_factory=Usage)
    """How a classifier is used, as far as the file says it."""
    knows_clip_size: bool = True
    """Whether num_frames and image_size of the config are from the file; a .pth file lacks them."""

    def build(self) -> MaskedAutoencoder | VideoClassifier | VideoEncoder:
        """Build the model with these weights."""
        model = self._empty()
        load_strictly(model, self.state_dict, self.source)
        return model.encoder if isinstance(model, _EncoderAlone) else model

    def check(self, need: Need = "all") -> None:
        """Raise InputError unless the weights are exactly the tensors of the model, or of its
        encoder."""
        found = self.state_dict
        with torch.device("meta"):
            model = self._empty() if need == "all" else _encoder_alone(self.config, found)
        if need == "encoder":
            found = _of_encoder(found)
        _require_same_tensors(model.state_dict(), found, self.source)

    def _empty(self) -> MaskedAutoencoder | VideoClassifier | _EncoderAlone:
        if self.kind == "pretraining":
            return MaskedAutoencoder(self.config)
        if self.kind == "classification":
            encoder = VideoEncoder(self.config, final_norm=False)
            head = build_head(self.head, self.config.width, self.config.head_norm_eps)
            return VideoClassifier(encoder, head, self.num_classes)
        return _encoder_alone(self.config, self.state_dict)


class _EncoderAlone(nn.Module):
    """Adds the prefix `encoder.` to the names of an encoder's parameters."""

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__()
        self.encoder = encoder


def _encoder_alone(config: ModelConfig, state: Mapping[str, Tensor]) -> _EncoderAlone:
    """An encoder with random weights, and with a final norm if the weights have one."""
    return _EncoderAlone(VideoEncoder(config, final_norm="encoder.norm.weight" in state))


def _of_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key.startswith("encoder.")}


# ---------------------------------------------------------------------------------------------
# Import
# ---------------------------------------------------------------------------------------------


def import_weights(path: Path, need: Need = "all", **overrides: Any) -> ImportedWeights:
    """Read the weights of a model.

    Args:
        path: a .pth file of VideoMAE, a folder of Hugging Face VideoMAE or VideoMAE V2 (config.json
            and safetensors), or a .safetensors file of ours or with the tensors of one of the
            others.
        need: what the caller uses. With "encoder" only the tensors of the encoder must be complete,
            and tensors outside of it do not matter.
        overrides: fields of ModelConfig that replace those of the file. A file of tensors alone
            does not contain num_frames (default 16), image_size (default 224) or the number of
            heads.

    Raises:
        InputError: the file has an unknown format, is refused, or does not hold what is needed.
    """
    path = Path(path)
    if path.is_dir():
        imported = _import_huggingface(path, need, overrides)
    elif path.suffix == ".safetensors":
        imported = _import_safetensors(path, need, overrides)
    elif path.suffix in (".pth", ".pt", ".bin"):
        imported = _import_videomae(videomae.read_pth(path), path, need, overrides)
    else:
        raise InputError(
            "wrong-format",
            f"{path} is not a file of weights; allowed: .pth (VideoMAE), .safetensors, a "
            "Hugging Face folder",
        )
    imported.check(need)
    return imported


def adopt_norms(config: ModelConfig, imported: ImportedWeights) -> ModelConfig:
    """The configuration with the layer_norm_eps of the imported encoder.

    Recipes do not set it, because files of the same ViT-B have 1e-6 (VideoMAE) or 1e-12 (Hugging
    Face).
    """
    return dataclasses.replace(config, layer_norm_eps=imported.config.layer_norm_eps)


def adopt_shape(config: ModelConfig, imported: ImportedWeights) -> ModelConfig:
    """The configuration with the encoder of the imported weights, and their size of clips.

    A .pth file does not have the size of clips; that of `config` stays.
    """
    names = (*_ENCODER_FIELDS, "mlp_ratio", *(_CLIP_FIELDS if imported.knows_clip_size else ()))
    return dataclasses.replace(config, **{name: getattr(imported.config, name) for name in names})


def load_autoencoder(model: MaskedAutoencoder, imported: ImportedWeights) -> None:
    """Load the weights of a pretraining into a masked autoencoder.

    Raises:
        InputError: the weights are of another kind or model; or tensors are missing or left over.
    """
    if imported.kind != "pretraining":
        raise InputError(
            "other-kind",
            f"{imported.source} holds a model for {imported.kind}, without a decoder; give "
            "weights of a pretraining",
        )
    _require_same_fields(model.config, imported, _ENCODER_FIELDS + _DECODER_FIELDS)
    load_strictly(model, imported.state_dict, imported.source)


def load_encoder(classifier: VideoClassifier, imported: ImportedWeights) -> None:
    """Load an encoder into a classifier; its head and classifiers keep their initial weights.

    The norm after a pretraining encoder is not used: a classifier normalises after pooling.

    Raises:
        InputError: the encoders differ; tensors are missing or left over.
    """
    _require_same_fields(classifier.encoder.config, imported, _ENCODER_FIELDS)
    found = {
        key: tensor
        for key, tensor in _of_encoder(imported.state_dict).items()
        if not key.startswith("encoder.norm.")
    }
    load_strictly(_EncoderAlone(classifier.encoder), found, imported.source)


def build_encoder(config: ModelConfig, imported: ImportedWeights) -> VideoEncoder:
    """Build an encoder with imported weights, with a final norm if the weights have one.

    Raises:
        InputError: the encoders differ; tensors are missing or left over.
    """
    _require_same_fields(config, imported, _ENCODER_FIELDS)
    found = _of_encoder(imported.state_dict)
    model = _encoder_alone(config, found)
    load_strictly(model, found, imported.source)
    return model.encoder


def load_strictly(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights; InputError lists tensors that are missing, left over or of another shape."""
    _require_same_tensors(model.state_dict(), state_dict, source)
    model.load_state_dict(state_dict)


def _import_videomae(
    theirs: Mapping[str, Tensor], path: Path, need: Need, overrides: Mapping[str, Any]
) -> ImportedWeights:
    """Tensors with the names of VideoMAE, whose shapes give the configuration."""
    state = videomae.from_videomae(plain_names(theirs, str(path)))
    return _inferred(state, path, need, overrides)


def _inferred(
    state: dict[str, Tensor], path: Path, need: Need, overrides: Mapping[str, Any]
) -> ImportedWeights:
    needed = state if need == "all" else _of_encoder(state)
    config = videomae.infer_config(needed, overrides, str(path))
    return _recognise(state, config, path)


def _import_huggingface(folder: Path, need: Need, overrides: Mapping[str, Any]) -> ImportedWeights:
    fields, theirs = files.read_folder(folder)
    if (of_hub := huggingface.hub_overrides(fields, folder)) is not None:
        return _import_videomae(theirs, folder, need, {**of_hub, **overrides})
    theirs = plain_names(theirs, str(folder))
    config = ModelConfig.from_dict({**huggingface.model_config(fields).to_dict(), **overrides})
    imported = _recognise(huggingface.from_huggingface(theirs), config, folder)
    return dataclasses.replace(imported, usage=huggingface.usage_of(fields, folder))


def _import_safetensors(path: Path, need: Need, overrides: Mapping[str, Any]) -> ImportedWeights:
    state, metadata = files.read_safetensors(path)
    if metadata.get("format") != FORMAT:
        return _import_tensors(state, path, need, overrides)
    try:
        version, kind = int(metadata["format_version"]), _KINDS[metadata["kind"]]
        config, head, num_classes = (
            json.loads(metadata[name]) for name in ("config", "head", "num_classes")
        )
        usage = json.loads(metadata.get("usage", "{}"))  # older files have none
    except (KeyError, ValueError) as error:
        raise InputError("damaged-file", f"{path} has damaged metadata: {error!r}") from error
    if version > FORMAT_VERSION:
        raise InputError(
            "other-version",
            f"{path} has format version {version}, and this program reads up to {FORMAT_VERSION}; "
            "use a newer version of the program",
        )
    return ImportedWeights(
        kind=kind,
        config=ModelConfig.from_dict({**config, **overrides}),
        state_dict=state,
        source=str(path),
        num_classes=num_classes,
        head=HeadConfig.from_dict(head),
        usage=Usage.from_dict(usage, path),
    )


def _import_tensors(
    theirs: dict[str, Tensor], path: Path, need: Need, overrides: Mapping[str, Any]
) -> ImportedWeights:
    """Weights of others in a .safetensors file: with a config.json beside it, or by their names."""
    if path.name == "model.safetensors" and (path.parent / "config.json").is_file():
        return _import_huggingface(path.parent, need, overrides)
    if not huggingface.has_names_of(theirs):
        return _import_videomae(theirs, path, need, overrides)
    state = huggingface.from_huggingface(plain_names(theirs, str(path)))
    return _inferred(state, path, need, {**huggingface.DEFAULT_EPS, **overrides})


def _recognise(state: dict[str, Tensor], config: ModelConfig, path: Path) -> ImportedWeights:
    """Recognise the kind of imported weights by the names of their tensors."""
    kind: Kind = "encoder"
    num_classes: dict[str, int] = {}
    if "mask_token" in state or any(key.startswith("decoder.") for key in state):
        kind = "pretraining"
    elif "classifiers.label.weight" in state:
        kind = "classification"
        num_classes = {"label": state["classifiers.label.weight"].shape[0]}
    else:  # VideoMAE V2 on the Hub has the norm of a classifier, and no classifier
        state = {key: each for key, each in state.items() if not key.startswith("head.norm.")}
    return ImportedWeights(
        kind, config, state, str(path), num_classes, knows_clip_size=path.is_dir()
    )


def _require_same_fields(
    config: ModelConfig, imported: ImportedWeights, names: tuple[str, ...]
) -> None:
    differing = [
        f"{name} {getattr(imported.config, name)} in the weights, {getattr(config, name)} here"
        for name in names
        if getattr(imported.config, name) != getattr(config, name)
    ]
    if differing:
        raise InputError(
            "other-model",
            f"{imported.source} holds another model: {'; '.join(differing)}; change [model] of the "
            "recipe to the values of the weights",
        )


def _capped(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _require_same_tensors(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str
) -> None:
    missing = [key for key in expected if key not in found]
    left_over = [key for key in found if key not in expected]
    misshapen = [
        f"{key} {list(found[key].shape)} instead of {list(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    parts = (("missing", missing), ("left over", left_over), ("of another shape", misshapen))
    problems = [f"{title}: {_capped(keys)}" for title, keys in parts if keys]
    if problems:
        raise InputError(
            "other-model", f"the weights of {source} do not fit the model; {'; '.join(problems)}"
        )


# ---------------------------------------------------------------------------------------------
# Export
# ---------------------------------------------------------------------------------------------


def export_safetensors(
    path: Path, model: MaskedAutoencoder | VideoClassifier, usage: Usage | None = None
) -> None:
    """Write a model as a safetensors file that `import_weights` reads, atomically."""
    if isinstance(model, VideoClassifier):
        weights = ImportedWeights(
            kind="classification",
            config=model.encoder.config,
            state_dict=model.state_dict(),
            source=str(path),
            num_classes=model.num_classes,
            head=model.head.config,
            usage=usage or Usage(),
        )
    else:
        weights = ImportedWeights("pretraining", model.config, model.state_dict(), str(path))
    write_safetensors(path, weights)


def write_safetensors(path: Path, weights: ImportedWeights) -> None:
    """Write weights as a safetensors file of this project, atomically.

    Raises:
        InputError: the name does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError("bad-name", f"{path}: the name must end in .safetensors")
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": weights.kind,
        "config": json.dumps(weights.config.to_dict()),
        "head": json.dumps(weights.head.to_dict()),
        "num_classes": json.dumps(weights.num_classes),
    }
    if usage := weights.usage.to_dict():
        metadata["usage"] = json.dumps(usage)
    write_atomically(path, files.safetensors_image(weights.state_dict, metadata))
