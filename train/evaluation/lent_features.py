"""Features that another probe of the same model has computed, for a probe with other labels.

A model's features do not depend on the labels that a probe learns from, and computing them takes
most of a probe's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError
from train.clips.table import ClipTable
from train.evaluation.features import features_file, read_features, write_features
from train.running.engine import Processes
from train.running.run_folder import RunFolder

# Options of a probe that its features do not depend on. The pool has files of its own.
OF_LABELS = {"classes", "class_names", "clips", "few_labels", "config.labels", "manifest"}


def check_lender(lender: RunFolder | None, options: Mapping[str, Any]) -> None:
    """Check that the features of a probe, if any, are those that these options would compute.

    Raises:
        InputError: there is no such run, it is no probe, or its features are of another model, of
            other views, of other data, or pooled in another way.
    """
    if lender is None:
        return
    lender.options_of("probe", "is no probe, so it has no features")
    if differing := lender.differences(options, OF_LABELS):
        raise InputError(
            "other-options",
            f"{lender.path} has other features: {'; '.join(differing)}. Name a probe of the same "
            "model, views and pool, or leave --reuse out",
        )


def copy_features(
    lender: RunFolder | None,
    folder: RunFolder,
    tables: Mapping[str, ClipTable],
    pools: Iterable[str],
    processes: Processes,
) -> None:
    """Write those features into `folder` that `lender` has of all clips of a table.

    A file that the folder has already is kept. All processes must call this function.

    Args:
        tables: the clips of each split.

    Raises:
        InputError: a file of the lender is damaged.
    """
    if lender is not None and processes.is_first:
        for pool, (split, table) in product(pools, tables.items()):
            source, target = (features_file(each, split, pool) for each in (lender, folder))
            if target.is_file() or not source.is_file():
                continue
            if (found := _of_clips(source, table)) is not None:
                write_features(target, table.ids, found)
                processes.say(f"reuse: features of split {split} are those of {source}")
    processes.wait()


def _of_clips(path: Path, table: ClipTable) -> np.ndarray | None:
    """The features of the clips of a table, [n, ...]; None if the file lacks one of them."""
    ids, features = read_features(path)
    row_of = {clip_id: row for row, clip_id in enumerate(ids.tolist())}
    rows = [row_of.get(clip_id, -1) for clip_id in table.ids.tolist()]
    return None if -1 in rows else features[rows]
