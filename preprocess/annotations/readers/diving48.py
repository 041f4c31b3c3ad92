"""Diving48: JSON lists of {vid_name, label, start_frame, end_frame}, and a vocabulary."""

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

ROLES = ("train", "test", "labels")


def read(source: Source) -> Annotations:
    """Read the lists and the vocabulary.

    A clip is the frames start_frame:end_frame of its video (half-open), if these are given. A class
    is four words: take-off, somersaults, twists, position.

    Raises:
        InputError: a label is not in the vocabulary, or a clip does not end after its start.
    """
    notes: list[str] = []
    names = _class_names(source)
    check_count("label", names, source, notes)
    clips: list[AnnotatedClip] = []
    keys = {"vid_name": str, "label": int, "start_frame": int, "end_frame": int}
    for split, path in source.split_files(notes):
        of_split = []
        for where, entry in read_entries(path, keys, optional=("start_frame", "end_frame")):
            name, label = entry["vid_name"], entry["label"]
            if not 0 <= label < len(names):
                raise InputError(
                    "bad-entry", f"{where}: label is {label}; 0 to {len(names) - 1} are listed"
                )
            frames = None
            if "end_frame" in entry:
                frames = (entry.get("start_frame", 0), entry["end_frame"])
                if not 0 <= frames[0] < frames[1]:
                    raise InputError(
                        "bad-entry",
                        f"{where}: end_frame {frames[1]} is not after start_frame {frames[0]}",
                    )
            of_split.append(AnnotatedClip(where, name, name, split, label, frames=frames))
        require_clips(of_split, path)
        clips += of_split
    return Annotations(clips, source.spec.class_list(names), notes)


def _class_names(source: Source) -> list[str]:
    path = source.require("labels")
    names = []
    for number, words in enumerate(read_json(path, list)):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError(
                "wrong-type", f"{path}, entry {number + 1}: a list of words is expected"
            )
        names.append(" ".join(words))
    return names
