"""Write manifest.csv, which has one row for each clip, from annotations and a folder of videos.

    python -m preprocess.manifest --dataset ssv2 --annotations labels/ --videos 20bn-something-v2/

takes a few seconds for the 220,847 clips of Something-Something V2 and writes

    OUT/DATASET/manifest.csv   clips whose video exists
    OUT/DATASET/missing.csv    annotated clips whose video does not exist
    OUT/DATASET/classes.json   class names, and what flips do to labels
    OUT/DATASET/options.json   options, command line and versions

A dataset with a TOML in data_manifests/ is read from its official files. Any other name is your own
data: class folders, a flat folder without labels, a CSV or a list of paths and labels (--manifest).
A video is a file, or a folder of numbered frames.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from preprocess.annotations.base import Annotations, Source
from preprocess.annotations.class_folders import read_class_folders, read_unlabelled
from preprocess.annotations.class_numbers import class_notes
from preprocess.annotations.class_subset import only_classes
from preprocess.annotations.clip_rows import (
    ClipRows,
    format_missing,
    frames_to_seconds,
    match_videos,
)
from preprocess.annotations.cuts import CutRule, cut_clips
from preprocess.annotations.dataset_spec import DatasetSpec, known_datasets, read_spec
from preprocess.annotations.groups import pieces_in_two_splits
from preprocess.annotations.readers import reader_of
from preprocess.annotations.splits import TEST_SHARE, SplitRule, split_clips
from preprocess.annotations.summary import class_counts, index_notes, row_notes, split_table
from preprocess.annotations.video_lists import read_own_list
from preprocess.running.dependents import dependents
from preprocess.running.video_headers import read_headers
from preprocess.video.frame_folder import FRAMES_PER_SECOND
from preprocess.video.headers import VideoHeader
from preprocess.video.video_index import VideoIndex, scan_videos
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import (
    MAX_FRAMES_PER_SECOND,
    Clip,
    format_manifest,
    manifest_digest,
    read_manifest,
)
from shared.progress import bar_options
from shared.run_record import RunLock, write_options
from shared.wording import counted, listed


@dataclass(frozen=True)
class ManifestOptions:
    """The options of the command; None = not given.

    Attributes:
        annotations: folder of the official files.
        videos: the video root.
        manifest: list of the user's own clips, or a folder of lists.
        prefer: suffix of the file to use for a clip with several, "webm" or "mp4".
        split_number: number of the official split.
        test_share: share of the user's own clips that become the test split, 0..1.
        seed: seed for the choice of these clips.
        unlabelled: whether folders are no classes.
        group_by: FOLDER, PREFIX or a column: clips of one group stay in one split.
        fold: number of the fold that becomes the test split.
        cut_seconds: length of the clips that videos are cut into, seconds.
        stride_seconds: seconds from one of these clips to the next; None = cut_seconds.
        frames_per_second: rate of folders of frames; None = FRAMES_PER_SECOND.
    """

    annotations: Path | None = None
    videos: Path | None = None
    manifest: Path | None = None
    prefer: str | None = None
    split_number: int | None = None
    test_share: float | None = None
    seed: int | None = None
    unlabelled: bool | None = None
    group_by: str | None = None
    fold: int | None = None
    cut_seconds: float | None = None
    stride_seconds: float | None = None
    frames_per_second: float | None = None

    @property
    def split_rule(self) -> SplitRule:
        return SplitRule(self.test_share, self.seed, self.group_by, self.fold)

    @property
    def cut_rule(self) -> CutRule | None:
        """How videos are cut; None if they are not.

        Raises:
            InputError: there is a stride, and no length.
        """
        if self.cut_seconds is not None:
            return CutRule(self.cut_seconds, self.stride_seconds or self.cut_seconds)
        if self.stride_seconds is not None:
            raise InputError(
                "option-needs-another",
                "--stride-seconds has an effect only with --cut-seconds; give both",
            )
        return None


OWN_OPTIONS = {
    *("test_share", "seed", "unlabelled", "group_by", "fold", "cut_seconds", "stride_seconds")
}
"""Options that have an effect on a user's own data alone."""


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
@click.option("--manifest", type=click.Path(path_type=Path), metavar="PATH",
              help="File that lists your own clips: a CSV with the columns of manifest.csv, or "
              "lines of path and label; or a folder with such lists train.csv, val.csv and "
              "test.csv.")  # fmt: skip
