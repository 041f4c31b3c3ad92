"""Annotated clips and the videos that are there, put together: rows of the manifest."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass, field, replace

from preprocess.annotations.base import AnnotatedClip
from preprocess.video.headers import VideoHeader
from preprocess.video.video_index import VideoIndex
from shared.errors import InputError
from shared.manifest import CONTROL, MAX_CLIP_ID_BYTES, Clip

HASH_DIGITS = 12  # 48 bits: two of a million shortened names meet once in 500 datasets
MISSING_COLUMNS = ("clip_id", "video", "split")


@dataclass
class ClipRows:
    """Annotated clips with and without a video.

    Attributes:
        clips: rows of manifest.csv.
        frames: clip_id -> span in frame numbers, for clips whose annotation gives no seconds.
        missing: (clip_id, video, split) of annotated clips whose video is not there.
        doubles: clip_id -> files of the clip, the one that is used first, where there are several.
    """

    clips: list[Clip] = field(default_factory=list)
    frames: dict[str, tuple[int, int]] = field(default_factory=dict)
    missing: list[tuple[str, str, str]] = field(default_factory=list)
    doubles: dict[str, list[str]] = field(default_factory=dict)


def match_videos(annotated: list[AnnotatedClip], index: VideoIndex, prefer: str) -> ClipRows:
    """Find the video of each annotated clip.

    Raises:
        InputError: with file and row: a clip_id twice, a video that may not be used, a span that
            ends before it starts.
    """
    rows = ClipRows()
    seen: dict[str, str] = {}
    for one in annotated:
        try:
            clip_id = clip_id_of(one.name)
            if clip_id in seen:
                raise InputError(
                    f"clip {clip_id!r} already stands in {seen[clip_id]}; each needs its own id"
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
            )
        except (InputError, UnicodeEncodeError) as error:
            raise InputError(f"{one.where}: {error}") from None
        if not found:
            rows.missing.append((clip_id, one.video, one.split))
            continue
        rows.clips.append(clip)
        if one.frames is not None:
            rows.frames[clip_id] = one.frames
        if len(found) > 1:
            rows.doubles[clip_id] = found
    return rows


def frames_to_seconds(clip: Clip, frames: tuple[int, int], header: VideoHeader | str) -> Clip:
    """Put a span of frames first:last into seconds; the whole video where it covers that.

    Frames count from the first picture, seconds from the start of the file. Half a frame early on
    both sides, so that rounding never moves a frame over the border. Where
    the header does not tell the rate, the clip is the whole video.
    """
    if isinstance(header, str) or header.frames_per_second is None:
        return clip
    first, last = frames
    start, stop = (header.picture_start + (n - 0.5) / header.frames_per_second for n in frames)
    return replace(
        clip,
        start_seconds=round(start, 6) if first else None,
        stop_seconds=None if last == header.num_frames else round(stop, 6),
    )


def clip_id_of(name: str) -> str:
    """The name itself where it fits into a clip_id, else a readable start and a hash of it all.

    A clip_id has at most 64 bytes of UTF-8 and no control characters. The shortened form depends on
    the name alone, so it is the same in every run and every subset of a dataset.
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
    """The rows of a missing.csv: what `format_missing` was given.

    Raises:
        InputError: a row of another length, with `name` for the file.
    """
    rows = csv.reader(io.StringIO(text, newline=""))
    missing = []
    for row in rows:
        if len(row) != len(MISSING_COLUMNS):
            raise InputError(
                f"{name}, row {rows.line_num}: {len(row)} values; {','.join(MISSING_COLUMNS)} are "
                "expected, as `make manifest` writes them"
            )
        missing.append((row[0], row[1], row[2]))
    return missing[1:]
