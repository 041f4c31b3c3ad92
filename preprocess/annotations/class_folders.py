"""A user's own videos: class folders (`class/video.mp4`), or a flat folder without labels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

from preprocess.annotations.base import AnnotatedClip, Annotations
from preprocess.video.video_index import VideoIndex
from shared.errors import InputError
from shared.manifest import SPLITS, ClassList

TEST_SHARE = 0.2  # of each class, where the clips have labels and the user names no share


def read_class_folders(index: VideoIndex, test_share: float | None, seed: int) -> Annotations:
    """Clips of a folder tree, each file name (without suffix) one clip.

    The first folder of a path is the class, classes sorted by name; videos that lie in the root
    itself have no label. Where all first folders are named train, val or test, they are the
    splits and the next folder is the class. Otherwise `test_share` of each class is test: the
    clips with the smallest hash of (seed, name), so that it depends on nothing else.

    Raises:
        InputError: no videos, a refused video, videos both in the root and in folders, or a split
            without clips.
    """
    _refuse_odd(index)
    names = sorted({path.rpartition(".")[0] for path in index.paths})
    if not names:
        raise InputError(f"no video below {index.root}")
    given_splits = {name.split("/")[0] for name in names} <= set(SPLITS) and "/" in names[0]
    rests = {name: name.partition("/")[2] if given_splits else name for name in names}
    flat = [name for name in names if "/" not in rests[name]]
    if flat and len(flat) < len(names):
        nested = next(name for name in names if "/" in rests[name])
        raise InputError(
            f"{index.root} has videos in class folders ({nested}) and outside ({flat[0]}); use one "
            "of the two, or list the clips in a CSV (--manifest)"
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
            raise InputError("--test-share does not apply: the folders train, val, test decide")
    else:
        clips = _split(clips, test_share, seed)
    return Annotations(clips, ClassList(label=classes))


def _split(clips: list[AnnotatedClip], test_share: float | None, seed: int) -> list[AnnotatedClip]:
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
            f"--test-share {share} leaves split {'train' if test else 'test'} empty: no class has "
            "clips enough for both splits; give --test-share 0, or more clips"
        )
    return [replace(clip, split="test") if clip.name in test else clip for clip in clips]


def _num_test(num_clips: int, share: float) -> int:
    """At least one for each split of a class that has two clips, where both are asked for."""
    wanted = int(share * num_clips + 0.5)
    if share > 0 and num_clips > 1:
        return min(max(wanted, 1), num_clips - 1)
    return wanted


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def _refuse_odd(index: VideoIndex) -> None:
    for path, reason in index.refused.items():
        others = f" (and {len(index.refused) - 1} others)" if len(index.refused) > 1 else ""
        raise InputError(f"video {path!r} {reason}{others}")
