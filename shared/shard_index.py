"""`dataset.json`, the index of a folder of shards. It is written last, when all shards exist."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shared.errors import InputError
from shared.files import write_atomically
from shared.schema import SCHEMAS

INDEX_NAME = "dataset.json"
INDEX_VERSION = 1


@dataclass(frozen=True)
class ShardEntry:
    """One shard: file name, size in bytes, sha256 of the file, and number of clips."""

    name: str
    bytes: int
    sha256: str
    clips: int


@dataclass(frozen=True)
class DatasetIndex:
    """The content of `dataset.json`.

    Attributes:
        kind: "frames", "flows" or "boxes".
        dataset: name of the dataset.
        config: the options that decided the content.
        clips_per_shard: clip i of the manifest belongs to shard i // clips_per_shard.
        manifest_digest: digest of the manifest that the shards were computed from.
        shards: the shards in order of their names.
        format_version: format version of dataset.json; shards have their own.
    """

    kind: str
    dataset: str
    config: dict
    clips_per_shard: int
    manifest_digest: str
    shards: list[ShardEntry] = field(default_factory=list)
    format_version: int = INDEX_VERSION

    @property
    def num_clips(self) -> int:
        return sum(shard.clips for shard in self.shards)

    @property
    def digest(self) -> str:
        """sha256 over the names and hashes of the shards, which identifies their content."""
        hashed = hashlib.sha256()
        for shard in self.shards:
            hashed.update(f"{shard.name} {shard.sha256}\n".encode())
        return hashed.hexdigest()


def config_digest(config: dict) -> str:
    """sha256 of a configuration, which does not depend on the order of its options."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def shard_name(number: int) -> str:
    return f"{number:05d}.h5"


def write_index(folder: Path, index: DatasetIndex) -> None:
    """Write dataset.json in one step."""
    content = asdict(index) | {"config_digest": config_digest(index.config)}
    write_atomically(Path(folder) / INDEX_NAME, json.dumps(content, indent=1).encode() + b"\n")


def read_index(folder: Path) -> DatasetIndex | None:
    """Read dataset.json; None if there is none, because the folder is not complete.

    Raises:
        InputError: the file does not have the format of `write_index`, or is of a newer version.
    """
    path = Path(folder) / INDEX_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError("damaged-file", f"{path} is not JSON: {error}") from None
    try:
        version = int(content["format_version"])
        if version != INDEX_VERSION:
            raise InputError(
                "other-version",
                f"{path} has format version {version}; {INDEX_VERSION} is read here",
            )
        if content.pop("config_digest") != config_digest(content["config"]):
            raise InputError(
                "damaged-file", f"{path}: the config does not match its digest; the file was edited"
            )
        shards = [ShardEntry(**shard) for shard in content.pop("shards")]
        index = DatasetIndex(**content, shards=shards)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError("damaged-file", f"{path} is not a dataset index: {error}") from None
    _check(path, index)
    return index


def _check(path: Path, index: DatasetIndex) -> None:
    if index.kind not in SCHEMAS:
        raise InputError(
            "damaged-file", f"{path}: kind {index.kind!r} is none of {', '.join(SCHEMAS)}"
        )
    for shard in index.shards:
        number = shard.name.removesuffix(".h5")
        if not (shard.name.endswith(".h5") and number.isascii() and number.isdigit()):
            raise InputError(
                "damaged-file", f"{path}: shard name {shard.name!r}; 00000.h5 and so on are allowed"
            )
        if not 0 <= shard.clips <= index.clips_per_shard:
            raise InputError(
                "damaged-file", f"{path}: {shard.name} with {shard.clips} clips is not possible"
            )
