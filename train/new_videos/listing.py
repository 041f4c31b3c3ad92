"""Lists the clips of files, folders and manifests that a user names."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_manifest, write_manifest
from train.new_videos.commands import run_preprocess

DATASET = "videos"  # name of the dataset that new videos are made into


@dataclass(frozen=True)
class NewClip:
    """One clip of a named path.

    Attributes:
        name: clip_id of the manifest, or the path as the user gave it.
        video: absolute path of the video.
        span: start and stop in seconds; None is the start or the end of the video.
    """

    name: str
    video: Path
    span: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Listing:
    """What is found at the named paths.

    Attributes:
        clips: the clips, in the order of the paths.
        missing: (name, reason) of each row of a CSV whose video does not exist.
    """

    clips: list[NewClip]
    missing: list[tuple[str, str]]


def list_clips(paths: Sequence[Path], videos: Path | None, work: Path) -> Listing:
    """List the clips of paths.

    Args:
        paths: video files; folders, whose videos are found as `preprocess.manifest` finds them; and
            CSV files of clips.
        videos: folder that the paths of a CSV are relative to; None for the folder of the CSV.
        work: folder for the lists that are made on the way.

    Raises:
        InputError: a path does not exist, or a folder or CSV is refused.
    """
    for path in paths:
        if not path.exists():
            raise InputError("missing-file", f"no file or folder {path}; check the path")
    if videos is not None and not any(_is_csv(path) for path in paths):
        raise InputError(
            "option-unused",
            f"--videos {videos} is the folder of the videos of a CSV, and no CSV was named; leave "
            "it out",
        )
    clips: list[NewClip] = []
    missing: list[tuple[str, str]] = []
    for number, path in enumerate(paths):
        layout = DatasetLayout(work / "lists" / str(number), DATASET)
        if path.is_dir():
            root = path
            _make_manifest(layout, root, "--unlabelled")
        elif _is_csv(path):
            root = (videos or path.parent).resolve()
            _make_manifest(layout, root, "--manifest", path.resolve())
        else:
            clips.append(NewClip(str(path), path.resolve()))
            continue
        clips += [
            NewClip(
                str(path / clip.video) if path.is_dir() else clip.clip_id,
                (root / clip.video).resolve(),
                (clip.start_seconds, clip.stop_seconds),
            )
            for clip in read_manifest(layout.manifest)
        ]
        if layout.missing.is_file():
            with open(layout.missing, encoding="utf-8", newline="") as stream:
                _, *rows = csv.reader(stream)
            missing += [(row[0], f"no video {row[1]} in {videos or path.parent}") for row in rows]
    return Listing(clips, missing)


def write_list(clips: Sequence[NewClip], layout: DatasetLayout) -> Path:
    """Write the manifest of new clips, with numbers as ids; returns the folder of the videos.

    Raises:
        InputError: the path of a video has characters that a manifest cannot have.
    """
    root = Path(os.path.commonpath([clip.video.parent for clip in clips]))
    rows = []
    for number, clip in enumerate(clips):
        video = clip.video.relative_to(root).as_posix()
        try:
            video.encode()
        except UnicodeEncodeError:
            raise InputError(
                "bad-name", f"{clip.video}: the path is not UTF-8; rename it"
            ) from None
        rows.append(Clip(clip_id(number), video, *clip.span, split="test"))
    write_manifest(layout.manifest, rows)
    return root


def clip_id(number: int) -> str:
    """The id of a new clip in the shards, by its place in the list."""
    return f"{number:06d}"


def _make_manifest(layout: DatasetLayout, videos: Path, *more: object) -> None:
    given = ("--dataset", layout.dataset, "--out", layout.out.resolve())
    run_preprocess("manifest", *given, "--videos", videos.resolve(), *more)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and path.is_file()
