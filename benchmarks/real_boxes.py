"""Annotated boxes of JHMDB for masks, and those of other clips: what are boxes worth in training?

MOFO asks this in appendix E, figure 7b. The boxes come from a CSV file with the columns
clip,frame,x1,y1,x2,y2, in pixels of the original videos (320x240). They are written as
Something-Else JSON, which `preprocess.boxes --from-annotations` reads.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np

from benchmarks.annotated_sets import JHMDB_SIZE
from benchmarks.real_clips import ACTIONS, read_labels, run_preprocess
from preprocess.annotations.clip_rows import clip_id_of
from shared.errors import InputError
from shared.layout import DatasetLayout

ANNOTATED = "annotated"
OTHERS = "others"  # each clip has the boxes of a clip of another source


def prepare_boxes(
    clips: DatasetLayout, actions: Path, boxes: Path, sources: Mapping[str, str], name: str
) -> None:
    """Make the shards boxes-<name>/ of all clips.

    Args:
        actions: folder that holds jhmdb21/.
        boxes: the CSV file.
        sources: the source video of each clip.
        name: ANNOTATED or OTHERS.
    """
    of_clip = read_person_boxes(boxes, actions)
    if name == OTHERS:
        of_clip = exchanged(of_clip, sources)
    path = clips.root / "list" / f"{name}-boxes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(something_else(of_clip)))
    annotations = ("--from-annotations", str(path.resolve()), "--format", "something-else")
    run_preprocess("boxes", clips, "--name", name, *annotations)


def read_person_boxes(boxes: Path, actions: Path) -> dict[str, np.ndarray]:
    """The boxes of each annotated clip, float64 [frames, 4], in pixels of the copy.

    Raises:
        InputError: there is no such file.
    """
    if not boxes.is_file():
        raise InputError("missing-file", f"--boxes {boxes}: there is no such file")
    rows = defaultdict(list)
    with open(boxes, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["clip"]].append([float(row[edge]) for edge in ("x1", "y1", "x2", "y2")])
    found = {}
    for row in read_labels(actions):
        clip = f"{row['label']}/{Path(row['path']).stem}"
        if clip in rows:
            with av.open(str(actions / ACTIONS / row["path"])) as container:
                stream = container.streams.video[0]
                scale = np.tile(np.array([stream.width, stream.height]) / JHMDB_SIZE, 2)
            found[clip_id_of(clip)] = np.array(rows[clip]) * scale
    return found


def exchanged(
    of_clip: Mapping[str, np.ndarray], sources: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Give each clip the boxes of a clip of another source, stretched to its number of frames.

    Each clip's boxes are used once. No source may have half of the clips.
    """
    order = sorted(of_clip, key=lambda clip_id: (sources[clip_id], clip_id))
    found = {}
    for place, clip_id in enumerate(order):
        other = of_clip[order[(place + len(order) // 2) % len(order)]]
        count = len(of_clip[clip_id])
        found[clip_id] = other[np.arange(count) * len(other) // count]
    return found


def something_else(of_clip: Mapping[str, np.ndarray]) -> dict[str, list[dict]]:
    """The boxes in the form of Something-Else's JSON, whose frames count from 1."""
    return {
        clip_id: [
            {
                "name": f"{frame + 1:04d}.jpg",
                "labels": [
                    {
                        "box2d": dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True)),
                        "standard_category": "person",
                    }
                ],
            }
            for frame, box in enumerate(boxes)
        ]
        for clip_id, boxes in of_clip.items()
    }
