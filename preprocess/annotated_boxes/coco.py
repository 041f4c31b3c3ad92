"""Boxes in COCO's instance format: one image a frame, one annotation a box.

COCO itself knows no video, so an image has two keys more, as the video datasets after it have:
`clip_id` and `frame_index`, from 0. `bbox` is x, y, width, height in pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from preprocess.annotated_boxes.matching import BoxAnnotations, Frames, ReadOptions, box_array
from preprocess.annotations.text_files import read_json
from shared.errors import InputError


def open_coco(
    files: Sequence[Path], wanted: Collection[str], options: ReadOptions
) -> BoxAnnotations:
    """COCO JSON whose images say which frame of which clip they are.

    Raises:
        InputError: not COCO, images without clip_id and frame_index, or a box of no image.
    """
    boxes: dict[str, dict[int, list]] = defaultdict(dict)
    others: set[str] = set()
    for file in files:
        content = read_json(file, dict)
        for key in ("images", "annotations"):
            if not isinstance(content.get(key), list):
                raise InputError(f"{file}: no list {key!r}, so it is not COCO's instance format")
        rows = _frame_rows(file, content["images"], wanted, boxes)
        others.update(image["clip_id"] for image in content["images"][:3])
        for number, entry in enumerate(content["annotations"], start=1):
            where = f"{file}, annotation {number}"
            try:
                row = rows[entry["image_id"]]
                x, y, width, height = (float(value) for value in entry["bbox"])
            except KeyError as error:
                raise InputError(f"{where}: {error} is missing, or is no image's id") from None
            except (TypeError, ValueError, OverflowError):
                raise InputError(
                    f"{where}: {entry!r:.80}; a bbox [x, y, width, height] is expected"
                ) from None
            if row is not None:
                row.append([x, y, x + width, y + height])
    frames: dict[str, Frames] = {
        clip_id: {index: box_array(found, clip_id) for index, found in numbered.items()}
        for clip_id, numbered in boxes.items()
    }
    return BoxAnnotations(frames.keys(), frames.__getitem__, others=others - frames.keys())


def _frame_rows(
    file: Path, images: list, wanted: Collection[str], boxes: dict[str, dict[int, list]]
) -> dict[Any, list | None]:
    """By image id the list that its boxes go to; None for frames of clips that are not wanted."""
    rows: dict[Any, list | None] = {}
    for number, image in enumerate(images, start=1):
        try:
            clip_id, index, image_id = image["clip_id"], image["frame_index"], image["id"]
        except (KeyError, TypeError):
            raise InputError(
                f"{file}, image {number}: id, clip_id and frame_index are expected"
            ) from None
        if type(clip_id) is not str or type(index) is not int or index < 0:
            raise InputError(
                f"{file}, image {number}: clip_id {clip_id!r:.60} and frame_index {index!r:.60}; a "
                "text and a whole number from 0 are expected"
            )
        if not isinstance(image_id, (int, str)) or image_id in rows:
            raise InputError(
                f"{file}, image {number}: id {image_id!r:.60}; each image needs an id of its own"
            )
        rows[image_id] = boxes[clip_id].setdefault(index, []) if clip_id in wanted else None
    return rows
