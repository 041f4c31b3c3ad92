"""Make some clips of a finished dataset again, and the shards that they are in.

New shards are made beside the old ones, in OUT/DATASET/.rebuild, so that the dataset can be used
until they are complete. A run that was stopped continues with the shards that it finished. Then the
new shards replace the old ones: the dataset is declared unfinished, with a journal of all shards as
they will be, the files are moved, and dataset.json is written again. If this is killed in between,
`make flows` makes those shards again that differ from the journal.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocess.flow_run.decode_groups import decode_groups
from preprocess.flow_run.messages import ClipEnd, ClipFailed, Event
from preprocess.flow_run.plan import Plan
from preprocess.flow_run.pool import running_pool
from preprocess.flow_run.publishing import settled_clips
from preprocess.flow_run.stored_clips import stored_events
from preprocess.running.failures import read_failures, write_failures
from preprocess.running.journal import Journal, is_intact
from shared.errors import InputError
from shared.files import put_in_place, remove_file
from shared.mirror import stored_address
from shared.progress import bar_options
from shared.shard_index import INDEX_NAME, DatasetIndex, ShardEntry, read_index, shard_name
from shared.shards import ShardReader
from shared.wording import counted


def rebuild(
    plan: Plan,
    clip_indexes: list[int],
    purpose: str,
    on_settled: Callable[[Event], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Make clips and the shards that they are in again; other clips of these shards are copied.

    Args:
        plan: plan of the finished dataset.
        clip_indexes: rows in the manifest of the clips.
        purpose: a word for the progress bar. A stopped run with another purpose is not continued.
        on_settled: called with the event that ends each clip. If it raises, the run ends before
            anything is replaced.

    Returns:
        the failures of the whole dataset, one record for each clip.
    """
    # ----- Shards of an earlier run that was stopped
    staging = plan.layout.root / ".rebuild"
    folders = {name: staging / name for name in plan.folders}
    found = {name: read_index(folder) for name, folder in plan.folders.items()}
    indexes = {name: index for name, index in found.items() if index is not None}
    assert indexes.keys() == found.keys(), "a dataset that is rebuilt is complete"
    journal = _staged(staging, folders, purpose, indexes)
    missing = [i for i in clip_indexes if plan.shard_of(i) not in journal.finished]
    groups = decode_groups(plan, missing)
    chosen = set(clip_indexes)

    # ----- The requested clips come from the workers, the other clips from the shards
    num_failed = 0
    with (
        running_pool(plan, is_needed=bool(groups)) as pool,
        tqdm(
            total=len(clip_indexes),
            initial=len(clip_indexes) - len(missing),
            desc=purpose,
            unit="clip",
            **bar_options(),
        ) as progress,
    ):
        events = pool.run(groups) if pool else ()
        for event in settled_clips(
            plan, events, journal, folders, lambda shard: _stored_clips(plan, shard, chosen)
        ):
            assert not isinstance(event, ClipEnd), "no worker writes shards here"
            progress.update()
            num_failed += isinstance(event, ClipFailed)
            on_settled(event)
    print(f"{purpose}: {len(clip_indexes) - num_failed} of {len(clip_indexes)} clips were made.")
    left = _put_in_place(plan, journal, folders, indexes)
    shutil.rmtree(staging)
    return left


def _staged(
    staging: Path, folders: dict[str, Path], purpose: str, indexes: dict[str, DatasetIndex]
) -> Journal:
    """The journal of new shards, without shards of another purpose or with clips that failed."""
    head = {"purpose": purpose} | {name: index.digest for name, index in indexes.items()}
    try:
        journal = Journal(staging, head)
    except InputError:  # the shards that it started from have been replaced since
        shutil.rmtree(staging)
        journal = Journal(staging, head)
    journal.keep_intact(folders)
    for number, record in list(journal.finished.items()):
        if record["failures"]:  # tried again, because the videos may have changed
            del journal.finished[number]
    if journal.finished:
        print(f"continuing: {counted(len(journal.finished), 'shard')} finished before.")
    journal.start()
    return journal


def _stored_clips(plan: Plan, shard: int, chosen: set[int]) -> Iterable[Event]:
    """The stored events of those clips of a shard that are not made again."""
    by_id = {plan.clips[clip_index].clip_id: clip_index for clip_index in plan.clip_indexes(shard)}
    if chosen.issuperset(by_id.values()):
        return  # nothing of the old shard is needed; it may be damaged
    with ExitStack() as stack:
        readers = {
            name: stack.enter_context(
                ShardReader(folder / shard_name(shard), plan.indexes[name].kind)
            )
            for name, folder in plan.folders.items()
        }
        yield from stored_events(readers, by_id, plan.flow)


def _put_in_place(
    plan: Plan, staged: Journal, folders: dict[str, Path], indexes: dict[str, DatasetIndex]
) -> list[dict[str, Any]]:
    # ----- A journal of all shards as they will be
    journal = plan.journal()
    by_id = {clip.clip_id: clip_index for clip_index, clip in enumerate(plan.clips)}
    failures: dict[int, list[dict[str, Any]]] = {}
    for record in read_failures(plan.layout.failures):
        if record["clip_id"] in by_id:
            failures.setdefault(plan.shard_of(by_id[record["clip_id"]]), []).append(record)
    for number in range(plan.num_shards):
        entries = {name: asdict(index.shards[number]) for name, index in indexes.items()}
        old = {"shard": number, "failures": failures.get(number, [])} | entries
        journal.finished[number] = staged.finished.get(number, old)

    # ----- The dataset is unfinished while files are moved
    journal.start()
    for folder in plan.folders.values():
        remove_file(folder / INDEX_NAME)
    for record in staged.finished.values():
        for name, folder in plan.folders.items():
            entry = ShardEntry(**record[name])
            made, path = folders[name] / entry.name, folder / entry.name
            # A good file is not touched. What object storage says of a file is not its content.
            is_bad = stored_address(path) is not None or not is_intact(path, entry)
            if is_bad and made.exists():
                put_in_place(made, path)
                print(f"Replaced {path} ({counted(entry.clips, 'clip')}).")

    # ----- Every shard exists: declare the folders complete, once
    left = journal.failures()
    write_failures(plan.layout.failures, left)
    plan.write_indexes({name: journal.entries(name) for name in plan.folders})
    journal.remove()
    return left
