"""What a reader of annotation files takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.annotations.dataset_spec import DatasetSpec
from shared.errors import InputError
from shared.manifest import SPLITS, ClassList


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """One annotated clip, before its video is found.

    Attributes:
        where: file and row, for messages.
        name: text that the clip_id is made from; unique in the dataset.
        video: name of the video without its suffix, with as many parent folders as the annotation
            gives (`ApplyLipstick/v_ApplyLipstick_g01_c01`).
        split, label, verb, noun: as in the manifest.
        start_seconds, stop_seconds: span in the video; None = its start, its end.
        frames: span as frame numbers first:last (half-open, from 0), if the annotation gives no
            seconds. It is converted to seconds as soon as the frame rate is known.
        rooted: `video` is a path below the video root. Files with that name in other folders
            belong to other clips.
        exact: `video` is such a path with its suffix.
        frames_per_second: rate of a folder of frames, if the annotation gives it.
        columns: further columns of the row, which the splits may be made from.
    """

    where: str
    name: str
    video: str
    split: str
    label: int | None = None
    verb: int | None = None
    noun: int | None = None
    start_seconds: float | None = None
    stop_seconds: float | None = None
    frames: tuple[int, int] | None = None
    rooted: bool = False
    exact: bool = False
    frames_per_second: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotations:
    """The content of a dataset's annotation files.

    Attributes:
        clips: the clips, in the order of the files: train, val, test.
        classes: class names, and what flips do to labels.
        notes: lines for the screen, such as the name of a split file that does not exist.
        splits_from: what gives the splits, for messages, such as "the official lists"; None if
            nothing does, so that the clips are to be divided. They all have split train then.
    """

    clips: list[AnnotatedClip]
    classes: ClassList
    notes: list[str] = field(default_factory=list)
    splits_from: str | None = "the official lists"


@dataclass(frozen=True)
class Source:
    """The annotation folder of a dataset; it finds files by their role (`train`, `labels`, ...).

    Attributes:
        folder: folder of the official files.
        spec: the dataset; `spec.files` lists the file names of each role.
        split_number: number of the official split, for datasets with several.

    Raises:
        InputError: the folder does not exist.
    """

    folder: Path
    spec: DatasetSpec
    split_number: int | None = None

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise InputError(
                "missing-folder",
                f"no folder of annotations at {self.folder}; give --annotations the folder with "
                f"{', '.join(self.patterns(role)[0] for role in self.spec.files)}",
            )

    def find_all(self, role: str) -> list[Path]:
        """All files that match the first pattern of a role that matches any file."""
        for pattern in self.patterns(role):
            found = sorted(path for path in self.folder.glob(pattern) if path.is_file())
            if found:
                return found
        return []

    def find(self, role: str) -> Path | None:
        """The file of a role; None if it does not exist.

        Raises:
            InputError: several files match.
        """
        found = self.find_all(role)
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(
                "duplicate",
                f"{self.folder} has several files for the {role} annotations ({names}); keep one, "
                "and move the others elsewhere",
            )
        return found[0] if found else None

    def require(self, role: str) -> Path:
        """The file of a role.

        Raises:
            InputError: no file matches, or several do.
        """
        path = self.find(role)
        if path is None:
            patterns = " or ".join(self.patterns(role))
            raise InputError(
                "missing-file",
                f"no {patterns} in {self.folder}; the official annotation files are needed",
            )
        return path

    def split_files(self, notes: list[str]) -> list[tuple[str, Path]]:
        """(split, file) for each split that has a file.

        Args:
            notes: gets a line for each split that has no file.

        Raises:
            InputError: no split has a file.
        """
        roles = [split for split in SPLITS if split in self.spec.files]
        found = [(role, path) for role in roles if (path := self.find(role)) is not None]
        if not found:
            tried = ", ".join(pattern for role in roles for pattern in self.patterns(role))
            raise InputError(
                "missing-file", f"none of {tried} is in {self.folder}; at least one is needed"
            )
        present = {role for role, _ in found}
        notes += [
            f"no {self.patterns(role)[0]}: split {role} is skipped"
            for role in roles
            if role not in present
        ]
        return found

    def patterns(self, role: str) -> list[str]:
        """The names that the file of a role may have, in the order in which they are tried."""
        return [pattern.replace("{n}", str(self.split_number)) for pattern in self.spec.files[role]]


@dataclass(frozen=True)
class Reader:
    """A format of annotations: the roles of the files that it has, and the function to read them.

    Attributes:
        roles: keys of `[files]` in the TOML of a dataset with this format.
        read: reads the files.
    """

    roles: tuple[str, ...]
    read: Callable[[Source], Annotations]


def check_count(kind: str, classes: list[str], source: Source, notes: list[str]) -> None:
    """Add a note if the class list is not as long as the official one.

    Raises:
        InputError: the list is empty.
    """
    if not classes:
        raise InputError(
            "empty", f"the files in {source.folder} list no {kind} class; at least one is needed"
        )
    expected = source.spec.num_classes.get(kind, 0)
    if len(classes) != expected:
        notes.append(
            f"{len(classes)} {kind} classes are listed; the official list has {expected}, so class "
            "numbers may differ from the official ones"
        )


def require_clips(clips: Sequence[object], path: Path) -> None:
    """Refuse an annotation file that lists no clip.

    Raises:
        InputError: `clips` is empty.
    """
    if not clips:
        raise InputError("empty", f"{path} lists no clip; an empty split cannot be used")
