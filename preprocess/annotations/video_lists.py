"""Reads lists of videos with labels, as VideoMAE's and other public code have them: `path label`.

    videos/one.mp4 3            separated by spaces; the label is the last word
    videos/one.mp4,3            separated by commas
    videos/the one.mp4          without a label: the line ends with the suffix of a video
    frames/one 120 3            a folder of frames, its number of frames, and the label
    path,label,group            with a header, which may have further columns
    videos/one.mp4,jump,g01

Labels are class numbers from 0, or names; a list without labels is allowed. A path is relative to
the video root, or absolute below it. Windows' backslashes are read as slashes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from preprocess.annotations.base import AnnotatedClip, Annotations, require_clips
from preprocess.annotations.class_numbers import classes_beside, refuse_unlisted
from preprocess.annotations.readers.manifest_csv import read_manifest_csv
from preprocess.annotations.text_files import read_csv, read_lines, read_text
from preprocess.video.video_index import SUFFIXES, VideoIndex, composed, suffix_of, without_suffix
from shared.errors import InputError
from shared.manifest import COLUMNS, MAX_CLASSES, SPLITS, ClassList, check_relative_path

PATH_NAMES = ("path", "video", "video_path", "filename", "file", "name", "clip")
LABEL_NAMES = ("label", "class", "class_id", "label_id", "category", "target")
QUOTES = "\"'"
NO_LABEL = "-1"  # in VideoMAE V2's lists for pretraining
LIST_SUFFIXES = (".csv", ".txt")  # of the lists in a folder


@dataclass(frozen=True)
class _Row:
    where: str
    path: str
    label: str
    columns: dict[str, str] = field(default_factory=dict)


def read_own_list(path: Path, index: VideoIndex) -> Annotations:
    """Read a user's own clips: a CSV like manifest.csv, a list, or a folder of lists.

    Args:
        path: the file or folder.
        index: the videos.

    Raises:
        InputError: there is no such file, or it is refused.
    """
    if path.is_dir():
        return _read_folder(path, index)
    if path.is_file() and _is_list(path):
        return _read_list(path, index)
    return read_manifest_csv(path)


def _is_list(path: Path) -> bool:
    """Whether a file is a list of videos: its header, if any, has no column of a manifest alone."""
    header = {*_cells(f"{path}, row 1", read_text(path).partition("\n")[0])}
    return not header & (set(COLUMNS) - {*PATH_NAMES, *LABEL_NAMES})


def _read_list(path: Path, index: VideoIndex) -> Annotations:
    """Read one list, whose clips are yet to be divided into splits.

    Raises:
        InputError: a row has another form, a path leaves the video root, or a label is not allowed.
    """
    found = _split_lists(path.parent)
    notes = []
    if path in found.values() and len(found) > 1:
        notes.append(
            f"{path.name} is read alone; --manifest {path.parent} (MANIFEST=) reads "
            f"{', '.join(each.name for each in found.values())} as splits"
        )
    return _annotations({"train": path}, index, notes, None)


def _read_folder(folder: Path, index: VideoIndex) -> Annotations:
    """Read the lists train, val and test (.csv or .txt) of a folder as splits.

    Raises:
        InputError: there is no such list, or a list is refused.
    """
    found = _split_lists(folder)
    if not found:
        raise InputError(
            "missing-file",
            f"{folder} has none of the lists {', '.join(f'{split}.csv' for split in SPLITS)}",
        )
    names = ", ".join(path.name for path in found.values())
    return _annotations(found, index, [], f"the lists {names} of {folder}")


def _split_lists(folder: Path) -> dict[str, Path]:
    """The list of each split that has one."""
    paths = {split: [folder / f"{split}{suffix}" for suffix in LIST_SUFFIXES] for split in SPLITS}
    return {
        split: next(path for path in tried if path.is_file())
        for split, tried in paths.items()
        if any(path.is_file() for path in tried)
    }


def _annotations(
    lists: dict[str, Path], index: VideoIndex, notes: list[str], splits_from: str | None
) -> Annotations:
    rows = [(split, row) for split, path in lists.items() for row in _rows(path)]
    first = next(iter(lists.values()))
    require_clips(rows, first)
    classes, numbers = _classes([row for _, row in rows], first)
    clips = []
    for (split, row), label in zip(rows, numbers, strict=True):
        video = _relative(row, index)
        clips.append(
            AnnotatedClip(
                row.where,
                without_suffix(video).replace("/", "__"),
                video,
                split,
                label,
                exact=True,
                columns=row.columns,
            )
        )
    if any("\\" in row.path for _, row in rows):
        notes = [*notes, "backslashes in the paths of the list are read as slashes"]
    return Annotations(clips, classes, notes, splits_from)


def _rows(path: Path) -> Iterator[_Row]:
    lines = list(read_lines(path))
    if not lines:
        return
    first_row, first_line = lines[0]
    separator = "," if "," in first_line else None
    header = _cells(first_row, first_line) if separator else first_line.replace('"', "").split()
    lowered = [cell.lower() for cell in header]
    has_header = not {*lowered}.isdisjoint({*PATH_NAMES, *LABEL_NAMES})
    has_header &= not _ends_with_video(first_line)  # `clip 1.mp4` is a path
    if has_header and separator:
        path_at = next((cell for cell in header if cell.lower() in PATH_NAMES), None)
        label_at = next((cell for cell in header if cell.lower() in LABEL_NAMES), None)
        if path_at is None:
            raise InputError(
                "missing-key",
                f"{path}, row 1: no column of paths; the header is {','.join(header)[:200]}, and "
                f"one of {', '.join(PATH_NAMES)} is needed",
            )
        needed = (path_at, *([label_at] if label_at else []))
        for where, row in read_csv(path, needed, skip_spaces=True):
            others = {
                name: (value or "").strip()
                for name, value in row.items()
                if name not in (path_at, label_at, None)
            }
            label = row[label_at].strip() if label_at else ""
            yield _Row(where, row[path_at].strip(), label, others)
        return
    for where, line in lines[has_header:]:
        yield _row_of(where, line, separator)


def _cells(where: str, line: str) -> list[str]:
    """The cells of a line of a CSV, without quotes and surrounding spaces.

    Raises:
        InputError: the line is not CSV.
    """
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]
    except csv.Error as error:
        raise InputError("wrong-format", f"{where}: not CSV ({error})") from None


def _row_of(where: str, line: str, separator: str | None) -> _Row:
    """`path`, `path label` or `path frames label`; a path may have the separator in it."""
    cells = _cells(where, line) if separator else line.split()
    if len(cells) == 1:
        return _Row(where, cells[0] if separator else line.strip(QUOTES), "")
    if _ends_with_video(line):
        return _Row(where, line.strip(QUOTES), "")
    label, rest = cells[-1], cells[:-1]
    # VideoMAE's lists of folders of frames have numbers of frames between path and label.
    while len(rest) > 1 and rest[-1].lstrip("-").isdigit():
        rest.pop()
    if separator:
        return _Row(where, separator.join(rest), label)
    end = line.rstrip()
    for _ in range(len(cells) - len(rest)):
        end = end.rpartition(end.split()[-1])[0].rstrip()
    return _Row(where, end.strip(QUOTES), label)


def _ends_with_video(line: str) -> bool:
    """Whether the last word of a line is the name of a video file, so that it has no label."""
    return suffix_of(line.strip(QUOTES)) in SUFFIXES


def _relative(row: _Row, index: VideoIndex) -> str:
    """The path below the video root, with slashes.

    Raises:
        InputError: an absolute path does not lie below the root.
    """
    text = row.path.replace("\\", "/")
    path = Path(text)
    if not path.is_absolute():
        text = text.removeprefix("./")
        try:
            check_relative_path(text)
        except InputError as error:
            raise error.at(row.where) from None
        return text
    for place in (path, path.parent.resolve() / path.name):  # VIDEOS may be a link
        if place.is_relative_to(index.root) and ".." not in place.parts:
            return place.relative_to(index.root).as_posix()
    raise InputError(
        "unsafe-path",
        f"{row.where}: {text[:200]!r} does not lie below the folder of videos, {index.root}; give "
        "--videos (VIDEOS=) a folder that holds it, or make the paths relative",
    )


def _classes(rows: list[_Row], path: Path) -> tuple[ClassList, list[int | None]]:
    """The classes of all rows, and the class number of each row.

    Raises:
        InputError: some rows have a label and some have none, or a number is not listed.
    """
    if all(row.label == NO_LABEL for row in rows):
        rows = [replace(row, label="") for row in rows]
    labels = [composed(row.label) for row in rows]
    empty = [row for row in rows if not row.label]
    if empty and len(empty) < len(rows):
        raise InputError(
            "missing-label", f"{empty[0].where}: the label is empty, and other rows have one"
        )
    if empty:
        return ClassList(), [None] * len(rows)
    if all(label.isascii() and label.isdigit() and len(label) <= 9 for label in labels):
        numbers = [int(label) for label in labels]
        if max(numbers) >= MAX_CLASSES:
            row = rows[numbers.index(max(numbers))]
            raise InputError(
                "out-of-range",
                f"{row.where}: the label is {row.label}; class numbers from 0 to "
                f"{MAX_CLASSES - 1} are allowed",
            )
        classes, name = classes_beside(path, {"label": numbers})
        for row, number in zip(rows, numbers, strict=True):
            refuse_unlisted(classes, "label", number, name, row.where)
        return classes, list(numbers)
    if NO_LABEL in labels:
        row = rows[labels.index(NO_LABEL)]
        raise InputError(
            "missing-label", f"{row.where}: the label is {NO_LABEL}, and other rows have one"
        )
    names = sorted(set(labels))
    number_of = {name: number for number, name in enumerate(names)}
    return ClassList(label=names), [number_of[label] for label in labels]
