"""Find the videos below the video root in one walk over its folders, without opening any file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import InputError

# Suffixes of the containers that preprocess/video/decode.py opens. If a clip has several files, the
# one that the user prefers is used; after it, this order decides.
SUFFIXES = (
    ".webm",
    ".mp4",
    ".mkv",
    ".mov",
    ".m4v",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".flv",
    ".wmv",
    ".asf",
    ".3gp",
    ".3g2",
    ".qt",
    ".f4v",
    ".mp4v",
    ".mk3d",
    ".divx",
    ".mts",
    ".m2ts",
    ".m2t",
    ".mpe",
    ".vob",
    ".ogv",
)
ODD = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass
class VideoIndex:
    """The video files below a root, which are found by name.

    Names that begin with a dot are left out. Folders that are symbolic links are not entered.

    Attributes:
        root: the video root, resolved.
        paths: files that may be used, relative to the root, with forward slashes, sorted.
        refused: the reason why a file with the suffix of a video may not be used, by its path.
        links: folders that are symbolic links.
    """

    root: Path
    paths: list[str]
    refused: dict[str, str]
    links: list[str]
    _by_stem: dict[str, list[str]] = field(init=False)
    _refused_by_stem: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._by_stem = {}
        for path in self.paths:
            self._by_stem.setdefault(stem_of(path), []).append(path)
        self._refused_by_stem = {stem_of(path): path for path in self.refused}
        self._known = set(self.paths)

    def find(self, video: str, prefer: str, rooted: bool = False) -> list[str]:
        """Files of a clip, with the one to use first; empty if there is none.

        Args:
            video: the name without suffix; parent folders in it decide between files of one name.
            prefer: "webm" or "mp4", for a clip that has both.
            rooted: whether `video` is the whole path below the root, so that files elsewhere do not
                count.

        Raises:
            InputError: the only file of that name is refused.
        """
        stem = video.rpartition("/")[2]
        found = self._by_stem.get(stem, [])
        if not found and stem in self._refused_by_stem:
            path = self._refused_by_stem[stem]
            raise InputError("unsafe-path", f"video {path!r} {self.refused[path]}")
        if rooted:
            found = [path for path in found if _without_suffix(path) == video]
        if len(found) < 2:
            return found
        return sorted(found, key=lambda path: _rank(path, video, prefer))

    def same_name(self, path: str) -> list[str]:
        """All files with the name of this one, in any folder and with any suffix."""
        return self._by_stem.get(stem_of(path), [])

    def find_exact(self, path: str) -> list[str]:
        """[path] if that file exists, or else an empty list.

        Raises:
            InputError: the path leaves the video root by a symbolic link, is not a regular file, or
                has a suffix that no allowed video has.
        """
        if path in self._known:
            return [path]
        if suffix_of(path) not in SUFFIXES:
            raise InputError(
                "wrong-format", f"video {path[:80]!r}: its suffix is none of {', '.join(SUFFIXES)}"
            )
        reason = self.refused.get(path) or _why_refused(self.root, self.root / path)
        if reason:
            raise InputError("unsafe-path", f"video {path!r} {reason}")
        return [path] if os.path.isfile(self.root / path) else []


def scan_videos(root: Path) -> VideoIndex:
    """Walk the video root once.

    Raises:
        InputError: the folder does not exist.
    """
    if not Path(root).is_dir():
        raise InputError(
            "missing-folder",
            f"There is no folder of videos at {root}. Give it with --videos (VIDEOS=)",
        )
    root = Path(root).resolve()
    paths: list[str] = []
    refused: dict[str, str] = {}
    links: list[str] = []
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo.append(path + "/")
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    links.append(path)
                elif suffix_of(path) in SUFFIXES:
                    plain = entry.is_file(follow_symlinks=False)
                    reason = _odd_name(path) or (None if plain else _why_refused(root, entry.path))
                    if reason:
                        refused[path] = reason
                    elif plain or os.path.isfile(entry.path):
                        paths.append(path)
    return VideoIndex(root, sorted(paths), refused, sorted(links))


def stem_of(path: str) -> str:
    """File name without folders and without its last suffix."""
    return path.rpartition("/")[2].rpartition(".")[0]


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _rank(path: str, video: str, prefer: str) -> tuple:
    """Sort key: first the exact path, then the folder of the annotation, the suffix, the path."""
    suffix = suffix_of(path)
    name = _without_suffix(path)
    in_folder = f"/{name}".endswith(f"/{video}")
    return (name != video, not in_folder, suffix != f".{prefer}", SUFFIXES.index(suffix), path)


def _without_suffix(path: str) -> str:
    return path.rpartition(".")[0]


def _odd_name(path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8; rename it"
    if ODD.search(path):
        return "has a control character or backslash in its name; rename it"
    return None


def _why_refused(root: Path, path: str | Path) -> str | None:
    """The reason why a path that is not a plain file must not be used; None if it may be used."""
    target = os.path.realpath(path)
    if os.path.commonpath([root, target]) != str(root):
        return "leaves the video root by a symbolic link; copy the video, or link the whole root"
    if os.path.lexists(target) and not os.path.isfile(target):
        return "is not a regular file"
    return None
