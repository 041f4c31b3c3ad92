"""The paths of the files of one dataset below OUT."""

from __future__ import annotations

import shlex
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from shared.errors import InputError
from shared.mirror import local_folder, refuse_unstored, shown
from shared.mirror_sync import pull

MAX_NAME_BYTES = 200  # file systems allow 255 for a name, and some names get a suffix
LENGTHS = "-length"
"""Suffix of a flow source whose maps hold the length of motion, not its differences."""
BOUNDARIES = "-boundaries"
"""Suffix of a flow source whose maps are computed as in MOFO's public code."""
UNSTABILISED = "-unstabilised"
"""Suffix of a flow source whose maps keep the motion of the camera."""
MAP_ENDINGS = (LENGTHS, BOUNDARIES, UNSTABILISED)
MAKE_DATASET, MAKE_OUT = "toy", Path("out")  # the defaults of the Makefile


def is_dataset_name(name: str) -> bool:
    """Whether a name has only letters and digits of any alphabet, and `.`, `_` and `-`.

    The first character is a letter or a digit. Marks that belong to a letter count as letters:
    many alphabets write vowels with them.
    """
    kinds = [unicodedata.category(character)[0] for character in name]
    first, rest = kinds[:1], zip(name[1:], kinds[1:], strict=True)
    return (
        first in (["L"], ["N"])
        and all(kind in "LMN" or character in "._-" for character, kind in rest)
        and len(name.encode()) <= MAX_NAME_BYTES
    )


def split_output(output: str) -> tuple[str, str]:
    """Split the name of an output into flow source and suffix: tvl1-length is (tvl1, LENGTHS)."""
    ending = next((ending for ending in MAP_ENDINGS if output.endswith(ending)), "")
    return output.removesuffix(ending), ending


@dataclass(frozen=True)
class DatasetLayout:
    """Paths of one dataset: `DatasetLayout(Path("out"), "ssv2").boxes` is `out/ssv2/boxes`.

    For an OUT in object storage, s3://bucket/path, the paths are those of the mirror on this
    machine (shared/mirror.py), whose small files are then as in the store.

    Raises:
        InputError: the dataset name has characters that could leave OUT or confuse a shell; for
            object storage, the name is that of a folder that stays on this machine, or the storage
            cannot be reached.
    """

    out: Path
    dataset: str

    def __post_init__(self) -> None:
        _check_name("dataset name", self.dataset)
        if local_folder(self.out) != Path(self.out):
            refuse_unstored(self.dataset, f"dataset name {self.dataset!r} on S3", "another name")
            pull(self.root)

    @property
    def root(self) -> Path:
        return local_folder(self.out) / self.dataset

    @property
    def manifest(self) -> Path:
        """The list of clips (see shared/manifest.py)."""
        return self.root / "manifest.csv"

    @property
    def missing(self) -> Path:
        """The list of annotated clips whose video was not found."""
        return self.root / "missing.csv"

    @property
    def classes(self) -> Path:
        """Class names, and the label of a clip after each kind of flip."""
        return self.root / "classes.json"

    @property
    def failures(self) -> Path:
        """Clips that were set aside: one JSON object per line with clip_id, stage and reason."""
        return self.root / "failures.jsonl"

    @property
    def frames(self) -> Path:
        """Shards of decoded frames, as JPEG."""
        return self.root / "frames"

    @property
    def flows(self) -> Path:
        """Shards of motion maps of the first flow source, with tracks if these were asked for."""
        return self.root / "flows"

    def flows_of(self, source: str) -> Path:
        """Shards of motion maps of a further flow source: `flows-motion-vectors`.

        A suffix names another kind of map, such as LENGTHS: `flows-motion-vectors-length`.
        """
        return self.root / f"flows-{source}"

    @property
    def boxes(self) -> Path:
        """Shards of motion boxes and tube tables, which are computed from flows/."""
        return self.root / "boxes"

    def boxes_of(self, name: str) -> Path:
        """Shards of further boxes, such as `boxes-annotated`."""
        _check_name("boxes name", name)
        return self.root / f"boxes-{name}"

    @property
    def has_frames_alone(self) -> bool:
        """Whether `flows --source none` alone was run, which leaves its record in frames/."""
        return (self.frames / "options.json").is_file() and not self.flows.is_dir()

    def boxes_folders(self) -> list[Path]:
        """All existing folders of boxes: boxes/ and `boxes-<name>/`."""
        beside = sorted(path for path in self.root.glob("boxes-*") if path.is_dir())
        return [path for path in (self.boxes, *beside) if path.is_dir()]

    @property
    def runs(self) -> Path:
        """The folders of training runs."""
        return self.root / "runs"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def lock(self) -> Path:
        """The lock of the command that is writing shards."""
        return self.root / ".lock"

    @property
    def videos(self) -> Path:
        """The rendered videos of the toy dataset; other datasets have their videos elsewhere."""
        return self.root / "videos"

    def make(self, goal: str, arguments: str = "", **variables: str) -> str:
        """Return the command line that makes a goal for this dataset, for a message to the user.

        An example is `make flows DATASET=ssv2 OUT=/data/out ARGS='--source dis --overwrite'`.
        Defaults of the Makefile are left out.

        Args:
            arguments: arguments of the command, for ARGS.
            variables: further variables of the Makefile, such as METHOD.
        """
        words = ["make", goal]
        if self.dataset != MAKE_DATASET:
            words.append(f"DATASET={self.dataset}")
        if Path(self.out) != MAKE_OUT:
            words.append(f"OUT={shlex.quote(shown(local_folder(self.out)))}")
        words += [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        if arguments:
            words.append(f"ARGS={shlex.quote(arguments)}")
        return " ".join(words)


def _check_name(what: str, name: str) -> None:
    if not is_dataset_name(name):
        raise InputError(
            "bad-name",
            f"{what} {name[:80]!r}: letters and digits of any alphabet, '.', '_' and '-' are "
            "allowed, and the first character must be a letter or a digit",
        )
