"""Further outputs of a finished dataset: complete folders stay, and decide which clips are made.

A run for another source, or for lengths or boundaries, decodes all videos again and writes the new
folders alone. They hold the clips that the finished folders hold: a clip set aside stays so (it is
`preprocess.retry` that tries again), and one that was good and fails now stops the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from preprocess.flow.options import shard_kind
from preprocess.flow_run.messages import ClipFailed
from preprocess.flow_run.plan import Plan
from preprocess.running.failures import read_failures
from preprocess.running.journal import is_under_way
from shared.errors import InputError
from shared.schema import CLIP_PATHS
from shared.shard_index import shard_name
from shared.shards import ShardReader


def skip_complete(plan: Plan) -> Plan:
    """The plan for the folders that are not complete, beside those that are.

    It is the whole plan where nothing is complete, and where a run of all folders was stopped.

    Raises:
        InputError: a folder was made with other options or from another manifest.
    """
    complete = plan.complete_indexes()
    if not complete or is_under_way(plan.layout.flows):
        return plan
    left = {name: index for name, index in plan.indexes.items() if name not in complete}
    return replace(plan, indexes=left, complete=complete)


def clips_set_aside(plan: Plan, shards: Iterable[int]) -> dict[int, ClipFailed]:
    """The clips that the complete folders lack, by their index; none where nothing is complete.

    Args:
        shards: their numbers; of the others nothing is said.

    Raises:
        InputError: a shard of a complete folder cannot be read.
    """
    if not plan.complete:
        return {}
    name = next(iter(plan.complete))
    records = {record["clip_id"]: record for record in read_failures(plan.layout.failures)}
    unknown = {"stage": "decode", "reason": f"not in {name}/; why was not kept"}
    found = {}
    for shard in shards:
        path = plan.layout.root / name / shard_name(shard)
        with ShardReader(path, shard_kind(name)) as reader:
            held = set(reader.clip_ids())
        for clip_index in plan.clip_indexes(shard):
            clip_id = plan.clips[clip_index].clip_id
            if clip_id not in held:
                record = records.get(clip_id, unknown)
                found[clip_index] = ClipFailed(clip_index, record["stage"], record["reason"])
    return found


def split_by_shard(
    plan: Plan, set_aside: dict[int, ClipFailed]
) -> tuple[list[ClipFailed], dict[int, list[ClipFailed]]]:
    """Split failures that are known beforehand.

    Returns:
        those of shards that have no other clip, which no worker opens; and the rest, by shard.
    """
    by_shard: dict[int, list[ClipFailed]] = {}
    for clip_index, event in set_aside.items():
        by_shard.setdefault(plan.shard_of(clip_index), []).append(event)
    lost = [
        shard for shard, events in by_shard.items() if len(events) == len(plan.clip_indexes(shard))
    ]
    of_lost_shards = [event for shard in lost for event in by_shard.pop(shard)]
    return of_lost_shards, by_shard


def refuse_loss(plan: Plan, failed: dict[str, Any]) -> None:
    """Stop where a clip of the complete folders cannot be made again.

    Raises:
        InputError: always, if any folder is complete.
    """
    if plan.complete:
        raise InputError(
            "{clip_id} was good and cannot be made again ({stage}: {reason}); ".format_map(failed)
            + f"{_names(plan)} are as they were, give its video with --videos (VIDEOS=)"
        )


def refuse_other_videos(plan: Plan, shard: int) -> None:
    """Hold a new shard against that of a complete folder.

    Raises:
        InputError: they do not have the same frames, so the videos have changed in between.
    """
    if not plan.complete:
        return
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(
                ShardReader(plan.layout.root / name / shard_name(shard), shard_kind(name))
            )
            for name in (next(iter(plan.complete)), next(iter(plan.indexes)))
        )
        for path in CLIP_PATHS:
            if not np.array_equal(old[path], new[path]):
                raise InputError(
                    f"{new.path}{path} is not that of {old.path}: the videos are not those that "
                    f"{_names(plan)} were made from; give them with --videos (VIDEOS=), or make "
                    "all shards again with --overwrite"
                )


def _names(plan: Plan) -> str:
    return " and ".join(f"{name}/" for name in plan.complete)
