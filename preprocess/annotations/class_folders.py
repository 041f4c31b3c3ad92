"""Reads a user's own videos: class folders (`class/video.mp4`), or a flat folder without labels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

from preprocess.annotations.base import AnnotatedClip, Annotations
from preprocess.video.video_index import VideoIndex
from shared.errors import InputError
from shared.manifest import SPLITS, ClassList

TEST_SHARE = 0.2  # of each class, if the clips have labels and the user gives no share


def read_class_folders(index: VideoIndex, test_share: float | None, seed: int) -> Annotations:
    """List the clips of a folder tree: one clip for each file name without its suffix.

    The first folder of a path is the class. Classes are sorted by name. Videos in the root itself
    have no label. If all first folders are named train, val or test, they are the splits, and the
    next folder is the class. Otherwise `test_share` of each class becomes the test split: the
    clips with the smallest hash of (seed, name), so that the split depends on nothing else.

    Args:
        index: the videos.
        test_share: 0..1; None = TEST_SHARE for clips with labels, 0 for clips without.
        seed: seed of the hash.

    Raises:
        InputError: there is no video, a video is refused, some videos lie in folders and some
            beside them, or a split would be empty.
    """
    _refuse_odd(index)
    names = sorted({path.rpartition(".")[0] for path in index.paths})
    if not names:
        raise InputError("empty", f"no video below {index.root}")
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
    classes = sorted({rests[name].split("/")[0] for name in names}) if not flat else []
    number_of = {name: number for number, name in enumerate(classes)}
    clips = [
        AnnotatedClip(
            where=f"{index.root}/{name}",
            name=name.replace("/", "__"),
            video=name,
            split=name.split("/")[0] if given_splits else "train",
            label=number_of.get(rests[name].split("/")[0]) if classes else None,
            rooted=True,
        )
        for name in names
    ]
    if given_splits:
        if test_share is not None:
            raise InputError(
                "option-unused",
                f"--test-share has no effect, because {index.root} has the folders "
                f"{', '.join(SPLITS)}; leave it out",
            )
    else:
        clips = _split(clips, test_share, seed)
    return Annotations(clips, ClassList(label=classes))


def read_unlabelled(index: VideoIndex) -> Annotations:
    """List the clips of a folder tree without labels, all in split train; folders mean nothing.

    Raises:
        InputError: there is no video, or a video is refused.
    """
    _refuse_odd(index)
    names = sorted({path.rpartition(".")[0] for path in index.paths})
    if not names:
        raise InputError("empty", f"no video below {index.root}")
    clips = [
        AnnotatedClip(
            where=f"{index.root}/{name}",
            name=name.replace("/", "__"),
            video=name,
            split="train",
            rooted=True,
        )
        for name in names
    ]
    return Annotations(clips, ClassList())


def _split(clips: list[AnnotatedClip], test_share: float | None, seed: int) -> list[AnnotatedClip]:
    """The clips, with the split test for a share of each class."""
    groups: dict[int | None, list[AnnotatedClip]] = defaultdict(list)
    for clip in clips:
        groups[clip.label].append(clip)
    share = test_share if test_share is not None else 0.0 if None in groups else TEST_SHARE
    test: set[str] = set()
    for group in groups.values():
        ranked = sorted(group, key=lambda clip: _hash(seed, clip.name))
        test |= {clip.name for clip in ranked[: _num_test(len(group), share)]}
    if (share and not test) or len(test) == len(clips):
        raise InputError(
            "too-few-clips",
            f"--test-share {share} leaves the split {'train' if test else 'test'} empty, because "
            "no class has enough clips for both splits; give --test-share 0, or add clips",
        )
    return [replace(clip, split="test") if clip.name in test else clip for clip in clips]


def _num_test(num_clips: int, share: float) -> int:
    """Number of test clips of a class: with two clips or more, each split gets at least one."""
    wanted = int(share * num_clips + 0.5)
    if share > 0 and num_clips > 1:
        return min(max(wanted, 1), num_clips - 1)
    return wanted


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def _refuse_odd(index: VideoIndex) -> None:
    for path, reason in index.refused.items():
        others = f" (and {len(index.refused) - 1} others)" if len(index.refused) > 1 else ""
        raise InputError("unsafe-path", f"video {path!r} {reason}{others}")
