"""HDF5 shards: built in memory, published in one step, checked on open.

The writer (`build_shard`, `publish`) and the reader (`ShardReader`) mirror each other over the
tables of shared/schema.py. Every dataset is chunked with fletcher32, so that a flipped bit is an
error and never a wrong number.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO, RawIOBase
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from shared.chunks import GZIP, PLAIN, CheckedRows, ChunkError, filters_of
from shared.errors import InputError
from shared.files import atomic_file, write_atomically
from shared.schema import FORMAT_VERSION, SCHEMAS, Field

CHUNK_BYTES = 1 << 16  # a read of one JPEG frame should not cost much more than that frame
MAX_CHUNK_BYTES = 1 << 18  # what a reader is willing to unpack at a time
MAX_WHOLE_BYTES = 1 << 28  # what a reader is willing to hold of one dataset
MAX_TEXT_BYTES = 1 << 16  # of an attribute
# A clip without any motion compresses about a thousandfold; deflate cannot do more than 1032.
MAX_DEFLATE_RATIO = 1032


def build_shard(kind: str, arrays: Mapping[str, np.ndarray], attributes: dict) -> bytes:
    """The bytes of a shard: the same arrays and attributes give the same bytes.

    Args:
        kind: "frames", "flows" or "boxes".
        arrays: every path of `SCHEMAS[kind]` to an array of its dtype and dims; optional fields
            may be left out.
        attributes: of the root, whatever JSON can hold; stored as one JSON text in `config`, and
            plain numbers and texts as attributes of their own.

    Returns:
        an HDF5 image (libver v110) to hash and `publish`.
    """
    _check_arrays(kind, arrays)
    image = BytesIO()
    with h5py.File(image, "w", libver=("v110", "v110")) as file:
        _fill(file, kind, arrays, attributes)
    return image.getvalue()


def publish(path: Path, data: bytes) -> None:
    """Put a built shard under its final name in one step; never half of it."""
    write_atomically(path, data)


@dataclass(frozen=True)
class Pieces:
    """A one-dimensional array too large to hold: its length, its dtype and its pieces in order."""

    length: int
    dtype: np.dtype
    pieces: Iterable[np.ndarray]

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    def blocks(self, length: int) -> Iterator[np.ndarray]:
        """The same values cut into blocks of one length, the last one shorter."""
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
    """Write a shard in one step without holding it in memory.

    Args as for `build_shard`; one-dimensional arrays may be Pieces. The same values give the same
    bytes, however they were cut.

    Returns:
        (bytes, sha256) of the file, for its ShardEntry.

    Raises:
        OSError: the disk is full, or may not be written.
    """
    _check_arrays(kind, arrays)
    with atomic_file(path) as stream:
        guarded = _GuardedFile(stream.raw)
        try:
            with h5py.File(guarded, "w", libver=("v110", "v110")) as file:
                _fill(file, kind, arrays, attributes)
        except Exception:
            guarded.raise_failure()  # what HDF5 makes of a failed write is only its consequence
            raise
        guarded.raise_failure()
        return stream.seek(0, os.SEEK_END), _sha256(stream)


class _GuardedFile:
    """Keeps the first failure to write from HDF5, which ends with a segfault on a full disk.

    Unbuffered, so that nothing but a write can fail; what comes after a failure is dropped.
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


