"""Reads tracks from flows shards, in either coding, and decodes those of some points.

A window of a clip needs a few thousand of the tracks that start at its frames. Tracks are therefore
kept as they are stored until their points are known.

Letters: T first frames of tracks, G = rows * columns grid points, L steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import InputError
from shared.make_commands import make_around
from shared.packed_tracks import Coding, hog_coding, moves_coding
from shared.shards import ShardReader
from shared.tracks import NUM_BINS, HogLayout, Tracks, restored


class StoredTracks(ABC):
    """Tracks that start at G grid points (row by row) of T frames, as they are stored.

    Attributes:
        num_steps: uint8 [T, G], see `Tracks`.
    """

    num_steps: np.ndarray

    @property
    @abstractmethod
    def length(self) -> int:
        """L."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """In memory."""

    @abstractmethod
    def take(self, firsts: np.ndarray | slice) -> StoredTracks:
        """The tracks that start at some of the T frames: int64 [T'], or a slice of them."""

    @abstractmethod
    def at(self, points: np.ndarray, hog: bool = True) -> Tracks:
        """The tracks that start at some of the G points, int64 [P]; without HOG if not asked."""

    def whole(self) -> Tracks:
        """The tracks of all points."""
        return self.at(np.arange(self.num_steps.shape[1]))


@dataclass(frozen=True)
class PlainTracks(StoredTracks):
    """Tracks in the plain coding, see `shared.tracks.quantised`.

    Attributes:
        displacements: int16 [T, G, L, 2].
        hog: uint8 [T, G, L, B], see `HogLayout`; [T, G, L, 0] without HOG.
    """

    displacements: np.ndarray
    num_steps: np.ndarray
    hog: np.ndarray

    @property
    def length(self) -> int:
        return self.displacements.shape[2]

    @property
    def num_bytes(self) -> int:
        return self.displacements.nbytes + self.num_steps.nbytes + self.hog.nbytes

    def take(self, firsts: np.ndarray | slice) -> PlainTracks:
        return PlainTracks(self.displacements[firsts], self.num_steps[firsts], self.hog[firsts])

    def at(self, points: np.ndarray, hog: bool = True) -> Tracks:
        shapes = self.hog if hog else self.hog[..., :0]
        arrays = (self.displacements, self.num_steps, shapes)
        return restored(*(each.take(points, axis=1) for each in arrays))


@dataclass(frozen=True)
class PackedTracks(StoredTracks):
    """Tracks in the packed coding, see `shared.packed_tracks.Coding`.

    Attributes:
        moves: int8 [T, 1 + 2 L, G].
        shape: int8 [T, 1 + 9 L, G]; [T, 0, G] without HOG.
        codings: of displacements and of HOG.
    """

    moves: np.ndarray
    num_steps: np.ndarray
    shape: np.ndarray
    codings: tuple[Coding, Coding]

    @property
    def length(self) -> int:
        return (self.moves.shape[1] - 1) // 2

    @property
    def num_bytes(self) -> int:
        return self.moves.nbytes + self.num_steps.nbytes + self.shape.nbytes

    def take(self, firsts: np.ndarray | slice) -> PackedTracks:
        return PackedTracks(
            self.moves[firsts], self.num_steps[firsts], self.shape[firsts], self.codings
        )

    def at(self, points: np.ndarray, hog: bool = True) -> Tracks:
        steps = self.num_steps.take(points, axis=1)
        moves = self.codings[0].unpack(self.moves, steps, points)
        if hog and self.shape.shape[1]:
            shapes = self.codings[1].unpack(self.shape, steps, points)
        else:
            shapes = np.zeros((*moves.shape[:3], 0), np.float32)
        return Tracks(moves, steps, shapes)


def stored_starts(reader: ShardReader, first: int, last: int) -> np.ndarray:
    """The frames where tracks start, int64 [T], as rows of the shard among first:last."""
    return first + np.flatnonzero(np.diff(_offsets(reader, first, last)))


def track_bytes(reader: ShardReader) -> int:
    """Memory of one stored track in bytes."""
    num_tracks = max(1, reader.length("/track/steps"))
    paths = ("/track/displacements", "/track/hog", "/track/moves", "/track/shape")
    each = {path: reader.length(path) // num_tracks for path in paths if path in reader}
    return 1 + sum(each.values()) + each.get("/track/displacements", 0)  # these have two bytes


def read_tracks(reader: ShardReader, frames: Sequence[int] | np.ndarray) -> StoredTracks:
    """Read the tracks that start at some frames of one clip.

    `start_points` gives their start points from `/clip/track_size` and `/clip/track_grid`.

    Args:
        frames: rows of the frames in the shard.

    Raises:
        InputError: the shard has no tracks, or none that start at one of the frames; or it is
            damaged.
    """
    rows, places = np.unique(np.asarray(frames, dtype=np.int64), return_inverse=True)
    first = int(rows[0])
    offsets = _offsets(reader, first, int(rows[-1]) + 1)
    begins, ends = offsets[rows - first], offsets[rows - first + 1]
    if np.any(begins >= ends):
        raise InputError(
            "missing-data",
            f"{reader.path} holds no tracks that start at one of the frames that are needed, "
            f"because they were made with --track-window {reader.attributes.get('track_window')}; "
            f"{_advice(reader)} makes those of all frames",
        )
    num_points = int(ends[0] - begins[0])
    if np.any(ends - begins != num_points):
        raise InputError("damaged-file", f"{reader.path}/track/offsets is damaged; run make verify")
    # Tracks that lie beside each other in the file are read in one go.
    runs = np.split(np.arange(len(rows)), np.flatnonzero(begins[1:] != ends[:-1]) + 1)
    spans = [(int(begins[run[0]]), int(ends[run[-1]])) for run in runs]
    length = int(reader.attributes["track_length"])

    def columns(path: str, per_track: int, dtype: type) -> np.ndarray:
        """[T, G * per_track], in the order of `frames`."""
        if path not in reader:
            return np.empty((len(places), 0), dtype)
        parts = [reader.rows(path, first * per_track, last * per_track) for first, last in spans]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        values = joined.reshape(len(rows), num_points * per_track)
        return values if in_order else values[places]

    in_order = np.array_equal(places, np.arange(len(rows)))
    times, steps = len(places), columns("/track/steps", 1, np.uint8)
    if "/track/moves" in reader:
        moves = columns("/track/moves", 1 + 2 * length, np.int8)
        shape = columns("/track/shape", 1 + NUM_BINS * length, np.int8)
        return PackedTracks(
            moves.reshape(times, -1, num_points),
            steps,
            shape.reshape(times, -1 if shape.size else 0, num_points),
            _codings(reader),
        )
    moves = columns("/track/displacements", 2 * length, np.int16)
    num_bins = HogLayout.of_attributes(reader.attributes).num_values
    hog = columns("/track/hog", num_bins * length, np.uint8)
    grid = (times, num_points, length)
    return PlainTracks(moves.reshape(*grid, 2), steps, hog.reshape(*grid, -1 if hog.size else 0))


def _offsets(reader: ShardReader, first: int, last: int) -> np.ndarray:
    """int64 [last - first + 1], where the tracks of each frame begin; and the end of the last."""
    if "/track/steps" not in reader:
        raise InputError("missing-data", f"{reader.path} holds no tracks; run {_advice(reader)}")
    return reader.rows("/track/offsets", first, last + 1)


def _codings(reader: ShardReader) -> tuple[Coding, Coding]:
    numbers = []
    for name in ("move_step", "move_floor", "hog_step", "hog_floor"):
        number = reader.attributes.get(f"track_{name}")
        if not isinstance(number, (int, float)) or not 0.0 < number < np.inf:
            raise InputError(
                "damaged-file",
                f"{reader.path}: attribute track_{name} is {number!r:.40}; it must be a positive "
                "number; run make verify",
            )
        numbers.append(float(number))
    return moves_coding(*numbers[:2]), hog_coding(*numbers[2:])


def _advice(reader: ShardReader) -> str:
    return make_around(reader.path.parent, "flows", "--trajectories --overwrite")
