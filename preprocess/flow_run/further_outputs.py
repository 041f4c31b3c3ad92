"""Further outputs of a finished dataset: complete folders stay, and decide which clips are made.

A run for another source, for lengths or for boundaries decodes all videos again and writes only the
new folders. These hold the same clips as the complete folders. A clip that was set aside stays set
aside (`preprocess.retry` tries it again). A clip that was good and fails now stops the run.
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

    It is the whole plan if no folder is complete, or if a run of all folders was stopped.

    Raises:
        InputError: a folder was made with other options or from another manifest.
    """
    complete = plan.complete_indexes()
    if not complete or is_under_way(plan.main_folder):
        return plan
    left = {name: index for name, index in plan.indexes.items() if name not in complete}
    return replace(plan, indexes=left, complete=complete)


def clips_set_aside(plan: Plan, shards: Iterable[int]) -> dict[int, ClipFailed]:
    """The clips that the complete folders lack, by index of the clip; none if none is complete.

    Args:
        shards: numbers of the shards to look at.

    Raises:
        InputError: a shard of a complete folder cannot be read.
    """
    if not plan.complete:
        return {}
    name = next(iter(plan.complete))
    records = {record["clip_id"]: record for record in read_failures(plan.layout.failures)}
    unknown = {"stage": "decode", "reason": f"not in {name}/; the reason was not recorded"}
    found = {}
    for shard in shards:
        path = plan.layout.root / name / shard_name(shard)
        with ShardReader(path, shard_kind(name)) as reader:
            held = set(reader.clip_ids())
        for clip_index in plan.clip_indexes(shard):
            clip_id = plan.clips[clip_index].clip_id
            if clip_id not in held:
                record = records.get(clip_id, unknown)
                found[clip_index] = ClipFailed(
                    clip_index, record["stage"], record["reason"], record.get("code", "")
                )
    return found


def split_by_shard(
    plan: Plan, set_aside: dict[int, ClipFailed]
) -> tuple[list[ClipFailed], dict[int, list[ClipFailed]]]:
    """Split failures that are known before the run.

    Returns:
        failures of shards without any other clip, for which no worker has work; and the other
        failures, by shard.
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
    """Stop if a clip of the complete folders cannot be made again.

    Raises:
        InputError: always, if any folder is complete.
    """
    if plan.complete:
        raise InputError(
            "other-inputs",
            "{clip_id} was good before and cannot be made again ({stage}: {reason}). ".format_map(
                failed
            )
            + f"{_names(plan)} did not change. Give its video with --videos (VIDEOS=)",
        )


def refuse_other_videos(plan: Plan, shard: int) -> None:
    """Compare a new shard with the shard of the same number in a complete folder.

    Raises:
        InputError: their frames differ, so the videos have changed in between.
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
                    "other-inputs",
                    f"{new.path}{path} differs from {old.path}: {_names(plan)} were made from "
                    "other videos. Give those videos with --videos (VIDEOS=), or make all shards "
                    "again with --overwrite",
                )


def _names(plan: Plan) -> str:
    return " and ".join(f"{name}/" for name in plan.complete)
