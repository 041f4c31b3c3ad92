"""Which clips are decoded together: those of one video whose spans overlap or touch.

    spans    |----a----|      |--b--|         |-----d-----|
                     |---c---|                     |-e-|
    readings a, c, b                          d, e

A shard is made as a whole or not at all, so its clips alone decide what is read together, and it
holds the same bytes whatever other shards were made before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from preprocess.flow.sources import MOTION_VECTORS
from preprocess.flow_run.messages import Job, Reading
from preprocess.flow_run.plan import Plan


def readings_of(plan: Plan, places: Iterable[int]) -> list[Reading]:
    """The clips of `places` as the workers are to decode them, in the order of their first places.

    Motion vectors depend on the keyframe that decoding began at, so with them each clip is read by
    itself.
    """
    jobs = [Job(place, plan.clips[place]) for place in places]
    if MOTION_VECTORS in plan.flow.sources:
        return [Reading((job,)) for job in jobs]
    by_video: dict[tuple[int, str], list[Job]] = {}
    for job in jobs:
        by_video.setdefault((plan.shard_of(job.place), job.clip.video), []).append(job)
    readings = [reading for group in by_video.values() for reading in together(group)]
    return sorted(readings, key=lambda reading: min(job.place for job in reading.jobs))


def together(jobs: Iterable[Job]) -> list[Reading]:
    """Clips of one video, parted where no span goes on."""
    groups: list[list[Job]] = []
    end = -math.inf
    for job in sorted(jobs, key=lambda job: (job.clip.span, job.place)):
        start, stop = job.clip.span
        if start > end:
            groups.append([])
        groups[-1].append(job)
        end = max(end, stop)
    return [Reading(tuple(group)) for group in groups]
