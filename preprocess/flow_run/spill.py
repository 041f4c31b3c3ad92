"""Bytes that wait on disk for the shard that they will be part of."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

READ_BYTES = 1 << 20  # even, so that no two-byte value is cut

Extent = tuple[int, int]  # first and last byte, the last exclusive


class Spill:
    """An unnamed temporary file: bytes in, an extent (first, last) out. Gone with the process."""

    def __init__(self, folder: Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that a full disk shows where the bytes are written.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._end = 0

    def append(self, data: np.ndarray) -> Extent:
        """Store uint8 [n] of any shape; returns where."""
        first = self._end
        rest = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        while len(rest):
            written = os.pwrite(self._file.fileno(), rest, self._end)
            self._end += written
            rest = rest[written:]
        return first, self._end

    def read(self, extents: list[Extent], dtype: str = "|u1") -> Iterator[np.ndarray]:
        """The values of the extents, one after another, a block at a time."""
        for first, last in extents:
            for start in range(first, last, READ_BYTES):
                block = os.pread(self._file.fileno(), min(READ_BYTES, last - start), start)
                yield np.frombuffer(block, dtype=dtype)

    def close(self) -> None:
        self._file.close()
