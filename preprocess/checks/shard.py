"""Check that a shard is as dataset.json states, undamaged, and fits the shards of the same number.

The shards of one number in frames/, flows/, flows-SOURCE/ and boxes/ hold the same clips in the
same order, so they are checked together. Every problem is a text with its location.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.box_run.inputs import sources_of
from preprocess.flow.options import TrackOptions
from preprocess.flow.track_columns import track_columns
from shared.errors import InputError
from shared.grid import TUBE_POSITIONS
from shared.moving_areas import has_areas
from shared.schema import CLIP_PATHS
from shared.shard_cache import drop, fetch_again
from shared.shard_index import ShardEntry
from shared.shards import ShardReader
from shared.tracks import HogLayout

MAX_CHUNKS_NAMED = 3  # for each shard; a damaged disk would otherwise fill the screen


@dataclass(frozen=True)
class ShardFile:
    """One shard with its entry in dataset.json; `config` has the options of its folder."""

    path: Path
    kind: str
    entry: ShardEntry
    config: dict[str, Any]


@dataclass(frozen=True)
class ShardsOfNumber:
    """The shards of one number, by name of the folder.

    Attributes:
        number: number of the shards.
        files: the shards, by name of the folder.
        clip_ids: clips of the manifest that belong to this number, in order.
        set_aside: those of these clips that failures.jsonl lists.
    """

    number: int
    files: dict[str, ShardFile]
    clip_ids: tuple[str, ...]
    set_aside: frozenset[str]


def check_shards(shards: ShardsOfNumber) -> dict[str, list[str]]:
    """Problems by name of the folder; the list of a good shard is empty."""
    problems: dict[str, list[str]] = {}
    with ExitStack() as stack:
        readers: dict[str, ShardReader] = {}
        for name, file in shards.files.items():
            problems[name] = list(_file_problems(file))
            try:
                reader = stack.enter_context(ShardReader(file.path, file.kind))
                problems[name] += _named(reader.damaged_chunks())
                if reader.num_clips != file.entry.clips:
                    problems[name].append(
                        f"has {reader.num_clips} clips; dataset.json states {file.entry.clips}"
                    )
                readers[name] = reader
            except InputError as error:
                problems[name].append(str(error).removeprefix(str(file.path)).lstrip(": "))
        for name, reader in readers.items():
            if not problems[name]:  # the content of a damaged file is not checked
                try:
                    problems[name] += content_problems(reader, shards, name)
                except InputError as error:
                    problems[name].append(str(error))
        good = {name: reader for name, reader in readers.items() if not problems[name]}
        for name, problem in _disagreements(good):
            problems[name].append(problem)
    for name, file in shards.files.items():
        if problems[name]:
            drop(file.path)
    return problems


def kills_its_reader(shards: ShardsOfNumber) -> dict[str, list[str]]:
    """Problems of shards that kill the process that reads them."""
    found = {name: list(_file_problems(file)) for name, file in shards.files.items()}
    if not any(found.values()):
        text = "a shard of this number kills the process that reads it"
        found = {name: [text] for name in found}
    return found


def _file_problems(file: ShardFile) -> Iterator[str]:
    """Problems of size and sha256; HDF5 is not used. Object storage is read, not its mirror."""
    try:
        fetch_again(file.path)
        num_bytes = file.path.stat().st_size
        with open(file.path, "rb") as stream:
            if num_bytes != file.entry.bytes:
                yield f"has {num_bytes} bytes; dataset.json states {file.entry.bytes}"
            elif hashlib.file_digest(stream, "sha256").hexdigest() != file.entry.sha256:
                yield "its sha256 differs from dataset.json"
    except FileNotFoundError:
        yield "does not exist"
    except OSError as error:
        yield f"cannot be read: {error.strerror}"


def _named(problems: Iterator[str]) -> Iterator[str]:
    yield from islice(problems, MAX_CHUNKS_NAMED)
    more = sum(1 for _ in problems)
    if more:
        yield f"and {more} more chunks"


# --------------------------------------------------------------------------------------------------
# Content


def content_problems(reader: ShardReader, shards: ShardsOfNumber, name: str) -> Iterator[str]:
    """Contradictions in an undamaged shard: with itself, the manifest or the options."""
    file = shards.files[name]
    for option, value in file.config.items():
        if option not in ("flows", "frames") and reader.attributes.get(option) != value:
            found = reader.attributes.get(option)
            yield f"was made with {option} {found}; dataset.json states {value}"
    if reader.kind == "boxes":
        for kind, folder in sources_of(file.config).items():
            source = shards.files.get(folder)
            if source and reader.attributes.get(kind) != source.entry.sha256:
                yield f"was made from another {folder} shard"
    yield from _clip_problems(reader, shards)
    of_kind = {"frames": _frames_problems, "flows": _flows_problems, "boxes": _boxes_problems}
    yield from of_kind[reader.kind](reader)


def _clip_problems(reader: ShardReader, shards: ShardsOfNumber) -> Iterator[str]:
    try:
        ids = reader.clip_ids()
    except UnicodeDecodeError:
        yield "/clip/id is not UTF-8"
        return
    kept = [clip_id for clip_id in shards.clip_ids if clip_id not in shards.set_aside]
    if ids != kept:
        lacking, extra = sorted(set(kept) - set(ids)), sorted(set(ids) - set(kept))
        parts = [f"lacks clips {lacking[:3]}"] * bool(lacking)
        parts += [f"has further clips {extra[:3]}"] * bool(extra)
        what = " and ".join(parts) or "has its clips in another order"
        yield f"{what}, compared with manifest.csv and failures.jsonl"
    ends = reader["/clip/frames"]
    borders = np.concatenate([[0], ends[:, 1]])
    if not np.array_equal(ends[:, 0], borders[:-1]) or borders[-1] != reader.num_frames:
        yield "/clip/frames has gaps or overlaps, or does not end at the last frame"
        return
    if np.any(np.diff(borders) < 2):
        yield "/clip/frames has a clip of fewer than two frames"
    if np.any(reader["/clip/size"] < 1):
        yield "/clip/size is not positive"
    times = reader["/frame/pts_seconds"]
    is_first = np.zeros(len(times), bool)
    is_first[ends[:, 0]] = True
    if not np.all(np.isfinite(times)) or np.any((np.diff(times) < 0) & ~is_first[1:]):
        yield "/frame/pts_seconds decreases within a clip, or is not finite"


def _frames_problems(reader: ShardReader) -> Iterator[str]:
    yield from _offset_problems(reader, "/jpeg/offsets", reader.length("/jpeg/values"), least=1)
    if np.any(reader["/clip/stored_size"] < 1):
        yield "/clip/stored_size is not positive"


def _flows_problems(reader: ShardReader) -> Iterator[str]:
    yield from _offset_problems(reader, "/motion/offsets", reader.length("/motion/values"), least=1)
    lengths = np.diff(reader["/clip/frames"], axis=1)[:, 0]
    sizes = reader["/clip/map_size"].astype(np.int64).prod(axis=1)
    if not np.array_equal(np.diff(reader["/motion/offsets"]), np.repeat(sizes, lengths)):
        yield "/motion/offsets does not fit /clip/map_size"
    for path in ("/motion/scale", "/residual/scale"):
        if path in reader and not np.all(np.isfinite(reader[path]) & (reader[path] >= 0)):
            yield f"{path} has a value that is negative or not finite"
    if "/track/offsets" in reader:
        yield from _track_problems(reader)


def _track_problems(reader: ShardReader) -> Iterator[str]:
    num_tracks, named = reader.length("/track/steps"), reader.attributes
    yield from _offset_problems(reader, "/track/offsets", num_tracks)
    try:
        layout = HogLayout.of_attributes(named)
        options = TrackOptions(
            named.get("track_length", 0),
            channels=layout.channels,
            cells=layout.cells,
            window=named.get("track_window", ""),
        )
    except InputError as error:
        yield error.message
        return
    for name, (_, per_track) in track_columns(options).items():
        path = f"/track/{name}"
        if path in reader and reader.length(path) != num_tracks * per_track:
            yield f"{path} has {reader.length(path)} values for {num_tracks} tracks"


def _boxes_problems(reader: ShardReader) -> Iterator[str]:
    lengths = np.diff(reader["/clip/frames"], axis=1)[:, 0]
    per_frame = np.repeat(reader["/clip/size"], lengths, axis=0)
    for path, sizes in (("/box/xyxy", per_frame), ("/clip/box", reader["/clip/size"])):
        boxes = reader[path]
        x1, y1, x2, y2 = boxes.T
        inside = (0 <= x1) & (x1 < x2) & (x2 <= sizes[:, 0])
        inside &= (0 <= y1) & (y1 < y2) & (y2 <= sizes[:, 1])
        if not np.all(inside | np.isnan(boxes).all(axis=1)):
            yield f"{path} has a box outside its frame, or with edges in the wrong order"
    score = reader["/box/score"]
    if not np.isnan(score).all() and not np.all((score >= 0) & (score <= 1.001)):
        yield "/box/score has a value that is not in 0..1"
    yield from _offset_problems(reader, "/contour/offsets", reader.length("/contour/vertices"))
    yield from _offset_problems(reader, "/tube/offsets", reader.length("/tube/index"))
    positions = reader["/tube/index"]
    if np.any((positions < 0) | (positions >= TUBE_POSITIONS)):
        yield f"/tube/index has a position that is not in 0..{TUBE_POSITIONS - 1}"
    if has_areas(reader):
        yield from _moving_problems(reader, lengths)


def _moving_problems(reader: ShardReader, lengths: np.ndarray) -> Iterator[str]:
    """Problems of the tables of what moves; `lengths` has the frames of each clip."""
    yield from _offset_problems(reader, "/moving/offsets", reader.length("/moving/bits"), least=1)
    cells = reader["/clip/moving_size"].astype(np.int64).prod(axis=1)
    num_bytes = np.repeat(-(-cells // 8), lengths)
    if not np.array_equal(np.diff(reader["/moving/offsets"]), num_bytes):
        yield "/moving/offsets does not fit /clip/moving_size"
    path = "/moving/tube_index"
    yield from _offset_problems(reader, "/moving/tube_offsets", reader.length(path))
    positions = reader[path]
    if np.any((positions < 0) | (positions >= TUBE_POSITIONS)):
        yield f"{path} has a position that is not in 0..{TUBE_POSITIONS - 1}"


def _offset_problems(
    reader: ShardReader, path: str, num_values: int, least: int = 0
) -> Iterator[str]:
    offsets = reader[path]
    if offsets[0] != 0 or offsets[-1] != num_values or np.any(np.diff(offsets) < least):
        yield f"{path} does not cover all {num_values} values in order"


def _disagreements(readers: dict[str, ShardReader]) -> Iterator[tuple[str, str]]:
    """Yield (folder, problem) of each good shard that differs from the first one."""
    if not readers:
        return
    first, *others = readers
    for path in CLIP_PATHS:
        expected = readers[first][path]
        for name in others:
            if not np.array_equal(readers[name][path], expected):
                yield name, f"{path} differs from {first}/"
