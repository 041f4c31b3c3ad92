"""The list of clips (`manifest.csv`) and the list of classes (`classes.json`) of a dataset."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TypeVar

from shared.errors import InputError
from shared.files import write_atomically
from shared.make_commands import make_around

N = TypeVar("N", int, float)

SPLITS = ("train", "val", "test")
LABEL_KINDS = ("label", "verb", "noun")
SINGULAR = {"label": "class", "verb": "verb", "noun": "noun"}
PLURAL = {"label": "classes", "verb": "verbs", "noun": "nouns"}
FLIPS = ("x", "y", "time")  # left to right, top to bottom, reversed in time
FLIP_FIELDS = tuple(f"flip_{flip}" for flip in FLIPS)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # these would break a row or a terminal
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON may escape a single one; UTF-8 cannot hold it
PROTOCOL = re.compile("[A-Za-z][A-Za-z0-9+.-]*:|subfile,.*:")  # not `at 14:23.mp4`
MAX_CLIP_ID_BYTES = 64  # `/clip/id` is S64 in the shards
MAX_CLASSES = 100_000  # class numbers decide the size of lists and of a layer
MAX_FRAMES_PER_SECOND = 10_000  # of high-speed cameras
FOLDER_END = "/"  # the path of a folder of frames ends with it; that of a file cannot


@dataclass(frozen=True)
class Clip:
    """One row of the manifest.

    Attributes:
        clip_id: unique text, at most 64 bytes of UTF-8; `0123` stays `0123`.
        video: path of the video, relative to the video root, with forward slashes. A slash at its
            end means a folder of frames.
        start_seconds, stop_seconds: the span of the clip in the video; None is the start or the end
            of the video.
        split: "train", "val" or "test".
        label, verb, noun: class numbers from 0 to 99,999, or None.
        frames_per_second: rate of a folder of frames, which states none itself; None for a file.
    """

    clip_id: str
    video: str
    start_seconds: float | None = None
    stop_seconds: float | None = None
    split: str = "train"
    label: int | None = None
    verb: int | None = None
    noun: int | None = None
    frames_per_second: float | None = None

    def __post_init__(self) -> None:
        num_bytes = len(self.clip_id.encode())
        if not 1 <= num_bytes <= MAX_CLIP_ID_BYTES or CONTROL.search(self.clip_id):
            raise InputError(
                "bad-name",
                f"clip_id {_short(self.clip_id)} has {num_bytes} bytes; 1 to {MAX_CLIP_ID_BYTES} "
                "bytes without control characters are allowed",
            )
        check_relative_path(self.video)
        if self.split not in SPLITS:
            raise InputError("unknown-name", f"split {self.split!r} is none of {', '.join(SPLITS)}")
        for name in ("start_seconds", "stop_seconds"):
            seconds = getattr(self, name)
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise InputError(
                    "out-of-range", f"{name} is {seconds}; a number of seconds from 0 is allowed"
                )
        start, stop = self.span
        if stop <= start:
            raise InputError(
                "out-of-range", f"stop_seconds {stop} is not after start_seconds {start}"
            )
        for name in LABEL_KINDS:
            number = getattr(self, name)
            if number is not None and not 0 <= number < MAX_CLASSES:
                raise InputError(
                    "out-of-range",
                    f"{name} is {number:.6g}; class numbers from 0 to {MAX_CLASSES - 1} are "
                    "allowed",
                )
        rate = self.frames_per_second
        if rate is not None and not 0 < rate <= MAX_FRAMES_PER_SECOND:
            raise InputError(
                "out-of-range",
                f"frames_per_second is {rate:.6g}; numbers above 0 and up to "
                f"{MAX_FRAMES_PER_SECOND} are allowed",
            )

    @property
    def is_frame_folder(self) -> bool:
        """Whether the video is a folder of pictures, one for each frame."""
        return self.video.endswith(FOLDER_END)

    @property
    def span(self) -> tuple[float, float]:
        """Start and stop in seconds from the start of the video; infinity is its end."""
        stop = math.inf if self.stop_seconds is None else self.stop_seconds
        return self.start_seconds or 0.0, stop


OPTIONAL_COLUMNS = ("frames_per_second",)
"""Columns that a manifest may lack; they are written only if a clip has a value there."""
COLUMNS = tuple(column.name for column in fields(Clip) if column.name not in OPTIONAL_COLUMNS)


@dataclass(frozen=True)
class ClassList:
    """Names of the classes, and the labels after a flip.

    Attributes:
        label, verb, noun: class names by class number; empty if the dataset has none.
        flip_x, flip_y, flip_time: the label of each class after a flip from left to right, from top
            to bottom, or in time; None if the flipped clips belong to no class.

    Raises:
        InputError: a flip is not a permutation of the labels, or a name is not valid Unicode.
    """

    label: list[str] = field(default_factory=list)
    verb: list[str] = field(default_factory=list)
    noun: list[str] = field(default_factory=list)
    flip_x: list[int] | None = None
    flip_y: list[int] | None = None
    flip_time: list[int] | None = None

    def __post_init__(self) -> None:
        for kind in LABEL_KINDS:
            for number, name in enumerate(getattr(self, kind)):
                if SURROGATE.search(name):
                    raise InputError(
                        "bad-name",
                        f"{kind} {number}, {_short(name)}, is not valid Unicode: it has half of a "
                        "surrogate pair; correct it in the annotations",
                    )
        for name in FLIP_FIELDS:
            flip = getattr(self, name)
            if flip is not None and sorted(flip) != list(range(len(self.label))):
                raise InputError(
                    "other-classes",
                    f"{name} must list each of the {len(self.label)} labels once",
                )

    def class_name(self, number: int | None, kind: str = "label") -> str:
        """The name of class `number`, or its number if it has no name; "no label" for None.

        Args:
            kind: kind of label: "label", "verb" or "noun".
        """
        if number is None:
            return f"no {kind}"
        names = getattr(self, kind)
        return names[number] if number < len(names) else f"{SINGULAR[kind]} {number}"

    def class_names(self, kind: str, count: int) -> list[str]:
        """The names of classes 0 to `count` - 1 of a kind of label."""
        return [self.class_name(number, kind) for number in range(count)]


def check_relative_path(video: str) -> None:
    """Refuse a video path that could leave the video root or be read as an address.

    Raises:
        InputError: the path is empty or absolute, or has `..`, a protocol, a control character or
            a name that is too long.
    """
    path = PurePosixPath(video)
    allowed = "a path relative to the video root without '..' is allowed"
    if not video or CONTROL.search(video) or "\\" in video:
        raise InputError("unsafe-path", f"video {_short(video)}: {allowed}")
    if path.is_absolute() or ".." in path.parts:
        raise InputError("unsafe-path", f"video {_short(video)} leaves the video root; {allowed}")
    if PROTOCOL.match(path.parts[0]):
        raise InputError("unsafe-path", f"video {_short(video)} looks like an address; {allowed}")
    if len(video.encode()) > 1024 or any(len(part.encode()) > 255 for part in path.parts):
        raise InputError("bad-name", f"video {_short(video)}: the path is too long; {allowed}")


def read_manifest(path: Path) -> list[Clip]:
    """Read manifest.csv.

    Raises:
        InputError: the file or a column is missing, or a value or a repeated clip_id is not
            allowed; the message has the row.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        made = make_around(path, "manifest")
        raise InputError("missing-file", f"no manifest at {path}; make one with {made}") from None
    except UnicodeDecodeError as error:
        row = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            "wrong-format", f"{path}, row {row}: not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from None
    return parse_manifest(text, str(path))


