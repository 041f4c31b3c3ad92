"""A part of Kinetics-400 that is given by YouTube ids, such as Mini-Kinetics-200.

The lists of Mini-Kinetics-200 (Xie et al. 2018) have one id a line; labels and spans are those of
the lists of Kinetics-400.
"""

from __future__ import annotations

from preprocess.annotations.base import Annotations, Source, check_count
from preprocess.annotations.readers import k400
from preprocess.annotations.text_files import read_lines
from shared.errors import InputError
from shared.wording import counted

ROLES = ("train", "val", "train_ids", "val_ids")


def read(source: Source) -> Annotations:
    """Read the lists of Kinetics-400, and keep the clips whose id the list of their split has.

    Classes are the names of the kept clips in alphabetical order.

    Raises:
        InputError: a list of ids is missing, or has no id of the list of Kinetics-400.
    """
    notes: list[str] = []
    rows = []
    for split, path in source.split_files(notes):
        ids = {line: where for where, line in read_lines(source.require(f"{split}_ids"))}
        kept = [row for row in k400.read_rows(split, path) if row.youtube_id in ids]
        if not kept:
            listed = source.require(f"{split}_ids")
            raise InputError("no-match", f"no clip of {path} has an id of {listed}; check both")
        lacking = len(ids) - len({row.youtube_id for row in kept})
        if lacking:
            notes.append(f"{path.name} lacks {counted(lacking, 'id')} of the list of {split}")
        rows += kept
    names = sorted({row.label for row in rows if row.label})
    check_count("label", names, source, notes)
    return Annotations(k400.clips_of(rows, names), source.spec.class_list(names), notes)
