"""Clips in the order they were finished, shards in the order of the manifest.

An Assembly collects what the workers made of the clips of one shard, in whatever order it comes,
and writes the frames shard and those of each flow. Bytes wait in a spill file, so that neither a
long video nor a large shard is ever held in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preprocess.flow.options import FlowOptions, flow_folders, shard_kind
from preprocess.flow_run.messages import ClipFailed, EncodedFrames, Event, Maps, TracksOfFrames
from preprocess.flow_run.spill import Extent, Spill
from shared.manifest import Clip
from shared.shard_index import ShardEntry, shard_name
from shared.shard_writer import Pieces, write_shard
from shared.tracks import NUM_BINS

DEFAULT_FLOW = FlowOptions()


@dataclass
class _MapParts:
    """Maps of one output; keys are numbers of first pairs."""

    num_maps: int = 0
    size: tuple[int, int] = (0, 0)
    scales: dict[int, np.ndarray] = field(default_factory=dict)
    extents: dict[int, Extent] = field(default_factory=dict)
    homographies: dict[int, np.ndarray] = field(default_factory=dict)
    inliers: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def num_values(self) -> int:
        return self.size[0] * self.size[1]


@dataclass
class _TrackParts:
    """Tracks of one clip; keys are numbers of first frames."""

    num_frames: int = 0
    grid: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    displacements: dict[int, Extent] = field(default_factory=dict)
    steps: dict[int, Extent] = field(default_factory=dict)
    hog: dict[int, Extent] = field(default_factory=dict)


@dataclass
class _ClipParts:
    """What has come of one clip, in one attempt; keys are numbers of first frames."""

    maps: dict[str, _MapParts]
    tracks: _TrackParts | None
    attempt: int = 0
    num_frames: int | None = None  # known once all are decoded
    num_encoded: int = 0
    source_size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    pts_seconds: dict[int, np.ndarray] = field(default_factory=dict)
    jpeg_bytes: dict[int, np.ndarray] = field(default_factory=dict)
    jpeg_extents: dict[int, Extent] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """F frames have come, F - 1 maps of each output, and tracks from F frames."""
        num_pairs = self.num_encoded - 1
        return (
            self.num_frames == self.num_encoded
            and all(maps.num_maps == num_pairs for maps in self.maps.values())
            and (self.tracks is None or self.tracks.num_frames == self.num_encoded)
        )


class Assembly:
    """The clips of one shard.

    Args:
        number: of the shard.
        clips: the manifest's clips that belong here, by place.
        folder: for the temporary file, on the disk of the shards.
        flow: which flows come, and with which extras.

    Attributes:
        failures: ClipFailed by place.
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
        self._parts = {place: self._no_parts() for place in clips}
        self._spill = Spill(folder)

    def _no_parts(self, attempt: int = 0) -> _ClipParts:
        maps = {output: _MapParts() for output in self._flow.outputs}
        return _ClipParts(maps, _TrackParts() if self._flow.tracks else None, attempt)

    def add(self, event: Event) -> bool:
        """Take in one event; True when it settles its clip, one way or the other."""
        if event.place in self.failures or self._parts[event.place].is_complete:
            return False  # a part of a clip that another part has already failed
        if isinstance(event, ClipFailed):
            self.failures[event.place] = event
            return True
        parts = self._parts[event.place]
        if event.attempt != parts.attempt:
            if event.attempt < parts.attempt:
                return False  # its decoder died since, and the clip was begun again
            parts = self._parts[event.place] = self._no_parts(event.attempt)
        if isinstance(event, EncodedFrames):
            self._add_frames(parts, event)
        elif isinstance(event, Maps):
            self._add_maps(parts.maps[event.output], event)
        elif isinstance(event, TracksOfFrames):
            assert parts.tracks is not None
            self._add_tracks(parts.tracks, event)
        else:
            parts.num_frames = event.num_frames
        return parts.is_complete

    # What is kept is copied: arrays of an event may lie in Ray's object store, and one of them in
    # use keeps all of them there.

    def _add_frames(self, parts: _ClipParts, event: EncodedFrames) -> None:
        parts.source_size, parts.stored_size = event.source_size, event.stored_size
        parts.num_encoded += len(event.pts_seconds)
        parts.pts_seconds[event.first_index] = event.pts_seconds.copy()
        parts.jpeg_bytes[event.first_index] = event.jpeg_bytes.copy()
        parts.jpeg_extents[event.first_index] = self._spill.append(event.jpegs)

    def _add_maps(self, parts: _MapParts, event: Maps) -> None:
        num_maps, height, width = event.values.shape
        parts.size = (width, height)
        parts.num_maps += num_maps
        parts.scales[event.first_index] = event.scale.copy()
        parts.extents[event.first_index] = self._spill.append(event.values)
        if event.homography is not None:
            parts.homographies[event.first_index] = event.homography.copy()
            parts.inliers[event.first_index] = event.inliers.copy()

    def _add_tracks(self, parts: _TrackParts, event: TracksOfFrames) -> None:
        parts.num_frames += len(event.steps)
        parts.grid, parts.size = event.grid, event.size
        parts.displacements[event.first_index] = self._spill.append(event.displacements)
        parts.steps[event.first_index] = self._spill.append(event.steps)
        parts.hog[event.first_index] = self._spill.append(event.hog)

    @property
    def is_settled(self) -> bool:
        return all(
            place in self.failures or parts.is_complete for place, parts in self._parts.items()
        )

    def publish(self, folders: dict[str, Path], configs: dict[str, dict]) -> dict[str, ShardEntry]:
        """Write the frames shard and one for each flow; clips in order of their places.

        Args:
            folders, configs: by name, of "frames" and those of `flow_folders` the ones to be
                written; a config becomes the attributes.
        """
        assert self.is_settled, self.number
        places = [place for place in sorted(self.clips) if place not in self.failures]
        kept = [self._parts[place] for place in places]
        ids = [self.clips[place].clip_id for place in places]
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

    def _frames(self, kept: list[_ClipParts]) -> dict[str, np.ndarray | Pieces]:
        offsets = _offsets([_in_order(parts.jpeg_bytes) for parts in kept])
        extents = [extent for parts in kept for extent in _values(parts.jpeg_extents)]
        return {
            "/clip/stored_size": _sizes([parts.stored_size for parts in kept]),
            "/jpeg/offsets": offsets,
            "/jpeg/values": Pieces(int(offsets[-1]), np.dtype("|u1"), self._spill.read(extents)),
        }

    def _flows(self, kept: list[_ClipParts], output: str) -> dict[str, np.ndarray | Pieces]:
        """F frames have F - 1 maps; the last frame repeats the last map."""
        lengths, extents = [], []
        maps = [parts.maps[output] for parts in kept]
        for parts, of_clip in zip(kept, maps, strict=True):
            lengths.append(np.full(parts.num_frames, of_clip.num_values))
            extents += _values(of_clip.extents)
            last = extents[-1][1]
            extents.append((last - of_clip.num_values, last))
        offsets = _offsets(lengths)
        arrays = {
            "/clip/map_size": _sizes([of_clip.size for of_clip in maps]),
            "/motion/offsets": offsets,
            "/motion/values": Pieces(int(offsets[-1]), np.dtype("|u1"), self._spill.read(extents)),
            "/motion/scale": _joined([_last_repeated(m.scales) for m in maps], "<f4"),
        }
        if self._flow.is_stabilised(output):
            homographies = [_last_repeated(m.homographies) for m in maps]
            arrays["/camera/homography"] = np.concatenate([np.empty((0, 9)), *homographies])
            arrays["/camera/inliers"] = _joined([_last_repeated(m.inliers) for m in maps], "<i4")
        return arrays

    def _tracks(self, kept: list[_ClipParts]) -> dict[str, np.ndarray | Pieces]:
        options = self._flow.tracks
        assert options is not None
        tracks = [parts.tracks for parts in kept if parts.tracks is not None]
        offsets = _offsets([np.full(parts.num_frames, math.prod(parts.grid)) for parts in tracks])
        num_tracks = int(offsets[-1])
        arrays = {
            "/clip/track_grid": _sizes([parts.grid for parts in tracks]),
            "/clip/track_size": _sizes([parts.size for parts in tracks]),
            "/track/offsets": offsets,
        }
        stored = [("steps", "|u1", 1), ("displacements", "<i2", 2 * options.length)]
        if options.cell:
            stored.append(("hog", "|u1", NUM_BINS * options.length))
        for name, dtype, per_track in stored:
            extents = [extent for parts in tracks for extent in _values(getattr(parts, name))]
            values = self._spill.read(extents, dtype)
            arrays[f"/track/{name}"] = Pieces(num_tracks * per_track, np.dtype(dtype), values)
        return arrays

    def close(self) -> None:
        self._spill.close()


