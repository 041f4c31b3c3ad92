"""Weights that enter and leave the project.

In: VideoMAE and VideoMAE V2 (.pth), Hugging Face VideoMAE (a folder), and safetensors of ours.
Out: safetensors of ours, and Hugging Face folders. Every import is strict: a tensor that is
missing, left over or of another shape is an error that lists it.
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
from train.weights import huggingface, videomae

Kind = Literal["pretraining", "classification", "encoder"]
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
FORMAT, FORMAT_VERSION = "mofo", 1  # in the metadata of our safetensors

# What must agree for an encoder to compute the same under other weights. Clip length and image
# size need not: the position tables are fixed and made for any.
_ENCODER_FIELDS = (
    *("patch_size", "tubelet_size", "width", "depth", "num_heads"),
    *("positions", "attention", "layer_norm_eps"),
)
_DECODER_FIELDS = ("decoder_width", "decoder_depth", "decoder_heads", "head_norm_eps")


@dataclass(frozen=True)
class ImportedWeights:
    """A model read from a file, under our names."""

    kind: Kind
    """pretraining: a MaskedAutoencoder. classification: a VideoClassifier. encoder: the encoder
    alone, names with `encoder.`."""
    config: ModelConfig
    state_dict: dict[str, Tensor]
    source: str
    """The file or folder, for messages."""
    num_classes: dict[str, int] = field(default_factory=dict)
    """Classes by kind of label; empty unless kind is classification."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The pooling head; of meaning where kind is classification."""

    def build(self) -> MaskedAutoencoder | VideoClassifier | VideoEncoder:
        """The model with its weights in place."""
        model = self._empty()
        load_strictly(model, self.state_dict, self.source)
        return model.encoder if isinstance(model, _EncoderAlone) else model

    def check(self) -> None:
        """Raise InputError unless the weights are exactly those of the model."""
        with torch.device("meta"):
            model = self._empty()
        _require_same_tensors(model.state_dict(), self.state_dict, self.source)

    def _empty(self) -> MaskedAutoencoder | VideoClassifier | _EncoderAlone:
        if self.kind == "pretraining":
            return MaskedAutoencoder(self.config)
        if self.kind == "classification":
            encoder = VideoEncoder(self.config, final_norm=False)
            head = build_head(self.head, self.config.width, self.config.head_norm_eps)
            return VideoClassifier(encoder, head, self.num_classes)
        with_norm = "encoder.norm.weight" in self.state_dict
        return _EncoderAlone(VideoEncoder(self.config, final_norm=with_norm))


class _EncoderAlone(nn.Module):
    """Gives the names of an encoder's parameters their `encoder.`."""

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__()
        self.encoder = encoder


# ---------------------------------------------------------------------------------------------
# In
# ---------------------------------------------------------------------------------------------


def import_weights(path: Path, **told: Any) -> ImportedWeights:
    """Read the weights of a model.

    Args:
        path: a .pth file of VideoMAE, a folder of Hugging Face VideoMAE (config.json and
            safetensors), or a .safetensors file of ours.
        told: fields of ModelConfig that go before what the file says. A .pth file says nothing of
            num_frames (16 is assumed), image_size (224), or the heads of unusual widths.

    Raises:
        InputError: the file is of no known kind, refused, or does not hold exactly one model.
    """
    path = Path(path)
    if path.is_dir():
        imported = _import_huggingface(path, told)
    elif path.suffix == ".safetensors":
        imported = _import_safetensors(path, told)
    elif path.suffix in (".pth", ".pt", ".bin"):
        imported = _import_pth(path, told)
    else:
        raise InputError(
            "wrong-format",
            f"{path} is no file of weights; allowed: .pth (VideoMAE), .safetensors (of this "
            "project), a Hugging Face folder",
        )
    imported.check()
    return imported


def adopt_norms(config: ModelConfig, imported: ImportedWeights) -> ModelConfig:
    """A configuration with the layer_norm_eps that the imported encoder was made with.

    A recipe names sizes and leaves this to the weights: files of the same ViT-B say 1e-6
    (VideoMAE) or 1e-12 (Hugging Face).
    """
    return dataclasses.replace(config, layer_norm_eps=imported.config.layer_norm_eps)


def load_autoencoder(model: MaskedAutoencoder, imported: ImportedWeights) -> None:
    """Put all weights of a pretraining into a masked autoencoder.

    Raises:
        InputError: the weights are of another kind or model; tensors are missing or left over.
    """
    if imported.kind != "pretraining":
        raise InputError(
            "other-kind",
            f"{imported.source} holds a model for {imported.kind}, without a decoder; pretraining "
            "goes on from weights of a pretraining",
        )
    _require_same_fields(model.config, imported, _ENCODER_FIELDS + _DECODER_FIELDS)
    load_strictly(model, imported.state_dict, imported.source)


