"""A temporary file for bytes that will be part of a shard."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

READ_BYTES = 1 << 20  # an even number, so that no two-byte value is cut

Extent = tuple[int, int]  # first byte, and the byte after the last one


class Spill:
    """An unnamed temporary file, which disappears with the process.

    Args:
        folder: folder on the file system of the shards; it is made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that a full disk is an error of the write that meets it.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._end = 0

    def append(self, data: np.ndarray) -> Extent:
        """Store the bytes of an array of any shape; returns their extent."""
        first = self._end
        rest = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        while len(rest):
            written = os.pwrite(self._file.fileno(), rest, self._end)
            self._end += written
            rest = rest[written:]
        return first, self._end

    def read(self, extents: list[Extent], dtype: str = "|u1") -> Iterator[np.ndarray]:
        """Yield the values of the extents, one extent after another, in blocks."""
        for first, last in extents:
            for start in range(first, last, READ_BYTES):
                block = os.pread(self._file.fileno(), min(READ_BYTES, last - start), start)
                yield np.frombuffer(block, dtype=dtype)

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
