"""Events of workers to shards: assemblies that fill, are published, and are noted as finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from preprocess.flow_run.assembly import Assembly
from preprocess.flow_run.further_outputs import refuse_other_videos
from preprocess.flow_run.messages import ClipFailed, Event
from preprocess.flow_run.plan import Plan
from preprocess.running.failures import failure_record
from preprocess.running.journal import Journal


def settled_clips(
    plan: Plan,
    events: Iterable[Event],
    journal: Journal,
    folders: dict[str, Path],
    known: Callable[[int], Iterable[Event]] = lambda shard: (),
) -> Iterator[Event]:
    """The event that settles a clip, for each clip; shards are published as their last clip ends.

    Args:
        events: of the workers, in any order.
        journal: where shards are noted as finished.
        folders: where they are written, by name.
        known: events of those clips of a shard that the workers were not given.
    """
    assemblies: dict[int, Assembly] = {}
    spill_folder = next(iter(folders.values()))
    try:
        for event in events:
            shard = plan.shard_of(event.clip_index)
            if shard in journal.finished:
                continue  # what was still under way for a clip set aside
            if shard not in assemblies:
                clips = {
                    clip_index: plan.clips[clip_index] for clip_index in plan.clip_indexes(shard)
                }
                assemblies[shard] = Assembly(shard, clips, spill_folder, plan.flow)
                for one in known(shard):
                    assemblies[shard].add(one)
            if not assemblies[shard].add(event):
                continue
            yield event
            if assemblies[shard].is_settled:
                publish(plan, journal, folders, assemblies[shard])
                assemblies.pop(shard).close()
    finally:
        for assembly in assemblies.values():
            assembly.close()


def publish(plan: Plan, journal: Journal, folders: dict[str, Path], assembly: Assembly) -> None:
    """Write the shards of an assembly and note them as finished."""
    entries = assembly.publish(folders, plan.configs)
    refuse_other_videos(plan, assembly.number)
    failures = [
        failure_record(plan.clips[clip_index], event.stage, event.reason)
        for clip_index, event in sorted(assembly.failures.items())
    ]
    record = {kind: asdict(entry) for kind, entry in entries.items()}
    journal.add({"shard": assembly.number, "failures": failures} | record)


def failed_record(plan: Plan, event: Event) -> dict | None:
    """What failures.jsonl says of a clip that an event set aside; None where it did not."""
    if not isinstance(event, ClipFailed):
        return None
    return failure_record(plan.clips[event.clip_index], event.stage, event.reason)
