"""From the events of workers to shards: a shard is published when its last clip has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocess.flow_run.assembly import Assembly
from preprocess.flow_run.further_outputs import refuse_other_videos
from preprocess.flow_run.messages import ClipEnd, ClipFailed, Event, PoolEvent, WrittenShard
from preprocess.flow_run.plan import Plan
from preprocess.running.failures import failure_record
from preprocess.running.journal import Journal
from shared.manifest import Clip
from shared.shard_index import ShardEntry

ShardWriter = Callable[
    [Assembly, dict[str, Path], dict[str, dict[str, Any]]], dict[str, ShardEntry]
]
"""Writes the shards of an assembly to folders, by name, with their configs; returns the entries."""


def settled_clips(
    plan: Plan,
    events: Iterable[PoolEvent],
    journal: Journal,
    folders: dict[str, Path],
    known: Callable[[int], Iterable[Event]] = lambda _: (),
    write: ShardWriter = Assembly.publish,
    put_in_place: Callable[[WrittenShard], None] | None = None,
) -> Iterator[Event | ClipEnd]:
    """Yield the event that completes or fails each clip; publish each shard after its last clip.

    Args:
        events: events of the workers, in any order.
        journal: records each shard that is published.
        folders: folders of the shards, by name.
        known: gives, for the number of a shard, the events of those clips that no worker computes.
        write: writes the shards of an assembly.
        put_in_place: moves the shards that a worker has written to their folders.
    """
    assemblies: dict[int, Assembly] = {}
    shown_faults: set[str] = set()
    spill_folder = next(iter(folders.values()))
    try:
        for event in events:
            if isinstance(event, WrittenShard):
                assert put_in_place is not None
                put_in_place(event)
                record(plan, journal, event.number, event.entries, event.failures)
                continue
            if isinstance(event, ClipEnd):
                if event.failed is not None:
                    show_fault(plan.clips[event.clip_index], event.failed, shown_faults)
                yield event.failed or event
                continue
            shard = plan.shard_of(event.clip_index)
            if shard in journal.finished:
                continue  # an event of a clip that has failed before
            if shard not in assemblies:
                clips = {
                    clip_index: plan.clips[clip_index] for clip_index in plan.clip_indexes(shard)
                }
                assemblies[shard] = Assembly(shard, clips, spill_folder, plan.flow)
                for one in known(shard):
                    assemblies[shard].add(one)
            if not assemblies[shard].add(event):
                continue
            if isinstance(event, ClipFailed):
                show_fault(plan.clips[event.clip_index], event, shown_faults)
            yield event
            if assemblies[shard].is_settled:
                publish(plan, journal, folders, assemblies[shard], write)
                assemblies.pop(shard).close()
    finally:
        for assembly in assemblies.values():
            assembly.close()


def publish(
    plan: Plan,
    journal: Journal,
    folders: dict[str, Path],
    assembly: Assembly,
    write: ShardWriter = Assembly.publish,
) -> None:
    """Write the shards of an assembly and record them in the journal."""
    entries = write(assembly, folders, plan.configs)
    record(plan, journal, assembly.number, entries, assembly.failures)


def record(
    plan: Plan,
    journal: Journal,
    number: int,
    entries: dict[str, ShardEntry],
    failed: dict[int, ClipFailed],
) -> None:
    """Record in the journal that the shards of a number are in their folders."""
    refuse_other_videos(plan, number)
    failures = [
        failure_record(
            plan.clips[clip_index], event.stage, event.reason, event.code, event.traceback
        )
        for clip_index, event in sorted(failed.items())
    ]
    of_folders = {kind: asdict(entry) for kind, entry in entries.items()}
    journal.add({"shard": number, "failures": failures} | of_folders)


def failed_record(plan: Plan, event: Event | ClipEnd) -> dict[str, Any] | None:
    """The record for failures.jsonl of an event that fails a clip; None for other events."""
    if not isinstance(event, ClipFailed):
        return None
    clip = plan.clips[event.clip_index]
    return failure_record(clip, event.stage, event.reason, event.code, event.traceback)


def show_fault(clip: Clip, event: ClipFailed, shown: set[str]) -> None:
    """Print the traceback of a fault of this program, if it is one whose reason is not `shown`."""
    if event.traceback and event.reason not in shown:
        shown.add(event.reason)
        tqdm.write(f"Fault of this program at clip {clip.clip_id}:", file=sys.stderr)
        tqdm.write(event.traceback, file=sys.stderr)
