"""Kinetics-400: CSV lists with label,youtube_id,time_start,time_end,split."""

from __future__ import annotations

from preprocess.annotations.base import (
    AnnotatedClip,
    Annotations,
    Source,
    check_count,
    require_clips,
)
from preprocess.annotations.text_files import read_csv, whole_number
from shared.errors import InputError

ROLES = ("train", "val", "test")
COLUMNS = ("youtube_id", "time_start", "time_end", "split")
SPLIT_OF = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


def read(source: Source) -> Annotations:
    """Read the lists. The videos are trimmed files `{id}_{start:06d}_{end:06d}`.

    Classes are the label names in alphabetical order. The test list may have no labels.

    Raises:
        InputError: a clip does not end after its start, has no label, or has an unknown split.
    """
    notes: list[str] = []
    rows: list[tuple[str, str, str, str]] = []  # where, video, split, label name
    for split, path in source.split_files(notes):
        columns = COLUMNS if split == "test" else ("label", *COLUMNS)
        first = len(rows)
        rows += [_row(where, row) for where, row in read_csv(path, columns)]
        require_clips(rows[first:], path)
    names = sorted({label for *_, label in rows if label})
    check_count("label", names, source, notes)
    number_of = {name: number for number, name in enumerate(names)}
    clips = [
        AnnotatedClip(where, video, video, split, number_of.get(label))
        for where, video, split, label in rows
    ]
    return Annotations(clips, source.spec.class_list(names), notes)


def _row(where: str, row: dict[str, str]) -> tuple[str, str, str, str]:
    start = whole_number(row["time_start"], "time_start", where)
    end = whole_number(row["time_end"], "time_end", where)
    if end <= start:
        raise InputError("bad-entry", f"{where}: time_end {end} is not after time_start {start}")
    if row["split"] not in SPLIT_OF:
        raise InputError(
            "unknown-name",
            f"{where}: unknown split {row['split']!r}; known: {', '.join(SPLIT_OF)}",
        )
    split = SPLIT_OF[row["split"]]
    label = row.get("label", "")
    if not label and split != "test":
        raise InputError(
            "missing-label", f"{where}: the row has no label; only test clips may have none"
        )
    return where, f"{row['youtube_id']}_{start:06d}_{end:06d}", split, label
