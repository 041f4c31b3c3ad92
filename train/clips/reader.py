"""Reads frames, motion boxes, motion maps and tracks of single clips, with few open files."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from shared.errors import InputError
from shared.make_commands import make_around
from shared.motion_maps import expand, read_maps
from shared.moving_areas import has_areas, read_areas
from shared.shard_writer import CHUNK_BYTES
from shared.shards import ShardReader
from shared.stored_tracks import StoredTracks, read_tracks, stored_starts, track_bytes
from train.clips.table import ClipTable
from train.clips.tracks import PlacedTracks

# OpenCV can decode to RGB only at full size.
_READ_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class ClipReader:
    """Reads clips from the shards, in one worker.

    Args:
        table: the clips.
        max_open: number of shards that stay open; the least recently used one is closed first.
        cache_bytes: memory for whole decoded clips, so that a small dataset is decoded only once.
            For clips that do not fit, the requested frames are decoded each time.
    """

    def __init__(self, table: ClipTable, max_open: int, cache_bytes: int = 0) -> None:
        self._table = table
        self._frames = OpenShards(table.frames_folder, table.shard_names, "frames", max_open)
        self._boxes = None
        if table.boxes_folder is not None:
            self._boxes = OpenShards(table.boxes_folder, table.shard_names, "boxes", max_open)
        self._motion = None
        if table.motion_folder is not None:
            self._motion = OpenShards(table.motion_folder, table.shard_names, "flows", max_open)
        self._cache: dict[int, np.ndarray] = {}
        self._tracks_cache: dict[int, tuple[np.ndarray, StoredTracks]] = {}
        self._cache_bytes_left = cache_bytes

    def frames(self, index: int, chosen: np.ndarray, reduction: int) -> dict[int, np.ndarray]:
        """Read frames of a clip: {frame number: RGB uint8 [H, W, 3]}.

        Args:
            index: row of the table.
            chosen: int64 [K] frame numbers of the clip, increasing, without repetition.
            reduction: 1, 2, 4 or 8, see `jpeg_reduction` in samples/views.py.
        """
        if reduction == 1 and (index in self._cache or self._fits(index)):
            clip = self._whole(index)
            return {int(number): clip[number] for number in chosen}
        jpegs = self.jpegs(index, chosen)
        return {
            int(number): decode_jpeg(jpeg, reduction)
            for number, jpeg in zip(chosen, jpegs, strict=True)
        }

    def _fits(self, index: int) -> bool:
        """Whether a clip that is not in the cache fits into it."""
        return self._clip_bytes(index) <= self._cache_bytes_left

    def _clip_bytes(self, index: int) -> int:
        first, last = (int(row) for row in self._table.frames[index])
        width, height = (int(pixels) for pixels in self._table.stored_size[index])
        return (last - first) * width * height * 3

    def _whole(self, index: int) -> np.ndarray:
        """All frames of a clip, from the cache; decoded into the cache if necessary."""
        if index not in self._cache:
            first, last = (int(row) for row in self._table.frames[index])
            jpegs = self.jpegs(index, np.arange(last - first))
            self._cache[index] = np.stack([decode_jpeg(jpeg, 1) for jpeg in jpegs])
            self._cache_bytes_left -= self._clip_bytes(index)
        return self._cache[index]

    def boxes(self, index: int, chosen: np.ndarray) -> np.ndarray:
        """Motion boxes float32 [K, 4] of the chosen frames, source pixels; NaN without motion."""
        assert self._boxes is not None, "the table was read without boxes"
        first, last = (int(row) for row in self._table.frames[index])
        shard = self._boxes[int(self._table.shard[index])]
        return shard.rows("/box/xyxy", first, last)[chosen]

    def areas(self, index: int, chosen: np.ndarray) -> np.ndarray:
        """What moves in the chosen frames, bool [K, h, w]; each covers the whole frame.

        Raises:
            InputError: the boxes have no table of what moves.
        """
        assert self._boxes is not None, "the table was read without boxes"
        shard = self._boxes[int(self._table.shard[index])]
        self._check_areas(shard)
        start = int(self._table.frames[index][0])
        first, last = int(chosen.min()), int(chosen.max()) + 1
        areas = read_areas(shard, int(self._table.row[index]), start + first, start + last)
        return areas[chosen - first]

    def check_areas(self) -> None:
        """Refuse boxes without a table of what moves, by their first shard."""
        if self._boxes is not None and self._table.shard_names:
            self._check_areas(self._boxes[0])

    @staticmethod
    def _check_areas(shard: ShardReader) -> None:
        if not has_areas(shard):
            folder = shard.path.parent
            name = folder.name.removeprefix("boxes").removeprefix("-")
            options = f"--name {name} ... --overwrite" if name else "--overwrite"
            made = make_around(folder, "boxes", options)
            raise InputError(
                "missing-data",
                f'{shard.path} has no table of what moves, which inside = "positions" needs, '
                f"because an earlier version made it; make the boxes again with {made}, or use "
                'inside = "box"',
            )

    def motion(self, index: int, chosen: np.ndarray) -> np.ndarray:
        """Motion maps float32 [K, h, w] of the chosen frames; each covers the whole frame."""
        shard, clip = self._flows_of(index)
        first, last = int(chosen.min()), int(chosen.max()) + 1
        start = int(self._table.frames[index][0])
        values, scale = read_maps(shard, clip, start + first, start + last)
        return expand(values[chosen - first], scale[chosen - first])

    def tracks(self, index: int, firsts: np.ndarray) -> PlacedTracks:
        """Read the tracks that start at frames int64 [T'] of a clip."""
        shard, clip = self._flows_of(index)
        first, last = (int(row) for row in self._table.frames[index])
        if index in self._tracks_cache or self._tracks_fit(index, shard):
            starts, whole = self._whole_tracks(index, shard)
            places = np.searchsorted(starts, firsts)
            if not np.array_equal(starts.take(places, mode="clip"), firsts):
                read_tracks(shard, first + firsts)  # says what is missing
            tracks = whole.take(places)
        else:
            tracks = read_tracks(shard, first + firsts)
        return PlacedTracks(
            tracks=tracks,
            left_steps=last - first - 1 - firsts,
            grid=shard.pair("/clip/track_grid", clip),
            size=shard.pair("/clip/track_size", clip),
        )

    def _whole_tracks(self, index: int, shard: ShardReader) -> tuple[np.ndarray, StoredTracks]:
        """The frames of a clip that have tracks, int64 [T], and these tracks, from the cache."""
        if index not in self._tracks_cache:
            first, last = (int(row) for row in self._table.frames[index])
            starts = stored_starts(shard, first, last)
            whole = read_tracks(shard, starts)
            self._cache_bytes_left -= whole.num_bytes
            self._tracks_cache[index] = (starts - first, whole)
        return self._tracks_cache[index]

    def _tracks_fit(self, index: int, shard: ShardReader) -> bool:
        """Whether the tracks of a clip may go into the cache: where they are no larger than twice
        its frames, which would take a cache of large tracks longer to decode than to read these."""
        if "/track/steps" not in shard:
            return False
        first, last = (int(row) for row in self._table.frames[index])
        begin, end = shard.rows("/track/offsets", first, last + 1)[[0, -1]]
        num_bytes = int(end - begin) * track_bytes(shard)
        return num_bytes <= min(2 * self._clip_bytes(index), self._cache_bytes_left)

    def _flows_of(self, index: int) -> tuple[ShardReader, int]:
        """The flows shard of a clip, and the row of the clip in it."""
        assert self._motion is not None, "the table was read without flows"
        shard = self._motion[int(self._table.shard[index])]
        return shard, int(self._table.row[index])

    def jpegs(self, index: int, chosen: np.ndarray) -> list[np.ndarray]:
        """The JPEG files uint8 [bytes] of the chosen frames, int64 [K] and increasing.

        Neighbours in the shard are read together.
        """
        shard = self._frames[int(self._table.shard[index])]
        first, last = (int(row) for row in self._table.frames[index])
        offsets = shard.rows("/jpeg/offsets", first, last + 1)
        if np.any(np.diff(offsets) < 0):
            raise InputError(
                "damaged-file",
                f"{shard.path}/jpeg/offsets: the offsets decrease; run `make verify`",
            )
        begins, ends = offsets[chosen], offsets[chosen + 1]
        # Reading a gap of less than a chunk costs nothing: HDF5 reads the chunk anyway.
        breaks = np.flatnonzero(begins[1:] - ends[:-1] > CHUNK_BYTES) + 1
        jpegs: list[np.ndarray] = []
        for group in np.split(np.arange(len(chosen)), breaks):
            begin, end = int(begins[group[0]]), int(ends[group[-1]])
            values = shard.rows("/jpeg/values", begin, end)
            jpegs += [values[begins[i] - begin : ends[i] - begin] for i in group]
        return jpegs


class OpenShards:
    """Opens shards by number and keeps at most `most` of them open."""

    def __init__(self, folder: Path, names: tuple[str, ...], kind: str, most: int) -> None:
        self._folder = folder
        self._names = names
        self._kind = kind
        self._most = most
        self._open: OrderedDict[int, ShardReader] = OrderedDict()

    def __getitem__(self, number: int) -> ShardReader:
        if number not in self._open:
            if len(self._open) >= self._most:
                self._open.popitem(last=False)[1].close()
            path = self._folder / self._names[number]
            self._open[number] = ShardReader(path, self._kind)
        self._open.move_to_end(number)
        return self._open[number]


def decode_jpeg(jpeg: np.ndarray, reduction: int) -> np.ndarray:
    """Decode JPEG bytes to RGB uint8 [H, W, 3], reduced by the factor `reduction` (rounded up)."""
    frame = cv2.imdecode(jpeg, _READ_FLAGS[reduction])
    if frame is None:
        raise InputError(
            "damaged-file",
            "a frame is not a readable JPEG; `make verify` lists damaged shards",
        )
    return frame if reduction == 1 else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)
