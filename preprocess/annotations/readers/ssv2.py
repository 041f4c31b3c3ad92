"""Something-Something V2: JSON lists of {id, template}, and labels by template."""

from __future__ import annotations

from preprocess.annotations.base import (
    AnnotatedClip,
    Annotations,
    Source,
    check_count,
    require_clips,
)
from preprocess.annotations.text_files import read_entries, read_json
from shared.errors import InputError

ROLES = ("train", "val", "test", "labels")


def read(source: Source) -> Annotations:
    """Read the lists. The class of a clip is the number of its template without brackets.

    The labels file has these numbers. The test list has no templates, so its clips have no label.
    All ids are strings.

    Raises:
        InputError: the labels file does not list a template.
    """
    notes: list[str] = []
    names = _class_names(source)
    check_count("label", names, source, notes)
    number_of = {name: number for number, name in enumerate(names)}
    clips: list[AnnotatedClip] = []
    for split, path in source.split_files(notes):
        keys: dict[str, type] = {"id": str} if split == "test" else {"id": str, "template": str}
        of_split = []
        for where, entry in read_entries(path, keys):
            label = None
            if split != "test":
                name = entry["template"].replace("[", "").replace("]", "")
                if name not in number_of:
                    raise InputError(
                        "unknown-name",
                        f"{where}: template {name[:80]!r} is not in "
                        f"{source.require('labels').name}",
                    )
                label = number_of[name]
            of_split.append(AnnotatedClip(where, entry["id"], entry["id"], split, label))
        require_clips(of_split, path)
        clips += of_split
    return Annotations(clips, source.spec.class_list(names), notes)


def _class_names(source: Source) -> list[str]:
    """The class names in the order of their numbers, from {name: "number"}."""
    path = source.require("labels")
    numbers = read_json(path, dict)
    names: dict[int, str] = {}
    for name, text in numbers.items():
        number = int(text) if str(text).isascii() and str(text).isdigit() else -1
        if not 0 <= number < len(numbers) or number in names:
            raise InputError(
                "bad-entry",
                f"{path}: {name!r} has number {text!r}; each of 0 to {len(numbers) - 1} is allowed "
                "once",
            )
        names[number] = name
    return [names[number] for number in range(len(names))]
