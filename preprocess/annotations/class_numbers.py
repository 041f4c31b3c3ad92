"""Class numbers and class names that a user wrote: refuses or reports those that do not fit."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from shared.errors import InputError
from shared.manifest import LABEL_KINDS, PLURAL, SINGULAR, ClassList, Clip, read_classes
from shared.wording import counted, listed

CLASSES_FILE = "classes.json"


def classes_beside(path: Path, numbers: dict[str, list[int]]) -> tuple[ClassList, str]:
    """The classes of classes.json beside a list of clips; without this file, numbers are names.

    Args:
        path: the list.
        numbers: the class numbers in the list, by kind of label.

    Returns:
        the classes, and the name of the file that names them.
    """
    classes_path = path.with_name(CLASSES_FILE)
    if classes_path.is_file():
        return read_classes(classes_path), classes_path.name
    return numbered_classes(numbers), path.name


def numbered_classes(numbers: dict[str, list[int]]) -> ClassList:
    """Classes without names. There are as many as the largest number plus 1."""
    lists = {
        kind: [str(number) for number in range(max(numbers.get(kind, []), default=-1) + 1)]
        for kind in LABEL_KINDS
    }
    return ClassList(label=lists["label"], verb=lists["verb"], noun=lists["noun"])


def refuse_unlisted(classes: ClassList, kind: str, number: int, name: str, where: str) -> None:
    """Refuse a class number that has no name.

    Args:
        classes: the class names.
        kind: kind of label.
        number: the class number.
        name: the file that names the classes, for messages.
        where: file and row, for messages.

    Raises:
        InputError: it has none.
    """
    names = getattr(classes, kind)
    if number >= len(names):
        hint = "; class numbers start at 0" if number == len(names) else ""
        raise InputError(
            "bad-entry",
            f"{where}: {kind} is {number}, but {name} has {len(names)} classes{hint}",
        )


def class_notes(clips: list[Clip], classes: ClassList) -> list[str]:
    """Lines for the screen on classes that no clip teaches, and on numbers that start at 1."""
    notes = []
    for kind in LABEL_KINDS:
        splits: dict[int, Counter[str]] = defaultdict(Counter)
        for clip in clips:
            number = getattr(clip, kind)
            if number is not None:
                splits[number][clip.split] += 1
        if not splits:
            continue
        count = len(getattr(classes, kind))
        without = [number for number in range(count) if number not in splits]
        if without:
            reason = ""
            if without == [0]:
                reason = "; do the numbers start at 1? They must start at 0"
            notes.append(
                f"{_classes(without, kind)} of {count} without a clip: "
                f"{_names(without, kind, classes)}{reason}"
            )
        has_train = any(of_class["train"] for of_class in splits.values())
        unlearned = [number for number in sorted(splits) if not splits[number]["train"]]
        if has_train and unlearned:
            notes.append(
                f"{_classes(unlearned, kind)} without a clip in split train, which no model can "
                f"learn: {_names(unlearned, kind, classes)}"
            )
    return notes


def _classes(numbers: list[int], kind: str) -> str:
    return counted(len(numbers), SINGULAR[kind], PLURAL[kind])


def _names(numbers: list[int], kind: str, classes: ClassList) -> str:
    return listed([classes.class_name(number, kind) for number in numbers], 5)
