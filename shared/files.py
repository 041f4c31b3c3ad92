"""Writes files atomically: a file is complete, or it does not exist.

This is the one place that puts files into object storage, for a path that shared/mirror.py places
there: before a file has its name on this machine, it has its name in the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from shared.mirror import is_shard, stored_address
from shared.mirror_room import make_room
from shared.mirror_sync import forget, send
from shared.object_store import describe, listing
from shared.temporary_names import temporary_name, temporary_pattern


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file in one step. After a kill at any time, `path` is the old file or the new one."""
    with atomic_file(path) as stream:
        stream.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BufferedRandom]:
    """Open a file for writing and reading that becomes `path` in one step at the end of the block.

    The file has a temporary name, which starts with a dot and has a random part. At the end comes
    fsync, rename, and fsync of the folder. Missing folders are created. If the block raises, the
    disk is full (OSError) or object storage refuses (InputError), the temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with open(temporary, "x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(file: Path, path: Path) -> None:
    """Give a complete file its name, in object storage first, if it belongs there."""
    send(file, path)
    os.replace(file, path)
    sync_folder(path.parent)
    if is_shard(path.name) and stored_address(path) is not None:
        make_room(path)


def remove_file(path: Path) -> None:
    """Remove a file, if it exists, from object storage too."""
    forget(path)
    Path(path).unlink(missing_ok=True)


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file that lies directly in a folder, by name; {} if there is no folder."""
    address = stored_address(folder)
    if address is not None:
        found = listing(address)
        return {name: entry.num_bytes for name, entry in found.items() if "/" not in name}
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def sent_as(path: Path) -> tuple[int, str] | None:
    """Bytes and sha256 of a file of object storage, as it was put there; None if it is not there.

    It gets no content: the store keeps the bytes that it acknowledged.
    """
    address = stored_address(path)
    assert address is not None, path
    found = describe(address)
    return None if found is None else (found.num_bytes, found.sha256)


def sync_folder(folder: Path) -> None:
    """Make sure that a rename in `folder` survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, names: Iterable[str] | None = None) -> None:
    """Remove temporary files that a killed run left in `folder`.

    Args:
        names: names of the files that the temporary files were to become; None = any.
    """
    patterns = [temporary_pattern()] if names is None else map(temporary_pattern, names)
    for path in [path for pattern in patterns for path in Path(folder).glob(pattern)]:
        if path.is_file():
            path.unlink(missing_ok=True)
