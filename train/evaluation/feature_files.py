"""Writes the features of clips as HDF5 and Parquet, the same bytes for the same features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.files import write_atomically
from train.evaluation.h5_files import atomic_h5

FORMATS = ("h5", "parquet")
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Features:
    """The features of n clips.

    Attributes:
        ids: S64 [n].
        splits: text [n], train, val or test.
        labels: by kind of label int64 [n], -1 without a label.
        values: float16 or float32 [n, D], [n, T', D] or [n, N, D].
        grid: (time steps, rows, columns) of the tokens.
        dims, description: what the axes are, and what a vector is.
    """

    ids: np.ndarray
    splits: list[str]
    labels: dict[str, np.ndarray]
    values: np.ndarray
    grid: tuple[int, int, int]
    dims: str
    description: str


def write_h5(path: Path, features: Features) -> None:
    """Write /clip/id, /clip/split, /clip/<kind> and /feature, one chunk a clip, in one step."""
    with atomic_h5(path) as file:
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["grid"] = features.grid
        splits = np.array([split.encode() for split in features.splits], "S5")
        columns = {"id": features.ids, "split": splits, **features.labels}
        for name, values in columns.items():
            file.create_dataset(f"/clip/{name}", data=values, track_times=False)
        shape = features.values.shape
        stored = file.create_dataset(
            "/feature",
            data=features.values,
            chunks=(1, *shape[1:]) if len(shape) > 2 else True,
            fletcher32=True,
            track_times=False,
        )
        stored.attrs["dims"] = features.dims
        stored.attrs["description"] = features.description


def write_parquet(path: Path, features: Features) -> None:
    """Write one row for each vector, in one step.

    The columns are clip_id, split, label, verb, noun (null without a label), `step` where there are
    time steps, `step`, `row` and `column` where there are tokens, and `feature`, a list of fixed
    length.

    Raises:
        InputError: pyarrow is not installed.
    """
    pa, parquet = import_pyarrow()
    values = features.values
    count = len(values)
    per_clip = 1 if values.ndim == 2 else values.shape[1]
    clip_of = np.repeat(np.arange(count), per_clip)
    ids = [clip_id.decode() for clip_id in features.ids]
    columns: dict[str, Any] = {
        "clip_id": pa.array([ids[clip] for clip in clip_of], pa.string()),
        "split": pa.array([features.splits[clip] for clip in clip_of], pa.string()),
    }
    for kind, labels in features.labels.items():
        each = labels[clip_of]
        columns[kind] = pa.array(each, pa.int64(), mask=each < 0)
    if values.ndim == 3:
        shape = features.grid if "token" in features.dims else features.grid[:1]
        places = np.unravel_index(np.arange(per_clip), shape)
        for name, place in zip(("step", "row", "column"), places, strict=False):
            columns[name] = pa.array(np.tile(place, count), pa.int32())
    kind = pa.float16() if values.dtype == np.float16 else pa.float32()
    flat = pa.array(values.reshape(-1), kind)
    columns["feature"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[-1])
    metadata = {"dims": features.dims, "description": features.description}
    table = pa.table(columns).replace_schema_metadata(metadata)
    stream = pa.BufferOutputStream()
    parquet.write_table(table, stream, compression="zstd")
    write_atomically(path, stream.getvalue().to_pybytes())


def import_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        InputError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "missing-package",
            "Parquet files need the package pyarrow; install it with `.venv/bin/pip install "
            "pyarrow`, or give --formats h5",
        ) from None
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, Callable[[Path, Features], None]] = {"h5": write_h5, "parquet": write_parquet}
