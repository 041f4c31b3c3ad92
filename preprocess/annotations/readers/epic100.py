"""EPIC-KITCHENS-100: CSV lists of segments in long videos, with verb and noun classes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from preprocess.annotations.base import (
    AnnotatedClip,
    Annotations,
    Source,
    check_count,
    require_clips,
)
from preprocess.annotations.text_files import read_csv, whole_number
from shared.errors import InputError

ROLES = ("train", "val", "test", "verbs", "nouns", "videos")
COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp")
TIMESTAMP = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")


@dataclass(frozen=True)
class VideoFacts:
    """A row of EPIC_100_video_info.csv."""

    seconds: float
    frames_per_second: float


@dataclass(frozen=True)
class _Segment:
    """A row of a list of segments; `verb` and `noun` are None in the test list."""

    where: str
    clip_id: str
    video: str
    split: str
    start_seconds: float
    stop_seconds: float
    verb: int | None
    noun: int | None

    @property
    def pair(self) -> tuple[int, int] | None:
        return None if self.verb is None or self.noun is None else (self.verb, self.noun)


def read(source: Source) -> Annotations:
    """Read the lists of segments and of classes.

    A clip is the span between two timestamps of a video. Frame numbers are not used, because they
    are on a grid of 60 frames per second even if the video has another rate. The label is the
    action: the pair of verb and noun, numbered in the order of (verb, noun) over all pairs of the
    lists that exist. Clips of a video follow each other in order of their start, so that
    overlapping spans are decoded once.

    Raises:
        InputError: a class is not in the lists, a timestamp is not valid, or a segment does not
            stop after its start.
    """
    notes: list[str] = []
    verbs, nouns = _class_names(source, "verbs"), _class_names(source, "nouns")
    check_count("verb", verbs, source, notes)
    check_count("noun", nouns, source, notes)
    segments: list[_Segment] = []
    for split, path in source.split_files(notes):
        of_split = _segments(path, split, len(verbs), len(nouns))
        require_clips(of_split, path)
        segments += sorted(of_split, key=lambda one: (one.video, one.start_seconds))
    notes += _beyond_the_end(source, segments)
    pairs = sorted({s.pair for s in segments if s.pair is not None})
    number_of = {pair: number for number, pair in enumerate(pairs)}
    notes.append(f"{len(pairs)} actions (pairs of verb and noun) occur in these lists")
    clips = [
        AnnotatedClip(
            where=one.where,
            name=one.clip_id,
            video=one.video,
            split=one.split,
            label=None if one.pair is None else number_of[one.pair],
            verb=one.verb,
            noun=one.noun,
            start_seconds=one.start_seconds,
            stop_seconds=one.stop_seconds,
        )
        for one in segments
    ]
    actions = [f"{verbs[verb]} {nouns[noun]}" for verb, noun in pairs]
    return Annotations(clips, source.spec.class_list(actions, verbs, nouns), notes)


def read_video_facts(path: Path) -> dict[str, VideoFacts]:
    """Read length and frame rate by video id, from a CSV with the columns video_id,duration,fps.

    Raises:
        InputError: a value is not a positive number.
    """
    facts = {}
    for where, row in read_csv(path, ("video_id", "duration", "fps")):
        try:
            found = VideoFacts(float(row["duration"]), float(row["fps"]))
        except ValueError:
            found = VideoFacts(math.nan, math.nan)
        if not (0 < found.seconds < math.inf and 0 < found.frames_per_second < math.inf):
            raise InputError(
                "bad-entry",
                f"{where}: duration is {row['duration']!r:.40} and fps is {row['fps']!r:.40}; both "
                "must be numbers above 0",
            )
        facts[row["video_id"]] = found
    return facts


def seconds_of(timestamp: str, what: str, where: str) -> float:
    """Convert `HH:MM:SS.ss` to seconds, rounded to the microsecond.

    Args:
        timestamp: the text.
        what: what the timestamp stands for, for messages.
        where: file and row, for messages.

    Raises:
        InputError: the text has another form.
    """
    parts = TIMESTAMP.fullmatch(timestamp.strip())
    if parts is None:
        raise InputError(
            "bad-entry", f"{where}: {what} is {timestamp[:40]!r}; HH:MM:SS.ss is expected"
        )
    hours, minutes, seconds = parts.groups()
    return round(int(hours) * 3600 + int(minutes) * 60 + float(seconds), 6)


def _beyond_the_end(source: Source, segments: list[_Segment]) -> list[str]:
    """A note on segments that end after their video; decoding stops at the end of the video."""
    path = source.find("videos")
    facts = read_video_facts(path) if path is not None else {}
    beyond = [s for s in segments if s.video in facts and s.stop_seconds > facts[s.video].seconds]
    if not beyond:
        return []
    first = beyond[0]
    late = first.stop_seconds - facts[first.video].seconds
    return [
        f"{len(beyond)} segments end after their video, such as {first.clip_id} by {late:.3f} s"
    ]


def _segments(path: Path, split: str, num_verbs: int, num_nouns: int) -> list[_Segment]:
    labelled = split != "test"
    segments = []
    for where, row in read_csv(path, COLUMNS + (("verb_class", "noun_class") if labelled else ())):
        start = seconds_of(row["start_timestamp"], "start_timestamp", where)
        stop = seconds_of(row["stop_timestamp"], "stop_timestamp", where)
        if stop <= start:
            raise InputError(
                "bad-entry",
                f"{where}: stop_timestamp {row['stop_timestamp']} is not after start_timestamp "
                f"{row['start_timestamp']}",
            )
        verb = noun = None
        if labelled:
            verb = whole_number(row["verb_class"], "verb_class", where, num_verbs)
            noun = whole_number(row["noun_class"], "noun_class", where, num_nouns)
        segments.append(
            _Segment(where, row["narration_id"], row["video_id"], split, start, stop, verb, noun)
        )
    return segments


def _class_names(source: Source, role: str) -> list[str]:
    """The keys of a class list, whose ids must be 0, 1, 2, ... in this order."""
    names: list[str] = []
    for where, row in read_csv(source.require(role), ("id", "key")):
        if whole_number(row["id"], "id", where) != len(names):
            raise InputError("bad-entry", f"{where}: id is {row['id']}; {len(names)} is expected")
        names.append(row["key"])
    return names
