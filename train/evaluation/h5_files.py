"""Writes HDF5 files in one step."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from shared.files import write_atomically


@contextmanager
def atomic_h5(path: Path) -> Iterator[h5py.File]:
    """A file in memory that becomes `path` in one step at the end of the block.

    Datasets that are made with track_times=False give the same bytes for the same values.
    """
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        yield file
    write_atomically(path, stream.getbuffer())  # without a copy: all tokens of a split are large
