"""Files of weights: safetensors, and the files of a Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.errors import InputError


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read config.json and the tensors of the safetensors files of a folder.

    Raises:
        InputError: a file is missing or damaged.
    """
    config, *parts = files_of(folder)
    fields = read_json(config)
    tensors: dict[str, Tensor] = {}
    for path in parts:
        tensors |= read_safetensors(path)[0]
    return fields, tensors


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that are read: config.json and the safetensors files.

    Raises:
        InputError: the index of the safetensors files is damaged.
    """
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        # only the file names: an index must not refer to files outside of its folder
        names = {Path(name).name for name in read_json(index).get("weight_map", {}).values()}
    return [folder / name for name in ("config.json", *sorted(names))]


def digest_of(weights: Path | None) -> str | None:
    """sha256 of the file of weights, or of the files of a folder; None for random weights."""
    if weights is None:
        return None
    hashed = hashlib.sha256()
    for path in files_of(weights) if weights.is_dir() else [weights]:
        with open(path, "rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()[:16]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file; InputError if it is missing or damaged."""
    if not path.is_file():
        in_folder = (path.parent / "config.json").is_file()
        only = "; only safetensors files of a Hugging Face folder are read" if in_folder else ""
        raise InputError("missing-file", f"{path} does not exist{only}")
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise InputError(
            "damaged-file", f"{path} is not an intact safetensors file: {error}"
        ) from error


def safetensors_image(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file, so that it can be written atomically."""
    on_cpu = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return safetensors.torch.save(on_cpu, dict(metadata))


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            "missing-file", f"{path} does not exist; a Hugging Face folder has this file"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            "damaged-file", f"{path} is not JSON: {error}; download the folder again"
        ) from None
    if not isinstance(content, dict):
        raise InputError("wrong-format", f"{path} is not a JSON object; download the folder again")
    return content
