"""Boxes of a dataset: one for each frame, one for the clip, and its tube-mask table.

    python -m preprocess.boxes --dataset toy --out out
    python -m preprocess.boxes --dataset ssv2 --out out --preset paper --name paper
    python -m preprocess.boxes --dataset ssv2 --out out --source dis --name dis
    python -m preprocess.boxes --dataset ssv2 --out out --name annotated \\
        --from-annotations boxes.json --format something-else

From motion it reads the maps of flows/NNNNN.h5 (or of another source) and the texture of frames/,
so thresholds are tuned without computing flow again: seconds for the toy dataset. From annotated
boxes it reads frames/ for what clips and frames there are. It writes boxes/NNNNN.h5 and their
dataset.json; with --name they lie beside, in boxes-NAME/, and training takes them with
--set box_source=NAME. A run that was stopped goes on where it was; one that is complete says so and
ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from preprocess.annotated_boxes.formats import FORMATS
from preprocess.motion_boxes.jobs import Job, read_job
from preprocess.motion_boxes.shards import ShardMaker
from preprocess.running import journal as resume
from preprocess.running.processes import executor
from preprocess.running.same_options import refuse_other_manifest
from shared.errors import user_errors
from shared.files import remove_leftovers
from shared.grid import CANONICAL_SIZE, PATCH, TUBE_GRID, TUBE_POSITIONS
from shared.layout import DatasetLayout
from shared.manifest import manifest_digest, read_manifest
from shared.run_record import RunLock, write_options
from shared.scene import masked_counts
from shared.shard_index import DatasetIndex, ShardEntry, write_index
from shared.shard_writer import write_shard
from shared.shards import ShardReader
from shared.wording import counted

MASK_RATIO, INSIDE_RATIO = 0.9, 0.75  # MOFO's, for what is printed


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.option("--dataset", required=True, metavar="NAME", help="folder of OUT with flows/")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="folder of all datasets; this one is in FOLDER/NAME")  # fmt: skip
@click.option("--name", metavar="NAME",
              help="write boxes-NAME/ beside  [default: boxes/]")  # fmt: skip
# The recipe
@click.option("--source", metavar="NAME",
              help="flow source whose maps to read, such as dis for flows-dis/  [default: flows/]"
              )  # fmt: skip
@click.option("--preset", metavar="NAME",
              help="default, paper or mofo-code, whose numbers are in "
              "preprocess/motion_boxes/presets.py  [default: default]")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="NAME=NUMBER",
              help="change one number of the preset, such as sigma=4; may be repeated")  # fmt: skip
# Annotated boxes instead
@click.option("--from-annotations", type=click.Path(path_type=Path), metavar="PATH",
              help="annotated boxes, not motion: a file, or a folder of them")  # fmt: skip
@click.option("--format", "box_format", type=click.Choice(list(FORMATS)),
              help="of the annotations")  # fmt: skip
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="SCORE",
              help="epic-hand-objects: least score of a detection  [default: 0.5]")  # fmt: skip
@click.option("--annotation-fps", type=click.FloatRange(0, min_open=True), metavar="RATE",
              help="epic-*: frames per second of the frame numbers  [default: as evaluate_boxes]"
              )  # fmt: skip
# The run
@click.option("--workers", type=click.IntRange(1), metavar="PROCESSES",
              help="[default: one a core]")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="make all shards again, also with other options")
@click.option("--dry-run", is_flag=True, help="print what would be done and stop")
@user_errors
def main(**options: Any) -> None:
    layout = DatasetLayout(options["out"], options["dataset"])
    folder = layout.boxes if options["name"] is None else layout.boxes_of(options["name"])
    job = read_job(layout, options)
    wanted = wanted_index(layout, job)
    clips, shards = counted(job.clips.num_clips, "clip"), counted(len(job.clips.shards), "shard")
    print(f"boxes: {clips} in {shards}, to {folder}")
    print(f"  {job.what}: " + ", ".join(f"{name} {value}" for name, value in job.config.items()))
    if options["dry_run"]:
        return
    with RunLock(layout.lock):
        if layout.manifest.is_file():  # else what is read was copied here without it
            digest = manifest_digest(read_manifest(layout.manifest))
            refuse_other_manifest(job.folder, job.clips.manifest_digest, digest)
        if options["overwrite"]:
            resume.forget(folder)
        elif resume.complete_index(folder, wanted) is not None:
            resume.remove_journal(folder)  # of a run that was killed just before it would have
            print(f"reuse: {folder} is complete")
            return
        write_options(folder / "options.json", options)
        compute(folder, job, wanted, options["workers"])
    print_coverage(folder, wanted)


# --------------------------------------------------------------------------------------------------
# The work


def wanted_index(layout: DatasetLayout, job: Job) -> DatasetIndex:
    """The index of the boxes that a job makes, without its shards."""
    return DatasetIndex(
        kind="boxes",
        dataset=layout.dataset,
        config=job.config,
        clips_per_shard=job.clips.clips_per_shard,
        manifest_digest=job.clips.manifest_digest,
    )


def compute(folder: Path, job: Job, wanted: DatasetIndex, num_workers: int | None) -> None:
    """Make the shards that are missing and dataset.json last."""
    # ----- What an earlier run finished
    remove_leftovers(folder)
    journal = resume.Journal(folder, resume.described(wanted))
    shards = job.clips.shards
    if journal.finished:
        journal.keep_intact({"boxes": folder})
        print(f"going on: {len(journal.finished)} of {len(shards)} shards are finished")
    maker = job.make_maker()
    if not job.parallel:
        num_workers = 1
    elif num_workers is None:
        num_workers = len(os.sched_getaffinity(0))
    journal.start()
    todo = [number for number in range(len(shards)) if number not in journal.finished]

    # ----- Shard by shard, several at a time
    tasks = [
        (
            number,
            job.folder / shards[number].name,
            folder / shards[number].name,
            maker,
            job.shard_config(number),
        )
        for number in todo
    ]
    num_todo = sum(shards[number].clips for number in todo)
    with (
        tqdm(
            total=job.clips.num_clips,
            initial=job.clips.num_clips - num_todo,
            desc="boxes",
            unit="clip",
            mininterval=0.5,
        ) as progress,
        shard_maker(min(num_workers, len(todo))) as make,
    ):
        for number, entry in make(tasks):
            journal.add({"shard": number, "boxes": asdict(entry)})
            progress.update(entry.clips)

    # ----- Everything is there: say so, once
    entries = journal.entries("boxes")
    resume.remove_other_shards(folder, entries)
    wanted.shards.extend(entries)
    write_index(folder, wanted)
    journal.remove()


@contextmanager
def shard_maker(num_workers: int) -> Iterator[Any]:
    """Run `make_shard` over tasks, in this process or in several; results as they come."""
    if num_workers <= 1:
        yield lambda tasks: (make_shard(*task) for task in tasks)
        return
    with executor(num_workers) as pool:
        yield lambda tasks: (
            future.result()
            for future in as_completed([pool.submit(make_shard, *task) for task in tasks])
        )


def make_shard(
    number: int, source: Path, path: Path, maker: ShardMaker, config: dict[str, Any]
) -> tuple[int, ShardEntry]:
    """Write the boxes shard of one shard of the source; returns its number and entry."""
    arrays = maker.arrays(source)
    rows, columns = TUBE_GRID
    view = f"short side to {CANONICAL_SIZE}, centre crop"
    attributes = config | {"grid": f"{rows}x{columns}", "patch": PATCH, "view": view}
    num_bytes, sha256 = write_shard(path, "boxes", arrays, attributes)
    return number, ShardEntry(path.name, num_bytes, sha256, len(arrays["/clip/id"]))


# --------------------------------------------------------------------------------------------------
# What is printed at the end


def print_coverage(folder: Path, index: DatasetIndex) -> None:
    """How much the boxes cover, and what the ratios of MOFO then mask inside and outside."""
    num_inside, has_motion = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    for shard in index.shards:
        with ShardReader(folder / shard.name, "boxes") as reader:
            num_inside.append(np.diff(reader["/tube/offsets"]))
            has_motion.append(~np.isnan(reader["/box/xyxy"]).any(axis=1))
    inside, moving = np.concatenate(num_inside), np.concatenate(has_motion)
    megabytes = sum(shard.bytes for shard in index.shards) / 1e6
    print(f"{folder}: {counted(len(inside), 'clip')}, {megabytes:.1f} MB")
    if len(inside) == 0:
        return
    print(
        f"  without a position inside the box: {np.mean(inside == 0):.1%} of the clips; "
        f"without a box: {np.mean(~moving):.1%} of the frames"
    )
    print(f"  positions inside the clip's box, of {TUBE_POSITIONS}, and number of clips:")
    edges = [0, 1, *range(20, TUBE_POSITIONS, 20), TUBE_POSITIONS, TUBE_POSITIONS + 1]
    histogram = np.histogram(inside, bins=edges)[0]
    for first, last, count in zip(edges[:-1], edges[1:], histogram, strict=True):
        name = str(first) if last == first + 1 else f"{first}-{last - 1}"
        print(f"  {name:>8} {count:8d} {'#' * round(40 * count / histogram.max())}")
    masked, masked_inside = np.sum(
        [masked_counts(TUBE_POSITIONS, int(m), MASK_RATIO, INSIDE_RATIO) for m in inside], axis=0
    )
    print(
        f"  mask ratio {MASK_RATIO:.0%} with {INSIDE_RATIO:.0%} inside masks in effect "
        f"{masked_inside / max(1, inside.sum()):.1%} inside the boxes and "
        f"{(masked - masked_inside) / max(1, (TUBE_POSITIONS - inside).sum()):.1%} outside"
    )


if __name__ == "__main__":
    main()