def _clip_arrays(ids: list[str], kept: list[_ClipParts]) -> dict[str, np.ndarray]:
    ends = np.cumsum([0, *(parts.num_frames for parts in kept)], dtype="<i8")
    times = [_in_order(parts.pts_seconds) for parts in kept]
    for parts, clip_times in zip(kept, times, strict=True):
        assert len(clip_times) == parts.num_frames, "frames in must equal frames out"
    return {
        "/clip/id": np.array([clip_id.encode() for clip_id in ids], dtype="S64"),
        "/clip/frames": np.stack([ends[:-1], ends[1:]], axis=1),
        "/clip/size": _sizes([parts.source_size for parts in kept]),
        "/frame/pts_seconds": _joined(times, "<f8"),
    }


def _last_repeated(by_first: dict[int, np.ndarray]) -> np.ndarray:
    """F - 1 values of pairs, and the last one once more."""
    values = _in_order(by_first)
    return np.concatenate([values, values[-1:]])


def _offsets(lengths: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], _joined(lengths, "<i8").cumsum()]).astype("<i8")


def _values(by_first: dict[int, object]) -> list:
    return [value for _, value in sorted(by_first.items())]


def _in_order(by_first: dict[int, np.ndarray]) -> np.ndarray:
    return np.concatenate(_values(by_first))


def _joined(arrays: list[np.ndarray], dtype: str) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)


def _sizes(sizes: list[tuple[int, int]]) -> np.ndarray:
    return np.array(sizes, dtype="<i4").reshape(-1, 2)
