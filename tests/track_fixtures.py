"""Tracks for the moving squares of tests/shard_fixtures.py, from where the squares are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from shard_fixtures import write_moving_squares
from training_fixtures import DESCRIPTORS_RECIPE

from preprocess.flow.options import TrackOptions
from preprocess.flow.track_columns import coded
from shared.grid import View
from shared.layout import DatasetLayout
from shared.shard_index import read_index, write_index
from shared.shard_writer import write_shard
from shared.shards import ShardReader
from shared.tracks import HogLayout, Tracks, grid_shape, start_points
from train.clips.tracks import PlacedTracks
from train.objectives.target import ShownView


def add_tracks(
    layout: DatasetLayout,
    length: int = 6,
    points: int = 24,
    cell: int = 8,
    hog: HogLayout = HogLayout(),  # noqa: B008 - it cannot change
    window: str = "",
) -> None:
    """Write the flows shards again with tracks: points in the square go with it, others rest.

    HOG tells which frame a track began at and where: the first bin holds the frame's number, the
    second 1 in the square and 0 outside, the others 1. They are the same in each channel and cell
    of `hog`.
    """
    index = read_index(layout.flows)
    options = TrackOptions(
        length, points, cell=cell, channels=hog.channels, cells=hog.cells, window=window
    )
    entries = []
    for entry in index.shards:
        path = layout.flows / entry.name
        with ShardReader(layout.boxes / entry.name, "boxes") as reader:
            boxes = reader["/box/xyxy"]
        with ShardReader(path, "flows") as reader:
            arrays = {field: reader[field] for field in reader._fields}
            attributes = reader.attributes | options.config()
        arrays |= _track_arrays(arrays, boxes, options)
        num_bytes, sha256 = write_shard(path, "flows", arrays, attributes)
        entries.append(replace(entry, bytes=num_bytes, sha256=sha256))
    write_index(
        layout.flows, replace(index, shards=entries, config=index.config | options.config())
    )


def _track_arrays(
    arrays: dict[str, np.ndarray], boxes: np.ndarray, options: TrackOptions
) -> dict[str, np.ndarray]:
    sizes, parts = arrays["/clip/size"], {}
    grids = [grid_shape((height, width), options.points) for width, height in sizes]
    for (first, last), (width, height), grid in zip(
        arrays["/clip/frames"], sizes, grids, strict=True
    ):
        points = start_points((height, width), grid)
        window = options.starts
        starts = range(last - first) if window is None else window.starts(last - first)
        for start in starts:
            frames = boxes[first + start : last]
            parts[first + start] = _tracks_of(start, frames, points, options)
    stored = [coded(tracks, options) for tracks in parts.values()]
    counts = np.zeros(len(boxes), np.int64)
    for frame, tracks in parts.items():
        counts[frame] = tracks.num_steps.size
    return {
        "/clip/track_grid": np.array(grids, np.int32),
        "/clip/track_size": np.array(sizes, np.int32),
        "/track/offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        **{
            f"/track/{name}": np.concatenate([part[name].ravel() for part in stored])
            for name in stored[0]
        },
    }


def _tracks_of(number: int, boxes: np.ndarray, starts: np.ndarray, options: TrackOptions) -> Tracks:
    """Tracks from the first of `boxes`, those of the frames to the clip's end."""
    length, cell, layout = options.length, options.cell, options.layout
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


def squares_with_descriptors(out: Path) -> DatasetLayout:
    """80 squares that move in the direction of their class, with flow and recipe.toml beside."""
    layout = write_moving_squares(out, num_clips=80)
    add_tracks(layout, length=1, points=24, cell=0)
    (layout.out / "recipe.toml").write_text(DESCRIPTORS_RECIPE)
    return layout


RANDOM_FRAMES = 6  # of the clip of `random_shown`


def random_shown(view: View, rng: np.random.Generator, stride: int) -> ShownView:
    """A clip of 60 x 40 pixels, tracked at 30 x 20 from 6 x 9 points."""
    steps = rng.integers(0, 3, (RANDOM_FRAMES, 54)).astype(np.uint8)
    steps[-1] = 0  # no frame follows
    moves = rng.normal(0, 3, (RANDOM_FRAMES, 54, 2, 2)).astype(np.float32)
    moves *= (np.arange(2) < steps[..., None])[..., None]
    whole = Tracks(moves, steps, np.zeros((RANDOM_FRAMES, 54, 2, 0), np.float32))

    def tracks(firsts: np.ndarray) -> PlacedTracks:
        return PlacedTracks(whole.take(firsts), RANDOM_FRAMES - 1 - firsts, (6, 9), (30, 20))

    frames = np.array([0, 1, 1, 2, 3, 4, 4, 5] if stride == 2 else [0, 1, 2, 3, 2, 3, 4, 5])
    return ShownView(
        frames, frames[::4], RANDOM_FRAMES, view, (60, 40), tracks, lambda: np.zeros(0)
    )
