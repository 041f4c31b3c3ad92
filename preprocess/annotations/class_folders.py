"""Reads a user's own videos: class folders (`class/video.mp4`), or a flat folder without labels."""

from __future__ import annotations

from collections import Counter

from preprocess.annotations.base import AnnotatedClip, Annotations
from preprocess.video.video_index import VideoIndex, composed, without_suffix
from shared.errors import InputError
from shared.manifest import SPLITS, ClassList
from shared.wording import counted, listed


def read_class_folders(index: VideoIndex) -> Annotations:
    """List the clips of a folder tree: one clip for each video name without its suffix.

    The first folder of a path is the class. Classes are sorted by name. Videos in the root itself
    have no label. If all first folders are named train, val or test, they are the splits, and the
    next folder is the class. Otherwise all clips are in split train, and are yet to be divided.

    Args:
        index: the videos.

    Raises:
        InputError: there is no video, a video is refused, or some videos lie in folders and some
            beside them.
    """
    names = _video_names(index)
    given_splits = {name.split("/")[0] for name in names} <= set(SPLITS) and "/" in names[0]
    rests = {name: name.partition("/")[2] if given_splits else name for name in names}
    flat = [name for name in names if "/" not in rests[name]]
    if flat and len(flat) < len(names):
        nested = next(name for name in names if "/" in rests[name])
        raise InputError(
            "bad-entry",
            f"{index.root} has videos in class folders ({nested}) and videos outside of them "
            f"({flat[0]}); use one of the two, or list the clips in a CSV (--manifest)",
        )
    # macOS may store one name in two forms; they are one class.
    class_of = {name: composed(rests[name].split("/")[0]) for name in names}
    classes = sorted(set(class_of.values())) if not flat else []
    number_of = {name: number for number, name in enumerate(classes)}
    clips = [
        _clip(
            index,
            name,
            split=name.split("/")[0] if given_splits else "train",
            label=number_of.get(class_of[name]),
        )
        for name in names
    ]
    notes = _vanished(index, set(classes), given_splits) if classes else []
    splits_from = f"the folders {', '.join(SPLITS)} of {index.root}" if given_splits else None
    return Annotations(clips, ClassList(label=classes), notes, splits_from)


def read_unlabelled(index: VideoIndex) -> Annotations:
    """List the clips of a folder tree without labels, all in split train; folders mean nothing.

    Raises:
        InputError: there is no video, or a video is refused.
    """
    clips = [_clip(index, name, split="train") for name in _video_names(index)]
    return Annotations(clips, ClassList(), splits_from="--unlabelled")


def _video_names(index: VideoIndex) -> list[str]:
    """The paths of all videos without suffix, sorted, each once.

    Raises:
        InputError: there is no video, or a video is refused.
    """
    _refuse_odd(index)
    names = sorted({without_suffix(path) for path in index.paths})
    if not names:
        raise InputError("empty", f"no video below {index.root}{_found_instead(index)}")
    return names


def _clip(index: VideoIndex, name: str, split: str, label: int | None = None) -> AnnotatedClip:
    return AnnotatedClip(
        where=f"{index.root}/{name}",
        name=name.replace("/", "__"),
        video=name,
        split=split,
        label=label,
        rooted=True,
    )


def _vanished(index: VideoIndex, classes: set[str], given_splits: bool) -> list[str]:
    """A line on the folders at the place of classes that have no video, and so are no classes."""
    depth = 2 if given_splits else 1
    held: dict[str, Counter[str]] = {}
    for path in [*index.folders, *index.links]:
        parts = path.split("/")
        if len(parts) >= depth and composed(parts[depth - 1]) not in classes:
            held.setdefault("/".join(parts[:depth]), Counter())
    for (folder, suffix), number in index.others.items():
        place = "/".join(folder.split("/")[:depth])
        if place in held:
            held[place][suffix or "without suffix"] += number
    if not held:
        return []
    texts = [f"{place} ({_contents(held[place], place in index.links)})" for place in sorted(held)]
    return [
        f"{counted(len(held), 'class folder')} without a video, no class is made of: "
        f"{listed(texts)}"
    ]


def _contents(found: Counter[str], is_link: bool) -> str:
    if is_link:
        return "a link"
    return ", ".join(f"{number} {suffix}" for suffix, number in found.most_common(3)) or "empty"


def _found_instead(index: VideoIndex) -> str:
    suffixes: Counter[str] = Counter()
    for (_, suffix), number in index.others.items():
        suffixes[suffix or "without suffix"] += number
    found = f"; it has {_contents(suffixes, False)}" if suffixes else ""
    return found + (f"; {index.unread}" if index.unread else "")


def _refuse_odd(index: VideoIndex) -> None:
    for path, reason in index.refused.items():
        others = f" (and {len(index.refused) - 1} others)" if len(index.refused) > 1 else ""
        raise InputError("unsafe-path", f"video {path!r} {reason}{others}")
