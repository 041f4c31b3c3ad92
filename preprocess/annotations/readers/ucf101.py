"""UCF101: classInd.txt, and train and test lists by split number."""

from __future__ import annotations

from preprocess.annotations.base import (
    AnnotatedClip,
    Annotations,
    Source,
    check_count,
    require_clips,
)
from preprocess.annotations.text_files import read_lines, whole_number
from shared.errors import InputError

ROLES = ("train", "test", "labels")


def read(source: Source) -> Annotations:
    """Read the lists, with lines such as `Class/v_Class_g01_c01.avi 1`.

    The test lists have no number. The class numbers of the files start at 1; those of the manifest
    start at 0.

    Raises:
        InputError: classInd.txt does not list a class, or gives it another number.
    """
    notes: list[str] = []
    names = _class_names(source)
    check_count("label", names, source, notes)
    number_of = {name: number for number, name in enumerate(names)}
    clips: list[AnnotatedClip] = []
    for split, path in source.split_files(notes):
        of_split = []
        for where, line in read_lines(path):
            file, _, given = line.partition(" ")
            video = file.rpartition(".")[0]
            name, _, stem = video.rpartition("/")
            if name not in number_of or not stem:
                listed = source.require("labels").name
                raise InputError("unknown-name", f"{where}: class {name[:60]!r} is not in {listed}")
            label = number_of[name]
            if given and whole_number(given.strip(), "class number", where) != label + 1:
                raise InputError(
                    "bad-entry", f"{where}: class {name} has number {label + 1}, not {given}"
                )
            of_split.append(AnnotatedClip(where, stem, video, split, label))
        require_clips(of_split, path)
        clips += of_split
    return Annotations(clips, source.spec.class_list(names), notes)


def _class_names(source: Source) -> list[str]:
    path = source.require("labels")
    names: list[str] = []
    for where, line in read_lines(path):
        number, _, name = line.partition(" ")
        if whole_number(number, "class number", where) != len(names) + 1 or not name:
            raise InputError(
                "bad-entry", f"{where}: '{len(names) + 1} NameOfClass' is expected, not {line!r}"
            )
        names.append(name)
    return names
