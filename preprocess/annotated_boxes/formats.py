"""Reads annotated boxes: Something-Else JSON, COCO JSON, CSV, and two formats of EPIC-KITCHENS.

All formats give boxes x1 y1 x2 y2 in pixels, half-open, float32 [K, 4], by frame of a clip or
video. The same code reads the files of preprocess/export.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.annotated_boxes.coco import open_coco
from preprocess.annotated_boxes.epic import open_epic55, open_epic_hand_objects
from preprocess.annotated_boxes.matching import (
    BoxAnnotations,
    Frames,
    ReadOptions,
    box_array,
    find_files,
)
from preprocess.annotations.text_files import json_errors, read_csv, read_text, whole_number
from shared.errors import InputError


def open_annotations(
    box_format: str, path: Path, wanted: Collection[str], options: ReadOptions
) -> BoxAnnotations:
    """Read annotations, or only list them if the format can be read clip by clip.

    Args:
        box_format: a key of FORMATS.
        path: file, or folder of files.
        wanted: ids of the clips whose boxes are kept.
        options: options of the format.

    Raises:
        InputError: there is no such file, a file has another format, or an option has no effect on
            the format.
    """
    of_epic = box_format.startswith("epic")
    if options.rate is not None and not of_epic:
        raise InputError(
            "option-unused",
            f"--annotation-fps has no effect on {box_format}, whose frames are numbered by clip; "
            "leave it out",
        )
    if options.min_score is not None and box_format != "epic-hand-objects":
        raise InputError(
            "option-unused",
            f"--min-score has no effect on {box_format}, whose boxes have no scores; leave it out",
        )
    files = annotation_files(box_format, path)
    return FORMATS[box_format].open(files, wanted, options)


def annotation_files(box_format: str, path: Path) -> list[Path]:
    """The file itself, or the files of a folder that have the format, in the order of their names.

    Raises:
        InputError: there is no such file.
    """
    if not path.exists():
        raise InputError("missing-file", f"no annotations at {path}")
    return find_files(path, FORMATS[box_format].pattern)


def open_something_else(
    files: Sequence[Path], wanted: Collection[str], options: ReadOptions
) -> BoxAnnotations:
    """Something-Else: `{id: [{name: "3201/0001.jpg", labels: [{box2d: {x1,y1,x2,y2}}]}]}`.

    File names number the frames from 0001. All boxes of a frame are read, hands and objects. In a
    folder the files `*box*.json` are read, because the dataset comes in four parts.
    """
    frames: dict[str, Frames] = {}
    others: list[str] = []
    for part in files:
        for clip_id, entries in _top_level_items(part):
            if clip_id in wanted:
                frames[clip_id] = _something_else_frames(f"{part}, clip {clip_id!r}", entries)
            elif len(others) < 3:
                others.append(clip_id)
    return BoxAnnotations(frames.keys(), frames.__getitem__, others=others)


def open_csv(
    files: Sequence[Path], wanted: Collection[str], options: ReadOptions
) -> BoxAnnotations:
    """`<clip_id>.boxes.csv` with the columns frame,x1,y1,x2,y2; other columns are ignored.

    Frames are numbered from 0. Each row is one box, and a frame may have several rows. A row with
    four empty coordinates means that the frame has no box.
    """
    of_clip = {file.name.removesuffix(".boxes.csv"): file for file in files}
    return BoxAnnotations(of_clip.keys(), lambda clip_id: read_boxes_csv(of_clip[clip_id]))


@dataclass(frozen=True)
class BoxFormat:
    """A format of annotated boxes.

    Attributes:
        pattern: the files of a folder that have the format.
        open: reads the files.
    """

    pattern: str
    open: Callable[[Sequence[Path], Collection[str], ReadOptions], BoxAnnotations]


FORMATS: dict[str, BoxFormat] = {
    "something-else": BoxFormat("*box*.json", open_something_else),
    "coco": BoxFormat("*coco*.json", open_coco),
    "csv": BoxFormat("*.boxes.csv", open_csv),
    "epic-hand-objects": BoxFormat("**/*.pkl", open_epic_hand_objects),
    "epic55": BoxFormat("*object_labels*.csv", open_epic55),
}


def read_boxes_csv(path: Path) -> Frames:
    """Read the boxes of one `.boxes.csv`, by frame.

    Raises:
        InputError: a row is not valid.
    """
    found: dict[int, list] = defaultdict(list)
    for where, row in read_csv(path, ("frame", "x1", "y1", "x2", "y2")):
        values = [row[name].strip() for name in ("x1", "y1", "x2", "y2")]
        frame = found[whole_number(row["frame"].strip(), "frame", where)]
        if any(values):
            try:
                frame.append([float(value) for value in values])
            except ValueError:
                raise InputError(
                    "bad-entry", f"{where}: x1,y1,x2,y2 are {values}; numbers are expected"
                ) from None
    return {frame: box_array(boxes, str(path)) for frame, boxes in found.items()}


def _top_level_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the items of a JSON object one by one, because a file can have a gigabyte."""
    text, decoder = read_text(path), json.JSONDecoder()

    def skip(position: int, expected: str) -> int:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        if position >= len(text) or text[position] not in expected:
            found = text[position : position + 1] or "the end"
            raise InputError(
                "wrong-format",
                f"{path}: character {position} is {found!r}; {expected!r} is expected",
            )
        return position + 1

    with json_errors(path):
        position = skip(skip(0, "{"), '"}')
        while text[position - 1] != "}":
            key, position = decoder.raw_decode(text, position - 1)
            position = skip(position, ":")
            while text[position : position + 1].isspace():
                position += 1
            value, position = decoder.raw_decode(text, position)
            yield key, value
            position = skip(position, ",}")
            if text[position - 1] == ",":
                position = skip(position, '"')


def _something_else_frames(where: str, entries: Any) -> Frames:
    frames: Frames = {}
    try:
        for entry in entries:
            number = Path(entry["name"]).stem
            index = whole_number(number, "frame", f"{where}, {entry['name']!r}") - 1
            corners = [
                [label["box2d"][corner] for corner in ("x1", "y1", "x2", "y2")]
                for label in entry["labels"]
            ]
            frames[index] = box_array(corners, f"{where}, {entry['name']!r}")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            "wrong-format", f"{where}: not in the format of Something-Else ({error!r})"
        ) from None
    if frames and min(frames) < 0:
        raise InputError("bad-entry", f"{where}: frame 0000; the first frame is 0001")
    return frames
