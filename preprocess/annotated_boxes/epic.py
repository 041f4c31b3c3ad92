"""Reads boxes of EPIC-KITCHENS: hand-object detections of 2020, and object labels of 2018.

Both number the frames of whole videos. The frames of a clip are matched by their times.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import lru_cache, partial
from pathlib import Path

from preprocess.annotated_boxes.hand_object_detections import read_detections
from preprocess.annotated_boxes.matching import BoxAnnotations, ReadOptions, box_array
from preprocess.annotations.text_files import read_csv, whole_number
from shared.errors import InputError

# Frames of EPIC-KITCHENS-100 were extracted at 60 per second from the videos of 2018 (P01_01) and
# at 50 from those of 2020 (P01_101): official frame counts over durations give 60.004 and 50.002.
RATE_2018, RATE_2020 = 60.0, 50.0
# EPIC-KITCHENS-55 object labels are in pixels of the original videos; all others are 1920x1080.
EPIC55_SIZE = (1920, 1080)
EPIC55_SIZES = {f"P12_0{n}": (1280, 720) for n in range(1, 5)} | {
    f"P12_0{n}": (2560, 1440) for n in (5, 6)
}


def open_epic_hand_objects(
    files: Sequence[Path], wanted: Collection[str], options: ReadOptions
) -> BoxAnnotations:
    """Hand and object detections of EPIC-KITCHENS-100: one `<video_id>.pkl` for each video."""
    of_video = {file.stem: file for file in files}
    min_score = 0.5 if options.min_score is None else options.min_score  # their authors' advice
    return BoxAnnotations(
        names=of_video.keys(),
        # Clips of a video follow each other, so each video is read once.
        load=lru_cache(maxsize=1)(lambda name: read_detections(of_video[name], min_score)),
        of_videos=True,
        rate=partial(_epic_rate, options.rate),
        annotated_size=lambda name: (1.0, 1.0),
    )


def open_epic55(
    files: Sequence[Path], wanted: Collection[str], options: ReadOptions
) -> BoxAnnotations:
    """EPIC_train_object_labels.csv: video_id,frame,bounding_boxes "[(top, left, height, width)]".

    Frames are numbered from 1 at the frame rate of the video. Boxes are in pixels of the original
    video.
    """
    videos = {clip_id.rpartition("_")[0] for clip_id in wanted} | set(wanted)
    boxes: dict[str, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    others: set[str] = set()
    for file in files:
        for where, row in read_csv(file, ("video_id", "frame", "bounding_boxes")):
            if row["video_id"] in videos:
                number = whole_number(row["frame"], "frame", where)
                boxes[row["video_id"]][number] += _epic55_boxes(row["bounding_boxes"], where)
            elif len(others) < 3:
                others.add(row["video_id"])
    frames = {
        video: {number: box_array(found, video) for number, found in numbered.items()}
        for video, numbered in boxes.items()
    }
    rate = options.rate
    return BoxAnnotations(
        names=frames.keys(),
        load=frames.__getitem__,
        of_videos=True,
        rate=None if rate is None else lambda name: rate,
        annotated_size=lambda name: EPIC55_SIZES.get(name, EPIC55_SIZE),
        others=others,
    )


def _epic55_boxes(text: str, where: str) -> list[list[float]]:
    try:
        rows = json.loads(text.replace("(", "[").replace(")", "]"))
        boxes = [[float(value) for value in row] for row in rows]
        return [[left, top, left + width, top + height] for top, left, height, width in boxes]
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise InputError(
            "bad-entry",
            f"{where}: bounding_boxes is {text[:60]!r}; [(top, left, height, width), ...] is "
            "expected",
        ) from None


def _epic_rate(given: float | None, video: str) -> float:
    if given is not None:
        return given
    return RATE_2020 if len(video.rpartition("_")[2]) == 3 else RATE_2018
