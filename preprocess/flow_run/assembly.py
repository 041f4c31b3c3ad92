"""Events come in any order; shards hold their clips in the order of the manifest.

An Assembly collects the events of the clips of one shard. It then writes the frames shard and one
shard for each flow. Bytes wait in a temporary file, so that neither a long video nor a large shard
has to fit into memory.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from preprocess.flow.chunks import Maps, TracksOfFrames
from preprocess.flow.options import FlowOptions, TrackOptions, flow_folders, shard_kind
from preprocess.flow.track_columns import chunk_values, track_columns
from preprocess.flow_run.messages import ClipFailed, EncodedFrames, Event
from preprocess.flow_run.spill import Extent, Spill
from shared.manifest import Clip
from shared.shard_index import ShardEntry, shard_name
from shared.shard_writer import Pieces, write_shard

DEFAULT_FLOW = FlowOptions()

Arrays = dict[str, np.ndarray | Pieces]
Value = TypeVar("Value")


@dataclass
class _MapBuffer:
    """Maps of one output of one clip; keys are the number of the first frame pair of a chunk."""

    num_maps: int = 0
    size: tuple[int, int] = (0, 0)
    scales: dict[int, np.ndarray] = field(default_factory=dict)
    extents: dict[int, Extent] = field(default_factory=dict)
    homographies: dict[int, np.ndarray] = field(default_factory=dict)
    inliers: dict[int, np.ndarray] = field(default_factory=dict)
    residual_scales: dict[int, np.ndarray] = field(default_factory=dict)
    residual_extents: dict[int, Extent] = field(default_factory=dict)

    @property
    def num_values(self) -> int:
        return self.size[0] * self.size[1]


@dataclass
class _TrackBuffer:
    """Tracks of one clip: for each dataset, where the values of each frame with tracks lie."""

    num_frames: int = 0
    grid: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    columns: dict[str, dict[int, Extent]] = field(default_factory=lambda: defaultdict(dict))


@dataclass
class _ClipBuffer:
    """Everything that came for one clip in one attempt; keys are as in _MapBuffer."""

    maps: dict[str, _MapBuffer]
    tracks: _TrackBuffer | None
    attempt: int = 0
    num_frames: int = 0  # number of frames that have come
    num_expected: int | None = None  # known when all frames are decoded
    source_size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    pts_seconds: dict[int, np.ndarray] = field(default_factory=dict)
    jpeg_bytes: dict[int, np.ndarray] = field(default_factory=dict)
    jpeg_extents: dict[int, Extent] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether F frames, F - 1 maps of each output, and tracks from F frames have come."""
        num_pairs = self.num_frames - 1
        return (
            self.num_expected == self.num_frames
            and all(maps.num_maps == num_pairs for maps in self.maps.values())
            and (self.tracks is None or self.tracks.num_frames == self.num_frames)
        )


