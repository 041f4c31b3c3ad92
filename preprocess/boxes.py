"""Motion maps to boxes: a box for each frame, one for the clip, and its tube-mask table.

    python -m preprocess.boxes --dataset toy --out out
    python -m preprocess.boxes --dataset ssv2 --out out --preset mofo-code --overwrite

Reads flows/NNNNN.h5 alone and writes boxes/NNNNN.h5 and their dataset.json, so thresholds are tuned
without computing flow again: seconds for the toy dataset, about 20,000 frames a second and core. A run
that was stopped goes on where it was; one that is complete says so and ends.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from preprocess import resume
from shared.errors import InputError, user_errors
from shared.files import remove_leftovers
from shared.grid import canonical_view, positions_inside, union_box
from shared.layout import DatasetLayout
from shared.masking import masked_counts
from shared.run_record import RunLock, write_options
from shared.shard_index import DatasetIndex, ShardEntry, read_index, write_index
from shared.shards import ShardReader, write_shard

CANONICAL_SIZE = 224  # pixels; 14 x 14 positions of 16 px
PATCH = 16
NUM_POSITIONS = (CANONICAL_SIZE // PATCH) ** 2
VIEW = "short side to 224, centre crop"
MASK_RATIO, INSIDE_RATIO = 0.9, 0.75  # MOFO's, for what is printed


# fmt: off
@click.command(context_settings={"show_default": True, "max_content_width": 100})
# Data
@click.option("--dataset", required=True, metavar="NAME", help="Folder below OUT with flows/.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER", help="Where all results go.")
# Recipe
@click.option("--preset", default="default", metavar="NAME", help="default, paper or mofo-code; see preprocess/motion.py.")
@click.option("--set", "changes", multiple=True, metavar="NAME=NUMBER", help="One number of the preset, such as sigma=4; may be given again.")
# Run
@click.option("--workers", type=click.IntRange(1), metavar="PROCESSES", help="[default: one a core]")
@click.option("--overwrite", is_flag=True, help="Make all shards again, also if made with other options.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and stop.")
# fmt: on
@user_errors
def main(**options: Any) -> None:
    """Find the motion boxes of a dataset: boxes/ shards from flows/ shards."""
    from preprocess.motion import MotionParameters

    layout = DatasetLayout(options["out"], options["dataset"])
    flows = read_index(layout.flows)
    if flows is None:
        raise InputError(f"{layout.flows} is not complete (no dataset.json); run `make flows` first")
    parameters: MotionParameters = read_parameters(options["preset"], options["changes"])
    wanted = DatasetIndex(
        kind="boxes",
        dataset=layout.dataset,
        config=asdict(parameters) | {"flows": flows.digest},
        clips_per_shard=flows.clips_per_shard,
        manifest_digest=flows.manifest_digest,
    )
    print(f"boxes: {flows.num_clips} clips in {len(flows.shards)} shards, preset {options['preset']}")
    print("  " + "  ".join(f"{name}={value:g}" for name, value in asdict(parameters).items()))
    if options["dry_run"]:
        return
    with RunLock(layout.lock):
        if options["overwrite"]:
            resume.forget(layout.boxes)
        elif resume.complete_index(layout.boxes, wanted) is not None:
            print(f"reuse: {layout.boxes} is complete ({flows.num_clips} clips)")
            return
        write_options(layout.boxes / "options.json", options)
        compute(layout, flows, wanted, parameters, options["workers"])
    print_coverage(layout.boxes, wanted)


def read_parameters(preset: str, changes: tuple[str, ...]) -> Any:
    """The numbers of a preset, some of them changed.

    Raises:
        InputError: an unknown preset or name, or a value that is not allowed.
    """
    from preprocess.motion import PRESETS

    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    parameters = PRESETS[preset]
    for change in changes:
        name, _, text = change.partition("=")
        known = {field.name: type(getattr(parameters, field.name)) for field in dataclasses.fields(parameters)}
        if name not in known:
            raise InputError(f"--set {change}: no number {name!r}; known are {', '.join(known)}")
        try:
            value = known[name](text)
        except ValueError:
            raise InputError(f"--set {change}: {text!r} is not a number") from None
        parameters = dataclasses.replace(parameters, **{name: value})
    return parameters


# --------------------------------------------------------------------------------------------------
# The work


def compute(
    layout: DatasetLayout,
    flows: DatasetIndex,
    wanted: DatasetIndex,
    parameters: Any,
    num_workers: int | None,
) -> None:
    """Make the shards that are missing and dataset.json last."""
    remove_leftovers(layout.boxes)
    journal = resume.Journal(layout.boxes, resume.described(wanted))
    if journal.finished:
        journal.keep_intact({"boxes": layout.boxes})
        print(f"going on: {len(journal.finished)} of {len(flows.shards)} shards are finished")
    journal.start()
    todo = [
        (number, shard)
        for number, shard in enumerate(flows.shards)
        if number not in journal.finished
    ]
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), max(1, len(todo)))
    done = flows.num_clips - sum(shard.clips for _, shard in todo)
    with (
        tqdm(total=flows.num_clips, initial=done, desc="boxes", unit="clip", mininterval=0.5) as bar,
        shard_maker(num_workers) as make,
    ):
        tasks = [
            (number, layout.flows / shard.name, layout.boxes / shard.name, parameters, wanted.config)
            for number, shard in todo
        ]
        for number, entry in make(tasks):
            journal.add({"shard": number, "boxes": asdict(entry)})
            bar.update(entry.clips)
    entries = journal.entries("boxes")
    resume.remove_other_shards(layout.boxes, entries)
    wanted.shards.extend(entries)
    write_index(layout.boxes, wanted)
    journal.remove()


@contextmanager
def shard_maker(num_workers: int) -> Iterator[Any]:
    """Run `make_shard` over tasks, in this process or in several; results as they come."""
    if num_workers == 1:
        yield lambda tasks: (make_shard(*task) for task in tasks)
        return
    executor = ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield lambda tasks: (
            future.result()
            for future in as_completed([executor.submit(make_shard, *task) for task in tasks])
        )
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C is the driver's to handle; and a worker must not outlive a driver that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def make_shard(
    number: int, flows_path: Path, path: Path, parameters: Any, config: dict[str, Any]
) -> tuple[int, ShardEntry]:
    """Write the boxes shard of one flows shard; returns its number and entry."""
    import cv2

    cv2.setNumThreads(1)
    arrays = shard_arrays(flows_path, parameters)
    attributes = config | {"grid": "14x14", "patch": PATCH, "view": VIEW}
    num_bytes, sha256 = write_shard(path, "boxes", arrays, attributes)
    return number, ShardEntry(path.name, num_bytes, sha256, len(arrays["/clip/id"]))


def shard_arrays(flows_path: Path, parameters: Any) -> dict[str, np.ndarray]:
    """All arrays of a boxes shard."""
    from preprocess.motion import expand, motion_boxes

    with ShardReader(flows_path, "flows") as reader:
        sizes, frames = reader["/clip/size"], reader["/clip/frames"]
        map_sizes, scales = reader["/clip/map_size"], reader["/motion/scale"]
        boxes = np.full((reader.num_frames, 4), np.nan, dtype="<f4")
        scores = np.zeros(reader.num_frames, dtype="<f4")
        clip_boxes = np.full((reader.num_clips, 4), np.nan, dtype="<f4")
        tubes: list[np.ndarray] = []
        for clip, (first, last) in enumerate(frames):
            width, height = map_sizes[clip]
            values = reader.ragged("/motion/offsets", "/motion/values", first, last)
            maps = expand(np.stack(values).reshape(-1, height, width), scales[first:last])
            found, scores[first:last] = motion_boxes(maps, parameters)
            boxes[first:last] = found * np.tile(sizes[clip] / map_sizes[clip], 2)
            clip_boxes[clip] = union_box(boxes[first:last])
            tubes.append(tube_positions(clip_boxes[clip], sizes[clip]))
        return {
            "/clip/id": reader["/clip/id"],
            "/clip/frames": frames,
            "/clip/size": sizes,
            "/frame/pts_seconds": reader["/frame/pts_seconds"],
            "/clip/box": clip_boxes,
            "/box/xyxy": boxes,
            "/box/score": scores,
            "/tube/offsets": np.cumsum([0, *map(len, tubes)], dtype="<i8"),
            "/tube/index": np.concatenate([np.empty(0, "<i2"), *tubes]).astype("<i2"),
        }


def tube_positions(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Sorted positions row * 14 + column inside a clip box [4] in source pixels; size = (w, h)."""
    view = canonical_view(int(size[0]), int(size[1]), CANONICAL_SIZE)
    inside = positions_inside(view.apply(box), (CANONICAL_SIZE, CANONICAL_SIZE), PATCH)
    return np.flatnonzero(inside)


