"""Reads boxes in COCO's instance format: each frame is an image, each box an annotation.

COCO has no videos, so an image has two more keys: `clip_id`, and `frame_index` from 0. `bbox` is
x, y, width, height in pixels of the image. If an image has `width` and `height`, these may differ
from the size of the clip.
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
    """Read COCO JSON whose images have the keys `clip_id` and `frame_index`.

    Raises:
        InputError: a file has another format, an image lacks one of these keys, or a box belongs
            to no image.
    """
    boxes: dict[str, dict[int, list]] = defaultdict(dict)
    sizes: dict[str, tuple[float, float]] = {}
    others: set[str] = set()
    for file in files:
        content = read_json(file, dict)
        for key in ("images", "annotations"):
            if not isinstance(content.get(key), list):
                raise InputError(
                    "wrong-format",
                    f"{file}: there is no list {key!r}, so this is not COCO's instance format",
                )
        rows = _frame_rows(file, content["images"], wanted, boxes)
        _read_sizes(file, content["images"], boxes, sizes)
        others.update(image["clip_id"] for image in content["images"][:3])
        for number, entry in enumerate(content["annotations"], start=1):
            where = f"{file}, annotation {number}"
            try:
                row = rows[entry["image_id"]]
                x, y, width, height = (float(value) for value in entry["bbox"])
            except KeyError as error:
                raise InputError(
                    "bad-entry", f"{where}: {error} is missing, or is not the id of an image"
                ) from None
            except (TypeError, ValueError, OverflowError):
                raise InputError(
                    "bad-entry",
                    f"{where}: {entry!r:.80}; a bbox [x, y, width, height] is expected",
                ) from None
            if row is not None:
                row.append([x, y, x + width, y + height])
    frames: dict[str, Frames] = {
        clip_id: {index: box_array(found, clip_id) for index, found in numbered.items()}
        for clip_id, numbered in boxes.items()
    }
    return BoxAnnotations(
        frames.keys(),
        frames.__getitem__,
        annotated_size=sizes.get,
        others=others - frames.keys(),
    )


def _read_sizes(
    file: Path, images: list, wanted: Collection[str], sizes: dict[str, tuple[float, float]]
) -> None:
    """Add the size of the images of each clip, where they have one.

    Raises:
        InputError: images of one clip have different sizes.
    """
    for image in images:
        clip_id, size = image["clip_id"], (image.get("width"), image.get("height"))
        is_size = all(type(side) in (int, float) and side > 0 for side in size)
        if not is_size or clip_id not in wanted:
            continue
        if (other := sizes.setdefault(clip_id, size)) != size:
            raise InputError(
                "bad-entry",
                f"{file}: images of clip {clip_id!r} are {other} and {size} pixels; all images of "
                "a clip must have one size",
            )


def _frame_rows(
    file: Path, images: list, wanted: Collection[str], boxes: dict[str, dict[int, list]]
) -> dict[Any, list | None]:
    """The list that collects the boxes of each image, by image id; None if it is not wanted."""
    rows: dict[Any, list | None] = {}
    for number, image in enumerate(images, start=1):
        try:
            clip_id, index, image_id = image["clip_id"], image["frame_index"], image["id"]
        except (KeyError, TypeError):
            raise InputError(
                "missing-key", f"{file}, image {number}: id, clip_id and frame_index are expected"
            ) from None
        if type(clip_id) is not str or type(index) is not int or index < 0:
            raise InputError(
                "wrong-type",
                f"{file}, image {number}: clip_id is {clip_id!r:.60} and frame_index is "
                f"{index!r:.60}; a string and a whole number of at least 0 are expected",
            )
        if not isinstance(image_id, (int, str)) or image_id in rows:
            raise InputError(
                "duplicate",
                f"{file}, image {number}: id is {image_id!r:.60}; each image needs an id of its "
                "own, a number or a string",
            )
        rows[image_id] = boxes[clip_id].setdefault(index, []) if clip_id in wanted else None
    return rows
