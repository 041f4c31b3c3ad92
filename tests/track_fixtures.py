"""Tracks for the moving squares of tests/shard_fixtures.py, from where the squares are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shared.layout import DatasetLayout
from shared.shard_index import read_index, write_index
from shared.shard_writer import write_shard
from shared.shards import ShardReader
from shared.tracks import (
    DISPLACEMENT_UNIT,
    HOG_UNIT,
    HogLayout,
    Tracks,
    grid_shape,
    quantised,
    start_points,
)


def add_tracks(
    layout: DatasetLayout,
    length: int = 6,
    points: int = 24,
    cell: int = 8,
    hog: HogLayout = HogLayout(),  # noqa: B008 - it cannot change
) -> None:
    """Write the flows shards again with tracks: points in the square go with it, others rest.

    HOG tells which frame a track began at and where: the first bin holds the frame's number, the
    second 1 in the square and 0 outside, the others 1. They are the same in each channel and cell
    of `hog`.
    """
    index = read_index(layout.flows)
    options = {
        "track_length": length, "track_points": points, "track_max_flow": 20.0, "track_cell": cell,
        "track_displacement_unit": DISPLACEMENT_UNIT, "track_hog_unit": HOG_UNIT,
    }  # fmt: skip
    if hog != HogLayout():
        options |= {"track_channels": hog.channels, "track_cells": hog.cells}
    entries = []
    for entry in index.shards:
        path = layout.flows / entry.name
        with ShardReader(layout.boxes / entry.name, "boxes") as reader:
            boxes = reader["/box/xyxy"]
        with ShardReader(path, "flows") as reader:
            arrays = {field: reader[field] for field in reader._fields}
            attributes = reader.attributes | options
        arrays |= _track_arrays(arrays, boxes, length, points, cell, hog)
        num_bytes, sha256 = write_shard(path, "flows", arrays, attributes)
        entries.append(replace(entry, bytes=num_bytes, sha256=sha256))
    write_index(layout.flows, replace(index, shards=entries, config=index.config | options))


def _track_arrays(
    arrays: dict[str, np.ndarray],
    boxes: np.ndarray,
    length: int,
    points: int,
    cell: int,
    hog: HogLayout,
) -> dict[str, np.ndarray]:
    sizes, parts = arrays["/clip/size"], []
    grids = [grid_shape((height, width), points) for width, height in sizes]
    for (first, last), (width, height), grid in zip(
        arrays["/clip/frames"], sizes, grids, strict=True
    ):
        starts = start_points((height, width), grid)
        for frame in range(first, last):
            parts.append(_tracks_of(frame - first, boxes[frame:last], starts, length, cell, hog))
    stored = [quantised(tracks) for tracks in parts]
    joined = {
        name: np.concatenate([part[name].ravel() for part in stored])
        for name in ("displacements", "steps", "hog")
    }
    counts = [tracks.num_steps.size for tracks in parts]
    arrays = {
        "/clip/track_grid": np.array(grids, np.int32),
        "/clip/track_size": np.array(sizes, np.int32),
        "/track/offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "/track/steps": joined["steps"],
        "/track/displacements": joined["displacements"],
        "/track/hog": joined["hog"],
    }
    return arrays if cell else {k: v for k, v in arrays.items() if k != "/track/hog"}


def _tracks_of(
    number: int, boxes: np.ndarray, starts: np.ndarray, length: int, cell: int, layout: HogLayout
) -> Tracks:
    """Tracks from the first of `boxes`, those of the frames to the clip's end."""
    steps = min(length, len(boxes) - 1)
    x1, y1, x2, y2 = boxes[0]
    inside = (starts >= [x1, y1]).all(axis=1) & (starts < [x2, y2]).all(axis=1)
    moves = np.zeros((len(starts), length, 2), np.float32)
    moves[inside, :steps] = np.diff(boxes[: steps + 1, :2], axis=0)
    hog = np.zeros((len(starts), length, 9 if cell else 0), np.float32)
    if cell:
        hog[:, :steps] = 1.0
        hog[:, :steps, 0] = number
        hog[:, :steps, 1] = inside[:, None]
        hog = np.tile(hog, layout.num_values // 9)
    return Tracks(moves[None], np.full((1, len(starts)), steps, np.uint8), hog[None])


def random_tracks(length: int) -> Tracks:
    """Tracks of 12 frames from 4 x 6 points; some end early, and none goes past the last frame."""
    rng = np.random.default_rng(length)
    moves = rng.normal(0, 2, (12, 24, length, 2)).astype(np.float32)
    steps = np.minimum(length, 11 - np.arange(12))[:, None].repeat(24, axis=1)
    steps = np.where(rng.random(steps.shape) < 0.1, steps // 2, steps)
    return Tracks(moves, steps.astype(np.uint8), np.zeros((12, 24, length, 0), np.float32))
