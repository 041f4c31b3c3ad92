"""Reads rows of a chunked HDF5 dataset, and checks every chunk before its values are used.

HDF5 itself trusts what a file states about its chunks. It decompresses a chunk to any size. It
reads beyond the end of a chunk that is too short, and returns memory of the process as data. It
returns zeros for a missing chunk, and skips the checksum if the file says so. This module therefore
compares the sizes of chunks with the shape first, and decompresses chunks itself, up to the
expected size and no further.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator

import h5py
import numpy as np

CHECKSUM_BYTES = 4  # of fletcher32, at the end of each chunk
PLAIN = (h5py.h5z.FILTER_FLETCHER32,)
GZIP = (
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_FLETCHER32,
)  # checksums are those of the compressed bytes


class ChunkError(Exception):
    """A chunk is damaged or is not allowed by the format; the message names the chunk."""


def fletcher32(data: bytes | memoryview) -> int:
    """Compute HDF5's Fletcher checksum of bytes: big-endian 16-bit words, sums modulo 65535.

    It is exact up to 2**18 bytes, where the largest sum is below 2**53.
    """
    assert len(data) <= 1 << 18, len(data)
    if len(data) % 2:
        data = bytes(data) + b"\0"
    words = np.frombuffer(data, ">u2").astype(np.float64)
    return _folded(words @ _falling(len(words))) << 16 | _folded(words.sum())


def filters_of(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the numbers of the filters of a dataset, in the order in which they were applied."""
    stored = dataset.id.get_create_plist()
    return tuple(stored.get_filter(number)[0] for number in range(stored.get_nfilters()))


class CheckedRows:
    """Reads rows of a dataset whose chunks are whole rows and whose filters are PLAIN or GZIP.

    Args:
        dataset: a dataset that is chunked only along its first axis, in chunks of at most 2**18
            bytes.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self._further = (0,) * (dataset.ndim - 1)  # where a chunk begins along the other axes
        self._is_packed = filters_of(dataset) == GZIP
        assert self._is_packed or filters_of(dataset) == PLAIN
        self._rows_a_chunk = dataset.chunks[0]
        self._chunk_bytes = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
        self._fits: set[int] = set()  # uncompressed chunks whose size has been checked
        self._unpacked: tuple[int, np.ndarray] | None = None  # the last chunk that was read

    def read(self, first: int, last: int) -> np.ndarray:
        """Read rows first:last, which must exist.

        Raises:
            ChunkError, OSError: a chunk is damaged.
        """
        if first == last:
            return np.empty((0, *self.dataset.shape[1:]), self.dataset.dtype)
        chunks = range(first // self._rows_a_chunk, (last - 1) // self._rows_a_chunk + 1)
        if not self._is_packed:
            for number in chunks:
                if number not in self._fits:
                    self._check_size(number)
                    self._fits.add(number)
            return self.dataset[first:last]
        rows = np.empty((last - first, *self.dataset.shape[1:]), self.dataset.dtype)
        for number in chunks:
            start = number * self._rows_a_chunk
            begin, end = max(first, start), min(last, start + self._rows_a_chunk)
            rows[begin - first : end - first] = self._unpack(number)[begin - start : end - start]
        return rows

    def problems(self) -> Iterator[str]:
        """Yield a message for each chunk that has a wrong checksum, size or filter."""
        for number in range(-(-len(self.dataset) // self._rows_a_chunk)):
            try:
                self._checked(number)
            except (ChunkError, OSError, RuntimeError) as error:
                yield str(error)

    def _check_size(self, number: int) -> None:
        start = number * self._rows_a_chunk
        found = self.dataset.id.get_chunk_info_by_coord((start, *self._further))
        where = f"chunk {number}"
        if found.byte_offset is None:
            raise ChunkError(f"{where} is missing")
        if found.filter_mask:
            raise ChunkError(f"{where} was stored without its filters")
        most = self._chunk_bytes + CHECKSUM_BYTES
        if self._is_packed:
            most += self._chunk_bytes // 1000 + 64  # deflate adds this to incompressible data
        least = CHECKSUM_BYTES + 1 if self._is_packed else most
        if not least <= found.size <= most:
            raise ChunkError(f"{where} has {found.size} bytes; {least} to {most} are possible")

    def _checked(self, number: int) -> memoryview:
        """Return the stored bytes of a chunk without their checksum."""
        self._check_size(number)
        start = (number * self._rows_a_chunk, *self._further)
        _, stored = self.dataset.id.read_direct_chunk(start)
        data = memoryview(stored)[:-CHECKSUM_BYTES]
        if fletcher32(data) != int.from_bytes(stored[-CHECKSUM_BYTES:], "little"):
            raise ChunkError(f"the checksum of chunk {number} does not match")
        return data

    def _unpack(self, number: int) -> np.ndarray:
        if self._unpacked is not None and self._unpacked[0] == number:
            return self._unpacked[1]
        inflater = zlib.decompressobj()
        try:
            data = inflater.decompress(self._checked(number), self._chunk_bytes + 1)
        except zlib.error as error:
            raise ChunkError(f"chunk {number} cannot be decompressed: {error}") from None
        if len(data) != self._chunk_bytes:
            more = "more" if len(data) > self._chunk_bytes else "fewer"
            raise ChunkError(
                f"chunk {number} decompresses to {more} than {self._chunk_bytes} bytes"
            )
        values = np.frombuffer(data, self.dataset.dtype).reshape(self.dataset.chunks)
        self._unpacked = number, values
        return values


def _folded(total: float) -> int:
    """Reduce a sum as HDF5 does: modulo 65535, but 65535 for a multiple above 0."""
    return int((total - 1) % 65535) + 1 if total else 0


@functools.lru_cache(maxsize=8)
def _falling(length: int) -> np.ndarray:
    """The weights of the words in the second sum: length, length - 1, ... 1."""
    return np.arange(length, 0, -1, dtype=np.float64)