def parse_manifest(
    text: str, name: str, prepare: Callable[[dict[str, str]], dict[str, str]] = dict
) -> list[Clip]:
    """Parse the text of a manifest.

    Args:
        text: content of the file.
        name: name of the file, for messages.
        prepare: changes the cells of a row, by column, before they are read.

    Raises:
        InputError: the text is not CSV, a column is missing or there twice, or a row has another
            length, a bad value or a repeated clip_id; the message has the row.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return _clips_of(rows, name, prepare)
    except csv.Error as error:
        raise InputError(
            "wrong-format", f"{name}, row {rows.reader.line_num}: not CSV ({error})"
        ) from None


def check_columns(found: list[str], name: str) -> None:
    """Refuse a header that has a column twice, because one of the two would be ignored.

    Args:
        found: the names in the header.
        name: name of the file, for messages.

    Raises:
        InputError: there is such a column.
    """
    for column in found:
        if column and found.count(column) > 1:
            raise InputError(
                "duplicate",
                f"{name}, row 1: column {_short(column)} is there {found.count(column)} times; "
                "keep one of them",
            )


def _clips_of(
    rows: csv.DictReader[str], name: str, prepare: Callable[[dict[str, str]], dict[str, str]]
) -> list[Clip]:
    found = list(rows.fieldnames or [])
    missing = [column for column in COLUMNS if column not in found]
    if missing:
        raise InputError(
            "missing-key",
            f"{name}, row 1: column {', '.join(missing)} is missing. The header is "
            f"{_short(','.join(found))}, and must be {','.join(COLUMNS)}; cells may be empty",
        )
    check_columns(found, name)
    clips: list[Clip] = []
    row_of: dict[str, int] = {}
    for row in rows:
        try:
            if None in row or None in row.values():
                values = len(row.get(None) or ()) + sum(
                    value is not None for column, value in row.items() if column is not None
                )
                raise InputError(
                    "bad-entry",
                    f"{values} values, but the header has {len(found)} columns; put a value with a "
                    "comma into double quotes",
                )
            clip = _clip_of(prepare(row))
        except InputError as error:
            raise error.at(f"{name}, row {rows.line_num}") from None
        if clip.clip_id in row_of:
            raise InputError(
                "duplicate",
                f"{name}, row {rows.line_num}: clip_id {clip.clip_id!r} is also in row "
                f"{row_of[clip.clip_id]}; each clip needs a clip_id of its own",
            )
        row_of[clip.clip_id] = rows.line_num
        clips.append(clip)
    return clips


def format_manifest(clips: list[Clip]) -> str:
    """Return the text of manifest.csv, the inverse of `parse_manifest`."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    optional = [
        column
        for column in OPTIONAL_COLUMNS
        if any(getattr(clip, column) is not None for clip in clips)
    ]
    columns = [*COLUMNS, *optional]
    writer.writerow(columns)
    for clip in clips:
        values = [getattr(clip, column) for column in columns]
        writer.writerow(["" if value is None else value for value in values])
    return stream.getvalue()


