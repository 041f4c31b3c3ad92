"""Which pictures of a folder are the frames of one clip, by their names alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
NUMBERED = re.compile(r"(.*?)(\d+)(\.\w+)", re.DOTALL)
FLOW_PREFIXES = ("flow", "tvl1")  # folders of frames often hold flow beside the frames


def frame_series(names: Iterable[str]) -> list[str]:
    """The names of the frames of a clip in natural order; empty if the names are of no clip.

    Frames are pictures whose names differ only in a number before the suffix, such as
    `img_00001.jpg`. They are sorted by that number, so 10 comes after 9. Series that begin with
    `flow` are passed over, and so are hidden files: macOS writes `._img_00001.jpg` beside
    `img_00001.jpg`. There must be two frames or more, and only one series.

    Args:
        names: names of files in one folder; those without a picture's suffix are passed over.
    """
    series: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        parts = NUMBERED.fullmatch(name)
        if parts is None or not is_picture(name) or name.startswith("."):
            continue
        prefix, number, suffix = parts.groups()
        if not prefix.lower().startswith(FLOW_PREFIXES):
            series[prefix, suffix.lower()].append((int(number), name))
    if len(series) != 1:
        return []
    [frames] = series.values()
    frames.sort()
    numbers = [number for number, _ in frames]
    is_clip = len(frames) > 1 and len(set(numbers)) == len(numbers)
    return [name for _, name in frames] if is_clip else []


def is_picture(name: str) -> bool:
    """Whether a file has the suffix of a picture that may be a frame."""
    return name.lower().endswith(PICTURE_SUFFIXES)
