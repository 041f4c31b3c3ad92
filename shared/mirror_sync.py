"""Keeps the small files of a mirrored dataset equal to those in the object store.

Small files are all but shards: the manifest, each dataset.json, the journal, classes, failures. A
command pulls them when it starts, and each file that it writes is sent in the same step. Shards are
fetched one by one (shared/shard_cache.py).
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

from shared.mirror import address_of, is_shard, stored_address
from shared.object_store import StoredObject, get, listing, put, remove
from shared.temporary_names import temporary_name

DEPTH = 2  # files of a dataset lie in its folder, or in a folder of that
RECORD = ".objects.json"
"""In each folder: the ETags of its small files as they were last in the store, by name."""


@functools.lru_cache
def pull(root: Path) -> None:
    """Make the small files below a mirrored folder those of the store, once in a process.

    Files that were never in the store stay. Where dataset.json changes, shards that it states
    otherwise are removed from this machine.

    Raises:
        InputError: the store refused or could not be reached, or s3fs is not installed.
    """
    address = address_of(root)
    assert address is not None, root
    wanted: dict[Path, dict[str, StoredObject]] = {path.parent: {} for path in _records(root)}
    for name, entry in listing(address).items():
        parts = name.split("/")
        # A key may be any text. What is no file of a dataset, or leads elsewhere, is left alone.
        if len(parts) > DEPTH or not all(parts) or ".." in parts:
            continue
        path = root / name
        if stored_address(path) is not None and not is_shard(path.name):
            wanted.setdefault(path.parent, {})[path.name] = entry
    for folder, entries in wanted.items():
        _pull_folder(folder, entries)


def _pull_folder(folder: Path, entries: dict[str, StoredObject]) -> None:
    record = _read_record(folder)
    before = _shard_hashes(folder)
    for name, entry in entries.items():
        if record.get(name) != entry.etag or not (folder / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            fetch(folder / name)
    for name in record.keys() - entries.keys():
        (folder / name).unlink(missing_ok=True)
    _write_record(folder, {name: entry.etag for name, entry in entries.items()})
    after = _shard_hashes(folder)
    if after != before:
        for path in folder.glob("[0-9]*.h5"):
            if path.name not in after or after[path.name] != before.get(path.name):
                path.unlink(missing_ok=True)


def send(file: Path, path: Path) -> None:
    """Put the content of `file` into the store as what `path` will be, if it belongs there."""
    address = stored_address(path)
    if address is None:
        return
    stored = put(file, address)
    if not is_shard(path.name):
        _write_record(path.parent, _read_record(path.parent) | {path.name: stored.etag})


def forget(path: Path) -> None:
    """Remove a file from the store, if it belongs there."""
    address = stored_address(path)
    if address is not None:
        remove(address)
        record = _read_record(path.parent)
        if record.pop(path.name, None) is not None:
            _write_record(path.parent, record)


def fetch(path: Path) -> StoredObject:
    """Get a mirrored file from the store; it has its name when it is complete.

    Raises:
        FileNotFoundError: the store does not have it.
    """
    address = stored_address(path)
    assert address is not None, path
    temporary = temporary_name(path)
    try:
        stored = get(address, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return stored


def _records(root: Path) -> list[Path]:
    return [root / RECORD, *root.glob(f"*/{RECORD}")]


def _read_record(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / RECORD).read_text())
    except (FileNotFoundError, ValueError):  # then every file is fetched again
        return {}


def _write_record(folder: Path, record: dict[str, str]) -> None:
    if not folder.is_dir():
        return
    temporary = temporary_name(folder / RECORD)
    temporary.write_text(json.dumps(record))
    os.replace(temporary, folder / RECORD)


def _shard_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each shard by dataset.json as it is on this machine; {} without one."""
    try:
        content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return {shard["name"]: shard["sha256"] for shard in content["shards"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
