"""The real clips of benchmarks/real_video.py: JHMDB-21, and hockey clips without labels.

One dataset has the shards of all clips. Each fold is a dataset of its own: its manifest.csv lists
the same clips with other splits, and its frames/, flows/ and boxes/ are links to the shards.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.training_runs import ROOT
from preprocess.annotations.clip_rows import clip_id_of
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest, write_classes, write_manifest

ACTIONS = "jhmdb21"
HOCKEY = "hockey"
FOLDS = (0, 1, 2, 3)
CHOICE_FOLD = 0
"""Every choice is made on this fold, and no reported figure is from it. Its clips are split val."""
SHARDS = ("--clips-per-shard", "128")
SHARD_FOLDERS = ("frames", "flows", "boxes")
COLUMNS = ("clip_id", "video", "start_seconds", "stop_seconds", "split", "label", "verb", "noun")
# Tracks of one step are the flow at 64 points along the short side, 8 x 8 for each patch.
VELOCITIES = (
    *("--trajectories", "--stabilise", "subtract"),
    *("--track-length", "1", "--track-points", "64", "--track-cell", "0"),
)
# What MME predicts and what MGM masks along; megabytes for each clip.
TRACKS = ("--trajectories", "--stabilise", "warp", "--source", "tvl1,motion-vectors", "--lengths")
TRACKS_NAME = "mme"
"""The flow source under which a fold finds the flows/ with TRACKS."""


def prepare(
    clips: DatasetLayout, actions: Path, hockey: bool, source: str, pool: str, boxes: bool
) -> None:
    """Compute frames, flow and velocities of all clips of a dataset.

    Args:
        clips: the dataset of all clips.
        actions: folder that holds jhmdb21/ (with labels.csv and videos/) and hockey/videos/.
        hockey: whether the hockey clips are among them.
        source: the source of flow.
        pool: how `preprocess.flows` runs its workers.
        boxes: whether motion boxes are computed too.
    """
    list_clips(clips, actions, hockey)
    flows = (*("--source", source), *VELOCITIES, *SHARDS, "--pool", pool)
    run_preprocess("flows", clips, *_videos(actions), *flows)
    if boxes:
        run_preprocess("boxes", clips)


def prepare_tracks(clips: DatasetLayout, actions: Path, hockey: bool, pool: str) -> None:
    """Compute the tracks of MME and the motion vectors of MGM of all clips, beside `clips`."""
    tracks = tracks_of(clips)
    list_clips(tracks, actions, hockey)
    run_preprocess("flows", tracks, *_videos(actions), *TRACKS, *SHARDS, "--pool", pool)


def tracks_of(clips: DatasetLayout) -> DatasetLayout:
    """The dataset with the tracks of the same clips."""
    return DatasetLayout(clips.out, f"{clips.dataset}-tracks")


def list_clips(layout: DatasetLayout, actions: Path, hockey: bool) -> None:
    """Write the manifest of all clips; arguments as in `prepare`."""
    listed = write_clip_list(actions, layout.root / "list", hockey).resolve()
    run_preprocess("manifest", layout, *_videos(actions), "--manifest", str(listed))


def _videos(actions: Path) -> tuple[str, str]:
    return "--videos", str(actions.resolve())


def run_preprocess(module: str, layout: DatasetLayout, *arguments: str) -> None:
    """Run a command of preprocess/ on a dataset."""
    data = ("--dataset", layout.dataset, "--out", str(layout.out.resolve()))
    whole = [sys.executable, "-m", f"preprocess.{module}", *data, *arguments]
    done = subprocess.run(whole, cwd=ROOT)
    if done.returncode:
        raise InputError("not-finished", f"preprocess.{module} ended with status {done.returncode}")


def write_clip_list(actions: Path, folder: Path, hockey: bool) -> Path:
    """Write clips.csv and classes.json for preprocess.manifest; returns the path of clips.csv.

    All clips have split train here, because a fold decides the splits.
    """
    rows: list[Iterable[object]] = [COLUMNS]
    labels = read_labels(actions)
    names = sorted({row["label"] for row in labels})
    for row in labels:
        video, label = f"{ACTIONS}/{row['path']}", names.index(row["label"])
        rows.append((_clip_id(row), video, "", "", "train", label, "", ""))
    for path in sorted((actions / HOCKEY).rglob("*.mp4")) if hockey else ():
        clip_id = clip_id_of(f"{HOCKEY}/{path.parent.name}/{path.stem}")
        rows.append((clip_id, path.relative_to(actions), "", "", "train", "", "", ""))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "clips.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    classes = {"label": names, "flip_x": list(range(len(names)))}  # no action has a side
    (folder / "classes.json").write_text(json.dumps(classes, indent=1) + "\n")
    return folder / "clips.csv"


def read_labels(actions: Path) -> list[dict[str, str]]:
    """The rows of JHMDB's labels.csv: path, label, group (the source video), fold, frames.

    Raises:
        InputError: there is no such file.
    """
    path = actions / ACTIONS / "labels.csv"
    if not path.is_file():
        raise InputError(
            "missing-file",
            f"{path} does not exist; --videos must name the folder that holds {ACTIONS}/ with "
            "labels.csv and videos/",
        )
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_sources(actions: Path) -> dict[str, str]:
    """The source video of each clip of JHMDB. Clips of one source are not independent."""
    return {_clip_id(row): row["group"] for row in read_labels(actions)}


def make_fold(clips: DatasetLayout, actions: Path, fold: int) -> DatasetLayout:
    """Make the dataset of a fold: its own clips are split test, all others are split train.

    The clips of the choice fold are split val instead of split test.
    """
    layout = DatasetLayout(clips.out, f"{clips.dataset}-fold{fold}")
    layout.root.mkdir(parents=True, exist_ok=True)
    held_out = {_clip_id(row) for row in read_labels(actions) if int(row["fold"]) == fold}
    splits = {True: "val" if fold == CHOICE_FOLD else "test", False: "train"}
    write_manifest(
        layout.manifest,
        [
            replace(clip, split=splits[clip.clip_id in held_out])
            for clip in read_manifest(clips.manifest)
        ],
    )
    write_classes(layout.classes, read_classes(clips.classes))
    for name in SHARD_FOLDERS:
        _link(layout.root / name, clips.root / name)
    for folder in clips.boxes_folders():
        _link(layout.root / folder.name, folder)
    tracks = tracks_of(clips)
    _link(layout.flows_of(TRACKS_NAME), tracks.flows)
    vectors = "motion-vectors-length"
    _link(layout.flows_of(vectors), tracks.flows_of(vectors))
    return layout


def _link(link: Path, folder: Path) -> None:
    """Make a link to a folder, if the folder exists and the link does not."""
    if folder.is_dir() and not link.is_symlink():
        link.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)


def count_clips(layout: DatasetLayout) -> int:
    """Number of clips of split train of a fold, which is what a pretraining sees in an epoch."""
    return sum(clip.split == "train" for clip in read_manifest(layout.manifest))


def count_labelled(layout: DatasetLayout, per_class: int) -> int:
    """Number of clips that are learned from, with so many labels of each class; 0 is all."""
    clips = read_manifest(layout.manifest)
    found = Counter(c.label for c in clips if c.split == "train" and c.label is not None)
    return sum(min(count, per_class or count) for count in found.values())


def held_out_split(fold: int) -> str:
    return "val" if fold == CHOICE_FOLD else "test"


def _clip_id(row: dict[str, str]) -> str:
    return clip_id_of(f"{row['label']}/{Path(row['path']).stem}")
