"""Write manifest.csv, which has one row for each clip, from annotations and a folder of videos.

    python -m preprocess.manifest --dataset ssv2 --annotations labels/ --videos 20bn-something-v2/

takes a few seconds for the 220,847 clips of Something-Something V2 and writes

    OUT/DATASET/manifest.csv   clips whose video exists
    OUT/DATASET/missing.csv    annotated clips whose video does not exist
    OUT/DATASET/classes.json   class names, and what flips do to labels
    OUT/DATASET/options.json   options, command line and versions

A dataset with a TOML in data_manifests/ is read from its official files. Any other name is your own
data: class folders, a flat folder without labels, or a CSV (--manifest).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from preprocess.annotations.base import Annotations, Source
from preprocess.annotations.class_folders import TEST_SHARE, read_class_folders, read_unlabelled
from preprocess.annotations.class_subset import only_classes
from preprocess.annotations.clip_rows import (
    ClipRows,
    format_missing,
    frames_to_seconds,
    match_videos,
)
from preprocess.annotations.dataset_spec import DatasetSpec, known_datasets, read_spec
from preprocess.annotations.readers import reader_of
from preprocess.annotations.readers.manifest_csv import read_manifest_csv
from preprocess.running.video_headers import read_headers
from preprocess.video.video_index import VideoIndex, scan_videos
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import SPLITS, Clip, format_manifest
from shared.progress import bar_options
from shared.run_record import RunLock, write_options
from shared.wording import counted


@dataclass(frozen=True)
class ManifestOptions:
    """The options of the command; None = not given.

    Attributes:
        annotations: folder of the official files.
        videos: the video root.
        manifest: CSV of the user's own clips.
        prefer: suffix of the file to use for a clip with several, "webm" or "mp4".
        split_number: number of the official split.
        test_share: share of the user's own clips that become the test split, 0..1.
        seed: seed for the choice of these clips.
        unlabelled: whether folders are no classes.
    """

    annotations: Path | None = None
    videos: Path | None = None
    manifest: Path | None = None
    prefer: str | None = None
    split_number: int | None = None
    test_share: float | None = None
    seed: int | None = None
    unlabelled: bool | None = None


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.option("--dataset", required=True, metavar="NAME",
              help=f"Name of the dataset: {', '.join(known_datasets())}, or a new name for your "
              "own data.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder that contains the folders of all datasets. The command writes to "
              "FOLDER/NAME.")  # fmt: skip
@click.option("--annotations", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder of the official annotation files of the dataset, as "
              "downloaded.")  # fmt: skip
@click.option("--videos", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder of the videos. Its subfolders are searched too.")  # fmt: skip
@click.option("--manifest", type=click.Path(path_type=Path), metavar="FILE",
              help="CSV file that lists your own clips. It has the columns of "
              "manifest.csv.")  # fmt: skip
@click.option("--prefer", type=click.Choice(["webm", "mp4"]),
              help="Type of the file that is used if a clip has a webm file and an mp4 file.  "
              "[default: webm]")  # fmt: skip
@click.option("--split-number", type=int, metavar="N",
              help="Number of the official split of UCF101 or HMDB51, 1 to 3.  [default: 1]"
              )  # fmt: skip
@click.option("--test-share", type=click.FloatRange(0, 1, max_open=True), metavar="SHARE",
              help="For your own folders: share of the clips of each class that becomes split "
              f"test.  [default: {TEST_SHARE} with classes, 0 without classes]")  # fmt: skip
@click.option("--seed", type=int, metavar="NUMBER",
              help="For your own folders: seed that chooses the clips of split test.  [default: 0]"
              )  # fmt: skip
@click.option("--unlabelled", is_flag=True, default=None,
              help="For your own folders: list every video at any depth, without labels, in split "
              "train.")  # fmt: skip
@click.option(
    "--dry-run", is_flag=True, help="Print the numbers of clips and classes, and write nothing."
)
@user_errors
def main(dataset: str, out: Path, dry_run: bool, **given: Any) -> None:
    layout = DatasetLayout(out, dataset)
    spec = read_spec(dataset)
    options = ManifestOptions(**given)
    _refuse_unused(dataset, spec, options)
    videos = _video_root(layout, spec, options)
    # ------------------------------------------------------------------ read
    print(f"manifest: {dataset}{f' ({spec.title})' if spec else ''}, videos in {videos}")
    index = scan_videos(videos)
    annotations = _annotations(layout, spec, options, index)
    rows = match_videos(annotations.clips, index, options.prefer or "webm")
    _refuse_nothing_found(rows, index)
    rows.clips = _in_seconds(rows, videos)
    # ------------------------------------------------------------------ print the counts
    for note in [*annotations.notes, *_index_notes(index)]:
        print(f"  {note}")
    print(_table(rows, spec))
    print(f"  classes: {_class_counts(annotations)}")
    if dry_run:
        return
    # ------------------------------------------------------------------ write
    with RunLock(layout.lock):
        written = write_files(layout, rows, annotations)
        if written:
            write_options(layout.root / "options.json", {"dataset": dataset, **asdict(options)})
    for path in (layout.manifest, layout.missing, layout.classes):
        print(f"  {path}: {'written' if path in written else 'unchanged'}")


def write_files(layout: DatasetLayout, rows: ClipRows, annotations: Annotations) -> list[Path]:
    """Write the three files, each only if its content changes.

    Returns:
        the files that were written.
    """
    classes = json.dumps(asdict(annotations.classes), indent=1, ensure_ascii=False) + "\n"
    texts = {
        layout.missing: format_missing(rows.missing),
        layout.classes: classes,
        layout.manifest: format_manifest(rows.clips),  # last: if it exists, so do the others
    }
    written = []
    for path, text in texts.items():
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomically(path, text.encode())
            written.append(path)
    return written


def _in_seconds(rows: ClipRows, videos: Path) -> list[Clip]:
    """The clips, with spans in seconds where the annotation gives frame numbers."""
    if not rows.frames:
        return rows.clips
    paths = sorted({clip.video for clip in rows.clips if clip.clip_id in rows.frames})
    workers = os.cpu_count() or 1
    found = read_headers(videos, paths, workers)
    headers = dict(tqdm(found, "frame rates", len(paths), unit="video", **bar_options()))
    return [
        frames_to_seconds(clip, rows.frames[clip.clip_id], headers[clip.video])
        if clip.clip_id in rows.frames
        else clip
        for clip in rows.clips
    ]


def _annotations(
    layout: DatasetLayout, spec: DatasetSpec | None, options: ManifestOptions, index: VideoIndex
) -> Annotations:
    if options.manifest is not None:
        return read_manifest_csv(options.manifest)
    if spec is None:
        if options.unlabelled:
            return read_unlabelled(index)
        return read_class_folders(index, options.test_share, options.seed or 0)
    folder = options.annotations
    if folder is None and spec.has_own_manifest:
        folder = layout.root / "annotations"  # the toy dataset has its own
    if folder is None:
        raise InputError(
            "missing-option",
            f"{layout.dataset} needs --annotations (ANNOTATIONS=folder): the folder with "
            f"{', '.join(patterns[0] for patterns in spec.files.values())}",
        )
    found = reader_of(spec).read(Source(folder, spec, options.split_number or 1))
    return only_classes(found, spec)


def _video_root(layout: DatasetLayout, spec: DatasetSpec | None, options: ManifestOptions) -> Path:
    if options.videos is not None:
        return options.videos
    if spec is None:
        raise InputError(
            "unknown-name",
            f"unknown dataset {layout.dataset!r}; known: {', '.join(known_datasets())}. For your "
            "own data give --videos (VIDEOS=folder)",
        )
    if spec.has_own_manifest:
        return layout.videos
    raise InputError(
        "missing-option",
        f"{layout.dataset} needs --videos (VIDEOS=folder): the folder that has the videos",
    )


def _refuse_unused(dataset: str, spec: DatasetSpec | None, options: ManifestOptions) -> None:
    """Refuse options that have no effect on this kind of data.

    Raises:
        InputError: there is such an option, or the dataset has no such split.
    """
    if options.manifest is not None:
        kind, unused = "a CSV", {"annotations", "prefer", "split_number", "test_share", "seed"}
        unused |= {"unlabelled"}
    elif spec is None:
        kind, unused = "own data in folders", {"annotations", "split_number"}
        if options.unlabelled:
            kind, unused = "--unlabelled", unused | {"test_share", "seed"}
    else:
        kind, unused = f"dataset {dataset}", {"test_share", "seed", "unlabelled"}
        unused |= {"prefer"} if spec.has_own_manifest else set()
        unused |= {"split_number"} if not spec.num_splits else set()
        number = options.split_number
        if spec.num_splits and number is not None and not 1 <= number <= spec.num_splits:
            raise InputError(
                "out-of-range",
                f"--split-number is {number}; {dataset} has the splits 1 to {spec.num_splits}",
            )
    for name, value in asdict(options).items():
        if value is not None and name in unused:
            raise InputError(
                "option-unused",
                f"--{name.replace('_', '-')} has no effect on {kind}; leave it out",
            )


def _refuse_nothing_found(rows: ClipRows, index: VideoIndex) -> None:
    if rows.clips:
        return
    _, video, _ = rows.missing[0]
    holds = f"{len(index.paths)} other videos" if index.paths else "no videos"
    raise InputError(
        "no-match",
        f"none of the {len(rows.missing)} annotated videos is below {index.root}, which has "
        f"{holds}; the first annotated video is {video!r}",
    )


def _index_notes(index: VideoIndex) -> list[str]:
    notes = []
    if index.links:
        notes.append(
            f"{counted(len(index.links), 'linked folder')} not searched, such as {index.links[0]!r}"
        )
    if index.refused:
        path, reason = next(iter(index.refused.items()))
        left_out = counted(len(index.refused), "video")
        notes.append(f"{left_out} left out, such as {path!r}, which {reason}")
    return notes


def _table(rows: ClipRows, spec: DatasetSpec | None) -> str:
    found = Counter(clip.split for clip in rows.clips)
    missing = Counter(split for _, _, split in rows.missing)
    lines = [f"  {'split':12}{'clips':>9}{'missing':>9}"]
    for split in SPLITS:
        if found[split] or missing[split]:
            mark = "  (the reported one)" if _is_reported(split, spec) else ""
            lines.append(f"  {split:12}{found[split]:9}{missing[split]:9}{mark}")
    lines.append(f"  {'all':12}{len(rows.clips):9}{len(rows.missing):9}")
    if rows.doubles:
        clip_id, paths = next(iter(rows.doubles.items()))
        several = counted(len(rows.doubles), "clip")
        lines.append(f"  {several} with several files; {clip_id!r} is read from {paths[0]}")
    return "\n".join(lines)


def _is_reported(split: str, spec: DatasetSpec | None) -> bool:
    return spec is not None and spec.reported_split == split


def _class_counts(annotations: Annotations) -> str:
    classes = annotations.classes
    counts = {"label": classes.label, "verb": classes.verb, "noun": classes.noun}
    return ", ".join(f"{len(names)} {kind}" for kind, names in counts.items() if names) or "none"


if __name__ == "__main__":
    main()
