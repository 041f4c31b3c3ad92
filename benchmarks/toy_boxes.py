"""Makes a toy dataset whose clips have the motion boxes of other clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from preprocess.box_run.shards import tube_positions
from shared.files import remove_leftovers
from shared.grid import window_box
from shared.layout import DatasetLayout
from shared.randomness import counter_generator
from shared.shard_index import ShardEntry, read_index, write_index
from shared.shard_writer import write_shard
from shared.shards import ShardReader


def with_random_boxes(layout: DatasetLayout, seed: int) -> DatasetLayout:
    """Make a dataset beside `layout` where each clip has the boxes of another, random clip.

    Sizes, areas and paths of the boxes are those of real motion. Frames are shared by a link. All
    clips must have the same number of frames, as toy clips do.
    """
    other = DatasetLayout(layout.out, f"{layout.dataset}-random-boxes-{seed}")
    if read_index(other.boxes) is not None:
        return other
    other.boxes.mkdir(parents=True, exist_ok=True)
    remove_leftovers(other.boxes)
    if not other.frames.is_symlink():
        other.frames.symlink_to(layout.frames.resolve())
    for path in (layout.manifest, layout.classes):
        (other.root / path.name).write_bytes(path.read_bytes())
    index = read_index(layout.boxes)
    assert index is not None, "the dataset has boxes"
    entries = []
    for number, shard in enumerate(index.shards):
        with ShardReader(layout.boxes / shard.name, "boxes") as reader:
            arrays = _permuted(reader, counter_generator(seed, "random boxes", number))
        num_bytes, sha256 = write_shard(other.boxes / shard.name, "boxes", arrays, index.config)
        entries.append(ShardEntry(shard.name, num_bytes, sha256, shard.clips))
    write_index(other.boxes, replace(index, dataset=other.dataset, shards=entries))
    return other


def _permuted(reader: ShardReader, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of a boxes shard in which no clip has its own boxes."""
    num_clips = reader.num_clips
    frames = reader["/clip/frames"].reshape(num_clips, 2)
    assert len(set(np.diff(frames)[:, 0])) == 1, "clips of one length"
    cycle = rng.permutation(num_clips)
    source = np.empty_like(cycle)
    source[cycle] = np.roll(cycle, 1)  # one cycle through all clips, so that no clip keeps its own
    rows = (frames[source, :1] + np.arange(frames[0, 1] - frames[0, 0])).ravel()
    boxes = reader["/box/xyxy"][rows]
    sizes = reader["/clip/size"]
    window_boxes = np.stack([window_box(each) for each in boxes.reshape(num_clips, -1, 4)])
    tubes = [tube_positions(box, size) for box, size in zip(window_boxes, sizes, strict=True)]
    return {
        "/clip/id": reader["/clip/id"],
        "/clip/frames": frames,
        "/clip/size": sizes,
        "/frame/pts_seconds": reader["/frame/pts_seconds"],
        "/clip/box": window_boxes.astype("<f4"),
        "/box/xyxy": boxes,
        "/box/score": reader["/box/score"][rows],
        "/contour/offsets": np.zeros(len(rows) + 1, "<i8"),
        "/contour/vertices": np.empty((0, 3), "<i2"),
        "/tube/offsets": np.cumsum([0, *map(len, tubes)], dtype="<i8"),
        "/tube/index": np.concatenate(tubes).astype("<i2"),
    }
