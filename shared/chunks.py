"""Rows of a chunked HDF5 dataset, every chunk checked before a value of it is used.

HDF5 alone trusts what a file says of its chunks: it inflates a chunk to whatever size comes of it,
reads on behind a chunk that is too short (the memory of the process comes back as data), takes a
chunk that is not there for zeros, and skips the checksum where the file says so. So sizes are
compared with the shape first, and compressed chunks are unpacked here, up to the size they must
have and no further.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator

import h5py
import numpy as np

CHECKSUM_BYTES = 4  # of fletcher32, behind each chunk
PLAIN = (h5py.h5z.FILTER_FLETCHER32,)
GZIP = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)  # checksums are of what is stored


class ChunkError(Exception):
    """A chunk is not what the format allows, or was damaged; says which and how."""


def fletcher32(data: bytes | memoryview) -> int:
    """HDF5's Fletcher checksum of bytes: big-endian 16-bit words, sums modulo 65535.

    Exact up to 2**18 bytes, where the largest sum is below 2**53.
    """
    assert len(data) <= 1 << 18, len(data)
    if len(data) % 2:
        data = bytes(data) + b"\0"
    words = np.frombuffer(data, ">u2").astype(np.float64)
    return _folded(words @ _falling(len(words))) << 16 | _folded(words.sum())


def filters_of(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Numbers of the filters of a dataset, in the order in which they were applied."""
    stored = dataset.id.get_create_plist()
    return tuple(stored.get_filter(number)[0] for number in range(stored.get_nfilters()))


class CheckedRows:
    """Reads rows of a dataset whose chunks are whole rows and whose filters are PLAIN or GZIP.

    Args:
        dataset: chunked along its first axis alone, chunks of at most 2**18 bytes.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self._is_packed = filters_of(dataset) == GZIP
        assert self._is_packed or filters_of(dataset) == PLAIN
        self._rows_a_chunk = dataset.chunks[0]
        self._chunk_bytes = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
        self._fits: set[int] = set()  # plain chunks whose size has been checked
        self._unpacked: tuple[int, np.ndarray] | None = None  # the last one

    def read(self, first: int, last: int) -> np.ndarray:
        """Rows first:last, which must be there.

        Raises:
            ChunkError, OSError: damage.
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
        """What is wrong with each chunk that fails its checksum or is not as it must be."""
        for number in range(-(-len(self.dataset) // self._rows_a_chunk)):
            try:
                self._checked(number)
            except (ChunkError, OSError, RuntimeError) as error:
                yield str(error)

    def _check_size(self, number: int) -> None:
        start = number * self._rows_a_chunk
        found = self.dataset.id.get_chunk_info_by_coord((start, *[0] * (self.dataset.ndim - 1)))
        where = f"chunk {number}"
        if found.byte_offset is None:
            raise ChunkError(f"{where} is not there")
        if found.filter_mask:
            raise ChunkError(f"{where} was stored past its filters")
        most = self._chunk_bytes + CHECKSUM_BYTES
        if self._is_packed:
            most += self._chunk_bytes // 1000 + 64  # what deflate adds to what it cannot reduce
        least = CHECKSUM_BYTES + 1 if self._is_packed else most
        if not least <= found.size <= most:
            raise ChunkError(f"{where} has {found.size} bytes; {least} to {most} are possible")

    def _checked(self, number: int) -> memoryview:
        """The stored bytes of a chunk, without their checksum."""
        self._check_size(number)
        start = (number * self._rows_a_chunk, *[0] * (self.dataset.ndim - 1))
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
            raise ChunkError(f"chunk {number} does not unpack: {error}") from None
        if len(data) != self._chunk_bytes:
            more = "more" if len(data) > self._chunk_bytes else "fewer"
            raise ChunkError(f"chunk {number} unpacks to {more} than {self._chunk_bytes} bytes")
        values = np.frombuffer(data, self.dataset.dtype).reshape(self.dataset.chunks)
        self._unpacked = number, values
        return values


def _folded(total: float) -> int:
    """A sum as HDF5 folds it: modulo 65535, but 65535 for a multiple that is not 0."""
    return int((total - 1) % 65535) + 1 if total else 0


@functools.lru_cache(maxsize=8)
def _falling(length: int) -> np.ndarray:
    """length, length - 1, ... 1: how often each word counts in the second sum."""
    return np.arange(length, 0, -1, dtype=np.float64)
