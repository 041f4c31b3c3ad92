"""Find the videos below the video root in one walk over its folders, without opening any file.

A video is a file with the suffix of a video, or a folder of frames: pictures that are numbered.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.video.frame_names import frame_series, is_picture
from shared.errors import InputError
from shared.manifest import FOLDER_END
from shared.wording import counted

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
    """The videos below a root, which are found by name.

    Names that begin with a dot are left out. Folders that are symbolic links are not entered. Names
    are compared in composed form (NFC), because macOS stores an accent as a character of its own.

    Attributes:
        root: the video root, resolved.
        paths: videos that may be used, relative to the root, with forward slashes, sorted. A folder
            of frames ends with a slash.
        refused: the reason why a file with the suffix of a video may not be used, by its path.
        links: folders that are symbolic links.
        folders: all other folders, relative to the root, sorted.
        others: number of files that are no video and no frame, by (folder, suffix).
        other: one of these files; empty if there are none.
        unreadable: the reason why a folder was not searched that may not be read, by its path.
    """

    root: Path
    paths: list[str]
    refused: dict[str, str]
    links: list[str]
    folders: list[str] = field(default_factory=list)
    others: Counter[tuple[str, str]] = field(default_factory=Counter)
    other: str = ""
    unreadable: dict[str, str] = field(default_factory=dict)
    _by_stem: dict[str, list[str]] = field(init=False)
    _by_name: dict[str, list[str]] = field(init=False)
    _refused_by_stem: dict[str, str] = field(init=False)
    _by_composed: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self._by_stem = {}
        self._by_name = {}
        self._by_composed = {}
        for path in self.paths:
            self._by_stem.setdefault(composed(stem_of(path)), []).append(path)
            self._by_name.setdefault(composed(without_suffix(path)), []).append(path)
            self._by_composed.setdefault(composed(path.removesuffix(FOLDER_END)), []).append(path)
        self._refused_by_stem = {composed(stem_of(path)): path for path in self.refused}
        self._known = set(self.paths)
        self._folders = set(self.folders)

    @property
    def unread(self) -> str:
        """Text on the folders that may not be read; empty if there are none."""
        if not self.unreadable:
            return ""
        folder, reason = min(self.unreadable.items())
        folders = counted(len(self.unreadable), "folder")
        return (
            f"{folders} not searched, such as {folder!r}: {reason}; change who may read it if it "
            "has videos"
        )

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
        stem = composed(video.rpartition("/")[2])
        if stem not in self._by_stem and stem in self._refused_by_stem:
            path = self._refused_by_stem[stem]
            raise InputError("unsafe-path", f"video {path!r} {self.refused[path]}")
        if rooted:  # not all files of one stem: in `id/video.mp4` these are all videos
            same = self._by_name.get(composed(video), [])
            found = [path for path in same if without_suffix(path) == video]
        else:
            found = self._by_stem.get(stem, [])
        if len(found) < 2:
            return found
        return sorted(found, key=lambda path: _rank(path, video, prefer))

    def find_exact(self, path: str) -> list[str]:
        """The file or folder of frames of this path, as the disk spells it; empty if there is none.

        Accents may be composed or not, and a folder of frames may lack its slash.

        Raises:
            InputError: the path leaves the video root by a symbolic link, is not a regular file, or
                has a suffix that no allowed video has; or two files differ in composition alone.
        """
        if path in self._known:
            return [path]
        same = self._by_composed.get(composed(path.removesuffix(FOLDER_END)), [])
        if len(same) > 1:
            raise InputError(
                "duplicate",
                f"video {path!r}: the files {same[0]!a} and {same[1]!a} have this name, in "
                "composed and in decomposed Unicode; rename one of them",
            )
        if same:
            return list(same)
        if path.removesuffix(FOLDER_END) in self._folders:
            raise InputError(
                "wrong-format",
                f"video {path[:80]!r} is a folder that is no clip: its pictures must have names "
                "that differ only in a number, such as img_00001.jpg, and be of one series",
            )
        if path.endswith(FOLDER_END):
            return []
        if suffix_of(path) not in SUFFIXES:
            raise InputError(
                "wrong-format", f"video {path[:80]!r}: its suffix is none of {', '.join(SUFFIXES)}"
            )
        reason = self.refused.get(path) or _why_refused(self.root, self.root / path)
        if reason:
            raise InputError("unsafe-path", f"video {path!r} {reason}")
        return [path] if os.path.isfile(self.root / path) else []


def scan_videos(root: Path) -> VideoIndex:
    """Walk the video root once. Folders below it that may not be read are noted, and left out.

    Raises:
        InputError: the folder does not exist.
        PermissionError: the folder itself may not be read.
    """
    if not Path(root).is_dir():
        raise InputError(
            "missing-folder",
            f"There is no folder of videos at {root}. Give it with --videos (VIDEOS=)",
        )
    root = Path(root).resolve()
    index = _Walk(root)
    todo = [""]
    while todo:
        todo += index.enter(todo.pop())
    return VideoIndex(
        root,
        sorted(index.paths),
        index.refused,
        sorted(index.links),
        sorted(index.folders),
        index.others,
        index.other,
        index.unreadable,
    )


class _Walk:
    """What a walk over the folders below `root` has found so far; see VideoIndex."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: list[str] = []
        self.refused: dict[str, str] = {}
        self.links: list[str] = []
        self.folders: list[str] = []
        self.others: Counter[tuple[str, str]] = Counter()
        self.other = ""
        self.unreadable: dict[str, str] = {}

    def enter(self, folder: str) -> list[str]:
        """Look at the entries of a folder, `a/b/` or empty; returns the folders in it."""
        inner: list[str] = []
        pictures: list[str] = []
        num_videos = 0
        entries = self._entries(folder)
        if entries is None:
            return []
        for entry in entries:
            path = f"{folder}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                inner.append(path + "/")
            elif entry.is_symlink() and os.path.isdir(entry.path):
                self.links.append(path)
            elif suffix_of(path) in SUFFIXES:
                num_videos += 1
                self._add_video(path, entry)
            elif is_picture(entry.name):
                pictures.append(entry.name)
            else:
                self._add_other(path)
        # Pictures beside videos are thumbnails.
        frames = frame_series(pictures) if folder and not num_videos else []
        if frames:
            self._add_frame_folder(folder)
        elif folder:
            self.folders.append(folder.removesuffix("/"))
        for name in set(pictures).difference(frames):
            self._add_other(folder + name)
        return inner

    def _entries(self, folder: str) -> list[os.DirEntry[str]] | None:
        """The entries of a folder; None if it may not be read, which is an error for the root."""
        try:
            with os.scandir(self.root / folder) as entries:
                return list(entries)
        except PermissionError as error:
            if not folder:
                raise
            self.unreadable[folder.removesuffix("/")] = error.strerror or "no permission"
            return None

    def _add_video(self, path: str, entry: os.DirEntry[str]) -> None:
        plain = entry.is_file(follow_symlinks=False)
        reason = _odd_name(path) or (None if plain else _why_refused(self.root, entry.path))
        if reason:
            self.refused[path] = reason
        elif plain or os.path.isfile(entry.path):
            self.paths.append(path)

    def _add_frame_folder(self, path: str) -> None:
        reason = _odd_name(path)
        if reason:
            self.refused[path] = reason
        else:
            self.paths.append(path)

    def _add_other(self, path: str) -> None:
        folder, _, _ = path.rpartition("/")
        self.others[folder, suffix_of(path)] += 1
        self.other = min(self.other, path) if self.other else path


def stem_of(path: str) -> str:
    """Name without folders and without the suffix of a video."""
    return without_suffix(path).rpartition("/")[2]


def suffix_of(path: str) -> str:
    """The last suffix in small letters, such as `.mp4`; empty for a folder of frames."""
    return os.path.splitext(path)[1].lower()


def without_suffix(path: str) -> str:
    """A path without the suffix of a video, or without the slash of a folder of frames."""
    is_file = suffix_of(path) in SUFFIXES
    return path.rpartition(".")[0] if is_file else path.removesuffix(FOLDER_END)


def composed(name: str) -> str:
    """A name in composed form (NFC): an accent and its letter are one character."""
    return unicodedata.normalize("NFC", name)


def _rank(path: str, video: str, prefer: str) -> tuple:
    """Sort key: first the exact path, then the folder of the annotation, the suffix, the path."""
    suffix = suffix_of(path)
    name = without_suffix(path)
    in_folder = f"/{name}".endswith(f"/{video}")
    order = SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES)  # frames come last
    return (name != video, not in_folder, suffix != f".{prefer}", order, path)


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