class ShardReader:
    """Reads one shard, refusing what the format does not allow. A context manager.

    Args:
        path: the shard.
        kind: what it must be.

    Attributes:
        num_clips, num_frames: N and F.
        attributes: the JSON object the writer was given.

    Raises:
        InputError: not an HDF5 file, another kind, a newer format, a missing dataset, another dtype
            or shape than the schema's, external links or storage, virtual datasets, foreign
            filters, or more data claimed than the file can hold.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = Path(path)
        self.kind = kind
        self._fields = {field.path: field for field in SCHEMAS[kind]}
        try:
            self._file = h5py.File(self.path, "r")
        except FileNotFoundError:
            raise InputError(f"no shard at {self.path}") from None
        except OSError as error:
            raise InputError(f"{self.path} is not a readable HDF5 file: {error}") from None
        try:
            self._check_head()
            self._fields = {p: f for p, f in self._fields.items() if not self._is_left_out(f)}
            self._datasets = {path: self._open(field) for path, field in self._fields.items()}
            self._rows = {path: CheckedRows(dataset) for path, dataset in self._datasets.items()}
            self._check_shapes()
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            self.close()
            raise InputError(f"{self.path} is damaged: {error}") from None
        except ValueError as error:  # InputError among them
            self.close()
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path} is damaged: {error}") from None

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def __contains__(self, path: str) -> bool:
        """Whether the shard has a dataset that is optional."""
        return path in self._datasets

    def __getitem__(self, path: str) -> np.ndarray:
        """A whole dataset. For the large ones (`values`) use `rows`."""
        dataset = self._datasets[path]
        if dataset.nbytes > MAX_WHOLE_BYTES:
            raise InputError(f"{self.path}{path} holds {dataset.nbytes} bytes; read it by rows")
        return self.rows(path, 0, len(dataset))

    def length(self, path: str) -> int:
        """Rows of a dataset."""
        return len(self._datasets[path])

    def rows(self, path: str, first: int, last: int) -> np.ndarray:
        """Rows first:last of a dataset; a damaged chunk is an InputError, never wrong data."""
        dataset = self._datasets[path]
        if not 0 <= first <= last <= len(dataset):
            raise InputError(f"{self.path}{path}: rows {first}:{last} of {len(dataset)} asked for")
        try:
            return self._rows[path].read(first, last)
        except (ChunkError, OSError, RuntimeError) as error:
            raise InputError(
                f"{self.path}{path} is damaged ({error}); `make verify` lists all such shards"
            ) from None

    def ragged(
        self, offsets_path: str, values_path: str, first: int, last: int
    ) -> list[np.ndarray]:
        """Items first:last of a ragged pair, one array each."""
        offsets = self.rows(offsets_path, first, last + 1)
        if np.any(np.diff(offsets) < 0):
            raise InputError(f"{self.path}{offsets_path}: offsets are out of order")
        values = self.rows(values_path, int(offsets[0]), int(offsets[-1]))
        return np.split(values, offsets[1:-1] - offsets[0])

    def damaged_chunks(self) -> Iterator[str]:
        """Every chunk of every dataset held against its checksum; says what is wrong, and where."""
        for path, rows in self._rows.items():
            yield from (f"{path}: {problem}" for problem in rows.problems())

    def clip_ids(self) -> list[str]:
        return [clip_id.decode() for clip_id in self["/clip/id"]]

    def _check_head(self) -> None:
        stored = self._file.attrs.get_id("format_version")
        if stored.dtype.kind not in "iu" or stored.shape != ():
            raise InputError(f"{self.path}: attribute format_version must be a whole number")
        version = int(self._file.attrs["format_version"])
        if version != FORMAT_VERSION:
            raise InputError(
                f"{self.path} has format version {version}; this program reads {FORMAT_VERSION}"
            )
        kind = self._text("kind")
        if kind != self.kind:
            raise InputError(f"{self.path} holds {kind}, not {self.kind}")
        try:
            self.attributes: dict = json.loads(self._text("config"))
        except ValueError as error:
            raise InputError(f"{self.path}: attribute config is not JSON: {error}") from None

    def _text(self, name: str) -> str:
        stored = self._file.attrs.get_id(name)
        if stored.dtype.kind != "S" or stored.get_storage_size() > MAX_TEXT_BYTES:
            raise InputError(f"{self.path}: attribute {name} must be a short fixed-length text")
        return bytes(self._file.attrs[name]).decode()

    def _is_left_out(self, field: Field) -> bool:
        """Whether there is nothing at an optional path; links that lead elsewhere are something."""
        parent = self._file
        for name in field.path.strip("/").split("/"):
            if not field.optional or not isinstance(parent, h5py.Group):
                return False
            link = parent.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                return link is None
            parent = parent[name]
        return False

    def _open(self, field: Field) -> h5py.Dataset:
        """Open a dataset by hard links alone and check how it is stored."""
        parent: h5py.Group = self._file
        for name in field.path.strip("/").split("/"):
            link = parent.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                found = "nothing" if link is None else type(link).__name__
                raise InputError(f"{self.path}{field.path}: a dataset is expected, not {found}")
            parent = parent[name]
        dataset = parent
        where = f"{self.path}{field.path}"
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(f"{where}: a dataset is expected, not a group")
        if dataset.dtype.str != np.dtype(field.dtype).str:
            raise InputError(f"{where} has type {dataset.dtype.str}, not {field.dtype}")
        if dataset.external or dataset.is_virtual or dataset.chunks is None:
            raise InputError(f"{where}: data outside the file or not in chunks is refused")
        filters = filters_of(dataset)
        if filters not in (PLAIN, GZIP):
            raise InputError(f"{where}: filters {filters}; fletcher32, after gzip, is allowed")
        if dataset.chunks[1:] != dataset.shape[1:]:
            raise InputError(f"{where}: chunks {dataset.chunks}; whole rows are allowed")
        # Python's numbers: numpy's would overflow on the shapes of hostile files.
        chunk_bytes, num_bytes = (
            math.prod(shape) * dataset.dtype.itemsize for shape in (dataset.chunks, dataset.shape)
        )
        most = (
            self.path.stat().st_size * (MAX_DEFLATE_RATIO if filters == GZIP else 1) + chunk_bytes
        )
        if chunk_bytes > MAX_CHUNK_BYTES or num_bytes > most:
            raise InputError(f"{where} claims {num_bytes} bytes, more than the file can hold")
        return dataset

    def _check_shapes(self) -> None:
        sizes = _sizes(self._fields.values(), {p: d.shape for p, d in self._datasets.items()})
        if isinstance(sizes, str):
            raise InputError(f"{self.path}{sizes}")
        self.num_clips, self.num_frames = sizes["N"], sizes["F"]


def _fill(
    file: h5py.File, kind: str, arrays: Mapping[str, np.ndarray | Pieces], attributes: dict
) -> None:
    file.attrs["format_version"] = np.int32(FORMAT_VERSION)
    file.attrs["kind"] = np.bytes_(kind)
    file.attrs["config"] = np.bytes_(json.dumps(attributes, sort_keys=True))
    for name, value in sorted(attributes.items()):
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
    for field in SCHEMAS[kind]:
        if field.path in arrays:
            _write_dataset(file, field, arrays[field.path])


def _write_dataset(file: h5py.File, field: Field, array: np.ndarray | Pieces) -> None:
    length, *row_shape = array.shape
    row_bytes = max(1, array.dtype.itemsize * math.prod(row_shape))
    rows = max(1, min(length, CHUNK_BYTES // row_bytes))
    dataset = file.create_dataset(
        field.path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(rows, *row_shape),
        # An empty dataset cannot be chunked unless it may grow.
        maxshape=(None, *row_shape) if length == 0 else None,
        fletcher32=True,
        compression="gzip" if field.gzip else None,
        compression_opts=1 if field.gzip else None,
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
    sizes = _sizes(fields, {path: array.shape for path, array in arrays.items()})
    assert not isinstance(sizes, str), sizes


def _sizes(fields: Collection[Field], shapes: dict[str, tuple[int, ...]]) -> dict[str, int] | str:
    """The number that each letter of the dims stands for, or what contradicts it."""
    sizes: dict[str, int] = {}
    for field in fields:
        shape = shapes[field.path]
        if len(shape) != len(field.dims):
            return f"{field.path} has shape {shape}, not [{', '.join(field.dims)}]"
        for length, dim in zip(shape, field.dims, strict=True):
            letter, plus, more = dim.partition("+")
            length -= int(more) if plus else 0
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, length)
            if length != expected or length < 0:
                return f"{field.path} has shape {shape}, not [{', '.join(field.dims)}] ({sizes})"
    return sizes
