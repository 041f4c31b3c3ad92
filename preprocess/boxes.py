"""Motion maps to boxes: a box for each frame, one for the clip, and its tube-mask table.

    python -m preprocess.boxes --dataset toy --out out
    python -m preprocess.boxes --dataset ssv2 --out out --preset mofo-code --overwrite

Reads flows/NNNNN.h5 alone and writes boxes/NNNNN.h5 and their dataset.json, so thresholds are tuned
without computing flow again: seconds for the toy dataset. A run that was stopped goes on where it
was; one that is complete says so and ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from tqdm import tqdm

from preprocess import resume
from preprocess.processes import executor
from shared.errors import InputError, user_errors
from shared.files import remove_leftovers
from shared.grid import canonical_view, positions_inside, union_box
from shared.layout import DatasetLayout
from shared.masking import masked_counts
from shared.run_record import RunLock, write_options
from shared.shard_index import DatasetIndex, ShardEntry, read_index, write_index
from shared.shards import ShardReader, write_shard

if TYPE_CHECKING:  # a run that finds everything complete must not wait for OpenCV
    from preprocess.motion import MotionParameters

CANONICAL_SIZE = 224  # pixels; 14 x 14 positions of 16 px
PATCH = 16
NUM_POSITIONS = (CANONICAL_SIZE // PATCH) ** 2
VIEW = "short side to 224, centre crop"
MASK_RATIO, INSIDE_RATIO = 0.9, 0.75  # MOFO's, for what is printed


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.option("--dataset", required=True, metavar="NAME", help="folder of OUT with flows/")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="folder of all datasets; this one is in FOLDER/NAME")  # fmt: skip
# The recipe
@click.option("--preset", default="default", metavar="NAME",
              help="default, paper or mofo-code: see preprocess/motion.py")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="NAME=NUMBER",
              help="change one number of the preset, such as sigma=4; may be repeated")  # fmt: skip
# The run
@click.option("--workers", type=click.IntRange(1), metavar="PROCESSES",
              help="[default: one a core]")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="make all shards again, also with other options")
@click.option("--dry-run", is_flag=True, help="print what would be done and stop")
@user_errors
def main(**options: Any) -> None:
    from preprocess.motion import read_parameters

    layout = DatasetLayout(options["out"], options["dataset"])
    flows = read_index(layout.flows)
    if flows is None:
        raise InputError(f"{layout.flows} is not complete (no dataset.json); run `make flows`")
    parameters = read_parameters(options["preset"], options["changes"])
    wanted = DatasetIndex(
        kind="boxes",
        dataset=layout.dataset,
        config=asdict(parameters) | {"flows": flows.digest},
        clips_per_shard=flows.clips_per_shard,
        manifest_digest=flows.manifest_digest,
    )
    print(f"boxes: {flows.num_clips} clips in {len(flows.shards)} shards, from {layout.flows}")
    print("  " + ", ".join(f"{name} {value}" for name, value in asdict(parameters).items()))
    if options["dry_run"]:
        return
    with RunLock(layout.lock):
        if options["overwrite"]:
            resume.forget(layout.boxes)
        elif resume.complete_index(layout.boxes, wanted) is not None:
            print(f"reuse: {layout.boxes} is complete")
            return
        write_options(layout.boxes / "options.json", options)
        compute(layout, flows, wanted, parameters, options["workers"])
    print_coverage(layout.boxes, wanted)


# --------------------------------------------------------------------------------------------------
# The work


def compute(
    layout: DatasetLayout,
    flows: DatasetIndex,
    wanted: DatasetIndex,
    parameters: MotionParameters,
    num_workers: int | None,
) -> None:
    """Make the shards that are missing and dataset.json last."""
    # ----- What an earlier run finished
    remove_leftovers(layout.boxes)
    journal = resume.Journal(layout.boxes, resume.described(wanted))
    if journal.finished:
        journal.keep_intact({"boxes": layout.boxes})
        print(f"going on: {len(journal.finished)} of {len(flows.shards)} shards are finished")
    journal.start()
    todo = [number for number in range(len(flows.shards)) if number not in journal.finished]

    # ----- Shard by shard, several at a time
    names = [shard.name for shard in flows.shards]
    tasks = [
        (
            number,
            layout.flows / names[number],
            layout.boxes / names[number],
            parameters,
            wanted.config | {"flows": flows.shards[number].sha256},
        )
        for number in todo
    ]
    num_todo = sum(flows.shards[number].clips for number in todo)
    with (
        tqdm(
            total=flows.num_clips,
            initial=flows.num_clips - num_todo,
            desc="boxes",
            unit="clip",
            mininterval=0.5,
        ) as progress,
        shard_maker(min(num_workers or len(os.sched_getaffinity(0)), len(todo))) as make,
    ):
        for number, entry in make(tasks):
            journal.add({"shard": number, "boxes": asdict(entry)})
            progress.update(entry.clips)

    # ----- Everything is there: say so, once
    entries = journal.entries("boxes")
    resume.remove_other_shards(layout.boxes, entries)
    wanted.shards.extend(entries)
    write_index(layout.boxes, wanted)
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
    number: int, flows_path: Path, path: Path, parameters: MotionParameters, config: dict[str, Any]
) -> tuple[int, ShardEntry]:
    """Write the boxes shard of one flows shard; returns its number and entry."""
    import cv2

    cv2.setNumThreads(1)
    arrays = shard_arrays(flows_path, parameters)
    attributes = config | {"grid": "14x14", "patch": PATCH, "view": VIEW}
    num_bytes, sha256 = write_shard(path, "boxes", arrays, attributes)
    return number, ShardEntry(path.name, num_bytes, sha256, len(arrays["/clip/id"]))


def shard_arrays(flows_path: Path, parameters: MotionParameters) -> dict[str, np.ndarray]:
    """All arrays of a boxes shard."""
    from preprocess.motion import contour_vertices, expand, motion_boxes

    with ShardReader(flows_path, "flows") as reader:
        sizes, frames = reader["/clip/size"], reader["/clip/frames"]
        map_sizes, scales = reader["/clip/map_size"], reader["/motion/scale"]
        boxes = np.full((reader.num_frames, 4), np.nan, dtype="<f4")
        scores = np.zeros(reader.num_frames, dtype="<f4")
        clip_boxes = np.full((reader.num_clips, 4), np.nan, dtype="<f4")
        tubes: list[np.ndarray] = []
        vertices: list[np.ndarray] = []
        for clip, (first, last) in enumerate(frames):
            width, height = map_sizes[clip]
            values = reader.ragged("/motion/offsets", "/motion/values", first, last)
            maps = expand(np.stack(values).reshape(-1, height, width), scales[first:last])
            found, scores[first:last] = motion_boxes(maps, parameters)
            to_source = sizes[clip] / map_sizes[clip]
            boxes[first:last] = found * np.tile(to_source, 2)
            vertices += contour_vertices(maps, parameters, to_source)
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
            "/contour/offsets": np.cumsum([0, *map(len, vertices)], dtype="<i8"),
            "/contour/vertices": np.concatenate([np.empty((0, 3), "<i2"), *vertices]),
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
    num_inside, has_motion = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    for shard in index.shards:
        with ShardReader(folder / shard.name, "boxes") as reader:
            num_inside.append(np.diff(reader["/tube/offsets"]))
            has_motion.append(~np.isnan(reader["/box/xyxy"]).any(axis=1))
    inside, moving = np.concatenate(num_inside), np.concatenate(has_motion)
    print(
        f"{folder}: {len(inside)} clips, {sum(shard.bytes for shard in index.shards) / 1e6:.1f} MB"
    )
    if len(inside) == 0:
        return
    print(
        f"  without a position inside the box: {np.mean(inside == 0):.1%} of the clips; "
        f"without motion: {np.mean(~moving):.1%} of the frames"
    )
    print(f"  positions inside the clip's box, of {NUM_POSITIONS}, and number of clips:")
    edges = [0, 1, *range(20, NUM_POSITIONS, 20), NUM_POSITIONS, NUM_POSITIONS + 1]
    histogram = np.histogram(inside, bins=edges)[0]
    for first, last, count in zip(edges[:-1], edges[1:], histogram, strict=True):
        name = str(first) if last == first + 1 else f"{first}-{last - 1}"
        print(f"  {name:>8} {count:8d} {'#' * round(40 * count / histogram.max())}")
    masked, masked_inside = np.sum(
        [masked_counts(NUM_POSITIONS, int(m), MASK_RATIO, INSIDE_RATIO) for m in inside], axis=0
    )
    print(
        f"  mask ratio {MASK_RATIO:.0%} with {INSIDE_RATIO:.0%} inside masks in effect "
        f"{masked_inside / max(1, inside.sum()):.1%} inside the boxes and "
        f"{(masked - masked_inside) / max(1, (NUM_POSITIONS - inside).sum()):.1%} outside"
    )


if __name__ == "__main__":
    main()
