"""Check the videos of a dataset before decoding: list problems, and count the usable clips.

    python -m preprocess.doctor --dataset ssv2 --videos 20bn-something-something-v2/

The command reads the manifest and the header of every video. It decodes no frame, so it reads
thousands of files a second from a local disk. It counts and lists clips with these problems:

    missing       the clip is annotated, but its video does not exist (missing.csv)
    unreadable    the file is not a video, has no video stream, or has a codec that is not allowed
    empty         the span of the clip has fewer than two frames
    shorter       the video ends before the clip; its frames up to there are used
    frame rate    the video has a frame rate that the dataset does not have
    double        another clip has the same span, or a file that no clip uses has the same name (for
                  your own data: in the same folder)

Missing, unreadable and empty clips cannot be used. The others remain.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from tqdm import tqdm

from preprocess.annotations.clip_rows import read_missing
from preprocess.annotations.dataset_spec import read_spec
from preprocess.annotations.readers.epic100 import read_video_facts
from preprocess.annotations.text_files import read_text
from preprocess.running.video_headers import read_headers
from preprocess.video.completeness import END_TOLERANCE_FRAMES
from preprocess.video.headers import VideoHeader
from preprocess.video.remarks import Remarks
from preprocess.video.video_index import (
    VideoIndex,
    composed,
    scan_videos,
    stem_of,
    without_suffix,
)
from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_manifest
from shared.progress import bar_options
from shared.wording import listed

FINDINGS = ("missing", "unreadable", "empty", "shorter", "frame_rate", "double")
LOST = {"missing", "unreadable", "empty"}
MOST_NAMES = 3  # of the unused files of a clip
RATE_TOLERANCE = 0.005  # share: 29.97 passes for 30


@dataclass
class Diagnosis:
    """The result of the check.

    Attributes:
        num_clips: number of annotated clips, with and without a video.
        findings: kind of problem -> [(clip_id, details)], in the order of the manifest.
        frame_rates: frames per second, rounded to two digits -> number of videos.
        codecs: name -> number of videos.
        hours: total length of all videos whose header has a length.
        remarks: notes on the videos.
        notes: lines on folders that were not searched.
        headers_per_second: number of files read per second of wall-clock time.
    """

    num_clips: int
    findings: dict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: {kind: [] for kind in FINDINGS}
    )
    frame_rates: Counter[float] = field(default_factory=Counter)
    codecs: Counter[str] = field(default_factory=Counter)
    hours: float = 0.0
    headers_per_second: float = 0.0
    remarks: Remarks = field(default_factory=Remarks)
    notes: list[str] = field(default_factory=list)

    @property
    def note_lines(self) -> list[str]:
        """All notes, a line each."""
        return [*(f"note: {note}" for note in self.notes), *self.remarks.lines()]

    @property
    def num_remaining(self) -> int:
        """Number of clips that can be used."""
        lost = {clip_id for kind in LOST for clip_id, _ in self.findings[kind]}
        return self.num_clips - len(lost)


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.option("--dataset", required=True, metavar="NAME",
              help="Name of the dataset. Its folder in --out has manifest.csv.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder that contains the folders of all datasets.")  # fmt: skip
@click.option("--videos", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder of the videos.  [default: OUT/NAME/videos]")  # fmt: skip
@click.option("--video-info", type=click.Path(path_type=Path), metavar="FILE",
              help="CSV file with the expected frame rate of each video. Its columns are "
              "video_id,duration,fps, as in EPIC_100_video_info.csv.  [default: the rates of "
              "data_manifests/]")  # fmt: skip
@click.option("--first", type=click.IntRange(min=0), default=5, metavar="COUNT",
              help="Number of clips that are listed for each problem.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), metavar="PROCESSES",
              help="Number of processes that read the headers of videos. With 0, the command "
              "reads them itself, and a file that crashes the reader ends the command.  "
              "[default: one for each core]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@user_errors
def main(
    dataset: str,
    out: Path,
    videos: Path | None,
    video_info: Path | None,
    first: int,
    workers: int | None,
    as_json: bool,
) -> None:
    layout = DatasetLayout(out, dataset)
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    diagnosis = diagnose(layout, videos or layout.videos, video_info, workers)
    if as_json:
        print(json.dumps(summary(diagnosis, first), indent=1))
    else:
        print(table(diagnosis, first))


def diagnose(
    layout: DatasetLayout, videos: Path, video_info: Path | None, workers: int
) -> Diagnosis:
    """Check every clip of the manifest.

    Args:
        layout: folders of the dataset.
        videos: the video root.
        video_info: CSV with the expected frame rates; None = those of the dataset's TOML.
        workers: number of processes that read headers; 0 = this one.

    Raises:
        InputError: there is no manifest or no video root, or video_info lists none of the videos.
    """
    clips = read_manifest(layout.manifest)
    missing = []
    if layout.missing.is_file():
        missing = read_missing(read_text(layout.missing), str(layout.missing))
    index = scan_videos(videos)
    paths = sorted({clip.video for clip in clips})
    expected = _expected_rates(layout.dataset, paths, video_info)
    # ------------------------------------------------------------------ headers
    diagnosis = Diagnosis(len(clips) + len(missing), notes=[index.unread] if index.unread else [])
    headers: dict[str, VideoHeader | str] = {}
    rates = {clip.video: clip.frames_per_second for clip in clips}
    began = time.perf_counter()
    found = read_headers(videos, paths, workers)
    for path, header in tqdm(found, "headers", len(paths), unit="video", **bar_options()):
        headers[path] = header if isinstance(header, str) else header.at_rate(rates[path])
    diagnosis.headers_per_second = len(paths) / max(time.perf_counter() - began, 1e-9)
    for path in paths:
        header = headers[path]
        if isinstance(header, VideoHeader):
            diagnosis.codecs[header.codec] += 1
            diagnosis.frame_rates[round(header.frames_per_second or 0.0, 2)] += 1
            diagnosis.hours += (header.seconds or 0.0) / 3600
            for remark in header.remarks:
                diagnosis.remarks.add(path, remark)
    # ------------------------------------------------------------------ clips
    for clip_id, video, _ in missing:
        diagnosis.findings["missing"].append((clip_id, f"no video {video}"))
    for clip in clips:
        for kind, what in examine(clip, headers[clip.video], expected[clip.video]):
            diagnosis.findings[kind].append((clip.clip_id, what))
    spec = read_spec(layout.dataset)
    rooted = spec is None or spec.has_own_manifest
    diagnosis.findings["double"] += doubles(clips, index, rooted)
    return diagnosis


def examine(
    clip: Clip, header: VideoHeader | str, expected_rates: tuple[float, ...]
) -> Iterator[tuple[str, str]]:
    """Yield (kind, details) for each problem of a clip that the header of its video shows."""
    if isinstance(header, str):
        yield "unreadable", header
        return
    (start, stop), rate = clip.span, header.frames_per_second
    frame_seconds = 1 / rate if rate else 0.0
    end = None if header.seconds is None else header.picture_start + header.seconds
    if header.num_frames is not None and header.num_frames < 2:
        yield "empty", f"the video has {header.num_frames} frames"
    elif end is not None and start >= end - frame_seconds:
        yield "empty", f"begins at {start:.2f} s of a video of {end:.2f} s"
    elif stop <= header.picture_start:
        begin = header.picture_start
        yield "empty", f"ends at {stop:.2f} s, and the picture starts at {begin:.2f} s"
    elif stop - start <= frame_seconds:
        yield "empty", f"lasts {stop - start:.3f} s, and a frame {frame_seconds:.3f} s"
    elif (
        # The decoder uses the frames up to the end of the video.
        end is not None
        and clip.stop_seconds is not None
        and stop > end + END_TOLERANCE_FRAMES * frame_seconds
    ):
        yield "shorter", f"ends at {stop:.2f} s, its video at {end:.2f} s"
    if rate is None:
        yield "frame_rate", "the header has no frame rate"
    elif expected_rates and not any(_close(rate, one) for one in expected_rates):
        wanted = " or ".join(f"{one:g}" for one in expected_rates)
        yield "frame_rate", f"{rate:.3f} frames/s, expected {wanted}"


def summary(diagnosis: Diagnosis, first: int) -> dict:
    """The content of the output of `--json`."""
    return {
        "clips": diagnosis.num_clips,
        "remaining": diagnosis.num_remaining,
        "findings": {
            kind: {
                "clips": len(found),
                "first": [{"clip_id": clip_id, "what": what} for clip_id, what in found[:first]],
            }
            for kind, found in diagnosis.findings.items()
        },
        "frame_rates": {f"{rate:g}": n for rate, n in sorted(diagnosis.frame_rates.items())},
        "codecs": dict(diagnosis.codecs.most_common()),
        "hours": diagnosis.hours,
        "notes": diagnosis.note_lines,
    }


def table(diagnosis: Diagnosis, first: int) -> str:
    """The findings as text."""
    rates = ", ".join(f"{rate:g} ({n})" for rate, n in diagnosis.frame_rates.most_common(6))
    codecs = ", ".join(f"{codec} ({n})" for codec, n in diagnosis.codecs.most_common())
    num_videos = sum(diagnosis.codecs.values())
    lines = [
        f"{num_videos} readable videos, {diagnosis.hours:.2f} hours",
        f"  codecs           {codecs or 'none'}",
        f"  frames a second  {rates or 'none'}",
        f"  headers read     {diagnosis.headers_per_second:,.0f} files a second",
        "",
    ]
    for kind, found in diagnosis.findings.items():
        lines.append(f"{kind.replace('_', ' '):12}{len(found):9}")
        lines += [f"    {clip_id}: {what}" for clip_id, what in found[:first]]
        if len(found) > first > 0:
            lines.append("    ...")
    return "\n".join(
        [
            *lines,
            "",
            *diagnosis.note_lines,
            f"{diagnosis.num_remaining} of {diagnosis.num_clips} clips remain",
        ]
    )


def _expected_rates(
    dataset: str, videos: list[str], video_info: Path | None
) -> dict[str, tuple[float, ...]]:
    """The frame rates that each video may have; none means any."""
    spec = read_spec(dataset)
    general = spec.frame_rates if spec is not None else ()
    if video_info is None:
        return dict.fromkeys(videos, general)
    if not video_info.is_file():
        raise InputError(
            "missing-file", f"no file {video_info}; give --video-info a CSV with a row a video"
        )
    facts = read_video_facts(video_info)
    known = {v: (facts[stem_of(v)].frames_per_second,) for v in videos if stem_of(v) in facts}
    if not known:
        raise InputError("no-match", f"{video_info} lists none of the videos, such as {videos[0]}")
    return dict.fromkeys(videos, general) | known


def doubles(clips: list[Clip], index: VideoIndex, rooted: bool) -> Iterator[tuple[str, str]]:
    """Yield (clip_id, details) for clips with one span, and for unused files with a clip's name.

    Args:
        clips: the clips of the manifest.
        index: the videos.
        rooted: whether the manifest names videos by their path. Files in other folders are then
            other videos.
    """
    used = {clip.video for clip in clips}
    unused: dict[str, list[str]] = {}
    for path in index.paths:
        if path not in used:
            unused.setdefault(_name_of(path, rooted), []).append(path)
    first_with: dict[tuple, str] = {}
    for clip in clips:
        span = (clip.video, clip.start_seconds, clip.stop_seconds)
        if span in first_with:
            yield clip.clip_id, f"the same span of {clip.video} as clip {first_with[span]}"
        first_with.setdefault(span, clip.clip_id)
        others = unused.get(_name_of(clip.video, rooted))
        if others:
            yield clip.clip_id, f"{clip.video} is used, not {listed(others, MOST_NAMES)}"


def _name_of(path: str, rooted: bool) -> str:
    """What files of one video have in common: the path without suffix, or its last part."""
    return composed(without_suffix(path) if rooted else stem_of(path))


def _close(rate: float, expected: float) -> bool:
    return abs(rate - expected) <= RATE_TOLERANCE * expected


if __name__ == "__main__":
    main()
