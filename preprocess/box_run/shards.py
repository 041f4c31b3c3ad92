"""The arrays of a boxes shard: from motion maps, or from annotated boxes.

A builder is a small frozen object that is sent to worker processes: `builder.arrays(path)` reads
the shard at `path` and returns what the boxes shard of the same clips holds.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from preprocess.annotated_boxes.matching import BoxAnnotations, ClipFrames
from preprocess.annotated_boxes.metrics import bounding_boxes, clip_to_frame
from preprocess.motion_boxes.presets import MotionParameters
from shared.errors import InputError
from shared.grid import canonical_view, inside_boxes, union_box
from shared.make_commands import make_around
from shared.motion_maps import expand, read_maps
from shared.schema import LARGEST_VERTEX
from shared.shards import ShardReader


class ShardBuilder(Protocol):
    """Builds the arrays of a boxes shard from a shard of another kind with the same clips."""

    def arrays(self, path: Path) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class FromMotion:
    """Boxes from the motion maps of a flows shard.

    Attributes:
        frames: folder of the frames shards that texture is computed from; None where the parameters
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
                    raise InputError(f"{pictures.path} holds other clips than {path}")
            sizes, frames = reader["/clip/size"], reader["/clip/frames"]
            boxes = np.full((reader.num_frames, 4), np.nan, dtype="<f4")
            scores = np.zeros(reader.num_frames, dtype="<f4")
            vertices: list[np.ndarray] = []
            for clip, (first, last) in enumerate(frames):
                maps = expand(*read_maps(reader, clip, int(first), int(last)))
                textures = None if pictures is None else _textures(pictures, first, last, maps)
                found, scores[first:last], contours = motion_boxes(maps, self.parameters, textures)
                to_source = sizes[clip] / maps.shape[:0:-1]
                boxes[first:last] = found * np.tile(to_source, 2)
                vertices += contour_vertices(contours, to_source)
            return _shard_arrays(reader, boxes, scores, vertices)


def _textures(pictures: ShardReader, first: int, last: int, maps: np.ndarray) -> np.ndarray:
    """Texture float32 [T, h, w] of stored frames, at the size of the maps."""
    import cv2

    from preprocess.motion_boxes.evidence import texture_maps

    files = pictures.ragged("/jpeg/offsets", "/jpeg/values", first, last)
    decoded = [cv2.imdecode(file, cv2.IMREAD_GRAYSCALE) for file in files]
    grey = [picture for picture in decoded if picture is not None]
    if len(grey) < len(decoded):
        checked = make_around(pictures.path.parent, "verify")
        raise InputError(
            f"{pictures.path}: a frame is not a JPEG picture; {checked} lists damaged shards"
        )
    return texture_maps(np.stack(grey), maps.shape[1:])


@dataclass(frozen=True)
class FromAnnotations:
    """Boxes from annotations, for the frames of a frames shard.

    A frame's box is the smallest around all its annotated boxes, inside the frame; its contours are
    those boxes, in the order of the file. A frame that is not annotated has none. The score is NaN,
    because no motion is measured.
    """

    annotations: BoxAnnotations

    def arrays(self, path: Path) -> dict[str, np.ndarray]:
        with ShardReader(path, "frames") as reader:
            boxes = np.full((reader.num_frames, 4), np.nan, dtype="<f4")
            scores = np.full(reader.num_frames, np.nan, dtype="<f4")
            vertices = [np.empty((0, 3), "<i2")] * reader.num_frames
            for clip_id, (first, last), size in zip(
                reader.clip_ids(), reader["/clip/frames"], reader["/clip/size"], strict=True
            ):
                times = reader.rows("/frame/pts_seconds", first, last)
                clip = ClipFrames(clip_id, (int(size[0]), int(size[1])), times)
                for index, annotated in self.annotations.of(clip).items():
                    inside = clip_to_frame(annotated, clip.size)
                    inside = inside[~np.isnan(inside).any(axis=1)]
                    if index < len(times) and len(inside):
                        boxes[first + index] = bounding_boxes(inside[None])[0]
                        vertices[first + index] = _corners(inside)
            return _shard_arrays(reader, boxes, scores, vertices)


def _shard_arrays(
    reader: ShardReader, boxes: np.ndarray, scores: np.ndarray, vertices: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """All arrays of a boxes shard, from those of its frames."""
    sizes, frames = reader["/clip/size"], reader["/clip/frames"]
    clip_boxes = np.full((reader.num_clips, 4), np.nan, dtype="<f4")
    tubes: list[np.ndarray] = []
    for clip, (first, last) in enumerate(frames):
        clip_boxes[clip] = union_box(boxes[first:last])
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
    }


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes [K, 4] as contours int16 [4 K, 3]: number of the box, x, y."""
    x1, y1, x2, y2 = np.floor(boxes.T + 0.5).clip(0, LARGEST_VERTEX).astype("<i2")
    numbers = np.arange(len(boxes), dtype="<i2")
    corners = [
        np.stack([numbers, x, y], axis=1) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    ]
    return np.stack(corners, axis=1).reshape(-1, 3)


def tube_positions(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Sorted positions row * 14 + column inside a clip box [4] in source pixels; size = (w, h)."""
    view = canonical_view(int(size[0]), int(size[1]))
    return np.flatnonzero(inside_boxes(box, view))
