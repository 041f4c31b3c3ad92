"""The datasets of a flows shard that hold tracks: which there are, and what goes into them."""

from __future__ import annotations

import numpy as np

from preprocess.flow.options import TrackOptions
from shared.packed_tracks import hog_coding, moves_coding
from shared.shards import MAX_CHUNK_BYTES
from shared.tracks import Tracks, quantised


def track_columns(options: TrackOptions) -> dict[str, tuple[np.dtype, int]]:
    """Dtype and number of values of a track, by name of the dataset below /track."""
    length = options.length
    columns: dict[str, tuple[np.dtype, int]] = {"steps": (np.dtype("|u1"), 1)}
    if options.window:
        columns["moves"] = (np.dtype("|i1"), moves_coding().num_values(length))
        if options.cell:
            columns["shape"] = (np.dtype("|i1"), hog_coding().num_values(length))
        return columns
    columns["displacements"] = (np.dtype("<i2"), 2 * length)
    if options.cell:
        columns["hog"] = (np.dtype("|u1"), options.layout.num_values * length)
    return columns


def coded(tracks: Tracks, options: TrackOptions) -> dict[str, np.ndarray]:
    """The stored values of tracks: arrays [T, ...] by name, as `track_columns` has them."""
    if options.window:
        columns = {
            "steps": tracks.num_steps,
            "moves": moves_coding().pack(tracks.displacements, tracks.num_steps),
        }
        if options.cell:
            columns["shape"] = hog_coding().pack(tracks.hog, tracks.num_steps)
        return columns
    stored = quantised(tracks)
    return {name: stored[name] for name in track_columns(options)}


def chunk_values(options: TrackOptions, per_track: int, num_points: int) -> int:
    """How many values of a dataset make a chunk; 0 for the usual number.

    Windows read the tracks of whole frames, so a chunk holds those of one frame, or an equal part
    of its planes.
    """
    if not options.window or per_track == 1:
        return 0
    parts = (n for n in range(1, per_track + 1) if per_track % n == 0)
    return next(
        (n for n in (per_track // p * num_points for p in parts) if n <= MAX_CHUNK_BYTES), 0
    )