def write_manifest(path: Path, clips: list[Clip]) -> None:
    """Write manifest.csv in one step."""
    write_atomically(path, format_manifest(clips).encode())


def manifest_digest(clips: list[Clip]) -> str:
    """Return the sha256 of ids, videos, spans and rates in order, which decide what shards hold.

    Labels and splits are left out, because they can be corrected without computing motion again.
    """
    hashed = hashlib.sha256()
    for clip in clips:
        what: tuple = (clip.clip_id, clip.video, clip.start_seconds, clip.stop_seconds)
        if clip.frames_per_second is not None:
            what += (clip.frames_per_second,)
        hashed.update(json.dumps(what).encode() + b"\n")
    return hashed.hexdigest()


def row_digests(clips: Iterable[Clip]) -> dict[str, dict[str, str]]:
    """Return digests of the rows of each split that has clips, in their order.

    `manifest_digest` leaves out splits and labels, which decide what a run learns and is tested on.

    Returns:
        for each split the sha256 of its ids, `clips`, and of ids and labels of each kind: `label`,
        `verb` and `noun`.
    """
    of_split: dict[str, list[Clip]] = {}
    for clip in clips:
        of_split.setdefault(clip.split, []).append(clip)
    return {
        split: {"clips": _digest_of_lines(clip.clip_id for clip in of_split[split])}
        | {
            kind: _digest_of_lines(f"{c.clip_id}\t{getattr(c, kind)}" for c in of_split[split])
            for kind in LABEL_KINDS
        }
        for split in SPLITS
        if split in of_split
    }


def _digest_of_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()  # ids have no control characters


def read_classes(path: Path) -> ClassList:
    """Read classes.json; a dataset without this file has no classes.

    Raises:
        InputError: the file does not have the format of `write_classes`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return ClassList()
    except (ValueError, RecursionError) as error:
        raise InputError("wrong-format", f"{path} is not JSON: {error}") from None
    known = {name.name for name in fields(ClassList)}
    if not isinstance(content, dict) or set(content) - known:
        raise InputError(
            "unknown-key", f"{path}: an object with the keys {', '.join(sorted(known))} is allowed"
        )
    for key, value in content.items():
        is_flip = key in FLIP_FIELDS
        kind, what = (int, "null or a list of labels") if is_flip else (str, "a list of names")
        if not _is_list_of(value, kind) and not (value is None and is_flip):
            raise InputError(
                "wrong-type", f"{path}: {key} is {_short(str(value))}; {what} is allowed"
            )
    try:
        return ClassList(**content)
    except InputError as error:
        raise error.at(path) from None


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(each) is kind for each in value)


def write_classes(path: Path, classes: ClassList) -> None:
    """Write classes.json in one step."""
    text = json.dumps(asdict(classes), indent=1, ensure_ascii=False)
    write_atomically(path, text.encode() + b"\n")


def _clip_of(values: dict[str, str]) -> Clip:
    return Clip(
        clip_id=values["clip_id"],
        video=values["video"],
        start_seconds=_number(values, "start_seconds", float),
        stop_seconds=_number(values, "stop_seconds", float),
        split=values["split"],
        label=_number(values, "label", int),
        verb=_number(values, "verb", int),
        noun=_number(values, "noun", int),
        frames_per_second=_number(values, "frames_per_second", float),
    )


def _number(values: dict[str, str], column: str, kind: Callable[[str], N]) -> N | None:
    text = values.get(column, "")
    if text == "":
        return None
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise InputError(
            "wrong-type", f"{column} is {_short(text)}; {what} or nothing is allowed"
        ) from None


def _short(text: str) -> str:
    """Cut a text for a message: a hostile manifest may have thousands of characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