@click.option("--prefer", type=click.Choice(["webm", "mp4"]),
              help="Type of the file that is used if a clip has a webm file and an mp4 file.  "
              "[default: webm]")  # fmt: skip
@click.option("--split-number", type=int, metavar="N",
              help="Number of the official split of UCF101 or HMDB51, 1 to 3.  [default: 1]"
              )  # fmt: skip
@click.option("--test-share", type=click.FloatRange(0, 1, max_open=True), metavar="SHARE",
              help="For your own data without splits: share of the clips of each class that "
              f"becomes split test.  [default: {TEST_SHARE} with classes, 0 without "
              "classes]")  # fmt: skip
@click.option("--seed", type=int, metavar="NUMBER",
              help="For your own data without splits: seed that chooses the clips of split test.  "
              "[default: 0]")  # fmt: skip
@click.option("--unlabelled", is_flag=True, default=None,
              help="For your own folders: list every video at any depth, without labels, in split "
              "train.")  # fmt: skip
@click.option("--group-by", metavar="FOLDER|PREFIX|COLUMN",
              help="For your own data without splits: keep clips of one source in one split. The "
              "source is the folder of a video, its name up to the last _ or -, or a column of "
              "the CSV.")  # fmt: skip
@click.option("--fold", type=click.IntRange(min=0), metavar="N",
              help="For your own CSV with a column fold: split test is fold N, and split train "
              "all others.")  # fmt: skip
@click.option("--cut-seconds", type=click.FloatRange(min=0.1), metavar="SECONDS",
              help="For your own data: cut videos into clips of this length.")  # fmt: skip
@click.option("--stride-seconds", type=click.FloatRange(min=0.1), metavar="SECONDS",
              help="With --cut-seconds: time from the start of a clip to the start of the next "
              "one.  [default: the length]")  # fmt: skip
@click.option("--frames-per-second", metavar="NUMBER",
              type=click.FloatRange(0, MAX_FRAMES_PER_SECOND, min_open=True),
              help="Rate of videos that are folders of frames.  "
              f"[default: {FRAMES_PER_SECOND:g}]")  # fmt: skip
@click.option("--overwrite", is_flag=True,
              help="Replace a manifest from which shards or training runs were made.")  # fmt: skip
@click.option(
    "--dry-run", is_flag=True, help="Print the numbers of clips and classes, and write nothing."
)
@user_errors
def main(dataset: str, out: Path, overwrite: bool, dry_run: bool, **given: Any) -> None:
    layout = DatasetLayout(out, dataset)
    spec = read_spec(dataset)
    options = ManifestOptions(**given)
    _refuse_unused(dataset, spec, options)
    cut_rule = options.cut_rule
    videos = _video_root(layout, spec, options)
    # ------------------------------------------------------------------ read
    print(f"manifest: {dataset}{f' ({spec.title})' if spec else ''}, videos in {videos}")
    index = scan_videos(videos)
    annotations = split_clips(_annotations(layout, spec, options, index), options.split_rule)
    rate = options.frames_per_second or FRAMES_PER_SECOND
    rows = match_videos(annotations.clips, index, options.prefer or "webm", rate)
    _refuse_nothing_found(rows, index)
    _refuse_rate(rows, options)
    notes = [*annotations.notes, *index_notes(index), *row_notes(rows, index)]
    rows.clips = _in_seconds(rows, videos)
    if cut_rule is not None:
        rows.clips, whole = cut_clips(rows.clips, _headers(rows.clips, videos), cut_rule)
        if whole:
            notes.append(f"{counted(len(whole), 'clip')} not cut, length unknown: {listed(whole)}")
    # ------------------------------------------------------------------ print the counts
    if spec is None or options.manifest is not None:
        notes += pieces_in_two_splits(rows.clips)
    for note in [*notes, *class_notes(rows.clips, annotations.classes)]:
        print(f"  {note}")
    print(split_table(rows, spec))
    print(f"  classes: {class_counts(annotations)}")
    if dry_run:
        return
    # ------------------------------------------------------------------ write
    with RunLock(layout.lock):
        refuse_replacing(layout, rows, annotations, overwrite)
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
    texts = {
        layout.missing: format_missing(rows.missing),
        layout.classes: _format_classes(annotations),
        layout.manifest: format_manifest(rows.clips),  # last: if it exists, so do the others
    }
    written = []
    for path, text in texts.items():
        if not _holds(path, text):
            write_atomically(path, text.encode())
            written.append(path)
    return written


