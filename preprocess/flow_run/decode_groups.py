"""Which clips are decoded together: clips of one video whose spans overlap or touch.

    spans    |----a----|      |--b--|         |-----d-----|
                     |---c---|                     |-e-|
    groups   a, c, b                          d, e

Clips of different shards are never decoded together. A shard therefore has the same bytes, whatever
other shards were made before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from preprocess.flow.sources import MOTION_VECTORS
from preprocess.flow_run.plan import Plan
from shared.manifest import Clip


@dataclass(frozen=True)
class ClipTask:
    """One clip to be processed.

    Attributes:
        clip_index: row of the clip in the manifest, from 0.
        attempt: how many times the clip was started before.
    """

    clip_index: int
    clip: Clip
    attempt: int = 0


@dataclass(frozen=True)
class DecodeGroup:
    """Clips of one video that are decoded in one pass, in order of their starts; usually one.

    Attributes:
        tasks: the clips, without gaps between their spans.
        is_suspect: whether a decoder died or hung with this group before.
    """

    tasks: tuple[ClipTask, ...]
    is_suspect: bool = False

    def remaining(self, ended: int) -> DecodeGroup:
        """The group without the clip of index `ended`."""
        tasks = tuple(task for task in self.tasks if task.clip_index != ended)
        return DecodeGroup(tasks, self.is_suspect)

    def retry_of(self, clip_index: int, is_suspect: bool = False) -> DecodeGroup:
        """A group of one of the clips alone, for its next attempt."""
        (task,) = (task for task in self.tasks if task.clip_index == clip_index)
        return DecodeGroup((ClipTask(clip_index, task.clip, task.attempt + 1),), is_suspect)


def decode_groups(plan: Plan, clip_indexes: Iterable[int]) -> list[DecodeGroup]:
    """Group clips that are decoded together; groups are in order of their lowest clip index.

    Motion vectors depend on the keyframe at which decoding starts. With them, each clip is decoded
    alone.
    """
    tasks = [ClipTask(clip_index, plan.clips[clip_index]) for clip_index in clip_indexes]
    if MOTION_VECTORS in plan.flow.sources:
        return [DecodeGroup((task,)) for task in tasks]
    by_video: dict[tuple[int, str], list[ClipTask]] = {}
    for task in tasks:
        by_video.setdefault((plan.shard_of(task.clip_index), task.clip.video), []).append(task)
    groups = [group for of_video in by_video.values() for group in group_overlapping(of_video)]
    return sorted(groups, key=lambda group: min(task.clip_index for task in group.tasks))


def group_overlapping(tasks: Iterable[ClipTask]) -> list[DecodeGroup]:
    """Group clips of one video: a new group starts where no earlier span continues."""
    groups: list[list[ClipTask]] = []
    end = -math.inf
    for task in sorted(tasks, key=lambda task: (task.clip.span, task.clip_index)):
        start, stop = task.clip.span
        if start > end:
            groups.append([])
        groups[-1].append(task)
        end = max(end, stop)
    return [DecodeGroup(tuple(group)) for group in groups]