def load_encoder(classifier: VideoClassifier, imported: ImportedWeights) -> None:
    """Put the encoder of other weights into a classifier; its head and classifiers stay fresh.

    The norm after a pretraining encoder is left behind: a classifier normalises after pooling.

    Raises:
        InputError: the encoders differ; tensors are missing or left over.
    """
    _require_same_fields(classifier.encoder.config, imported, _ENCODER_FIELDS)
    found = {
        key: tensor
        for key, tensor in imported.state_dict.items()
        if key.startswith("encoder.") and not key.startswith("encoder.norm.")
    }
    load_strictly(_EncoderAlone(classifier.encoder), found, imported.source)


def build_encoder(config: ModelConfig, imported: ImportedWeights) -> VideoEncoder:
    """An encoder with imported weights, and with the norm after it where they have one.

    Raises:
        InputError: the encoders differ; tensors are missing or left over.
    """
    _require_same_fields(config, imported, _ENCODER_FIELDS)
    found = {key: each for key, each in imported.state_dict.items() if key.startswith("encoder.")}
    model = _EncoderAlone(VideoEncoder(config, final_norm="encoder.norm.weight" in found))
    load_strictly(model, found, imported.source)
    return model.encoder


def load_strictly(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights; InputError lists every tensor that is missing, left over or misshapen."""
    _require_same_tensors(model.state_dict(), state_dict, source)
    model.load_state_dict(state_dict)


def _import_pth(path: Path, told: Mapping[str, Any]) -> ImportedWeights:
    state = videomae.from_videomae(videomae.read_pth(path))
    return _recognise(state, videomae.infer_config(state, told), path)


def _import_huggingface(folder: Path, told: Mapping[str, Any]) -> ImportedWeights:
    fields, theirs = huggingface.read_folder(folder)
    config = ModelConfig.from_dict({**huggingface.model_config(fields).to_dict(), **told})
    return _recognise(huggingface.from_huggingface(theirs), config, folder)


def _import_safetensors(path: Path, told: Mapping[str, Any]) -> ImportedWeights:
    state, metadata = huggingface.read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise InputError(
            "wrong-format",
            f"{path} is not of this project (format {metadata.get('format')!r} in its metadata); "
            "for Hugging Face weights give the folder that holds config.json",
        )
    try:
        version, kind = int(metadata["format_version"]), _KINDS[metadata["kind"]]
        config, head, num_classes = (
            json.loads(metadata[name]) for name in ("config", "head", "num_classes")
        )
    except (KeyError, ValueError) as error:
        raise InputError("damaged-file", f"{path} has damaged metadata: {error!r}") from error
    if version > FORMAT_VERSION:
        raise InputError(
            "other-version",
            f"{path} has format version {version}, this program reads up to {FORMAT_VERSION}; "
            "use a newer one",
        )
    return ImportedWeights(
        kind=kind,
        config=ModelConfig.from_dict({**config, **told}),
        state_dict=state,
        source=str(path),
        num_classes=num_classes,
        head=HeadConfig.from_dict(head),
    )


def _recognise(state: dict[str, Tensor], config: ModelConfig, path: Path) -> ImportedWeights:
    """What the names of a foreign state dict say it is."""
    kind: Kind = "encoder"
    num_classes: dict[str, int] = {}
    if "mask_token" in state or any(key.startswith("decoder.") for key in state):
        kind = "pretraining"
    elif "classifiers.label.weight" in state:
        kind = "classification"
        num_classes = {"label": state["classifiers.label.weight"].shape[0]}
    return ImportedWeights(kind, config, state, str(path), num_classes)


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
            f"{imported.source} holds another model: {'; '.join(differing)}; "
            "set the recipe's [model] to what the weights have",
        )


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
    problems = [f"{title}: {', '.join(keys)}" for title, keys in parts if keys]
    if problems:
        raise InputError(
            "other-model", f"the weights of {source} do not fit the model; {'; '.join(problems)}"
        )


# ---------------------------------------------------------------------------------------------
# Out
# ---------------------------------------------------------------------------------------------


def export_safetensors(path: Path, model: MaskedAutoencoder | VideoClassifier) -> None:
    """Write a model of ours with all that `import_weights` needs, in one step."""
    if isinstance(model, VideoClassifier):
        weights = ImportedWeights(
            kind="classification",
            config=model.encoder.config,
            state_dict=model.state_dict(),
            source=str(path),
            num_classes=model.num_classes,
            head=model.head.config,
        )
    else:
        weights = ImportedWeights("pretraining", model.config, model.state_dict(), str(path))
    write_safetensors(path, weights)


def write_safetensors(path: Path, weights: ImportedWeights) -> None:
    """Write imported weights as a file of ours, in one step.

    Raises:
        InputError: the name does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError("bad-name", f"{path} must end in .safetensors")
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": weights.kind,
        "config": json.dumps(weights.config.to_dict()),
        "head": json.dumps(weights.head.to_dict()),
        "num_classes": json.dumps(weights.num_classes),
    }
    write_atomically(path, huggingface.safetensors_image(weights.state_dict, metadata))