def refuse_replacing(
    layout: DatasetLayout, rows: ClipRows, annotations: Annotations, overwrite: bool
) -> None:
    """Refuse to replace a manifest from which other things were made.

    Shards depend on the clips alone, and training runs also on labels, splits and class names.

    Args:
        overwrite: whether the manifest is replaced nevertheless, with a line.

    Raises:
        InputError: there is such a manifest; the message has what was made from it.
    """
    if not layout.manifest.is_file():
        return
    same_classes = _holds(layout.classes, _format_classes(annotations))
    if same_classes and _holds(layout.manifest, format_manifest(rows.clips)):
        return
    try:
        before = read_manifest(layout.manifest)
        other_clips = manifest_digest(before) != manifest_digest(rows.clips)
        change = f"{counted(len(before), 'clip')} before, {counted(len(rows.clips), 'clip')} now"
    except InputError:
        other_clips, change = True, "the manifest there cannot be read"
    made = dependents(layout, with_shards=other_clips)
    if not made:
        return
    if not other_clips:
        change = "labels or splits differ" if same_classes else "class names or labels differ"
    if overwrite:
        print(f"  made from the manifest before, and to be made again: {listed(made)}")
        return
    raise InputError(
        "existing-output",
        f"{layout.manifest} is another manifest ({change}), and {listed(made)} were made from it. "
        "Give --overwrite to replace it, or choose another DATASET or OUT",
    )


def _format_classes(annotations: Annotations) -> str:
    return json.dumps(asdict(annotations.classes), indent=1, ensure_ascii=False) + "\n"


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _in_seconds(rows: ClipRows, videos: Path) -> list[Clip]:
    """The clips, with spans in seconds where the annotation gives frame numbers."""
    if not rows.frames:
        return rows.clips
    headers = _headers((clip for clip in rows.clips if clip.clip_id in rows.frames), videos)
    return [
        frames_to_seconds(clip, rows.frames[clip.clip_id], headers[clip.video])
        if clip.clip_id in rows.frames
        else clip
        for clip in rows.clips
    ]


def _headers(clips: Iterable[Clip], videos: Path) -> dict[str, VideoHeader | str]:
    """The header of the video of each clip."""
    paths = sorted({clip.video for clip in clips})
    found = read_headers(videos, paths, len(os.sched_getaffinity(0)))
    return dict(tqdm(found, "headers", len(paths), unit="video", **bar_options()))


def _annotations(
    layout: DatasetLayout, spec: DatasetSpec | None, options: ManifestOptions, index: VideoIndex
) -> Annotations:
    if options.manifest is not None:
        return read_own_list(options.manifest, index)
    if spec is None:
        return read_unlabelled(index) if options.unlabelled else read_class_folders(index)
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
        kind, unused = "a CSV or list", {"annotations", "prefer", "split_number", "unlabelled"}
    elif spec is None:
        kind, unused = "own data in folders", {"annotations", "split_number"}
        if options.unlabelled:
            kind, unused = "--unlabelled", unused | {"test_share", "seed", "group_by", "fold"}
    else:
        kind, unused = f"dataset {dataset}", set(OWN_OPTIONS)
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
        f"{holds}; the first annotated video is {video!r}"
        + (f"; {index.unread}" if index.unread else ""),
    )


def _refuse_rate(rows: ClipRows, options: ManifestOptions) -> None:
    if options.frames_per_second is None:
        return
    if not any(clip.is_frame_folder for clip in rows.clips):
        raise InputError(
            "option-unused",
            "--frames-per-second has no effect, because no video is a folder of frames; leave it "
            "out",
        )


if __name__ == "__main__":
    main()
