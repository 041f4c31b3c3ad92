"""Which clips come from one source: their folder, the start of their name, or a column says so."""

from __future__ import annotations

import re
from collections import defaultdict

from preprocess.annotations.base import AnnotatedClip
from preprocess.video.video_index import without_suffix
from shared.errors import InputError
from shared.manifest import Clip
from shared.wording import counted

FOLDER, PREFIX = "FOLDER", "PREFIX"
PIECE = re.compile(r"(.+)[_.-][A-Za-z]{0,5}\d+")  # movie_003, movie-part3, v_Run_g01_c04


def groups_of(clips: list[AnnotatedClip], group_by: str) -> dict[str, str]:
    """The group of each clip, by the name of the clip.

    Args:
        clips: the clips.
        group_by: FOLDER: the folder that the video lies in. PREFIX: the name of the video up to its
            last `_` or `-`, within its folder. Anything else is the name of a column.

    Raises:
        InputError: there is no such column, or a cell in it is empty.
    """
    if group_by == FOLDER:
        return {clip.name: _path_of(clip).rpartition("/")[0] for clip in clips}
    if group_by == PREFIX:
        return {clip.name: _prefix(_path_of(clip)) for clip in clips}
    groups = {}
    for clip in clips:
        if group_by not in clip.columns:
            raise InputError(
                "unknown-name",
                f"{clip.where}: --group-by is {group_by!r}; {FOLDER}, {PREFIX} or a column of a "
                f"CSV (--manifest) is allowed, and its columns are "
                f"{', '.join(clip.columns) or 'none'}",
            )
        if not clip.columns[group_by]:
            raise InputError(
                "bad-entry", f"{clip.where}: column {group_by} is empty; --group-by needs a value"
            )
        groups[clip.name] = clip.columns[group_by]
    return groups


def pieces_in_two_splits(clips: list[Clip]) -> list[str]:
    """Lines for the screen on clips of one video that lie in more than one split.

    Clips are of one video if they are spans of one file. They may be if their names differ only in
    a last number; where all clips of a folder have one such name, the number says nothing.
    """
    videos: dict[str, dict[str, Clip]] = defaultdict(dict)  # a clip by split, by video
    names: dict[str, dict[str, dict[str, Clip]]] = defaultdict(lambda: defaultdict(dict))
    for clip in clips:
        videos[clip.video].setdefault(clip.split, clip)
        folder, _, stem = without_suffix(clip.video).rpartition("/")
        piece = PIECE.fullmatch(stem)
        names[folder][piece[1] if piece else stem].setdefault(clip.split, clip)
    same = [of_split for of_split in videos.values() if len(of_split) > 1]
    similar = [
        of_split
        for of_folder in names.values()
        if len(of_folder) > 1
        for of_split in of_folder.values()
        if len({clip.video for clip in of_split.values()}) > 1
    ]
    notes = []
    if same:
        notes.append(
            f"{counted(len(same), 'video')} with clips in two splits, such as {_both(same[0])}; "
            "a test on clips of known videos measures memory"
        )
    if similar:
        notes.append(
            f"{counted(len(similar), 'name')} with numbered clips in two splits, such as "
            f"{_both(similar[0])}; if these are pieces of one video, --group-by {PREFIX} keeps "
            "them together"
        )
    return notes


def _both(of_split: dict[str, Clip]) -> str:
    (first, one), (second, other) = list(of_split.items())[:2]
    return f"{one.clip_id!r} ({first}) and {other.clip_id!r} ({second})"


def _path_of(clip: AnnotatedClip) -> str:
    """The path of the video without its suffix."""
    return without_suffix(clip.video) if clip.exact else clip.video


def _prefix(path: str) -> str:
    """The path up to the last `_` or `-` of its name; the whole path if the name has none."""
    folder, slash, name = path.rpartition("/")
    start = re.split(r"[_-](?=[^_-]*$)", name, maxsplit=1)[0]
    return folder + slash + (start or name)
