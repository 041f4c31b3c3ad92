"""Reads HDF5 shards, which are checked when they are opened and chunk by chunk.

The writer is shared/shard_writer.py; both use the tables of shared/schema.py. A shard may come from
an unknown source, so anything that the format does not allow is refused before it costs memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from shared.chunks import GZIP, PLAIN, CheckedRows, ChunkError, filters_of
from shared.errors import InputError
from shared.make_commands import make_around
from shared.schema import FORMAT_VERSIONS, SCHEMAS, Field, sizes_of
from shared.shard_cache import open_shard

MAX_CHUNK_BYTES = 1 << 18  # largest chunk that is decompressed
MAX_WHOLE_BYTES = 1 << 28  # largest dataset that is read at once
MAX_TEXT_BYTES = 1 << 16  # longest attribute
# A clip without motion compresses about a thousandfold; deflate cannot do more than 1032.
MAX_DEFLATE_RATIO = 1032


class ShardReader:
    """Reads one shard and refuses anything that the format does not allow. A context manager.

    Args:
        path: the shard. A shard of object storage is fetched (shared/shard_cache.py).
        kind: the expected kind.
        partly: of a shard of object storage that is not on this machine, get only what is read.

    Attributes:
        num_clips, num_frames: N and F.
        attributes: the attributes that the writer was given.

    Raises:
        InputError: the file is not HDF5, of another kind or of a newer format; a dataset is
            missing, has another dtype or shape than in the schema, other filters, external or
            virtual storage, or claims more data than the file can hold.
    """

    def __init__(self, path: Path, kind: str, partly: bool = False) -> None:
        self.path = Path(path)
        self.kind = kind
        self._fields = {field.path: field for field in SCHEMAS[kind]}
        try:
            self._file, self._num_bytes = open_shard(self.path, partly)
        except FileNotFoundError:
            raise InputError("missing-file", f"no shard at {self.path}") from None
        except OSError as error:
            raise InputError(
                "damaged-file", f"{self.path} is not a readable HDF5 file: {error}"
            ) from None
        try:
            self._check_head()
            self._fields = {p: f for p, f in self._fields.items() if not self._is_left_out(f)}
            self._datasets = {path: self._open(field) for path, field in self._fields.items()}
            self._rows = {path: CheckedRows(dataset) for path, dataset in self._datasets.items()}
            self._check_shapes()
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            self.close()
            raise InputError("damaged-file", f"{self.path} is damaged: {error}") from None
        except ValueError as error:  # InputError among them
            self.close()
            if isinstance(error, InputError):
                raise
            raise InputError("damaged-file", f"{self.path} is damaged: {error}") from None

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def __contains__(self, path: str) -> bool:
        """Whether the shard has an optional dataset."""
        return path in self._datasets

    def __getitem__(self, path: str) -> np.ndarray:
        """Read a whole dataset; use `rows` for large ones (`values`)."""
        dataset = self._datasets[path]
        if dataset.nbytes > MAX_WHOLE_BYTES:
            raise InputError(
                "out-of-range", f"{self.path}{path} holds {dataset.nbytes} bytes; read it by rows"
            )
        return self.rows(path, 0, len(dataset))

    def pair(self, path: str, row: int) -> tuple[int, int]:
        """Read a row of two integers, such as width and height or first and last."""
        first, second = self.rows(path, row, row + 1)[0]
        return int(first), int(second)

    def length(self, path: str) -> int:
        """The number of rows of a dataset."""
        return len(self._datasets[path])

    def rows(self, path: str, first: int, last: int) -> np.ndarray:
        """Read rows first:last of a dataset; a damaged chunk raises an InputError."""
        dataset = self._datasets[path]
        if not 0 <= first <= last <= len(dataset):
            raise InputError(
                "damaged-file",
                f"{self.path}{path} is damaged: rows {first}:{last} are needed, and it has "
                f"{len(dataset)}; {make_around(self.path.parent, 'verify')} lists all such shards",
            )
        try:
            return self._rows[path].read(first, last)
        except (ChunkError, OSError, RuntimeError) as error:
            raise InputError(
                "damaged-file",
                f"{self.path}{path} is damaged ({error}); "
                f"{make_around(self.path.parent, 'verify')} lists all such shards",
            ) from None

    def ragged(
        self, offsets_path: str, values_path: str, first: int, last: int
    ) -> list[np.ndarray]:
        """Read items first:last of a ragged dataset, as one array for each item."""
        offsets = self.rows(offsets_path, first, last + 1)
        if np.any(np.diff(offsets) < 0):
            raise InputError("damaged-file", f"{self.path}{offsets_path}: offsets are out of order")
        values = self.rows(values_path, int(offsets[0]), int(offsets[-1]))
        return np.split(values, offsets[1:-1] - offsets[0])

    def damaged_chunks(self) -> Iterator[str]:
        """Check every chunk of every dataset, and yield a message for each damaged one."""
        for path, rows in self._rows.items():
            yield from (f"{path}: {problem}" for problem in rows.problems())

    def clip_ids(self) -> list[str]:
        return [clip_id.decode() for clip_id in self["/clip/id"]]

    def _check_head(self) -> None:
        stored = self._file.attrs.get_id("format_version")
        if stored.dtype.kind not in "iu" or stored.shape != ():
            raise InputError(
                "wrong-format", f"{self.path}: attribute format_version must be a whole number"
            )
        version = int(self._file.attrs["format_version"])
        if version not in FORMAT_VERSIONS:
            first, last = FORMAT_VERSIONS[0], FORMAT_VERSIONS[-1]
            raise InputError(
                "other-version",
                f"{self.path} has format version {version}; this program reads {first} to {last}",
            )
        kind = self._text("kind")
        if kind != self.kind:
            raise InputError("other-kind", f"{self.path} holds {kind}, not {self.kind}")
        config = self._text("config")
        try:
            self.attributes: dict = json.loads(config)
        except ValueError as error:
            raise InputError(
                "damaged-file", f"{self.path}: attribute config is not JSON: {error}"
            ) from None

    def _text(self, name: str) -> str:
        stored = self._file.attrs.get_id(name)
        if stored.dtype.kind != "S" or stored.get_storage_size() > MAX_TEXT_BYTES:
            raise InputError(
                "wrong-format", f"{self.path}: attribute {name} must be a short fixed-length text"
            )
        return bytes(self._file.attrs[name]).decode()

    def _is_left_out(self, field: Field) -> bool:
        """Whether an optional dataset is missing; a link to another place is not missing."""
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
        """Open a dataset through hard links only, and check how it is stored."""
        parent: h5py.Group = self._file
        for name in field.path.strip("/").split("/"):
            link = parent.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                found = "nothing" if link is None else type(link).__name__
                raise InputError(
                    "damaged-file" if link is None else "unsafe-file",
                    f"{self.path}{field.path}: a dataset is expected, not {found}",
                )
            parent = parent[name]
        dataset = parent
        where = f"{self.path}{field.path}"
        if not isinstance(dataset, h5py.Dataset):
            raise InputError("wrong-format", f"{where}: a dataset is expected, not a group")
        if dataset.dtype.str != np.dtype(field.dtype).str:
            raise InputError(
                "wrong-format", f"{where} has type {dataset.dtype.str}, not {field.dtype}"
            )
        if dataset.external or dataset.is_virtual or dataset.chunks is None:
            raise InputError(
                "unsafe-file", f"{where}: data outside the file or not in chunks is refused"
            )
        filters = filters_of(dataset)
        if filters not in (PLAIN, GZIP):
            raise InputError(
                "wrong-format", f"{where}: filters {filters}; fletcher32, after gzip, is allowed"
            )
        if dataset.chunks[1:] != dataset.shape[1:]:
            raise InputError(
                "wrong-format", f"{where}: chunks {dataset.chunks}; whole rows are allowed"
            )
        # Python integers do not overflow with the shapes of hostile files, as those of numpy do.
        chunk_bytes, num_bytes = (
            math.prod(shape) * dataset.dtype.itemsize for shape in (dataset.chunks, dataset.shape)
        )
        most = self._num_bytes * (MAX_DEFLATE_RATIO if filters == GZIP else 1) + chunk_bytes
        if chunk_bytes > MAX_CHUNK_BYTES or num_bytes > most:
            raise InputError(
                "damaged-file", f"{where} claims {num_bytes} bytes, more than the file can hold"
            )
        return dataset

    def _check_shapes(self) -> None:
        sizes = sizes_of(self._fields.values(), {p: d.shape for p, d in self._datasets.items()})
        if isinstance(sizes, str):
            raise InputError("damaged-file", f"{self.path}{sizes}")
        self.num_clips, self.num_frames = sizes["N"], sizes["F"]
