"""Statistics and single clips of a dataset for the report, from its manifest and its shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import SPLITS, ClassList, Clip
from shared.motion_maps import expand, read_maps
from shared.shard_cache import local_shard
from shared.shard_index import read_index
from shared.shards import ShardReader

COVERAGE_CELLS = 32  # cells along each side of the map of motion


@dataclass(frozen=True)
class BoxTable:
    """One row per clip of the boxes shards; N clips in the order of the shards.

    Attributes:
        clip_id: texts [N].
        shard, row: file name [N] and int64[N]: the position of the clip in every kind of shard.
        num_frames: int64[N], frames of the clip.
        clip_share: float64[N], area of the clip's box as a share of the frame; NaN without motion.
        still_share: float64[N], share of the clip's frames without a motion box.
        score: float64[N], mean share of motion energy inside the box over frames that have one.
        jump: float64[N], mean movement of the box centre per frame, in frame diagonals.
        num_inside: int64[N], positions of the 14x14 grid inside the clip's box.
        frame_shares: float32[F'], area of every frame's box as a share of its frame.
        frame_centres: float32[F', 2], x and y of its centre as shares of width and height.
        coverage: float64[32, 32], share of the boxes that cover this cell of the frame.
    """

    clip_id: list[str]
    shard: list[str]
    row: np.ndarray
    num_frames: np.ndarray
    clip_share: np.ndarray
    still_share: np.ndarray
    score: np.ndarray
    jump: np.ndarray
    num_inside: np.ndarray
    frame_shares: np.ndarray
    frame_centres: np.ndarray
    coverage: np.ndarray

    @property
    def num_without_motion(self) -> int:
        """Clips in which no frame has a motion box."""
        return int(np.isnan(self.clip_share).sum())


@dataclass(frozen=True)
class ClipData:
    """One stored clip of T frames, with the data of n of its frames.

    Attributes:
        clip_id: id of the clip.
        frames: list of uint8[H, W, 3], RGB.
        maps: list of float32[h, w], motion maps; empty where the dataset has none.
        boxes: float32[n, 4], x1 y1 x2 y2 in source pixels; NaN if nothing moves.
        contours: the contours inside each box: lists of int16[k, 2], x y in source pixels.
        all_boxes: float32[T, 4], boxes of all frames of the clip.
        size: (width, height) of the source in pixels.
    """

    clip_id: str
    frames: list[np.ndarray]
    maps: list[np.ndarray]
    boxes: np.ndarray
    contours: list[list[np.ndarray]]
    all_boxes: np.ndarray
    size: tuple[int, int]


def split_rows(clips: list[Clip]) -> list[tuple[str, int, int]]:
    """(split, clips, clips with a label) of every split that has clips."""
    total = Counter(clip.split for clip in clips)
    labelled = Counter(clip.split for clip in clips if clip.label is not None)
    return [(split, total[split], labelled[split]) for split in SPLITS if total[split]]


def class_rows(clips: list[Clip], classes: ClassList) -> list[tuple[str, dict[str, int]]]:
    """(class name, clips by split) of every class, in order of class numbers."""
    counts = Counter((clip.label, clip.split) for clip in clips if clip.label is not None)
    numbers = sorted({label for label, _ in counts} | set(range(len(classes.label))))
    return [
        (classes.class_name(number), {split: counts[number, split] for split in SPLITS})
        for number in numbers
    ]


def read_box_table(layout: DatasetLayout) -> BoxTable | None:
    """Measure every clip of the boxes shards; None if there are no boxes.

    Raises:
        InputError: a shard is damaged.
    """
    index = read_index(layout.boxes)
    if index is None or index.num_clips == 0:
        return None
    parts = []
    for entry in index.shards:
        with ShardReader(layout.boxes / entry.name, "boxes") as reader:
            parts.append(_measure(reader, entry.name))
    joined = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
        if isinstance(parts[0][name], np.ndarray) and name != "coverage"
    }
    covered = sum(part["coverage"] for part in parts)
    return BoxTable(
        clip_id=[clip_id for part in parts for clip_id in part["clip_id"]],
        shard=[name for part in parts for name in part["shard"]],
        coverage=covered / max(1, len(joined["frame_shares"])),
        **joined,
    )


def read_clip(
    layout: DatasetLayout, table: BoxTable, number: int, wanted: np.ndarray | None = None
) -> ClipData:
    """Read frames, maps and boxes of one clip.

    Args:
        number: row of the clip in `table`.
        wanted: int64[n], frames of the clip in order; None for all.

    Raises:
        InputError: there are no frames shards, or they hold another clip at this position.
    """
    shard, row, clip_id = table.shard[number], int(table.row[number]), table.clip_id[number]
    with ShardReader(layout.boxes / shard, "boxes") as reader:
        first, last = _rows_of(reader, row, clip_id)
        size = reader.pair("/clip/size", row)
        boxes = reader.rows("/box/xyxy", first, last)
        vertices = reader.ragged("/contour/offsets", "/contour/vertices", first, last)
    with ShardReader(layout.frames / shard, "frames") as reader:
        first, last = _rows_of(reader, row, clip_id)
        files = reader.ragged("/jpeg/offsets", "/jpeg/values", first, last)
    wanted = np.arange(len(files)) if wanted is None else wanted
    return ClipData(
        clip_id=clip_id,
        frames=[_decode(layout, files[i], clip_id) for i in wanted],
        maps=_read_maps(layout.flows / shard, row, clip_id, wanted),
        boxes=boxes[wanted],
        contours=[_polygons(vertices[i]) for i in wanted],
        all_boxes=boxes,
        size=size,
    )


def _polygons(vertices: np.ndarray) -> list[np.ndarray]:
    """Split the vertices of a frame, int16[n, 3] (contour, x, y), into contours int16[k, 2]."""
    ends = np.flatnonzero(np.diff(vertices[:, 0])) + 1
    return np.split(vertices[:, 1:], ends) if len(vertices) else []


def _measure(reader: ShardReader, name: str) -> dict:
    """The columns of `BoxTable` for one shard; `coverage` as a count of frames."""
    frames, sizes = reader["/clip/frames"], reader["/clip/size"].astype(np.float64)
    first, last = frames[:, 0], frames[:, 1]
    if np.any(first < 0) or np.any(last < first) or np.any(last > reader.num_frames):
        raise InputError(
            "damaged-file",
            f"{reader.path}/clip/frames: rows are out of range; make the boxes again",
        )
    num_frames = last - first
    clip_of = np.repeat(np.arange(reader.num_clips), num_frames)
    frame_rows = np.concatenate([np.arange(a, b) for a, b in frames] or [np.empty(0, np.int64)])
    size = sizes[clip_of]
    corners = reader["/box/xyxy"].astype(np.float64)[frame_rows].reshape(-1, 2, 2)
    corners = corners / size[:, None, :]  # shares of width and height
    moves = ~np.isnan(corners).any(axis=(1, 2))
    areas = np.prod(corners[:, 1] - corners[:, 0], axis=1)
    centres = corners.mean(axis=1) * size / np.linalg.norm(size, axis=1, keepdims=True)
    jumps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    paired = (clip_of[1:] == clip_of[:-1]) & moves[1:] & moves[:-1]
    clip_box = reader["/clip/box"].astype(np.float64).reshape(-1, 2, 2) / sizes[:, None, :]

    def mean_by_clip(values: np.ndarray, of: np.ndarray, kept: np.ndarray) -> np.ndarray:
        total = np.bincount(of[kept], values[kept], reader.num_clips)
        count = np.bincount(of[kept], minlength=reader.num_clips)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    everything = np.ones(len(clip_of), dtype=bool)
    return {
        "clip_id": reader.clip_ids(),
        "shard": [name] * reader.num_clips,
        "row": np.arange(reader.num_clips),
        "num_frames": num_frames,
        "clip_share": np.prod(clip_box[:, 1] - clip_box[:, 0], axis=1),
        "still_share": mean_by_clip((~moves).astype(np.float64), clip_of, everything),
        "score": mean_by_clip(reader["/box/score"][frame_rows], clip_of, moves),
        "jump": mean_by_clip(jumps, clip_of[1:], paired),
        "num_inside": np.diff(reader["/tube/offsets"]),
        "frame_shares": areas[moves].astype(np.float32),
        "frame_centres": corners[moves].mean(axis=1).astype(np.float32),
        "coverage": _coverage(corners[moves]),
    }


def _coverage(corners: np.ndarray) -> np.ndarray:
    """The number of boxes [n, 2, 2] (shares of the frame) that cover each cell, by a prefix sum."""
    cells = COVERAGE_CELLS
    edges = np.clip(np.round(corners * cells), 0, cells).astype(np.int64)
    change = np.zeros((cells + 1, cells + 1))
    for i, j, sign in ((0, 0, 1), (1, 1, 1), (0, 1, -1), (1, 0, -1)):
        np.add.at(change, (edges[:, i, 1], edges[:, j, 0]), sign)
    return change.cumsum(axis=0).cumsum(axis=1)[:cells, :cells]


def _rows_of(reader: ShardReader, row: int, clip_id: str) -> tuple[int, int]:
    """The clip's rows first:last in the per-frame datasets of any kind of shard."""
    found = reader.rows("/clip/id", row, row + 1)[0].decode()
    if found != clip_id:
        raise InputError(
            "other-clips",
            f"{reader.path} holds clip {found!r} and the boxes hold {clip_id!r} at the same "
            "position; they were made from different manifests, make them again",
        )
    return reader.pair("/clip/frames", row)


def _read_maps(path: Path, row: int, clip_id: str, wanted: np.ndarray) -> list[np.ndarray]:
    if not local_shard(path).is_file():
        return []
    with ShardReader(path, "flows") as reader:
        values, scale = read_maps(reader, row, *_rows_of(reader, row, clip_id))
    return list(expand(values[wanted], scale[wanted]))


def _decode(layout: DatasetLayout, file: np.ndarray, clip_id: str) -> np.ndarray:
    image = cv2.imdecode(file, cv2.IMREAD_COLOR)
    if image is None:
        checked = layout.make("verify")
        raise InputError(
            "damaged-file",
            f"a frame of clip {clip_id!r} is not a JPEG; `{checked}` lists damaged shards",
        )
    return image[..., ::-1]
