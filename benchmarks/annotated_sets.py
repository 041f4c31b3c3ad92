"""Sets of annotated clips that motion boxes are judged on, and the two halves that each falls into.

Numbers are chosen on the half `tune` alone, and what is reported is measured on the half `report`.
A clip's half is decided by a hash of its source video, so that clips cut from one video never lie
in both, and more clips move none.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from benchmarks.datasets import run
from preprocess.annotated_boxes.formats import open_annotations
from preprocess.annotated_boxes.matching import ClipFrames, Frames, ReadOptions
from preprocess.annotated_boxes.metrics import clip_to_frame
from shared.layout import DatasetLayout
from shared.moving_areas import read_areas
from shared.shard_index import read_index
from shared.shards import ShardReader

HALVES = ("tune", "report")
JHMDB_SIZE = (320, 240)  # pixels that the boxes of JHMDB are in


@dataclass(frozen=True)
class AnnotatedSet:
    """Videos of clips with annotated boxes.

    Attributes:
        name: of the set.
        videos: files whose stems are the clip ids.
        box_format, annotations: as `preprocess.evaluate_boxes` takes them.
        sources: source video of each clip id; a clip that is not here is its own.
    """

    name: str
    videos: list[Path]
    box_format: str
    annotations: Path
    sources: dict[str, str]

    def source_of(self, clip_id: str) -> str:
        return self.sources.get(clip_id, clip_id)


@dataclass(frozen=True)
class AnnotatedClip:
    """A clip of a boxes shard with its annotated frames.

    Attributes:
        source: the video that it was cut from.
        size: width, height in pixels.
        boxes: float32 [T, 4], motion boxes; NaN where there is none.
        frames: int64 [F], numbers of the annotated frames, below T.
        annotated: float64 [F, K, 4], NaN where there are fewer than K.
        areas: bool [T, h, w], what moves in each frame.
    """

    clip_id: str
    source: str
    size: tuple[int, int]
    boxes: np.ndarray
    frames: np.ndarray
    annotated: np.ndarray
    areas: np.ndarray


def half_of(source: str) -> str:
    """Which half the clips of a source video belong to."""
    return HALVES[1 - hashlib.sha256(f"0/{source}".encode()).digest()[0] % 2]


def annotated_sets(samples: Path, toy: Path | None, scratch: Path) -> dict[str, AnnotatedSet]:
    """The sets that are there.

    Args:
        samples: with ssv2/, davis/ and actions/jhmdb21/ with boxes/; a set that is not there is
            left out.
        toy: OUT of a rendered toy dataset, or None.
        scratch: folder for annotation files that have to be converted.
    """
    sets = []
    if (samples / "davis").is_dir():
        sets.append(_folder("davis", samples / "davis", "csv", samples / "davis"))
    if (samples / "boxes/jhmdb21_boxes.csv").is_file():
        sets.append(_jhmdb(samples, scratch))
    if (samples / "ssv2").is_dir():
        boxes = samples / "ssv2/something_else_boxes.json"
        sets.append(_folder("ssv2", samples / "ssv2", "something-else", boxes))
    if toy is not None:
        root = DatasetLayout(toy, "toy").root
        sets.append(_folder("toy", root / "videos", "csv", root / "truth" / "boxes"))
    return {each.name: each for each in sets}


def make_flows(layout: DatasetLayout, videos: list[Path], *options: str) -> None:
    """Copy videos into a folder of the dataset's own, make its manifest and its flows."""
    layout.videos.mkdir(parents=True, exist_ok=True)
    for video in videos:
        shutil.copyfile(video, layout.videos / video.name)
    place = ("--dataset", layout.dataset, "--out", str(layout.out), "--videos", str(layout.videos))
    run("preprocess.manifest", *place)
    run("preprocess.flows", *place, "--pool", "in-process", *options)


def read_clips(folder: Path, of_set: AnnotatedSet) -> list[AnnotatedClip]:
    """All clips of a boxes folder that have annotated frames, in the order of the shards."""
    index = read_index(folder)
    assert index is not None, folder
    clips = []
    for shard in index.shards:
        with ShardReader(folder / shard.name, "boxes") as reader:
            ids = reader.clip_ids()
            known = open_annotations(
                of_set.box_format, of_set.annotations, frozenset(ids), ReadOptions()
            )
            for number, clip_id in enumerate(ids):
                first, last = reader.pair("/clip/frames", number)
                size = reader.pair("/clip/size", number)
                times = reader.rows("/frame/pts_seconds", first, last)
                found = known.of(ClipFrames(clip_id, size, times))
                frames, annotated = _stacked(found, size, last - first)
                boxes = reader.rows("/box/xyxy", first, last)
                source = of_set.source_of(clip_id)
                if len(frames):
                    areas = read_areas(reader, number, first, last)
                    clips.append(
                        AnnotatedClip(clip_id, source, size, boxes, frames, annotated, areas)
                    )
    return clips


def _stacked(
    found: Frames, size: tuple[int, int], num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [F] and boxes [F, K, 4] of annotated frames that the clip has."""
    frames = sorted(frame for frame in found if frame < num_frames)
    most = max((len(found[frame]) for frame in frames), default=0)
    stacked = np.full((len(frames), most, 4), np.nan)
    for row, frame in enumerate(frames):
        stacked[row, : len(found[frame])] = found[frame]
    shown = ~np.isnan(clip_to_frame(stacked, size)).all(axis=(1, 2))
    return np.array(frames, dtype=np.int64)[shown], stacked[shown]


def _folder(name: str, videos: Path, box_format: str, annotations: Path) -> AnnotatedSet:
    return AnnotatedSet(name, sorted(videos.rglob("*.mp4")), box_format, annotations, {})


def _jhmdb(samples: Path, scratch: Path) -> AnnotatedSet:
    """JHMDB-21: boxes in pixels of the original become boxes in pixels of the copies, a file a
    clip."""
    rows = defaultdict(list)
    with open(samples / "boxes/jhmdb21_boxes.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["clip"]].append(row)
    folder = scratch / "jhmdb-boxes"
    folder.mkdir(parents=True, exist_ok=True)
    videos, sources = [], {}
    with open(samples / "actions/jhmdb21/labels.csv", newline="", encoding="utf-8") as file:
        groups = {row["path"]: row["group"] for row in csv.DictReader(file)}
    for clip, of_clip in sorted(rows.items()):
        path = f"videos/{clip}.mp4"
        video = samples / "actions/jhmdb21" / path
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            scale = np.tile(np.array([stream.width, stream.height]) / JHMDB_SIZE, 2)
        lines = ["frame,x1,y1,x2,y2"]
        for row in of_clip:
            box = scale * [float(row[edge]) for edge in ("x1", "y1", "x2", "y2")]
            lines.append(",".join([row["frame"], *(f"{value:.3f}" for value in box)]))
        (folder / f"{video.stem}.boxes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        videos.append(video)
        sources[video.stem] = groups[path]
    return AnnotatedSet("jhmdb", videos, "csv", folder, sources)
