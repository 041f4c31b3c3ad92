"""HDF5 shards: built in memory, published in one step, checked on open.

The writer (`build_shard`, `publish`) and the reader (`ShardReader`) mirror each other over the
tables of shared/schema.py. Every dataset is chunked with fletcher32, so that a flipped bit is an
error and never a wrong number.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from shared.errors import InputError
from shared.files import write_atomically
from shared.schema import FORMAT_VERSION, SCHEMAS, Field

CHUNK_BYTES = 1 << 16  # a read of one JPEG frame should not cost much more than that frame
MAX_CHUNK_BYTES = 1 << 24  # what a reader is willing to unpack at a time
MAX_WHOLE_BYTES = 1 << 28  # what a reader is willing to hold of one dataset
MAX_TEXT_BYTES = 1 << 16  # of an attribute
ALLOWED_FILTERS = {h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
# A clip without any motion compresses about a thousandfold; deflate cannot do more than 1032.
MAX_DEFLATE_RATIO = 1032


def build_shard(kind: str, arrays: dict[str, np.ndarray], attributes: dict) -> bytes:
    """The bytes of a shard: the same arrays and attributes give the same bytes.

    Args:
        kind: "frames", "flows" or "boxes".
        arrays: every path of `SCHEMAS[kind]` to an array of its dtype and dims.
        attributes: of the root, whatever JSON can hold; stored as one JSON text in `config`, and
            plain numbers and texts as attributes of their own.

    Returns:
        an HDF5 image (libver v110) to hash and `publish`.
    """
    _check_arrays(kind, arrays)
    with h5py.File(
        f"{kind}.h5", "w", driver="core", backing_store=False, libver=("v110", "v110")
    ) as file:
        file.attrs["format_version"] = np.int32(FORMAT_VERSION)
        file.attrs["kind"] = np.bytes_(kind)
        file.attrs["config"] = np.bytes_(json.dumps(attributes, sort_keys=True))
        for name, value in sorted(attributes.items()):
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
        for field in SCHEMAS[kind]:
            _write_dataset(file, field, arrays[field.path])
        file.flush()
        return file.id.get_file_image()


def publish(path: Path, data: bytes) -> None:
    """Put a built shard under its final name in one step; never half of it."""
    write_atomically(path, data)


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
            self._datasets = {path: self._open(field) for path, field in self._fields.items()}
            self._check_shapes()
        except (OSError, RuntimeError, KeyError) as error:
            self.close()
            raise InputError(f"{self.path} is damaged: {error}") from None
        except InputError:
            self.close()
            raise

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

    def __getitem__(self, path: str) -> np.ndarray:
        """A whole dataset. For the large ones (`values`) use `rows`."""
        dataset = self._datasets[path]
        if dataset.nbytes > MAX_WHOLE_BYTES:
            raise InputError(f"{self.path}{path} holds {dataset.nbytes} bytes; read it by rows")
        return self.rows(path, 0, len(dataset))

    def rows(self, path: str, first: int, last: int) -> np.ndarray:
        """Rows first:last of a dataset; a damaged chunk is an InputError, never wrong data."""
        dataset = self._datasets[path]
        if not 0 <= first <= last <= len(dataset):
            raise InputError(f"{self.path}{path}: rows {first}:{last} of {len(dataset)} asked for")
        try:
            return dataset[first:last]
        except OSError as error:
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

    def clip_ids(self) -> list[str]:
        return [clip_id.decode() for clip_id in self["/clip/id"]]

    def _check_head(self) -> None:
        attributes = self._file.attrs
        version = int(attributes.get("format_version", -1))
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
        stored = dataset.id.get_create_plist()
        filters = {stored.get_filter(i)[0] for i in range(stored.get_nfilters())}
        if not filters <= ALLOWED_FILTERS or h5py.h5z.FILTER_FLETCHER32 not in filters:
            raise InputError(f"{where}: filters {sorted(filters)}; gzip and fletcher32 are allowed")
        chunk_bytes = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
        most = self.path.stat().st_size * (MAX_DEFLATE_RATIO if field.gzip else 1) + chunk_bytes
        if chunk_bytes > MAX_CHUNK_BYTES or dataset.nbytes > most:
            raise InputError(f"{where} claims {dataset.nbytes} bytes, more than the file can hold")
        return dataset

    def _check_shapes(self) -> None:
        sizes = _sizes(self._fields.values(), {p: d.shape for p, d in self._datasets.items()})
        if isinstance(sizes, str):
            raise InputError(f"{self.path}{sizes}")
        self.num_clips, self.num_frames = sizes["N"], sizes["F"]


def _write_dataset(file: h5py.File, field: Field, array: np.ndarray) -> None:
    row_bytes = max(1, array[:1].nbytes)
    rows = max(1, min(len(array), CHUNK_BYTES // row_bytes))
    dataset = file.create_dataset(
        field.path,
        data=array,
        chunks=(rows, *array.shape[1:]),
        # An empty dataset cannot be chunked unless it may grow.
        maxshape=(None, *array.shape[1:]) if len(array) == 0 else None,
        fletcher32=True,
        compression="gzip" if field.gzip else None,
        compression_opts=1 if field.gzip else None,
        shuffle=False,
        track_times=False,
    )
    dataset.attrs["description"] = np.bytes_(field.description)
    dataset.attrs["units"] = np.bytes_(field.units or "none")
    dataset.attrs["dims"] = np.bytes_(",".join(field.dims))


def _check_arrays(kind: str, arrays: dict[str, np.ndarray]) -> None:
    fields = SCHEMAS[kind]
    assert set(arrays) == {field.path for field in fields}, sorted(arrays)
    for field in fields:
        found = arrays[field.path].dtype.str
        assert found == np.dtype(field.dtype).str, (field.path, found)
    sizes = _sizes(fields, {path: array.shape for path, array in arrays.items()})
    assert not isinstance(sizes, str), sizes


def _sizes(fields, shapes: dict[str, tuple[int, ...]]) -> dict[str, int] | str:
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
