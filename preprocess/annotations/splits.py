"""Divides clips into the splits train and test: by chance, by groups, or by folds."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from preprocess.annotations.base import AnnotatedClip, Annotations
from preprocess.annotations.groups import groups_of
from shared.errors import InputError

TEST_SHARE = 0.2  # of each class, if the clips have labels and the user gives no share
FOLD_COLUMN = "fold"


@dataclass(frozen=True)
class SplitRule:
    """How clips are divided; None = not given.

    Attributes:
        test_share: share of the clips that become the split test, 0..1; None = TEST_SHARE for clips
            with labels, 0 for clips without.
        seed: seed that chooses these clips; None = 0.
        group_by: FOLDER, PREFIX or the name of a column (preprocess/annotations/groups.py): clips
            of one group stay in one split.
        fold: number of the fold that becomes the split test; the column `fold` has it.
    """

    test_share: float | None = None
    seed: int | None = None
    group_by: str | None = None
    fold: int | None = None

    def given(self) -> list[str]:
        """The options that are given, as on the command line."""
        values = {
            "--test-share": self.test_share,
            "--seed": self.seed,
            "--group-by": self.group_by,
            "--fold": self.fold,
        }
        return [name for name, value in values.items() if value is not None]


def split_clips(annotations: Annotations, rule: SplitRule) -> Annotations:
    """The annotations, with the split of each clip.

    Splits that the annotations give are kept, unless the rule names a fold. Otherwise a share of
    each class becomes the split test: the clips with the smallest hash of (seed, name), so that the
    split depends on nothing else.

    Raises:
        InputError: an option has no effect, a split would be empty, or a column is missing.
    """
    if rule.fold is not None:
        return _by_fold(annotations, rule)
    if annotations.splits_from is not None:
        for option in rule.given():
            raise InputError(
                "option-unused",
                f"{option} has no effect, because {annotations.splits_from} decide the splits; "
                "leave it out",
            )
        return annotations
    clips = annotations.clips
    is_labelled = all(clip.label is not None for clip in clips)
    share = rule.test_share
    if share is None:
        share = TEST_SHARE if is_labelled else 0.0
    if share == 0.0 and rule.test_share is None and rule.given():
        raise InputError(
            "option-needs-another",
            f"{rule.given()[0]} has no effect, because clips without labels are all in split "
            "train; give --test-share as well",
        )
    seed = rule.seed or 0
    if rule.group_by is None:
        test = _by_chance(clips, share, seed)
    else:
        groups = groups_of(clips, rule.group_by)
        test = _by_group(clips, groups, share, seed)
    if (share and not test) or len(test) == len(clips):
        what = "class" if rule.group_by is None else f"class or group (--group-by {rule.group_by})"
        raise InputError(
            "too-few-clips",
            f"--test-share {share} leaves the split {'train' if test else 'test'} empty, because "
            f"no {what} has enough clips for both splits; give --test-share 0, or add clips",
        )
    return _with_test(annotations, test)


def _by_fold(annotations: Annotations, rule: SplitRule) -> Annotations:
    """The clips of one fold are split test, and all others split train."""
    others = [option for option in rule.given() if option != "--fold"]
    if others:
        raise InputError(
            "option-conflict", f"--fold and {others[0]} both divide the clips; leave one out"
        )
    folds: dict[str, int] = {}
    for clip in annotations.clips:
        text = clip.columns.get(FOLD_COLUMN)
        if text is None:
            raise InputError(
                "missing-key",
                f"{clip.where}: --fold needs a column {FOLD_COLUMN} in a CSV (--manifest), and the "
                f"columns beside those of a manifest are {', '.join(clip.columns) or 'none'}",
            )
        if not (text.isascii() and text.isdigit()):
            raise InputError(
                "bad-entry",
                f"{clip.where}: {FOLD_COLUMN} is {text[:40]!r}; whole numbers are allowed",
            )
        folds[clip.name] = int(text)
    test = {name for name, fold in folds.items() if fold == rule.fold}
    if not test or len(test) == len(folds):
        found = ", ".join(map(str, sorted(set(folds.values()))[:20]))
        raise InputError(
            "out-of-range",
            f"--fold {rule.fold} leaves the split {'train' if test else 'test'} empty; the folds "
            f"are {found}",
        )
    if annotations.splits_from is not None:
        note = f"--fold {rule.fold} replaces the splits of {annotations.splits_from}"
        annotations = replace(annotations, notes=[*annotations.notes, note])
    return _with_test(annotations, test)


def _with_test(annotations: Annotations, test: set[str]) -> Annotations:
    clips = [
        replace(clip, split="test" if clip.name in test else "train") for clip in annotations.clips
    ]
    return replace(annotations, clips=clips)


def _by_chance(clips: Iterable[AnnotatedClip], share: float, seed: int) -> set[str]:
    """The names of the test clips: a share of each class."""
    classes: dict[int | None, list[str]] = defaultdict(list)
    for clip in clips:
        classes[clip.label].append(clip.name)
    test: set[str] = set()
    for names in classes.values():
        ranked = sorted(names, key=lambda name: _hash(seed, name))
        test |= set(ranked[: _num_test(len(names), share)])
    return test


def _by_group(
    clips: list[AnnotatedClip], groups: dict[str, str], share: float, seed: int
) -> set[str]:
    """The names of the test clips: whole groups, in the order of their hashes.

    A group is taken if the number of test clips of each class comes nearer to its share by it, in
    sum over the classes. A class that is still without a test clip, or without a train clip, then
    gets the first of its groups that leaves no other class without.
    """
    members: dict[str, list[AnnotatedClip]] = defaultdict(list)
    for clip in clips:
        members[groups[clip.name]].append(clip)
    num_clips = Counter(clip.label for clip in clips)
    num_test: Counter[int | None] = Counter()
    taken: set[str] = set()
    ranked = sorted(members, key=lambda group: _hash(seed, group))
    counts = {group: Counter(clip.label for clip in members[group]) for group in ranked}
    for group in ranked:
        before = sum(abs(share * num_clips[c] - num_test[c]) for c in counts[group])
        after = sum(
            abs(share * num_clips[c] - num_test[c] - number) for c, number in counts[group].items()
        )
        if after < before:
            taken.add(group)
            num_test += counts[group]
    for label in sorted(num_clips, key=str) if share > 0 else []:
        if num_test[label]:
            continue
        for group in ranked:
            of_group = counts[group]
            if label in of_group and all(
                num_test[c] + number < num_clips[c] for c, number in of_group.items()
            ):
                taken.add(group)
                num_test += of_group
                break
    return {clip.name for group in taken for clip in members[group]}


def _num_test(num_clips: int, share: float) -> int:
    """Number of test clips of a class: with two clips or more, each split gets at least one."""
    wanted = int(share * num_clips + 0.5)
    if share > 0 and num_clips > 1:
        return min(max(wanted, 1), num_clips - 1)
    return wanted


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
