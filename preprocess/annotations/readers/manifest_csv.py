"""Reads a CSV with the columns of manifest.csv, and the classes.json beside it if there is one."""

from __future__ import annotations

from pathlib import Path

from preprocess.annotations.base import AnnotatedClip, Annotations, Source, require_clips
from preprocess.annotations.class_numbers import numbered_classes, refuse_unlisted
from preprocess.annotations.text_files import read_csv, read_text
from shared.errors import InputError
from shared.manifest import COLUMNS, LABEL_KINDS, OPTIONAL_COLUMNS, parse_manifest, read_classes

ROLES = ("manifest", "classes")


def read(source: Source) -> Annotations:
    """Read the manifest of the annotation folder, and its classes.json."""
    return read_manifest_csv(source.require("manifest"), source.find("classes"))


def read_manifest_csv(path: Path, classes_path: Path | None = None) -> Annotations:
    """Read the clips of a CSV. Its videos are paths with a suffix, or folders of frames.

    If all cells of the column `split` are empty, the clips are yet to be divided. Backslashes in
    paths are read as slashes. Columns that a manifest does not have are kept for the splits.

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
    text = read_text(path)
    raw = [row for _, row in read_csv(path, ())]
    is_undivided = bool(raw) and all(row.get("split") == "" for row in raw)
    has_backslash = any("\\" in (row.get("video") or "") for row in raw)

    def prepare(row: dict[str, str]) -> dict[str, str]:
        split = "train" if is_undivided else row["split"]
        return row | {"video": row["video"].replace("\\", "/"), "split": split}

    rows = parse_manifest(text, str(path), prepare)
    classes_path = classes_path or path.with_name("classes.json")
    if classes_path.is_file():
        classes = read_classes(classes_path)
    else:
        classes = numbered_classes(
            {
                kind: [value for row in rows if (value := getattr(row, kind)) is not None]
                for kind in LABEL_KINDS
            }
        )
    clips = []
    known = {*COLUMNS, *OPTIONAL_COLUMNS}
    for number, (row, cells) in enumerate(zip(rows, raw, strict=True), start=2):
        where = f"{path}, row {number} (clip {row.clip_id!r})"
        for kind in LABEL_KINDS:
            value = getattr(row, kind)
            if value is not None:
                refuse_unlisted(classes, kind, value, classes_path.name, where)
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
                frames_per_second=row.frames_per_second,
                columns={name: text for name, text in cells.items() if name not in known},
            )
        )
    require_clips(clips, path)
    notes = ["backslashes in the paths of the CSV are read as slashes"] if has_backslash else []
    splits_from = None if is_undivided else f"the column split of {path}"
    return Annotations(clips, classes, notes, splits_from)
