"""Matches annotated clips with videos, which gives the rows of the manifest."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass, field, replace

from preprocess.annotations.base import AnnotatedClip
from preprocess.video.frame_folder import FRAMES_PER_SECOND
from preprocess.video.headers import VideoHeader
from preprocess.video.video_index import VideoIndex
from shared.errors import InputError
from shared.manifest import CONTROL, FOLDER_END, MAX_CLIP_ID_BYTES, Clip

HASH_DIGITS = 12  # 48 bits: two of a million shortened names meet once in 500 datasets
MISSING_COLUMNS = ("clip_id", "video", "split")


@dataclass
class ClipRows:
    """Annotated clips with and without a video.

    Attributes:
        clips: rows of manifest.csv.
        frames: clip_id -> span in frame numbers, for clips whose annotation gives no seconds.
        missing: (clip_id, video, split) of annotated clips whose video does not exist.
        doubles: clip_id -> files of the clip, for clips with several. The first is used.
        recomposed: (name in the list, path on disk) of videos that the list spells in another
            Unicode form.
    """

    clips: list[Clip] = field(default_factory=list)
    frames: dict[str, tuple[int, int]] = field(default_factory=dict)
    missing: list[tuple[str, str, str]] = field(default_factory=list)
    doubles: dict[str, list[str]] = field(default_factory=dict)
    recomposed: list[tuple[str, str]] = field(default_factory=list)


def match_videos(
    annotated: list[AnnotatedClip],
    index: VideoIndex,
    prefer: str,
    frames_per_second: float = FRAMES_PER_SECOND,
) -> ClipRows:
    """Find the video of each annotated clip.

    Args:
        annotated: the clips.
        index: the videos.
        prefer: suffix of the file to use if a clip has several, such as "webm".
        frames_per_second: rate of folders of frames for which the annotation gives none.

    Raises:
        InputError: a clip_id occurs twice, a video may not be used, or a span ends before it
            starts. The message has the file and row of the annotation.
    """
    rows = ClipRows()
    seen: dict[str, str] = {}
    for one in annotated:
        try:
            clip_id = clip_id_of(one.name)
            if clip_id in seen:
                raise InputError(
                    "duplicate",
                    f"clip {clip_id!r} is listed already in {seen[clip_id]}; each clip needs an id "
                    "of its own",
                )
            seen[clip_id] = one.where
            if one.exact:
                found = index.find_exact(one.video)
            else:
                found = index.find(one.video, prefer, one.rooted)
            clip = Clip(
                clip_id,
                found[0] if found else one.video,
                one.start_seconds,
                one.stop_seconds,
                one.split,
                one.label,
                one.verb,
                one.noun,
                _rate_of(one, found, frames_per_second),
            )
        except InputError as error:
            raise error.at(one.where) from None
        except UnicodeEncodeError as error:
            raise InputError("bad-entry", f"{one.where}: {error}") from None
        if not found:
            rows.missing.append((clip_id, one.video, one.split))
            continue
        rows.clips.append(clip)
        if one.exact and clip.video.removesuffix(FOLDER_END) != one.video.removesuffix(FOLDER_END):
            rows.recomposed.append((one.video, clip.video))
        if one.frames is not None:
            rows.frames[clip_id] = one.frames
        if len(found) > 1:
            rows.doubles[clip_id] = found
    return rows


def _rate_of(one: AnnotatedClip, found: list[str], frames_per_second: float) -> float | None:
    """The rate of a folder of frames; None for a file, which states its own.

    Raises:
        InputError: the annotation gives a rate for a file.
    """
    if found and found[0].endswith(FOLDER_END):
        return one.frames_per_second or frames_per_second
    if found and one.frames_per_second is not None:
        raise InputError(
            "bad-entry",
            f"frames_per_second is {one.frames_per_second:g}, but video {found[0]!r} is a file, "
            "which states its rate; leave the cell empty",
        )
    return one.frames_per_second


def frames_to_seconds(clip: Clip, frames: tuple[int, int], header: VideoHeader | str) -> Clip:
    """Convert a span of frames first:last to seconds.

    Frames count from the first picture, seconds from the start of the file. Both ends lie half a
    frame early, so that rounding moves no frame across them. A span of the whole video has no
    start and no stop. Neither has a clip whose header has no frame rate: such a clip is the whole
    video.
    """
    if isinstance(header, str):
        return clip
    header = header.at_rate(clip.frames_per_second)
    if header.frames_per_second is None:
        return clip
    first, last = frames
    start, stop = (header.picture_start + (n - 0.5) / header.frames_per_second for n in frames)
    return replace(
        clip,
        start_seconds=round(start, 6) if first else None,
        stop_seconds=None if last == header.num_frames else round(stop, 6),
    )


def clip_id_of(name: str) -> str:
    """The name itself if it is a valid clip_id, else its beginning and a hash of the whole name.

    A clip_id has at most 64 bytes of UTF-8 and no control characters. The shortened form depends
    only on the name, so it is the same in every run and every subset of a dataset.
    """
    encoded = name.encode()
    if len(encoded) <= MAX_CLIP_ID_BYTES and not CONTROL.search(name):
        return name
    digest = hashlib.blake2b(encoded, digest_size=HASH_DIGITS // 2)
    start = CONTROL.sub("_", name).encode()[: MAX_CLIP_ID_BYTES - HASH_DIGITS - 1]
    return f"{start.decode(errors='ignore')}-{digest.hexdigest()}"


def format_missing(missing: list[tuple[str, str, str]]) -> str:
    """The text of missing.csv."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(MISSING_COLUMNS)
    writer.writerows(missing)
    return stream.getvalue()


def read_missing(text: str, name: str = "missing.csv") -> list[tuple[str, str, str]]:
    """Read the text of a missing.csv; the inverse of `format_missing`.

    Args:
        text: content of the file.
        name: name of the file, for messages.

    Raises:
        InputError: a row has another number of values.
    """
    rows = csv.reader(io.StringIO(text, newline=""))
    missing = []
    for row in rows:
        if len(row) != len(MISSING_COLUMNS):
            raise InputError(
                "bad-entry",
                f"{name}, row {rows.line_num}: {len(row)} values are found, and "
                f"{','.join(MISSING_COLUMNS)} are expected; `make manifest` writes the file again",
            )
        missing.append((row[0], row[1], row[2]))
    return missing[1:]
