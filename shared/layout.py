"""Where everything of one dataset lies below OUT."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from shared.errors import InputError

DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LENGTHS = "-length"
"""Ends the name of a flow source whose maps say how far things move, not where motion differs."""
BOUNDARIES = "-boundaries"
"""Ends the name of a flow source whose maps are made as MOFO's public code makes them."""
UNSTABILISED = "-unstabilised"
"""Ends the name of a flow source whose maps keep the camera's motion, beside those without it."""
MAP_ENDINGS = (LENGTHS, BOUNDARIES, UNSTABILISED)
MAKE_DATASET, MAKE_OUT = "toy", Path("out")  # the Makefile's, where nothing is said


def split_output(output: str) -> tuple[str, str]:
    """Flow source and ending, "" where it has none: tvl1-length is (tvl1, LENGTHS)."""
    ending = next((ending for ending in MAP_ENDINGS if output.endswith(ending)), "")
    return output.removesuffix(ending), ending


@dataclass(frozen=True)
class DatasetLayout:
    """Paths of one dataset: `DatasetLayout(Path("out"), "ssv2").boxes` is `out/ssv2/boxes`.

    Raises:
        InputError: the dataset name could leave the OUT folder or confuse a shell.
    """

    out: Path
    dataset: str

    def __post_init__(self) -> None:
        _check_name("dataset name", self.dataset)

    @property
    def root(self) -> Path:
        return Path(self.out) / self.dataset

    @property
    def manifest(self) -> Path:
        """One row a clip (see shared/manifest.py)."""
        return self.root / "manifest.csv"

    @property
    def missing(self) -> Path:
        """Annotated clips whose video was not found."""
        return self.root / "missing.csv"

    @property
    def classes(self) -> Path:
        """Class names, and what each kind of flip does to a label."""
        return self.root / "classes.json"

    @property
    def failures(self) -> Path:
        """Clips set aside: one JSON object a line with clip_id, stage and reason."""
        return self.root / "failures.jsonl"

    @property
    def frames(self) -> Path:
        """Shards of decoded frames, as JPEG."""
        return self.root / "frames"

    @property
    def flows(self) -> Path:
        """Shards of motion maps of the first flow source, and of tracks if asked for."""
        return self.root / "flows"

    def flows_of(self, source: str) -> Path:
        """Maps of a further flow source, beside the first: `flows-motion-vectors`; with LENGTHS at
        the end of its name, how far everything moves: `flows-motion-vectors-length`; with
        BOUNDARIES, the maps of MOFO's public code."""
        return self.root / f"flows-{source}"

    @property
    def boxes(self) -> Path:
        """Shards of motion boxes and tube tables, made of flows/."""
        return self.root / "boxes"

    def boxes_of(self, name: str) -> Path:
        """Further boxes, beside the first: `boxes-annotated`."""
        _check_name("boxes name", name)
        return self.root / f"boxes-{name}"

    def boxes_folders(self) -> list[Path]:
        """The boxes that were begun: boxes/ and those beside it."""
        beside = sorted(path for path in self.root.glob("boxes-*") if path.is_dir())
        return [path for path in (self.boxes, *beside) if path.is_dir()]

    @property
    def runs(self) -> Path:
        """One folder a training run."""
        return self.root / "runs"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def lock(self) -> Path:
        """Held by the one command that may write shards here."""
        return self.root / ".lock"

    @property
    def videos(self) -> Path:
        """Videos of the toy dataset, rendered into OUT; others live where the user says."""
        return self.root / "videos"

    def make(self, goal: str, arguments: str = "", **variables: str) -> str:
        """The command line that makes a goal for this dataset, to be shown to a user:
        `make flows DATASET=ssv2 OUT=/data/out ARGS='--source dis --overwrite'`.

        What the Makefile takes anyway is left out; `make flows` alone is the toy dataset's.

        Args:
            arguments: of the command, for ARGS.
            variables: further ones of the Makefile, such as METHOD.
        """
        words = ["make", goal]
        if self.dataset != MAKE_DATASET:
            words.append(f"DATASET={self.dataset}")
        if Path(self.out) != MAKE_OUT:
            words.append(f"OUT={shlex.quote(str(self.out))}")
        words += [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        if arguments:
            words.append(f"ARGS={shlex.quote(arguments)}")
        return " ".join(words)


def _check_name(what: str, name: str) -> None:
    if not DATASET_NAME.fullmatch(name):
        raise InputError(
            "bad-name",
            f"{what} {name!r}: letters, digits, '.', '_' and '-' are allowed, beginning with a "
            "letter or digit",
        )
