"""Writes files atomically: a file is complete, or it does not exist."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file in one step. After a kill at any time, `path` is the old file or the new one."""
    with atomic_file(path) as stream:
        stream.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BufferedRandom]:
    """Open a file for writing and reading that becomes `path` in one step at the end of the block.

    The file has a temporary name, which starts with a dot and has a random part. At the end comes
    fsync, rename, and fsync of the folder. Missing folders are created. If the block raises, or the
    disk is full (OSError), the temporary file is removed.
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
    patterns = [".*.tmp"] if names is None else [f".{name}.*.tmp" for name in names]
    for path in [path for pattern in patterns for path in Path(folder).glob(pattern)]:
        if path.is_file():
            path.unlink(missing_ok=True)
