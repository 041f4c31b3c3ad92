"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file in one step: killed at any moment, `path` is the old file or the new one."""
    with atomic_file(path) as stream:
        stream.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BufferedRandom]:
    """A file to write and read that becomes `path` in one step when the block ends well.

    A temporary name that begins with a dot and has a random part, fsync, rename, fsync of the
    folder. Missing folders are made. A full disk is an OSError, and the temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed run left in `folder`."""
    for path in list(Path(folder).glob(".*.tmp")):
        if path.is_file():
            path.unlink(missing_ok=True)
