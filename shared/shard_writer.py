"""Writes HDF5 shards in one step; equal arrays give equal bytes.

The reader is shared/shards.py; both use the tables of shared/schema.py. Every dataset is chunked
and has fletcher32 checksums, so a flipped bit is an error and never a wrong number.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase, RawIOBase
from pathlib import Path

import h5py
import numpy as np

from shared.files import atomic_file
from shared.schema import SCHEMAS, Field, format_version, sizes_of

CHUNK_BYTES = 1 << 16  # reading one JPEG frame must not cost much more than that frame


@dataclass(frozen=True)
class Pieces:
    """A one-dimensional array that is too large for memory.

    Attributes:
        length: number of values.
        dtype: their dtype.
        pieces: the values in order.
        chunk: values of a chunk, if readers want as many at once; 0 for chunks of CHUNK_BYTES.
    """

    length: int
    dtype: np.dtype
    pieces: Iterable[np.ndarray]
    chunk: int = 0

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    def blocks(self, length: int) -> Iterator[np.ndarray]:
        """Yield the same values in blocks of one length; the last block may be shorter."""
        waiting: list[np.ndarray] = []
        held = 0
        for piece in self.pieces:
            waiting.append(piece)
            held += len(piece)
            if held >= length:
                joined = np.concatenate(waiting)
                whole = held - held % length
                yield from np.split(joined[:whole], range(length, whole, length))
                waiting, held = [joined[whole:]], held - whole
        if held:
            yield np.concatenate(waiting)


def write_shard(
    path: Path, kind: str, arrays: Mapping[str, np.ndarray | Pieces], attributes: dict
) -> tuple[int, str]:
    """Write a shard in one step, without holding it in memory.

    Args:
        kind: "frames", "flows" or "boxes".
        arrays: an array of the right dtype and dims for every path of `SCHEMAS[kind]`; optional
            fields may be missing. A one-dimensional array may be Pieces. Its bytes do not depend on
            how it is cut into pieces.
        attributes: attributes of the root that JSON can hold. They are stored as one JSON text in
            `config`; numbers and texts are also stored as single attributes.

    Returns:
        (size in bytes, sha256) of the file, for its ShardEntry.

    Raises:
        OSError: the disk is full or read-only.
    """
    _check_arrays(kind, arrays)
    with atomic_file(path) as stream:
        guarded = _GuardedFile(stream.raw)
        try:
            with h5py.File(guarded, "w", libver=("v110", "v110")) as file:
                _fill(file, kind, arrays, attributes)
        except Exception:
            guarded.raise_failure()  # the error of HDF5 is a consequence of the failed write
            raise
        guarded.raise_failure()
        return stream.seek(0, os.SEEK_END), _sha256(stream)


class _GuardedFile:
    """Hides write failures from HDF5, which ends with a segfault on a full disk.

    The file is unbuffered, so only writes can fail. After the first failure, data is discarded.
    """

    def __init__(self, stream: RawIOBase) -> None:
        self._stream = stream
        self._failure: OSError | None = None
        self.seek = stream.seek
        self.tell = stream.tell
        self.read = stream.read
        self.readinto = stream.readinto
        self.flush = stream.flush

    def write(self, data: memoryview) -> int:
        rest = memoryview(data).cast("B")
        try:
            while len(rest) and self._failure is None:
                rest = rest[self._stream.write(rest) :]
        except OSError as error:
            self._failure = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self._failure is None:
                return self._stream.truncate(size)
        except OSError as error:
            self._failure = error
        return size or 0

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _sha256(stream: BufferedIOBase) -> str:
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _fill(
    file: h5py.File, kind: str, arrays: Mapping[str, np.ndarray | Pieces], attributes: dict
) -> None:
    fields = [field for field in SCHEMAS[kind] if field.path in arrays]
    file.attrs["format_version"] = np.int32(format_version(fields))
    file.attrs["kind"] = np.bytes_(kind)
    file.attrs["config"] = np.bytes_(json.dumps(attributes, sort_keys=True))
    for name, value in sorted(attributes.items()):
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
    for field in fields:
        _write_dataset(file, field, arrays[field.path])


def _write_dataset(file: h5py.File, field: Field, array: np.ndarray | Pieces) -> None:
    length, *row_shape = array.shape
    row_bytes = max(1, array.dtype.itemsize * math.prod(row_shape))
    wanted = array.chunk if isinstance(array, Pieces) else 0
    rows = max(1, min(length, wanted or CHUNK_BYTES // row_bytes))
    dataset = file.create_dataset(
        field.path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(rows, *row_shape),
        # HDF5 allows chunks in an empty dataset only if the dataset may grow.
        maxshape=(None, *row_shape) if length == 0 else None,
        fletcher32=True,
        compression="gzip" if field.gzip else None,
        compression_opts=field.gzip or None,
        shuffle=False,
        track_times=False,
    )
    first = 0
    for block in array.blocks(rows) if isinstance(array, Pieces) else [array]:
        dataset[first : first + len(block)] = block
        first += len(block)
    assert first == length, (field.path, first, length)
    dataset.attrs["description"] = np.bytes_(field.description)
    dataset.attrs["units"] = np.bytes_(field.units or "none")
    dataset.attrs["dims"] = np.bytes_(",".join(field.dims))


def _check_arrays(kind: str, arrays: Mapping[str, np.ndarray | Pieces]) -> None:
    fields = [field for field in SCHEMAS[kind] if field.path in arrays or not field.optional]
    assert set(arrays) == {field.path for field in fields}, sorted(arrays)
    for field in fields:
        found = arrays[field.path].dtype.str
        assert found == np.dtype(field.dtype).str, (field.path, found)
    sizes = sizes_of(fields, {path: array.shape for path, array in arrays.items()})
    assert not isinstance(sizes, str), sizes
