"""The finished cells of benchmarks/real_video.py in one small file that outlives their runs.

A cell takes minutes to hours, and its run has hundreds of megabytes. The file keeps of each cell
only which test clips were right, so that a benchmark that was begun on one machine continues on
another one. A cell is found again only if the recipe has the same options for it. The same holds
for a run: a mark in its folder says what it was made with, because its name does not.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real_clips import held_out_split
from benchmarks.real_video_cells import METHODS, RECIPE, Cell, Pretraining
from benchmarks.real_video_scores import ScoredClips, read_tested
from shared.errors import InputError
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import read_manifest
from train.options.recipe import read_recipe, written_options

MARK = "benchmark-key"
"""A file in the folder of a run with the key of its cell, or of its pretraining."""


class FinishedCells:
    """Figures of finished cells, and costs of finished pretrainings.

    The file is JSON: for each cell the number of test clips, and which of them were right, as the
    bits of a hexadecimal number, the first clip (in the order of their ids) first; for each
    pretraining its cost.

    Args:
        path: the file; it need not exist.
        flow: the source of the flow.
        precision: loader.precision of the trainings.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, path: Path, flow: str, precision: str = "auto") -> None:
        self._path, self._flow = path, flow
        # An asked precision is an option of each training. A probe alone trains nothing in it.
        self._precision = [] if precision == "auto" else [precision]
        self._clips: dict[Path, tuple[list[str], np.ndarray]] = {}  # by manifest
        self._tables = _read(path)

    def tested(self, layout: DatasetLayout, cell: Cell) -> ScoredClips | None:
        """The tested clips of a cell, from its run if that is marked, or else from the file; None
        if neither has it."""
        key = self._key(layout, cell)
        if self.is_marked(layout, cell.run, key):
            found = read_tested(layout, cell)
            if found is not None:
                return found
        entry = self._tables["cells"].get(key)
        ids, labels = self._test_clips(layout, cell)
        if entry is None or entry["clips"] != len(ids):
            return None
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(entry["right"]), np.uint8))
        return ScoredClips(ids, labels, bits[: len(ids)].astype(np.bool_))

    def add(self, layout: DatasetLayout, cell: Cell, tested: ScoredClips) -> None:
        """Add a cell."""
        right = dict(zip(tested.clip_ids, tested.correct, strict=True))
        ids, _ = self._test_clips(layout, cell)
        bits = np.packbits(np.array([right[clip_id] for clip_id in ids], np.bool_))
        self._tables["cells"][self._key(layout, cell)] = {
            "clips": len(ids),
            "right": bits.tobytes().hex(),
        }

    def cost(self, layout: DatasetLayout, pretraining: Pretraining) -> Mapping[str, float] | None:
        """The cost of a pretraining, as it was added; None if the file does not have it."""
        return self._tables["pretrainings"].get(self.pretraining_key(layout, pretraining))

    def add_cost(
        self, layout: DatasetLayout, pretraining: Pretraining, cost: Mapping[str, float]
    ) -> None:
        """Add what a pretraining took."""
        key = self.pretraining_key(layout, pretraining)
        self._tables["pretrainings"].setdefault(key, dict(cost))

    def mark(self, layout: DatasetLayout, cell: Cell) -> None:
        """Mark the finished run of a cell, and that of its pretraining, with their keys."""
        keys = {cell.run: self._key(layout, cell)}
        if cell.pretraining is not None:
            keys[cell.pretraining.run] = self.pretraining_key(layout, cell.pretraining)
        for run, key in keys.items():
            write_atomically(layout.runs / run / MARK, f"{key}\n".encode())

    def is_marked(self, layout: DatasetLayout, run: str, key: str) -> bool:
        """Whether a run was made for this key. Other runs have the same name if the recipe, the
        flow or the precision is another one."""
        path = layout.runs / run / MARK
        return path.is_file() and path.read_text() == f"{key}\n"

    def write(self) -> None:
        """Replace the file. Cells that another benchmark has added since it was read are kept."""
        tables = {
            name: {**there, **self._tables[name]} for name, there in _read(self._path).items()
        }
        content = {name: dict(sorted(table.items())) for name, table in tables.items()}
        write_atomically(self._path, json.dumps(content, indent=1).encode() + b"\n")

    def _test_clips(self, layout: DatasetLayout, cell: Cell) -> tuple[list[str], np.ndarray]:
        """Ids and labels int64 [n] of the clips that a cell is tested on, in the order of the
        ids. The manifest of a fold is read once."""
        if layout.manifest not in self._clips:
            split = held_out_split(cell.fold)
            labels = {
                clip.clip_id: clip.label
                for clip in read_manifest(layout.manifest)
                if clip.split == split and clip.label is not None
            }
            ids = sorted(labels)
            self._clips[layout.manifest] = ids, np.array([labels[each] for each in ids], np.int64)
        return self._clips[layout.manifest]

    def _key(self, layout: DatasetLayout, cell: Cell) -> str:
        tables = _recipe(RECIPE)
        options: list[Any] = [
            *(tables.get(section) for section in ("model", "loader")),
            written_options(tables, "finetune", METHODS[cell.key].head),
        ]
        if not cell.is_probe:
            options.append(tables.get("evaluate"))
        if cell.pretraining is not None:
            options.append(_pretraining_options(tables, cell.key))
        if cell.pretraining is not None or not cell.is_probe:
            options += self._precision
        return f"{layout.dataset}/{self._flow}/{cell.run}/{_digest(options)}"

    def pretraining_key(self, layout: DatasetLayout, pretraining: Pretraining) -> str:
        """The key of a pretraining: its dataset, flow and run, and a digest of its options."""
        options = _pretraining_options(_recipe(RECIPE), pretraining.key) + self._precision
        return f"{layout.dataset}/{self._flow}/{pretraining.run}/{_digest(options)}"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of the file; empty ones if there is no file."""
    tables: dict[str, dict[str, Any]] = {"cells": {}, "pretrainings": {}}
    if not path.is_file():
        return tables
    try:
        content = json.loads(path.read_text())
        return {name: dict(content[name]) for name in tables}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "damaged-file",
            f"{path} cannot be read ({error!r}); delete it, and its cells run again",
        ) from None


@functools.cache
def _recipe(path: Path) -> dict[str, Any]:
    return read_recipe("", path)


def _pretraining_options(tables: Mapping[str, Any], key: str) -> list[Any]:
    method = METHODS[key]
    assert method.method is not None, key
    written = written_options(tables, "pretrain", method.method)
    return [tables.get("model"), tables.get("loader"), written, dict(method.settings)]


def _digest(options: object) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]
