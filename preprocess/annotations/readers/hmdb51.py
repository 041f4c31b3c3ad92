"""HMDB51: one `{class}_test_splitN.txt` for each class; 1 is train, 2 is test, 0 is neither."""

from __future__ import annotations

from pathlib import Path

from preprocess.annotations.base import AnnotatedClip, Annotations, Source, require_clips
from preprocess.annotations.text_files import read_lines
from shared.errors import InputError
from shared.wording import counted

ROLES = ("lists",)
SPLIT_OF = {"1": "train", "2": "test"}


def read(source: Source) -> Annotations:
    """Read the lists, with lines such as `name of the video.avi 1`.

    Names have `#`, `[`, `!`, `&`, `;`, and may have spaces. Classes are numbered in the order of
    the official names, even if the lists of some classes are missing.

    Raises:
        InputError: there is no list, a list is of an unknown class, a mark is not 0, 1 or 2, or a
            split is empty.
    """
    paths = source.find_all("lists")
    if not paths:
        patterns = " or ".join(source.patterns("lists"))
        raise InputError(
            "missing-file", f"no {patterns} in {source.folder}; the official lists are needed"
        )
    names = list(source.spec.labels)
    clips: list[AnnotatedClip] = []
    num_neither = 0
    for path in paths:
        label = _label(path, names)
        of_class, neither = _clips(path, label, names[label])
        require_clips(of_class, path)
        clips += of_class
        num_neither += neither
    for split in SPLIT_OF.values():
        if not any(clip.split == split for clip in clips):
            raise InputError(
                "empty", f"{source.folder}: the lists in this folder have no {split} clip"
            )
    notes = [f"{counted(num_neither, 'clip')} in neither split"]
    if len(paths) < len(names):
        notes.append(f"lists of {len(paths)} of {len(names)} classes are found")
    return Annotations(clips, source.spec.class_list(names), notes)


def _clips(path: Path, label: int, folder: str) -> tuple[list[AnnotatedClip], int]:
    """The clips of one list, whose videos lie in `folder`, and the number of clips in no split."""
    clips: list[AnnotatedClip] = []
    neither = 0
    for where, line in read_lines(path):
        file, _, mark = line.rpartition(" ")
        if mark == "0":
            neither += 1
            continue
        name = file.strip().rpartition(".")[0]
        if mark not in SPLIT_OF or not name:
            raise InputError(
                "bad-entry", f"{where}: a file name and 0, 1 or 2 are expected, not {line[:80]!r}"
            )
        clips.append(AnnotatedClip(where, name, f"{folder}/{name}", SPLIT_OF[mark], label))
    return clips, neither


def _label(path: Path, names: list[str]) -> int:
    name = path.name.partition("_test_split")[0]
    if name not in names:
        raise InputError(
            "unknown-name", f"{path}: unknown class {name!r}; known: {', '.join(names)}"
        )
    return names.index(name)
