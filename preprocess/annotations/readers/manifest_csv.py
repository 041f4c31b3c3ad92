"""Reads a CSV with the columns of manifest.csv, and the classes.json beside it if there is one."""

from __future__ import annotations

from pathlib import Path

from preprocess.annotations.base import AnnotatedClip, Annotations, Source, require_clips
from preprocess.annotations.text_files import read_text
from shared.errors import InputError
from shared.manifest import LABEL_KINDS, ClassList, Clip, parse_manifest, read_classes

ROLES = ("manifest", "classes")


def read(source: Source) -> Annotations:
    """Read the manifest of the annotation folder, and its classes.json."""
    return read_manifest_csv(source.require("manifest"), source.find("classes"))


def read_manifest_csv(path: Path, classes_path: Path | None = None) -> Annotations:
    """Read the clips of a CSV. Its videos are paths with a suffix.

    Args:
        path: the CSV.
        classes_path: file of the class names; None = classes.json beside the CSV. If the file does
            not exist, the class numbers serve as names.

    Raises:
        InputError: shared/manifest.py refuses a row, or a label is not in the class list.
    """
    if not path.is_file():
        raise InputError(
            "missing-file",
            f"no file {path}; give --manifest a CSV with the columns of manifest.csv",
        )
    rows = parse_manifest(read_text(path), str(path))
    classes_path = classes_path or path.with_name("classes.json")
    classes = read_classes(classes_path) if classes_path.is_file() else _numbered(rows)
    clips = []
    for number, row in enumerate(rows, start=2):
        where = f"{path}, row {number} (clip {row.clip_id!r})"
        for kind in LABEL_KINDS:
            names, value = getattr(classes, kind), getattr(row, kind)
            if value is not None and value >= len(names):
                raise InputError(
                    "bad-entry",
                    f"{where}: {kind} is {value}, but {classes_path.name} has {len(names)} classes",
                )
        clips.append(
            AnnotatedClip(
                where,
                row.clip_id,
                row.video,
                row.split,
                row.label,
                row.verb,
                row.noun,
                row.start_seconds,
                row.stop_seconds,
                exact=True,
            )
        )
    require_clips(clips, path)
    return Annotations(clips, classes)


def _numbered(rows: list[Clip]) -> ClassList:
    """Class lists for labels without names. Their length is the largest label plus 1."""
    lists: dict[str, list[str]] = {}
    for kind in LABEL_KINDS:
        numbers = [value for row in rows if (value := getattr(row, kind)) is not None]
        lists[kind] = [str(number) for number in range(max(numbers, default=-1) + 1)]
    return ClassList(label=lists["label"], verb=lists["verb"], noun=lists["noun"])