# --------------------------------------------------------------------------------------------------
# What is printed at the end


def print_coverage(folder: Path, index: DatasetIndex) -> None:
    """How much the boxes cover, and what the ratios of MOFO then mask inside and outside."""
    counts, moving = [np.empty(0, np.int64)], []
    for shard in index.shards:
        with ShardReader(folder / shard.name, "boxes") as reader:
            counts.append(np.diff(reader["/tube/offsets"]))
            moving.append(~np.isnan(reader["/box/xyxy"][:, 0]))
    inside = np.concatenate(counts)
    if len(inside) == 0:
        print(f"{folder}: no clips", file=sys.stderr)
        return
    print(f"{folder}: {len(inside)} clips, {np.mean(inside == 0):.1%} without a position in the box, ")
    print(f"  {np.mean(np.concatenate(moving)):.1%} of frames with motion")
    print(f"  positions inside the clip's box, of {NUM_POSITIONS}:")
    edges = [0, 1, *range(20, NUM_POSITIONS, 20), NUM_POSITIONS, NUM_POSITIONS + 1]
    histogram = np.histogram(inside, bins=edges)[0]
    for first, last, count in zip(edges, edges[1:], histogram, strict=False):
        name = str(first) if last == first + 1 else f"{first}-{last - 1}"
        bar = "#" * round(40 * count / histogram.max())
        print(f"  {name:>8} {count:7d} {bar}")
    pairs = [masked_counts(NUM_POSITIONS, int(m), MASK_RATIO, INSIDE_RATIO) for m in inside]
    masked, masked_inside = np.array(pairs).sum(axis=0)
    outside = (NUM_POSITIONS - inside).sum()
    print(
        f"  mask ratio {MASK_RATIO:.0%}, inside ratio {INSIDE_RATIO:.0%}: masked are "
        f"{masked_inside / max(1, inside.sum()):.1%} of the positions inside, "
        f"{(masked - masked_inside) / max(1, outside):.1%} of those outside"
    )


if __name__ == "__main__":
    main()
