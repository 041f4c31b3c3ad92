"""Kinetics-400: CSV lists with label,youtube_id,time_start,time_end,split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    rows: list[Row] = []
    for split, path in source.split_files(notes):
        rows += read_rows(split, path)
    names = sorted({row.label for row in rows if row.label})
    check_count("label", names, source, notes)
    return Annotations(clips_of(rows, names), source.spec.class_list(names), notes)


@dataclass(frozen=True)
class Row:
    """A row of a list: where it is, id and span of the video, split, and name of the class."""

    where: str
    youtube_id: str
    span: tuple[int, int]
    split: str
    label: str

    @property
    def video(self) -> str:
        """Name of the trimmed file without its suffix."""
        start, end = self.span
        return f"{self.youtube_id}_{start:06d}_{end:06d}"


def read_rows(split: str, path: Path) -> list[Row]:
    """The rows of the list of a split.

    Raises:
        InputError: the list has no row, or a row is wrong.
    """
    columns = COLUMNS if split == "test" else ("label", *COLUMNS)
    rows = [_row(where, row) for where, row in read_csv(path, columns)]
    require_clips(rows, path)
    return rows


def clips_of(rows: list[Row], names: list[str]) -> list[AnnotatedClip]:
    """The clips of rows; the number of a class is its place in `names`."""
    number_of = {name: number for number, name in enumerate(names)}
    return [
        AnnotatedClip(row.where, row.video, row.video, row.split, number_of.get(row.label))
        for row in rows
    ]


def _row(where: str, row: dict[str, str]) -> Row:
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
    return Row(where, row["youtube_id"], (start, end), split, label)
