"""Writes boxes in three formats, which annotated_boxes/formats.py reads again.

Coordinates are float32 in the shards. They are written with all decimals, so reading them as
float32 gives the same bits.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from shared.errors import InputError
from shared.files import atomic_file, sync_folder
from shared.temporary_names import temporary_name

CATEGORY = "motion"


@dataclass(frozen=True)
class ExportedClip:
    """A clip of a boxes shard.

    Attributes:
        clip_id: id in the manifest.
        size: width and height of the source in pixels.
        pts_seconds: float64 [T].
        boxes: float32 [T, 4], x1 y1 x2 y2 in source pixels, NaN where there is none.
        scores: float32 [T], NaN where they were not measured.
        video: path of the video in the manifest; None where that is not known.
        image_size: width and height in pixels of the images that are written beside the boxes; None
            if there are no images. COCO has its boxes in these pixels, or else in source pixels.
    """

    clip_id: str
    size: tuple[int, int]
    pts_seconds: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    video: str | None = None
    image_size: tuple[int, int] | None = None

    def in_image_pixels(self) -> ExportedClip:
        """The same clip with its boxes in pixels of the images."""
        if self.image_size in (None, self.size):
            return self
        assert self.image_size is not None
        scale = np.array(self.image_size, np.float64) / np.array(self.size)
        boxes = (self.boxes * np.tile(scale, 2)).astype(np.float32)
        return replace(self, boxes=boxes, size=self.image_size)

    def rows(self) -> Iterator[tuple[int, float, list[float] | None, float | None]]:
        """Yield (frame from 0, seconds, box or None, score or None) for every frame."""
        found = ~np.isnan(self.boxes).any(axis=1)
        columns = (self.pts_seconds.tolist(), self.boxes.tolist(), self.scores.tolist())
        for frame, (seconds, box, score) in enumerate(zip(*columns, strict=True)):
            measured = found[frame] and score == score
            yield frame, seconds, box if found[frame] else None, score if measured else None


Clips: TypeAlias = "Callable[[], Iterator[ExportedClip]]"


def write_coco(folder: Path, name: str, clips: Clips) -> Path:
    """Write one JSON in COCO's instance format: frames are images, boxes are annotations.

    Boxes are in pixels of the images, if images are written beside it.
    """
    path = folder / f"{name}.coco.json"
    with atomic_file(path) as stream:
        stream.write(b'{"info": {"description": "motion boxes"},\n"categories": ')
        stream.write(_json([{"id": 1, "name": CATEGORY}]))
        stream.write(b',\n"images": [')
        _write_items(stream, _coco_images(clip.in_image_pixels() for clip in clips()))
        stream.write(b'],\n"annotations": [')
        _write_items(stream, _coco_annotations(clip.in_image_pixels() for clip in clips()))
        stream.write(b"]}\n")
    return path


def _coco_images(clips: Iterator[ExportedClip]) -> Iterator[dict[str, Any]]:
    number = 0
    for clip in clips:
        for frame, seconds, _, _ in clip.rows():
            number += 1
            yield {
                "id": number,
                "file_name": _frame_name(clip, frame),
                "width": clip.size[0],
                "height": clip.size[1],
                "clip_id": clip.clip_id,
                "frame_index": frame,
                "pts_seconds": seconds,
            } | ({} if clip.video is None else {"video": clip.video})


def _coco_annotations(clips: Iterator[ExportedClip]) -> Iterator[dict[str, Any]]:
    image = number = 0
    for clip in clips:
        for _, _, box, score in clip.rows():
            image += 1
            if box is None:
                continue
            number += 1
            x1, y1, x2, y2 = box
            # The difference is computed in double precision, so x + width gives the same float32.
            yield {
                "id": number,
                "image_id": image,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            } | ({} if score is None else {"score": score})


def write_something_else(folder: Path, name: str, clips: Clips) -> Path:
    """Write one JSON in the format of Something-Else: clip -> frames, from `<clip_id>/0001.jpg`."""
    path = folder / f"{name}.something-else.json"
    with atomic_file(path) as stream:
        between = b"{\n"
        for clip in clips():
            frames = [
                {"name": _frame_name(clip, frame), "labels": _something_else_labels(box)}
                for frame, _, box, _ in clip.rows()
            ]
            stream.write(between + _json(clip.clip_id) + b": " + _json(frames))
            between = b",\n"
        stream.write(b"\n}\n" if between == b",\n" else b"{}\n")
    return path


def _something_else_labels(box: list[float] | None) -> list[dict[str, Any]]:
    if box is None:
        return []
    corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    return [{"box2d": corners, "category": CATEGORY, "standard_category": CATEGORY}]


def write_csv(folder: Path, name: str, clips: Clips) -> Path:
    """Write a folder with `<clip_id>.boxes.csv`. A frame without a box has empty coordinates.

    Raises:
        InputError: a clip id cannot be the name of a file.
    """
    path = folder / f"{name}-csv"
    with _new_folder(path) as temporary:
        for clip in clips():
            if "/" in clip.clip_id:
                raise InputError(
                    "bad-name",
                    f"clip id {clip.clip_id!r} cannot be the name of a file; export coco or "
                    "something-else instead (--formats)",
                )
            _write_clip_csv(temporary / f"{clip.clip_id}.boxes.csv", clip)
    return path


def write_images(folder: Path, name: str, clips: Iterable[tuple[str, list[np.ndarray]]]) -> Path:
    """Write the frames of clips as `<clip_id>/0001.jpg`, the names in the JSON of `write_coco`.

    Args:
        clips: id and JPEG files, uint8 [bytes], of each clip.

    Raises:
        InputError: a clip id cannot be the name of a folder.
    """
    path = folder / f"{name}.coco-images"
    with _new_folder(path) as temporary:
        for clip_id, jpegs in clips:
            if "/" in clip_id or clip_id in (".", ".."):
                raise InputError(
                    "bad-name",
                    f"clip id {clip_id!r} cannot be the name of a folder; leave --images out",
                )
            (temporary / clip_id).mkdir()
            for frame, jpeg in enumerate(jpegs):
                (temporary / _image_name(clip_id, frame)).write_bytes(jpeg.tobytes())
    return path


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces `path` at the end of the block, unless that raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _write_clip_csv(path: Path, clip: ExportedClip) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("frame", "x1", "y1", "x2", "y2", "score", "pts_seconds"))
        for frame, seconds, box, score in clip.rows():
            sides = ("",) * 4 if box is None else tuple(box)
            written = "" if score is None else score
            writer.writerow((frame, *sides, written, seconds))


WRITERS: dict[str, Callable[[Path, str, Clips], Path]] = {
    "coco": write_coco,
    "something-else": write_something_else,
    "csv": write_csv,
}


def _frame_name(clip: ExportedClip, frame: int) -> str:
    return _image_name(clip.clip_id, frame)


def _image_name(clip_id: str, frame: int) -> str:
    return f"{clip_id}/{frame + 1:04d}.jpg"


def _write_items(stream: Any, items: Iterator[dict[str, Any]]) -> None:
    between = b"\n"
    for item in items:
        stream.write(between + _json(item))
        between = b",\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
