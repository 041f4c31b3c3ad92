"""Formats of annotated boxes: Something-Else JSON, COCO JSON, plain CSV, two of EPIC-KITCHENS.

All give boxes x1 y1 x2 y2 in pixels, half-open, float32[K,4], by frame of a clip or video. What
preprocess/export.py writes is read by the same code.
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
    """Read annotations, or list them where they can be read clip by clip.

    Args:
        box_format: a key of FORMATS.
        path: file, or folder of files.
        wanted: clip ids; others are not kept.
        options: what does not apply to the format is refused.

    Raises:
        InputError: nothing there, or not in that format, with file and row.
    """
    of_epic = box_format.startswith("epic")
    if options.rate is not None and not of_epic:
        raise InputError(f"--annotation-fps does not apply to {box_format}: its frames are counted")
    if options.min_score is not None and box_format != "epic-hand-objects":
        raise InputError(f"--min-score does not apply to {box_format}: its boxes have no scores")
    files = annotation_files(box_format, path)
    return FORMATS[box_format].open(files, wanted, options)


def annotation_files(box_format: str, path: Path) -> list[Path]:
    """The file itself, or the files of a folder that the format reads, in order.

    Raises:
        InputError: there is none.
    """
    if not path.exists():
        raise InputError("missing-file", f"no annotations at {path}")
    return find_files(path, FORMATS[box_format].pattern)


def open_something_else(
    files: Sequence[Path], wanted: Collection[str], options: ReadOptions
) -> BoxAnnotations:
    """Something-Else: `{id: [{name: "3201/0001.jpg", labels: [{box2d: {x1,y1,x2,y2}}]}]}`.

    The file name of a frame counts from 0001 = the first frame. All boxes of a frame count, hands
    and objects. A folder is read as its `*box*.json` (the dataset comes in four parts).
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

    Frames count from 0. A row is a box; several rows may speak of one frame; a row with four empty
    coordinates says that the frame has no box.
    """
    of_clip = {file.name.removesuffix(".boxes.csv"): file for file in files}
    return BoxAnnotations(of_clip.keys(), lambda clip_id: read_boxes_csv(of_clip[clip_id]))


@dataclass(frozen=True)
class BoxFormat:
    """A format: which files of a folder it is in, and what opens them."""

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
    """Boxes by frame of one `.boxes.csv`."""
    found: dict[int, list] = defaultdict(list)
    for where, row in read_csv(path, ("frame", "x1", "y1", "x2", "y2")):
        values = [row[name].strip() for name in ("x1", "y1", "x2", "y2")]
        frame = found[whole_number(row["frame"].strip(), "frame", where)]
        if any(values):
            try:
                frame.append([float(value) for value in values])
            except ValueError:
                raise InputError(f"{where}: x1,y1,x2,y2 are {values}; numbers are wanted") from None
    return {frame: box_array(boxes, str(path)) for frame, boxes in found.items()}


def _top_level_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Items of a JSON object one by one: a part of Something-Else is a gigabyte of text."""
    text, decoder = read_text(path), json.JSONDecoder()

    def skip(position: int, expected: str) -> int:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        if position >= len(text) or text[position] not in expected:
            found = text[position : position + 1] or "the end"
            raise InputError(f"{path}: character {position} is {found!r}; {expected!r} is expected")
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
        raise InputError(f"{where}: not as Something-Else has it ({error!r})") from None
    if frames and min(frames) < 0:
        raise InputError(f"{where}: frame 0000; frames count from 0001")
    return frames
