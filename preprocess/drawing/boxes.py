"""Reads stored and annotated boxes, which `preprocess.show` draws beside the boxes it finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from preprocess.annotated_boxes.formats import open_annotations
from preprocess.annotated_boxes.matching import ClipFrames, ReadOptions
from shared.errors import InputError
from shared.make_commands import make_around
from shared.manifest import read_manifest
from shared.shard_index import read_index
from shared.shards import ShardReader


def stored_boxes(folder: Path, video: Path, pts_seconds: np.ndarray) -> list[np.ndarray]:
    """Read the motion boxes of a video from the shards of a dataset.

    The clip is the one whose id is the name of the video without its suffix. If there is none, it
    is the first clip of this video in the manifest beside the shards. Frames are matched by their
    times.

    Args:
        folder: folder of the boxes shards, such as OUT/ssv2/boxes.
        video: the video.
        pts_seconds: float64 [T], times of the frames that are shown.

    Returns:
        for each frame float32 [K, 4], source pixels: K is 1 if it has a box, else 0.

    Raises:
        InputError: the shards are not complete, or have no clip of this video.
    """
    index = read_index(folder)
    if index is None:
        made = make_around(folder, "boxes")
        raise InputError("not-finished", f"no finished boxes at {folder}; make them with {made}")
    wanted = _clip_ids(folder, video)
    found = _find_first(wanted, folder, [entry.name for entry in index.shards])
    if found is None:
        raise InputError(
            "no-match",
            f"{folder} has no clip of {video.name}; the possible clip ids are {', '.join(wanted)}",
        )
    shard, row = found
    with ShardReader(folder / shard, "boxes") as reader:
        first, last = reader.pair("/clip/frames", row)
        times = reader.rows("/frame/pts_seconds", first, last)
        return _at_times(reader.rows("/box/xyxy", first, last), times, pts_seconds)


def _find_first(wanted: list[str], folder: Path, shards: list[str]) -> tuple[str, int] | None:
    """Shard and row of the first of the wanted clips that exists; None if none does."""
    found: dict[str, tuple[str, int]] = {}
    for shard in shards:
        with ShardReader(folder / shard, "boxes") as reader:
            rows = {clip_id: (shard, row) for row, clip_id in enumerate(reader.clip_ids())}
        found |= {clip_id: rows[clip_id] for clip_id in wanted if clip_id in rows}
        if wanted[0] in found:
            break
    return next((found[clip_id] for clip_id in wanted if clip_id in found), None)


def annotated_boxes(box_format: str, path: Path, clip: ClipFrames) -> list[np.ndarray]:
    """Read the annotated boxes of each frame, float32 [K, 4], source pixels.

    Raises:
        InputError: the annotations cannot be read, or this clip is not annotated.
    """
    annotations = open_annotations(box_format, path, {clip.clip_id}, ReadOptions())
    if annotations.name_of(clip.clip_id) is None:
        raise InputError(
            "no-match",
            f"{path} has no annotations of clip {clip.clip_id!r}, but of {annotations.examples}; "
            "the name of the video without its suffix must be the id of the clip",
        )
    frames = annotations.of(clip)
    nothing = np.empty((0, 4), dtype=np.float32)
    return [frames.get(t, nothing) for t in range(len(clip.pts_seconds))]


def _clip_ids(folder: Path, video: Path) -> list[str]:
    """The ids that a clip of the video may have, the most likely first."""
    manifest = folder.parent / "manifest.csv"
    listed = read_manifest(manifest) if manifest.is_file() else []
    return [video.stem, *(c.clip_id for c in listed if Path(c.video).name == video.name)]


def _at_times(boxes: np.ndarray, times: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """For each wanted time, the box of the nearest frame if that is at most half a frame away.

    Args:
        boxes: float32 [N, 4], NaN without motion.
        times: float64 [N], seconds, times of the boxes.
        wanted: float64 [T], seconds.
    """
    nearest = np.abs(times[None, :] - wanted[:, None]).argmin(axis=1)
    step = np.median(np.diff(times)) if len(times) > 1 else 0.04
    near = np.abs(times[nearest] - wanted) <= step / 2 + 1e-6
    kept = near & ~np.isnan(boxes[nearest]).any(axis=1)
    return [boxes[i : i + 1] if k else boxes[:0] for i, k in zip(nearest, kept, strict=True)]
