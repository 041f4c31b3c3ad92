"""Reads the TOML of a dataset in data_manifests/: what is known before its files are read."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import InputError
from shared.manifest import FLIPS, LABEL_KINDS, SPLITS, ClassList

SPEC_FOLDER = Path(__file__).resolve().parents[2] / "data_manifests"
EFFECTS = ("identity", "none")
RENAMED_READERS = {"own_csv": "manifest_csv"}
"""Former names of readers, which older TOMLs have."""


@dataclass(frozen=True)
class DatasetSpec:
    """The content of one file of data_manifests/.

    Attributes:
        name: name of the dataset, the stem of the file.
        title: full name of the dataset.
        reader: module of preprocess/annotations/readers/ that reads its official files.
        reported_split: the split that papers report on.
        files: role -> patterns below the annotation folder, tried in order. `{n}` stands for the
            number of the split.
        num_classes: "label", "verb", "noun" -> number of classes in the official lists.
        flips: "x", "y", "time" -> "identity" if the flip keeps every label, "none" if it may not
            be used. A flip that is not listed may not be used.
        num_splits: number of official train/test splits to choose from; 0 = there is just one.
        labels: class names in official order, if no official file lists them.
        frame_rates: frame rates of the videos, frames per second; empty = any.
        only: names of the classes whose clips are used, in the order of their numbers; empty = all.

    Raises:
        InputError: a value is not allowed.
    """

    name: str
    title: str
    reader: str
    reported_split: str
    files: dict[str, tuple[str, ...]]
    num_classes: dict[str, int] = field(default_factory=dict)
    flips: dict[str, str] = field(default_factory=dict)
    num_splits: int = 0
    labels: tuple[str, ...] = ()
    frame_rates: tuple[float, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(
            "unknown-name",
            self.reported_split in SPLITS,
            f"reported_split is {self.reported_split!r}; allowed: {', '.join(SPLITS)}",
        )
        _check(
            "out-of-range",
            self.num_splits >= 0,
            f"num_splits is {self.num_splits}; it must be at least 0",
        )
        for kind in self.num_classes:
            _check(
                "unknown-key",
                kind in LABEL_KINDS,
                f"unknown key {kind!r} of [classes]; known: {', '.join(LABEL_KINDS)}",
            )
        for flip, effect in self.flips.items():
            _check(
                "unknown-key",
                flip in FLIPS,
                f"unknown key {flip!r} of [flips]; known: {', '.join(FLIPS)}",
            )
            _check(
                "unknown-name",
                effect in EFFECTS,
                f"flip {flip} is {effect!r}; allowed: {', '.join(EFFECTS)}",
            )
        num_labels = self.num_classes.get("label", 0)
        _check(
            "other-classes",
            not self.labels or len(self.labels) == num_labels,
            f"[classes] lists {len(self.labels)} labels, but label is {num_labels}",
        )

    @property
    def has_own_manifest(self) -> bool:
        """Whether the clips are listed in a CSV like manifest.csv, with the paths of the videos.

        Such a dataset may lie completely below OUT/DATASET, as the toy dataset does: the list in
        annotations/, the videos in videos/.
        """
        return self.reader == "manifest_csv"

    def class_list(
        self, label: list[str], verb: list[str] | None = None, noun: list[str] | None = None
    ) -> ClassList:
        """Class names, together with what the flips of this dataset do to labels."""
        same = list(range(len(label)))
        flips = {
            f"flip_{flip}": same if effect == "identity" else None
            for flip, effect in self.flips.items()
        }
        return ClassList(label=label, verb=verb or [], noun=noun or [], **flips)


def known_datasets(folder: Path = SPEC_FOLDER) -> list[str]:
    """Names of the datasets that have a TOML."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def read_spec(dataset: str, folder: Path = SPEC_FOLDER) -> DatasetSpec | None:
    """Read the TOML of a dataset; None if there is no such file, which means a user's own data.

    Raises:
        InputError: the file is not valid.
    """
    path = folder / f"{dataset}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError("wrong-format", f"{path} is not TOML: {error}") from None
    try:
        return _spec_of(dataset, content)
    except InputError as error:
        raise error.at(path) from None


REQUIRED = {"title": str, "reader": str, "reported_split": str, "files": dict}
OPTIONAL = {"num_splits": int, "frame_rates": list, "classes": dict, "flips": dict}


def _spec_of(dataset: str, content: dict) -> DatasetSpec:
    known = REQUIRED | OPTIONAL
    for key in REQUIRED:
        _check("missing-key", key in content, f"{key} is missing")
    for key, value in content.items():
        _check("unknown-key", key in known, f"unknown key {key!r}; known: {', '.join(known)}")
        expected = known[key].__name__
        _check("wrong-type", type(value) is known[key], f"{key} must have the type {expected}")
    for role, patterns in content["files"].items():
        _check(
            "wrong-type",
            _all(patterns, str) and patterns != [],
            f"files.{role} must be a list of patterns",
        )
    classes = dict(content.get("classes", {}))
    labels, only = classes.pop("labels", []), classes.pop("only", [])
    rates = content.get("frame_rates", [])
    for name, names in (("labels", labels), ("only", only)):
        _check("wrong-type", _all(names, str), f"classes.{name} must be a list of strings")
    _check("duplicate", len(set(only)) == len(only), "classes.only has a name twice")
    _check(
        "wrong-type",
        _all(list(classes.values()), int),
        f"[classes] must hold the number of classes of {', '.join(LABEL_KINDS)}",
    )
    _check("wrong-type", _all(rates, float), "frame_rates must be a list of numbers such as 12.0")
    return DatasetSpec(
        name=dataset,
        title=content["title"],
        reader=RENAMED_READERS.get(content["reader"], content["reader"]),
        reported_split=content["reported_split"],
        files={role: tuple(patterns) for role, patterns in content["files"].items()},
        num_classes=classes,
        flips=content.get("flips", {}),
        num_splits=content.get("num_splits", 0),
        labels=tuple(labels),
        frame_rates=tuple(rates),
        only=tuple(only),
    )


def _all(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _check(code: str, holds: bool, message: str) -> None:
    if not holds:
        raise InputError(code, message)
