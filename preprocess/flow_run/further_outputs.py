"""Further outputs of a dataset that is finished: what is complete stays, and says which clips.

A run for another source, or for lengths or boundaries, decodes all videos again and writes the new
folders alone. They hold the clips that the finished folders hold: a clip set aside stays so (it is
`preprocess.retry` that tries again), and one that was good and fails now stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from preprocess.flow.options import shard_kind
from preprocess.flow_run.messages import ClipFailed
from preprocess.flow_run.plan import Plan
from preprocess.running import journal as resume
from preprocess.running.failures import read_failures
from shared.errors import InputError
from shared.schema import CLIP_PATHS
from shared.shard_index import shard_name
from shared.shards import ShardReader


def without_complete(plan: Plan) -> Plan:
    """The plan for those folders alone that are not complete, as the others are.

    It is the whole plan where nothing is complete, and where a run of all folders was stopped.

    Raises:
        InputError: a folder was made with other options or from another manifest.
    """
    complete = plan.complete_indexes()
    if not complete or resume.is_under_way(plan.layout.flows):
        return plan
    left = {name: index for name, index in plan.indexes.items() if name not in complete}
    return replace(plan, indexes=left, standing=complete)


def clips_set_aside(plan: Plan, shards: Iterable[int]) -> dict[int, ClipFailed]:
    """The clips that the complete folders lack, by place; none where nothing is complete.

    Args:
        shards: their numbers; of the others nothing is said.

    Raises:
        InputError: a shard of a complete folder cannot be read.
    """
    if not plan.standing:
        return {}
    name = next(iter(plan.standing))
    records = {record["clip_id"]: record for record in read_failures(plan.layout.failures)}
    unknown = {"stage": "decode", "reason": f"not in {name}/; why was not kept"}
    found = {}
    for shard in shards:
        path = plan.layout.root / name / shard_name(shard)
        with ShardReader(path, shard_kind(name)) as reader:
            held = set(reader.clip_ids())
        for place in plan.places(shard):
            clip_id = plan.clips[place].clip_id
            if clip_id not in held:
                record = records.get(clip_id, unknown)
                found[place] = ClipFailed(place, record["stage"], record["reason"])
    return found


def parted(
    plan: Plan, set_aside: dict[int, ClipFailed]
) -> tuple[list[ClipFailed], Callable[[int], Iterable[ClipFailed]]]:
    """Those of shards that have no other clip, which no worker opens; and the rest, by shard."""
    of_shard: dict[int, list[ClipFailed]] = {}
    for place, event in set_aside.items():
        of_shard.setdefault(plan.shard_of(place), []).append(event)
    lost = [shard for shard, events in of_shard.items() if len(events) == len(plan.places(shard))]
    alone = [event for shard in lost for event in of_shard.pop(shard)]
    return alone, lambda shard: of_shard.get(shard, ())


def refuse_loss(plan: Plan, failed: dict[str, Any]) -> None:
    """Stop where a clip of the complete folders cannot be made again.

    Raises:
        InputError: always, if any folder is complete.
    """
    if plan.standing:
        raise InputError(
            "{clip_id} was good and cannot be made again ({stage}: {reason}); ".format_map(failed)
            + f"{_names(plan)} are as they were, give its video with --videos (VIDEOS=)"
        )


def refuse_other_videos(plan: Plan, shard: int) -> None:
    """Hold a new shard against that of a complete folder.

    Raises:
        InputError: they do not have the same frames, so the videos have changed in between.
    """
    if not plan.standing:
        return
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(
                ShardReader(plan.layout.root / name / shard_name(shard), shard_kind(name))
            )
            for name in (next(iter(plan.standing)), next(iter(plan.indexes)))
        )
        for path in CLIP_PATHS:
            if not np.array_equal(old[path], new[path]):
                raise InputError(
                    f"{new.path}{path} is not that of {old.path}: the videos are not those that "
                    f"{_names(plan)} were made from; give them with --videos (VIDEOS=), or make "
                    "all shards again with --overwrite"
                )


def _names(plan: Plan) -> str:
    return " and ".join(f"{name}/" for name in plan.standing)
