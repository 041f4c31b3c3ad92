"""What every reader of annotation files returns, and the folder it reads from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.annotations.dataset_spec import DatasetSpec
from shared.errors import InputError
from shared.manifest import SPLITS, ClassList


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """One annotated clip, before its video is looked for.

    Attributes:
        where: file and row, for messages.
        name: text that the clip_id is made of; unique in the dataset.
        video: name of the video without its suffix, with as many parent folders as the annotation
            gives (`ApplyLipstick/v_ApplyLipstick_g01_c01`); with `rooted`, its path below the video
            root, so that files of that name elsewhere are of other clips; with `exact`, that path
            with its suffix.
        split, label, verb, noun: as in the manifest.
        start_seconds, stop_seconds: span in the video, None = from its start, to its end.
        frames: span as frame numbers first:last (half-open, from 0) where the annotation gives no
            seconds; turned into seconds once the frame rate is known.
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


@dataclass(frozen=True)
class Annotations:
    """What a dataset's annotation files say.

    Attributes:
        clips: in the order of the files: train, val, test.
        classes: class names and flips.
        notes: lines for the screen, such as a split file that is not there.
    """

    clips: list[AnnotatedClip]
    classes: ClassList
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """The annotation folder of a dataset, asked by role (`train`, `labels`, ...).

    Attributes:
        folder: where the official files lie.
        spec: of the dataset; `spec.files` says which names a role can have.
        split_number: which of the official splits, where there are several.
    """

    folder: Path
    spec: DatasetSpec
    split_number: int | None = None

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise InputError(
                f"no folder of annotations at {self.folder}; --annotations names the folder with "
                f"{', '.join(self.patterns(role)[0] for role in self.spec.files)}"
            )

    def find_all(self, role: str) -> list[Path]:
        """The files of a role: all matches of the first of its patterns that has any."""
        for pattern in self.patterns(role):
            found = sorted(path for path in self.folder.glob(pattern) if path.is_file())
            if found:
                return found
        return []

    def find(self, role: str) -> Path | None:
        """The file of a role, or None.

        Raises:
            InputError: several files match.
        """
        found = self.find_all(role)
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(
                f"{self.folder} has several files for the {role} annotations ({names}); leave one, "
                "or move the others elsewhere"
            )
        return found[0] if found else None

    def require(self, role: str) -> Path:
        """The file of a role.

        Raises:
            InputError: there is none.
        """
        path = self.find(role)
        if path is None:
            patterns = " or ".join(self.patterns(role))
            raise InputError(
                f"no {patterns} in {self.folder}; the official annotation files are needed"
            )
        return path

    def split_files(self, notes: list[str]) -> list[tuple[str, Path]]:
        """(split, file) for each split that has a file; a note for each that has none.

        Raises:
            InputError: there is no file for any split.
        """
        roles = [split for split in SPLITS if split in self.spec.files]
        found = [(role, path) for role in roles if (path := self.find(role)) is not None]
        if not found:
            tried = ", ".join(pattern for role in roles for pattern in self.patterns(role))
            raise InputError(f"none of {tried} in {self.folder}; at least one is needed")
        present = {role for role, _ in found}
        notes += [
            f"no {self.patterns(role)[0]}: split {role} is skipped"
            for role in roles
            if role not in present
        ]
        return found

    def patterns(self, role: str) -> list[str]:
        """Names that the file of a role may have, in the order they are tried."""
        return [pattern.replace("{n}", str(self.split_number)) for pattern in self.spec.files[role]]


@dataclass(frozen=True)
class Reader:
    """A format: the roles of files that it reads, and the function that does."""

    roles: tuple[str, ...]
    read: Callable[[Source], Annotations]


def check_count(kind: str, classes: list[str], source: Source, notes: list[str]) -> None:
    """Note where the class list is not as long as the official one.

    Raises:
        InputError: there is no class at all.
    """
    if not classes:
        raise InputError(
            f"the files in {source.folder} list no {kind} class; at least one is needed"
        )
    expected = source.spec.num_classes.get(kind, 0)
    if len(classes) != expected:
        notes.append(
            f"{len(classes)} {kind} classes found, the official list has {expected}: class numbers "
            "may differ from the official ones"
        )


def require_clips(clips: Sequence[object], path: Path) -> None:
    """Refuse an annotation file without a single clip.

    Raises:
        InputError: with the file.
    """
    if not clips:
        raise InputError(f"{path} lists no clip; an empty split cannot be used")