class Assembly:
    """The clips of one shard.

    Args:
        number: number of the shard.
        clips: clips of the manifest that belong to the shard, by their index.
        folder: folder for the temporary file, on the file system of the shards.
        flow: which flows are made.

    Attributes:
        failures: ClipFailed by index of the clip.
    """

    def __init__(
        self,
        number: int,
        clips: dict[int, Clip],
        folder: Path,
        flow: FlowOptions = DEFAULT_FLOW,
    ) -> None:
        self.number = number
        self.clips = clips
        self.failures: dict[int, ClipFailed] = {}
        self._flow = flow
        self._buffers = {clip_index: self._new_buffer() for clip_index in clips}
        self._spill = Spill(folder)

    def _new_buffer(self, attempt: int = 0) -> _ClipBuffer:
        maps = {output: _MapBuffer() for output in self._flow.outputs}
        return _ClipBuffer(maps, _TrackBuffer() if self._flow.tracks else None, attempt)

    def add(self, event: Event) -> bool:
        """Add one event; returns whether it completes or fails its clip."""
        if event.clip_index in self.failures or self._buffers[event.clip_index].is_complete:
            return False  # the clip has ended before
        if isinstance(event, ClipFailed):
            self.failures[event.clip_index] = event
            return True
        buffer = self._buffers[event.clip_index]
        if event.attempt != buffer.attempt:
            if event.attempt < buffer.attempt:
                return False  # its decoder has died since then, and the clip was started again
            buffer = self._buffers[event.clip_index] = self._new_buffer(event.attempt)
        if isinstance(event, EncodedFrames):
            self._add_frames(buffer, event)
        elif isinstance(event, Maps):
            self._add_maps(buffer.maps[event.output], event)
        elif isinstance(event, TracksOfFrames):
            assert buffer.tracks is not None
            self._add_tracks(buffer.tracks, event)
        else:
            buffer.num_expected = event.num_frames
        return buffer.is_complete

    # Arrays are copied: the arrays of an event may lie in Ray's object store, and one array in use
    # keeps the whole event there.

    def _add_frames(self, buffer: _ClipBuffer, event: EncodedFrames) -> None:
        buffer.source_size, buffer.stored_size = event.source_size, event.stored_size
        buffer.num_frames += len(event.pts_seconds)
        buffer.pts_seconds[event.first_index] = event.pts_seconds.copy()
        buffer.jpeg_bytes[event.first_index] = event.jpeg_bytes.copy()
        buffer.jpeg_extents[event.first_index] = self._spill.append(event.jpegs)

    def _add_maps(self, buffer: _MapBuffer, event: Maps) -> None:
        num_maps, height, width = event.values.shape
        buffer.size = (width, height)
        buffer.num_maps += num_maps
        buffer.scales[event.first_index] = event.scale.copy()
        buffer.extents[event.first_index] = self._spill.append(event.values)
        if event.homography is not None:
            assert event.inliers is not None
            buffer.homographies[event.first_index] = event.homography.copy()
            buffer.inliers[event.first_index] = event.inliers.copy()
        if event.residual is not None:
            assert event.residual_scale is not None
            buffer.residual_scales[event.first_index] = event.residual_scale.copy()
            buffer.residual_extents[event.first_index] = self._spill.append(event.residual)

    def _add_tracks(self, buffer: _TrackBuffer, event: TracksOfFrames) -> None:
        buffer.num_frames += event.num_frames
        buffer.grid, buffer.size = event.grid, event.size
        for name, values in event.columns.items():
            begin, end = self._spill.append(values)
            num_bytes = (end - begin) // max(1, len(event.starts))
            for number, start in enumerate(event.starts.tolist()):
                first = begin + number * num_bytes
                buffer.columns[name][start] = (first, first + num_bytes)

    @property
    def is_settled(self) -> bool:
        """Whether every clip is complete or has failed."""
        return all(
            clip_index in self.failures or buffer.is_complete
            for clip_index, buffer in self._buffers.items()
        )

    def publish(
        self, folders: dict[str, Path], configs: dict[str, dict[str, Any]]
    ) -> dict[str, ShardEntry]:
        """Write the frames shard and one shard for each flow, with clips in manifest order.

        Args:
            folders: folders to write to, by name: "frames" and names of `flow_folders`.
            configs: options by name of the folder; they become attributes of the shard.

        Returns:
            the entries for dataset.json, by name of the folder.
        """
        assert self.is_settled, self.number
        clip_indexes = [index for index in sorted(self.clips) if index not in self.failures]
        kept = [self._buffers[clip_index] for clip_index in clip_indexes]
        ids = [self.clips[clip_index].clip_id for clip_index in clip_indexes]
        common = _clip_arrays(ids, kept)
        entries = {}
        arrays = {"frames": self._frames(kept)}
        for output, name in flow_folders(self._flow).items():
            arrays[name] = self._flows(kept, output)
            if output == self._flow.tracked:
                arrays[name] |= self._tracks(kept)
        for name, folder in folders.items():
            path = folder / shard_name(self.number)
            num_bytes, sha256 = write_shard(
                path, shard_kind(name), common | arrays[name], configs[name]
            )
            entries[name] = ShardEntry(path.name, num_bytes, sha256, len(kept))
        return entries

    def _frames(self, kept: list[_ClipBuffer]) -> Arrays:
        offsets = _offsets([_in_order(buffer.jpeg_bytes) for buffer in kept])
        extents = [extent for buffer in kept for extent in _values(buffer.jpeg_extents)]
        return {
            "/clip/stored_size": _sizes([buffer.stored_size for buffer in kept]),
            "/jpeg/offsets": offsets,
            "/jpeg/values": Pieces(int(offsets[-1]), np.dtype("|u1"), self._spill.read(extents)),
        }

    def _flows(self, kept: list[_ClipBuffer], output: str) -> Arrays:
        """F frames have F - 1 maps; the last frame repeats the last map."""
        maps = [buffer.maps[output] for buffer in kept]
        offsets = _offsets(
            [np.full(buffer.num_frames, m.num_values) for buffer, m in zip(kept, maps, strict=True)]
        )
        extents = [each for m in maps for each in _last_map_repeated(m.extents, m.num_values)]
        arrays: Arrays = {
            "/clip/map_size": _sizes([of_clip.size for of_clip in maps]),
            "/motion/offsets": offsets,
            "/motion/values": Pieces(int(offsets[-1]), np.dtype("|u1"), self._spill.read(extents)),
            "/motion/scale": _joined([_last_repeated(m.scales) for m in maps], "<f4"),
        }
        if self._flow.has_residual(output):
            extents = [
                each for m in maps for each in _last_map_repeated(m.residual_extents, m.num_values)
            ]
            values = Pieces(int(offsets[-1]), np.dtype("|u1"), self._spill.read(extents))
            arrays["/residual/values"] = values
            arrays["/residual/scale"] = _joined(
                [_last_repeated(m.residual_scales) for m in maps], "<f4"
            )
        if self._flow.is_stabilised(output):
            homographies = [_last_repeated(m.homographies) for m in maps]
            arrays["/camera/homography"] = np.concatenate([np.empty((0, 9)), *homographies])
            arrays["/camera/inliers"] = _joined([_last_repeated(m.inliers) for m in maps], "<i4")
        return arrays

    def _tracks(self, kept: list[_ClipBuffer]) -> Arrays:
        options = self._flow.tracks
        assert options is not None
        tracks = [buffer.tracks for buffer in kept if buffer.tracks is not None]
        starts = [_starts(buffer.num_frames, options) for buffer in tracks]
        numbers = [
            np.isin(np.arange(buffer.num_frames), some) * math.prod(buffer.grid)
            for buffer, some in zip(tracks, starts, strict=True)
        ]
        offsets = _offsets(numbers)
        arrays: Arrays = {
            "/clip/track_grid": _sizes([buffer.grid for buffer in tracks]),
            "/clip/track_size": _sizes([buffer.size for buffer in tracks]),
            "/track/offsets": offsets,
        }
        for name, (dtype, per_track) in track_columns(options).items():
            extents = [
                buffer.columns[name][start]
                for buffer, some in zip(tracks, starts, strict=True)
                for start in some
            ]
            values = self._spill.read(extents, dtype.str)
            chunk = chunk_values(options, per_track, math.prod(tracks[0].grid)) if tracks else 0
            arrays[f"/track/{name}"] = Pieces(int(offsets[-1]) * per_track, dtype, values, chunk)
        return arrays

    def close(self) -> None:
        """Delete the temporary file."""
        self._spill.close()


