"""Builds the arrays of a boxes shard from motion maps or from annotated boxes.

A builder is a small frozen object that is sent to worker processes. `builder.arrays(path)` reads
the shard at `path` and returns the arrays of the boxes shard of the same clips.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from preprocess.annotated_boxes.matching import BoxAnnotations, ClipFrames
from preprocess.annotated_boxes.metrics import bounding_boxes, clip_to_frame
from preprocess.box_run.moving_tables import MovingTables
from preprocess.motion_boxes.moving import covered_cells, moving_areas
from preprocess.motion_boxes.presets import MotionParameters
from shared.errors import InputError
from shared.grid import canonical_view, inside_boxes, window_box
from shared.make_commands import make_around
from shared.motion_maps import expand, has_residual, read_maps
from shared.schema import LARGEST_VERTEX
from shared.shards import ShardReader

ANNOTATED_LINES = 64
"""Short side of the tables of what moves, for annotated boxes; those of motion maps have theirs."""

TEXTURE_FRAMES = 64
"""Number of frames of the source size that are in memory at a time when textures are computed."""


class ShardBuilder(Protocol):
    """Builds the arrays of a boxes shard from a shard of another kind with the same clips."""

    def arrays(self, path: Path) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class FromMotion:
    """Boxes from the motion maps of a flows shard.

    Attributes:
        parameters: see MotionParameters.
        frames: folder of the frames shards that texture is computed from; None if the parameters
            use no texture.
    """

    parameters: MotionParameters
    frames: Path | None = None

    def arrays(self, path: Path) -> dict[str, np.ndarray]:
        import cv2

        from preprocess.motion_boxes.boxes import motion_boxes
        from preprocess.motion_boxes.contours import contour_vertices

        cv2.setNumThreads(1)
        with ExitStack() as stack:
            reader = stack.enter_context(ShardReader(path, "flows"))
            pictures = None
            if self.frames is not None:
                pictures = stack.enter_context(ShardReader(self.frames / path.name, "frames"))
                if not np.array_equal(pictures["/clip/frames"], reader["/clip/frames"]):
                    raise InputError(
                        "other-clips", f"{pictures.path} does not hold the same clips as {path}"
                    )
            sizes, frames = reader["/clip/size"], reader["/clip/frames"]
            boxes = np.full((reader.num_frames, 4), np.nan, dtype="<f4")
            scores = np.zeros(reader.num_frames, dtype="<f4")
            vertices: list[np.ndarray] = []
            moving = MovingTables()
            for clip, (first, last) in enumerate(frames):
                maps = expand(*read_maps(reader, clip, int(first), int(last)))
                textures = None if pictures is None else _textures(pictures, first, last, maps)
                residual = None
                if self.parameters.residual and has_residual(reader):
                    lengths = read_maps(reader, clip, int(first), int(last), "residual")
                    residual = expand(*lengths)
                found, scores[first:last], contours = motion_boxes(
                    maps, self.parameters, textures, residual
                )
                to_source = sizes[clip] / maps.shape[:0:-1]
                boxes[first:last] = found * np.tile(to_source, 2)
                vertices += contour_vertices(contours, to_source)
                moving.add(moving_areas(contours, found, maps.shape[1:]), sizes[clip])
            return _shard_arrays(reader, boxes, scores, vertices, moving)


def _textures(pictures: ShardReader, first: int, last: int, maps: np.ndarray) -> np.ndarray:
    """The texture of stored frames, float32 [T, h, w], at the size of the maps."""
    from preprocess.motion_boxes.evidence import texture_maps

    textures = np.empty_like(maps)
    for begin in range(first, last, TEXTURE_FRAMES):
        end = min(begin + TEXTURE_FRAMES, last)
        grey = _grey_frames(pictures, begin, end)
        textures[begin - first : end - first] = texture_maps(grey, maps.shape[1:])
    return textures


def _grey_frames(pictures: ShardReader, first: int, last: int) -> list[np.ndarray]:
    """Stored frames, each uint8 [H, W]."""
    import cv2

    files = pictures.ragged("/jpeg/offsets", "/jpeg/values", first, last)
    decoded = [cv2.imdecode(file, cv2.IMREAD_GRAYSCALE) for file in files]
    grey = [picture for picture in decoded if picture is not None]
    if len(grey) < len(decoded):
        checked = make_around(pictures.path.parent, "verify")
        raise InputError(
            "damaged-file",
            f"{pictures.path}: a frame is not a valid JPEG image; {checked} lists damaged shards",
        )
    return grey


@dataclass(frozen=True)
class FromAnnotations:
    """Boxes from annotations, for the frames of a frames shard.

    The box of a frame is the smallest box around all its annotated boxes, cut at the frame's edges.
    The contours of the frame are the annotated boxes, in the order of the file. A frame without
    annotation has neither. The score is NaN, because no motion is measured.
    """

    annotations: BoxAnnotations

    def arrays(self, path: Path) -> dict[str, np.ndarray]:
        with ShardReader(path, "frames") as reader:
            boxes = np.full((reader.num_frames, 4), np.nan, dtype="<f4")
            scores = np.full(reader.num_frames, np.nan, dtype="<f4")
            vertices = [np.empty((0, 3), "<i2")] * reader.num_frames
            moving = MovingTables()
            for clip_id, (first, last), size in zip(
                reader.clip_ids(), reader["/clip/frames"], reader["/clip/size"], strict=True
            ):
                times = reader.rows("/frame/pts_seconds", first, last)
                clip = ClipFrames(clip_id, (int(size[0]), int(size[1])), times)
                scale = min(1.0, ANNOTATED_LINES / min(clip.size))
                width, height = (max(1, round(scale * side)) for side in clip.size)
                areas = np.zeros((len(times), height, width), dtype=np.bool_)
                for index, annotated in self.annotations.of(clip).items():
                    inside = clip_to_frame(annotated, clip.size)
                    inside = inside[~np.isnan(inside).any(axis=1)]
                    if index < len(times) and len(inside):
                        boxes[first + index] = bounding_boxes(inside[None])[0]
                        vertices[first + index] = _corners(inside)
                        to_cells = np.tile(np.array([width, height]) / clip.size, 2)
                        areas[index] = covered_cells(inside * to_cells, (height, width))
                moving.add(areas, size)
            return _shard_arrays(reader, boxes, scores, vertices, moving)


def _shard_arrays(
    reader: ShardReader,
    boxes: np.ndarray,
    scores: np.ndarray,
    vertices: list[np.ndarray],
    moving: MovingTables,
) -> dict[str, np.ndarray]:
    """All arrays of a boxes shard.

    Args:
        reader: source shard with the same clips and frames.
        boxes: float32 [F, 4], source pixels, NaN where a frame has no box.
        scores: float32 [F].
        vertices: for each frame the vertices of its contours, int16 [k, 3].
        moving: what moves in each clip.
    """
    sizes, frames = reader["/clip/size"], reader["/clip/frames"]
    clip_boxes = np.full((reader.num_clips, 4), np.nan, dtype="<f4")
    tubes: list[np.ndarray] = []
    for clip, (first, last) in enumerate(frames):
        clip_boxes[clip] = window_box(boxes[first:last])
        tubes.append(tube_positions(clip_boxes[clip], sizes[clip]))
    return {
        "/clip/id": reader["/clip/id"],
        "/clip/frames": frames,
        "/clip/size": sizes,
        "/frame/pts_seconds": reader["/frame/pts_seconds"],
        "/clip/box": clip_boxes,
        "/box/xyxy": boxes,
        "/box/score": scores,
        "/contour/offsets": np.cumsum([0, *map(len, vertices)], dtype="<i8"),
        "/contour/vertices": np.concatenate([np.empty((0, 3), "<i2"), *vertices]),
        "/tube/offsets": np.cumsum([0, *map(len, tubes)], dtype="<i8"),
        "/tube/index": np.concatenate([np.empty(0, "<i2"), *tubes]).astype("<i2"),
        **moving.arrays(),
    }


def _corners(boxes: np.ndarray) -> np.ndarray:
    """The corners of boxes [K, 4] as contour vertices, int16 [4 K, 3]: number of the box, x, y."""
    x1, y1, x2, y2 = np.floor(boxes.T + 0.5).clip(0, LARGEST_VERTEX).astype("<i2")
    numbers = np.arange(len(boxes), dtype="<i2")
    corners = [
        np.stack([numbers, x, y], axis=1) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    ]
    return np.stack(corners, axis=1).reshape(-1, 3)


def tube_positions(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """int64 [k], the sorted positions (row * 14 + column) that lie inside the box of a clip.

    Args:
        box: float32 [4], x1 y1 x2 y2 in source pixels.
        size: (width, height) of the source.
    """
    view = canonical_view(int(size[0]), int(size[1]))
    return np.flatnonzero(inside_boxes(box, view))
