"""Clips in the order they were finished, shards in the order of the manifest.

An Assembly collects what the workers made of the clips of one shard, in whatever order it comes,
and writes the frames and flows shards. Bytes wait in an unnamed temporary file, so that neither a
long video nor a large shard is ever held in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preprocess.work import ClipDecoded, ClipFailed, EncodedFrames, Maps
from shared.manifest import Clip
from shared.shard_index import ShardEntry, shard_name
from shared.shards import Pieces, write_shard

READ_BYTES = 1 << 20


class Spill:
    """An unnamed temporary file: bytes in, an extent (first, last) out. Gone with the process."""

    def __init__(self, folder: Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that a full disk shows where the bytes are written.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._end = 0

    def append(self, data: np.ndarray) -> tuple[int, int]:
        """Store u1 [n] of any shape; returns where."""
        first = self._end
        rest = memoryview(np.ascontiguousarray(data)).cast("B")
        while len(rest):
            written = os.pwrite(self._file.fileno(), rest, self._end)
            self._end += written
            rest = rest[written:]
        return first, self._end

    def read(self, extents: list[tuple[int, int]]) -> Iterator[np.ndarray]:
        """The bytes of the extents, one after another, a block at a time."""
        for first, last in extents:
            for start in range(first, last, READ_BYTES):
                block = os.pread(self._file.fileno(), min(READ_BYTES, last - start), start)
                yield np.frombuffer(block, dtype=np.uint8)

    def close(self) -> None:
        self._file.close()


@dataclass
class _ClipParts:
    """What has come of one clip, in one attempt; keys are numbers of first frames or maps."""

    attempt: int = 0
    num_frames: int | None = None  # known once all are decoded
    num_encoded: int = 0
    num_maps: int = 0
    source_size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    map_size: tuple[int, int] = (0, 0)
    pts_seconds: dict[int, np.ndarray] = field(default_factory=dict)
    jpeg_bytes: dict[int, np.ndarray] = field(default_factory=dict)
    jpeg_extents: dict[int, tuple[int, int]] = field(default_factory=dict)
    scales: dict[int, np.ndarray] = field(default_factory=dict)
    map_extents: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """F frames have come, and F - 1 maps."""
        return self.num_frames == self.num_encoded and self.num_maps == self.num_encoded - 1

    @property
    def map_values(self) -> int:
        return self.map_size[0] * self.map_size[1]


class Assembly:
    """The clips of one shard.

    Args:
        number: of the shard.
        clips: the manifest's clips that belong here, by place.
        folder: for the temporary file, on the disk of the shards.

    Attributes:
        failures: ClipFailed by place.
    """

    def __init__(self, number: int, clips: dict[int, Clip], folder: Path) -> None:
        self.number = number
        self.clips = clips
        self.failures: dict[int, ClipFailed] = {}
        self._parts = {place: _ClipParts() for place in clips}
        self._spill = Spill(folder)

    def add(self, event: EncodedFrames | Maps | ClipDecoded | ClipFailed) -> bool:
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
            parts = self._parts[event.place] = _ClipParts(attempt=event.attempt)
        if isinstance(event, EncodedFrames):
            self._add_frames(parts, event)
        elif isinstance(event, Maps):
            self._add_maps(parts, event)
        else:
            parts.num_frames = event.num_frames
        return parts.is_complete

    def _add_frames(self, parts: _ClipParts, event: EncodedFrames) -> None:
        parts.source_size, parts.stored_size = event.source_size, event.stored_size
        parts.num_encoded += len(event.pts_seconds)
        parts.pts_seconds[event.first_index] = event.pts_seconds
        parts.jpeg_bytes[event.first_index] = event.jpeg_bytes
        parts.jpeg_extents[event.first_index] = self._spill.append(event.jpegs)

    def _add_maps(self, parts: _ClipParts, event: Maps) -> None:
        num_maps, height, width = event.values.shape
        parts.map_size = (width, height)
        parts.num_maps += num_maps
        parts.scales[event.first_index] = event.scale
        parts.map_extents[event.first_index] = self._spill.append(event.values)

    @property
    def is_settled(self) -> bool:
        return all(
            place in self.failures or parts.is_complete for place, parts in self._parts.items()
        )

    def publish(self, folders: dict[str, Path], configs: dict[str, dict]) -> dict[str, ShardEntry]:
        """Write the frames and the flows shard; clips in order of their places.

        Args:
            folders, configs: by kind, "frames" and "flows"; a config becomes the attributes.
        """
        assert self.is_settled, self.number
        places = [place for place in sorted(self.clips) if place not in self.failures]
        kept = [self._parts[place] for place in places]
        ids = [self.clips[place].clip_id for place in places]
        common = _clip_arrays(ids, kept)
        entries = {}
        for kind, arrays in (("frames", self._frames(kept)), ("flows", self._flows(kept))):
            name = shard_name(self.number)
            num_bytes, sha256 = write_shard(
                folders[kind] / name, kind, common | arrays, configs[kind]
            )
            entries[kind] = ShardEntry(name, num_bytes, sha256, len(kept))
        return entries

    def _frames(self, kept: list[_ClipParts]) -> dict[str, np.ndarray | Pieces]:
        lengths = _joined([_in_order(parts.jpeg_bytes) for parts in kept], "<i8")
        offsets = np.concatenate([[0], lengths.cumsum()]).astype("<i8")
        extents = [extent for parts in kept for extent in _values(parts.jpeg_extents)]
        return {
            "/clip/stored_size": _sizes([parts.stored_size for parts in kept]),
            "/jpeg/offsets": offsets,
            "/jpeg/values": Pieces(int(offsets[-1]), np.dtype("|u1"), self._spill.read(extents)),
        }

    def _flows(self, kept: list[_ClipParts]) -> dict[str, np.ndarray | Pieces]:
        """F frames have F - 1 maps; the last frame repeats the last map."""
        scales, lengths, extents = [], [], []
        for parts in kept:
            assert parts.num_frames is not None
            scale = np.concatenate(_values(parts.scales))
            scales.append(np.append(scale, scale[-1]))
            lengths.append(np.full(parts.num_frames, parts.map_values))
            extents += _values(parts.map_extents)
            last = extents[-1][1]
            extents.append((last - parts.map_values, last))
        offsets = np.concatenate([[0], _joined(lengths, "<i8").cumsum()]).astype("<i8")
        return {
            "/clip/map_size": _sizes([parts.map_size for parts in kept]),
            "/motion/offsets": offsets,
            "/motion/values": Pieces(int(offsets[-1]), np.dtype("|u1"), self._spill.read(extents)),
            "/motion/scale": _joined(scales, "<f4"),
        }

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


def _values(by_first: dict[int, object]) -> list:
    return [value for _, value in sorted(by_first.items())]


def _in_order(by_first: dict[int, np.ndarray]) -> np.ndarray:
    return np.concatenate(_values(by_first))


def _joined(arrays: list[np.ndarray], dtype: str) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)


def _sizes(sizes: list[tuple[int, int]]) -> np.ndarray:
    return np.array(sizes, dtype="<i4").reshape(-1, 2)
