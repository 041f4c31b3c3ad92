"""Makes boxes shard by shard in several processes, and continues where an earlier run stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from preprocess.box_run.inputs import BoxInputs
from preprocess.box_run.shards import ShardBuilder
from preprocess.running.journal import Journal, described, remove_other_shards
from preprocess.running.processes import executor
from shared.errors import InputError
from shared.files import put_in_place, remove_file, remove_leftovers
from shared.grid import CANONICAL_SIZE, PATCH, TUBE_GRID
from shared.layout import DatasetLayout
from shared.progress import bar_options
from shared.shard_index import INDEX_NAME, DatasetIndex, ShardEntry, write_index
from shared.shard_writer import write_shard

ShardTask: TypeAlias = tuple[int, Path, Path, ShardBuilder, dict[str, Any]]
"""The arguments of `make_shard`."""


def wanted_index(layout: DatasetLayout, inputs: BoxInputs) -> DatasetIndex:
    """The index of the boxes that are made from the inputs, still without shards."""
    return DatasetIndex(
        kind="boxes",
        dataset=layout.dataset,
        config=inputs.config,
        clips_per_shard=inputs.clips.clips_per_shard,
        manifest_digest=inputs.clips.manifest_digest,
    )


def make_box_shards(
    folder: Path,
    inputs: BoxInputs,
    wanted: DatasetIndex,
    num_workers: int | None,
    overwrite: bool = False,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Make the shards that are missing, and write dataset.json last.

    With `overwrite` the folder stays as it is until the first new shard is complete.

    Args:
        folder: folder of the boxes.
        inputs: what the boxes are made from, and how.
        wanted: see `wanted_index`; the entries of the shards are added to it.
        num_workers: number of processes; None is one process a core.
        overwrite: make all shards again, whatever the folder holds.
        on_start: called when the folder is declared unfinished.

    Raises:
        InputError: an earlier run had other options, a shard that is read is damaged, or a process
            died.
    """
    # ----- Keep the shards that an earlier run finished
    remove_leftovers(folder)
    journal = Journal(folder, described(wanted), is_new=overwrite)
    shards = inputs.clips.shards
    if journal.finished:
        journal.keep_intact({"boxes": folder})
        print(f"continuing: {len(journal.finished)} of {len(shards)} shards are finished")
    builder = inputs.make_builder()
    if not inputs.parallel:
        num_workers = 1
    elif num_workers is None:
        num_workers = len(os.sched_getaffinity(0))

    def task(number: int, target: Path) -> ShardTask:
        name = shards[number].name
        config = inputs.shard_config(number)
        return number, inputs.folder / name, target / name, builder, config

    def start() -> None:
        journal.start()
        remove_file(folder / INDEX_NAME)
        on_start()

    if overwrite and shards:
        _replace_first(task(0, folder.parent / ".first-shard"), folder, journal, start)
    else:
        start()

    # ----- Make the other shards, several at a time
    todo = [number for number in range(len(shards)) if number not in journal.finished]
    tasks = [task(number, folder) for number in todo]
    num_todo = sum(shards[number].clips for number in todo)
    with (
        tqdm(
            total=inputs.clips.num_clips,
            initial=inputs.clips.num_clips - num_todo,
            desc="boxes",
            unit="clip",
            **bar_options(),
        ) as progress,
        shard_pool(min(num_workers, len(todo))) as run,
    ):
        for number, entry in run(tasks):
            journal.add({"shard": number, "boxes": asdict(entry)})
            progress.update(entry.clips)

    # ----- Declare the folder complete
    entries = journal.entries("boxes")
    remove_other_shards(folder, entries)
    wanted.shards.extend(entries)
    write_index(folder, wanted)
    journal.remove()


def _replace_first(
    task: ShardTask, folder: Path, journal: Journal, start: Callable[[], None]
) -> None:
    """Make the first shard beside the old ones, and start when it is complete."""
    staged = task[2]
    try:
        number, entry = make_shard(*task)
        start()
        put_in_place(staged, folder / staged.name)
    finally:
        shutil.rmtree(staged.parent, ignore_errors=True)
    journal.add({"shard": number, "boxes": asdict(entry)})


@contextmanager
def shard_pool(
    num_workers: int,
) -> Iterator[Callable[[Iterable[ShardTask]], Iterator[tuple[int, ShardEntry]]]]:
    """Give a function that runs `make_shard` on tasks, in this process or in several.

    The function yields results in the order in which shards are finished.

    Raises:
        InputError: a process died, as the system ends one that takes too much memory.
    """
    if num_workers <= 1:
        yield lambda tasks: (make_shard(*task) for task in tasks)
        return
    try:
        with executor(num_workers) as pool:
            yield lambda tasks: (
                future.result()
                for future in as_completed([pool.submit(make_shard, *task) for task in tasks])
            )
    except BrokenProcessPool:
        raise InputError(
            "process-died",
            f"One of {num_workers} processes that make boxes died, usually because the machine "
            "ran out of memory. What was finished is kept. Run `boxes` again with fewer processes: "
            "--workers 1 needs the least memory",
        ) from None


def make_shard(
    number: int, source: Path, path: Path, builder: ShardBuilder, config: dict[str, Any]
) -> tuple[int, ShardEntry]:
    """Write the boxes shard of one source shard.

    Args:
        number: number of the shard.
        source: shard that is read.
        path: shard that is written.
        builder: builds the arrays.
        config: config that the shard stores.

    Returns:
        the number and the entry of the shard for dataset.json.
    """
    arrays = builder.arrays(source)
    rows, columns = TUBE_GRID
    view = f"short side to {CANONICAL_SIZE}, centre crop"
    attributes = config | {"grid": f"{rows}x{columns}", "patch": PATCH, "view": view}
    num_bytes, sha256 = write_shard(path, "boxes", arrays, attributes)
    return number, ShardEntry(path.name, num_bytes, sha256, len(arrays["/clip/id"]))
