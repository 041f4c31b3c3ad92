"""From the events of workers to shards: a shard is published when its last clip has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from preprocess.flow_run.assembly import Assembly
from preprocess.flow_run.further_outputs import refuse_other_videos
from preprocess.flow_run.messages import ClipFailed, Event
from preprocess.flow_run.plan import Plan
from preprocess.running.failures import failure_record
from preprocess.running.journal import Journal
from shared.manifest import Clip


def settled_clips(
    plan: Plan,
    events: Iterable[Event],
    journal: Journal,
    folders: dict[str, Path],
    known: Callable[[int], Iterable[Event]] = lambda _: (),
) -> Iterator[Event]:
    """Yield for each clip the event that completes or fails it, and publish shards on the way.

    Args:
        events: of the workers, in any order.
        journal: records each shard that is published.
        folders: of the shards, by name.
        known: gives the events of the clips of a shard that no worker is given.
    """
    assemblies: dict[int, Assembly] = {}
    shown_faults: set[str] = set()
    spill_folder = next(iter(folders.values()))
    try:
        for event in events:
            shard = plan.shard_of(event.clip_index)
            if shard in journal.finished:
                continue  # an event of a clip that had failed already
            if shard not in assemblies:
                clips = {
                    clip_index: plan.clips[clip_index] for clip_index in plan.clip_indexes(shard)
                }
                assemblies[shard] = Assembly(shard, clips, spill_folder, plan.flow)
                for one in known(shard):
                    assemblies[shard].add(one)
            if not assemblies[shard].add(event):
                continue
            if isinstance(event, ClipFailed) and event.traceback:
                show_fault(plan.clips[event.clip_index], event, shown_faults)
            yield event
            if assemblies[shard].is_settled:
                publish(plan, journal, folders, assemblies[shard])
                assemblies.pop(shard).close()
    finally:
        for assembly in assemblies.values():
            assembly.close()


def publish(plan: Plan, journal: Journal, folders: dict[str, Path], assembly: Assembly) -> None:
    """Write the shards of an assembly and record them in the journal."""
    entries = assembly.publish(folders, plan.configs)
    refuse_other_videos(plan, assembly.number)
    failures = [
        failure_record(plan.clips[clip_index], event.stage, event.reason, event.traceback)
        for clip_index, event in sorted(assembly.failures.items())
    ]
    record = {kind: asdict(entry) for kind, entry in entries.items()}
    journal.add({"shard": assembly.number, "failures": failures} | record)


def failed_record(plan: Plan, event: Event) -> dict | None:
    """The record for failures.jsonl if the event says that its clip failed; else None."""
    if not isinstance(event, ClipFailed):
        return None
    clip = plan.clips[event.clip_index]
    return failure_record(clip, event.stage, event.reason, event.traceback)


def show_fault(clip: Clip, event: ClipFailed, shown: set[str]) -> None:
    """Print the traceback of a fault of this program, once for each that is not in `shown`."""
    if event.reason not in shown:
        shown.add(event.reason)
        tqdm.write(f"fault of this program at clip {clip.clip_id}:", file=sys.stderr)
        tqdm.write(event.traceback, file=sys.stderr)
