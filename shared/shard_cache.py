"""Shards of object storage on this machine: fetched when they are needed, and checked."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from shared.errors import InputError
from shared.mirror import shown, stored_address
from shared.mirror_room import make_room
from shared.mirror_sync import fetch
from shared.object_store import PartlyRead, describe, get
from shared.shard_index import ShardEntry, read_index
from shared.temporary_names import temporary_name

ATTEMPTS = 3  # to get a shard with the right bytes


def local_shard(path: Path) -> Path:
    """The path of a shard, which is on this machine when this returns if it is anywhere.

    Raises:
        InputError: the store could not be reached, or it has other bytes than dataset.json states.
    """
    if stored_address(path) is None:
        return path
    if not _touch(path) and path.parent.is_dir():
        with _one_at_a_time(path):
            if not _touch(path):
                _fetch(path)
    return path


def open_shard(path: Path, partly: bool = False) -> tuple[h5py.File, int]:
    """Open a shard; returns it with its size in bytes.

    Args:
        partly: of a shard of object storage that is not on this machine, get only what is read.

    Raises:
        FileNotFoundError: the shard does not exist.
        OSError: the file is not HDF5.
        InputError: see `local_shard`.
    """
    address = stored_address(path)
    if address is not None and partly and not path.exists():
        stream = PartlyRead(address)
        return h5py.File(stream, "r"), stream.size
    for is_last in (False, False, True):
        try:
            local = local_shard(path)
            return h5py.File(local, "r"), local.stat().st_size
        except FileNotFoundError:
            # Another process may have removed it to make room, since it was found here.
            if is_last or address is None:
                raise
    raise AssertionError


def fetch_again(path: Path) -> None:
    """Get a shard of object storage as it is there now, whether its bytes are right or not."""
    address = stored_address(path)
    if address is not None:
        path.unlink(missing_ok=True)
        stored = describe(address)
        if stored is not None:
            make_room(path, stored.num_bytes)
            fetch(path)


def drop(path: Path) -> None:
    """Remove the copy of a shard of object storage from this machine, so that it is fetched."""
    if stored_address(path) is not None:
        path.unlink(missing_ok=True)


def _touch(path: Path) -> bool:
    """Note that a shard is opened now; whether it is on this machine."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _fetch(path: Path) -> None:
    address = stored_address(path)
    assert address is not None, path
    stored = describe(address)
    if stored is None:
        return
    entry = _entry(path)
    wanted = entry.sha256 if entry is not None else stored.sha256
    make_room(path, stored.num_bytes)
    temporary = temporary_name(path)
    try:
        for _ in range(ATTEMPTS):
            get(address, temporary)
            with open(temporary, "rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found == wanted or not wanted:
                os.replace(temporary, path)
                make_room(path)  # others may have fetched at the same time
                return
    except FileNotFoundError:  # removed in the meantime
        return
    finally:
        temporary.unlink(missing_ok=True)
    raise InputError(
        "damaged-file",
        f"{shown(path)} has sha256 {found[:12]}, and dataset.json states {wanted[:12]}, in each of "
        f"{ATTEMPTS} attempts; `make verify` lists damaged shards",
    )


def _entry(path: Path) -> ShardEntry | None:
    """The entry of a shard in the dataset.json beside it; None if there is none."""
    try:
        changed = (path.parent / "dataset.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return _entries(path.parent, changed).get(path.name)


@functools.lru_cache(maxsize=16)
def _entries(folder: Path, _changed: int) -> dict[str, ShardEntry]:
    index = read_index(folder)
    return {} if index is None else {entry.name: entry for entry in index.shards}


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Let only one process of this machine get a shard; the others wait, and then find it."""
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