def _clip_arrays(ids: list[str], kept: list[_ClipBuffer]) -> dict[str, np.ndarray]:
    ends = np.cumsum([0, *(buffer.num_frames for buffer in kept)], dtype="<i8")
    times = [_in_order(buffer.pts_seconds) for buffer in kept]
    for buffer, clip_times in zip(kept, times, strict=True):
        assert len(clip_times) == buffer.num_frames, "frames in must equal frames out"
    return {
        "/clip/id": np.array([clip_id.encode() for clip_id in ids], dtype="S64"),
        "/clip/frames": np.stack([ends[:-1], ends[1:]], axis=1),
        "/clip/size": _sizes([buffer.source_size for buffer in kept]),
        "/frame/pts_seconds": _joined(times, "<f8"),
    }


def _starts(num_frames: int, options: TrackOptions) -> list[int]:
    """The frames of a clip whose tracks are stored."""
    if options.starts is None:
        return list(range(num_frames))
    return options.starts.starts(num_frames).tolist()


def _last_map_repeated(by_first: dict[int, Extent], num_values: int) -> list[Extent]:
    """Where the F - 1 maps of a clip lie, and its last map once more."""
    extents = _values(by_first)
    last = extents[-1][1]
    return [*extents, (last - num_values, last)]


def _last_repeated(by_first: dict[int, np.ndarray]) -> np.ndarray:
    """F - 1 values of frame pairs, with the last value repeated."""
    values = _in_order(by_first)
    return np.concatenate([values, values[-1:]])


def _offsets(lengths: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], _joined(lengths, "<i8").cumsum()]).astype("<i8")


def _values(by_first: Mapping[int, Value]) -> list[Value]:
    return [value for _, value in sorted(by_first.items())]


def _in_order(by_first: dict[int, np.ndarray]) -> np.ndarray:
    return np.concatenate(_values(by_first))


def _joined(arrays: list[np.ndarray], dtype: str) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)


def _sizes(sizes: list[tuple[int, int]]) -> np.ndarray:
    return np.array(sizes, dtype="<i4").reshape(-1, 2)
