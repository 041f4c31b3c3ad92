"""A CSV with the columns of manifest.csv, with or without a classes.json beside it."""

from __future__ import annotations

from pathlib import Path

from preprocess.annotations.base import AnnotatedClip, Annotations, Source, require_clips
from preprocess.annotations.text_files import read_text
from shared.errors import InputError
from shared.manifest import LABEL_KINDS, ClassList, Clip, parse_manifest, read_classes

ROLES = ("manifest", "classes")


def read(source: Source) -> Annotations:
    """The manifest of the annotation folder, and its classes.json."""
    return read_manifest_csv(source.require("manifest"), source.find("classes"))


def read_manifest_csv(path: Path, classes_path: Path | None = None) -> Annotations:
    """Clips as a CSV with the manifest's columns lists them; videos are paths with suffix.

    Args:
        path: the CSV.
        classes_path: class names; by default classes.json beside the CSV, and where that is not
            there either, the class numbers serve as names.

    Raises:
        InputError: what shared/manifest.py refuses, or a label outside the class list.
    """
    if not path.is_file():
        raise InputError(f"no file {path}; --manifest names a CSV with the manifest's columns")
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
                    f"{where}: {kind} is {value}, but {classes_path.name} lists {len(names)}"
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
    """Class lists for labels without names: as long as the largest number asks."""
    lists: dict[str, list[str]] = {}
    for kind in LABEL_KINDS:
        numbers = [value for row in rows if (value := getattr(row, kind)) is not None]
        lists[kind] = [str(number) for number in range(max(numbers, default=-1) + 1)]
    return ClassList(label=lists["label"], verb=lists["verb"], noun=lists["noun"])
