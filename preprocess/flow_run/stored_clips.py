"""Clips of finished shards as the events that they were made from, for a shard that is rewritten.

A shard that is made from these events has the same bytes as the shard that they were read from,
because frames and maps are stored as the workers sent them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from preprocess.flow.chunks import Maps, TracksOfFrames
from preprocess.flow.options import FlowOptions, TrackOptions, flow_folders
from preprocess.flow.track_columns import track_columns
from preprocess.flow_run.messages import ClipDecoded, EncodedFrames, Event
from shared.motion_maps import has_residual, read_maps
from shared.shards import ShardReader

BLOCK_FRAMES = 256  # frames that are read at a time


def stored_events(
    readers: dict[str, ShardReader], clip_indexes: dict[str, int], flow: FlowOptions
) -> Iterator[Event]:
    """Yield the events of every clip of a shard, clip by clip.

    Args:
        readers: readers of the shards of one number, by name of the folder.
        clip_indexes: row of each clip in the manifest, by clip id.
        flow: which flows were made.

    Raises:
        InputError: a shard is damaged.
    """
    frames = readers["frames"]
    for row, clip_id in enumerate(frames.clip_ids()):
        clip_index = clip_indexes[clip_id]
        first, last = frames.pair("/clip/frames", row)
        for begin in range(first, last, BLOCK_FRAMES):
            end = min(begin + BLOCK_FRAMES, last)
            yield _encoded(frames, clip_index, row, begin - first, begin, end)
            for output, folder in flow_folders(flow).items():
                flows = readers[folder]
                # The last frame repeats the last map; that repetition has no event.
                last_pair = min(end, last - 1)
                if begin < last_pair:
                    yield _maps(flows, output, clip_index, row, begin - first, begin, last_pair)
                if flow.tracks is not None and output == flow.tracked:
                    place = (begin - first, begin, end)
                    yield _tracks(flows, flow.tracks, clip_index, row, *place)
        yield ClipDecoded(clip_index, 0, last - first)


def _encoded(
    reader: ShardReader, clip_index: int, row: int, index: int, begin: int, end: int
) -> EncodedFrames:
    offsets = reader.rows("/jpeg/offsets", begin, end + 1)
    return EncodedFrames(
        clip_index,
        0,
        index,
        reader.rows("/frame/pts_seconds", begin, end),
        reader.rows("/jpeg/values", int(offsets[0]), int(offsets[-1])),
        np.diff(offsets),
        reader.pair("/clip/size", row),
        reader.pair("/clip/stored_size", row),
    )


def _maps(
    reader: ShardReader, output: str, clip_index: int, row: int, index: int, begin: int, end: int
) -> Maps:
    values, scale = read_maps(reader, row, begin, end)
    maps = Maps(clip_index, 0, index, values, scale, output)
    if "/camera/homography" in reader:
        homography, inliers = (
            reader.rows(f"/camera/{name}", begin, end) for name in ("homography", "inliers")
        )
        maps = replace(maps, homography=homography, inliers=inliers)
    if has_residual(reader):
        residual, residual_scale = read_maps(reader, row, begin, end, "residual")
        maps = replace(maps, residual=residual, residual_scale=residual_scale)
    return maps


def _tracks(
    reader: ShardReader,
    options: TrackOptions,
    clip_index: int,
    row: int,
    index: int,
    begin: int,
    end: int,
) -> TracksOfFrames:
    """The tracks that start at frames begin:end, with values as stored."""
    offsets = reader.rows("/track/offsets", begin, end + 1)
    starts = np.flatnonzero(np.diff(offsets))
    first, last = int(offsets[0]), int(offsets[-1])
    columns = {
        name: reader.rows(f"/track/{name}", first * number, last * number).reshape(len(starts), -1)
        for name, (_, number) in track_columns(options).items()
    }
    grid, size = (reader.pair(f"/clip/track_{name}", row) for name in ("grid", "size"))
    return TracksOfFrames(clip_index, 0, index, end - begin, starts + index, grid, size, columns)
