"""What is known of a dataset before any of its files is read: one TOML in data_manifests/ each."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import InputError
from shared.manifest import FLIPS, LABEL_KINDS, SPLITS, ClassList

SPEC_FOLDER = Path(__file__).resolve().parents[2] / "data_manifests"
EFFECTS = ("identity", "none")


@dataclass(frozen=True)
class DatasetSpec:
    """One file of data_manifests/, validated where it is built.

    Attributes:
        name: of the dataset, the file's stem.
        title: the name that people know it by.
        reader: the module of preprocess/annotations/readers/ that reads its official files.
        reported_split: the split that papers report on.
        num_splits: how many official train/test splits there are to choose from; 0 = just one.
        files: role -> patterns below the annotation folder, tried in order; `{n}` stands for the
            number of the split.
        num_classes: "label", "verb", "noun" -> how many classes the official lists have.
        labels: class names in official order, where no official file lists them.
        flips: "x", "y", "time" -> "identity" where the flip leaves every label as it is, "none"
            (also where it is not listed) where it may not be used.
        frame_rates: frames per second that the videos come in; empty = any.
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

    def __post_init__(self) -> None:
        _check(self.reported_split in SPLITS, f"reported_split is none of {', '.join(SPLITS)}")
        _check(self.num_splits >= 0, "num_splits must be 0 or more")
        _check(
            set(self.num_classes) <= set(LABEL_KINDS), f"[classes] counts {', '.join(LABEL_KINDS)}"
        )
        _check(set(self.flips) <= set(FLIPS), f"[flips] speaks of {', '.join(FLIPS)}")
        for flip, effect in self.flips.items():
            _check(effect in EFFECTS, f"flip {flip} is {effect!r}, none of {', '.join(EFFECTS)}")
        counted = self.num_classes.get("label", 0)
        _check(
            not self.labels or len(self.labels) == counted,
            f"{len(self.labels)} labels are listed, {counted} are counted",
        )

    @property
    def has_own_manifest(self) -> bool:
        """Whether its clips are listed like those of manifest.csv, with the paths of the videos.

        Such a dataset may lie whole below OUT/DATASET, as the toy dataset does: the list in
        annotations/, the videos in videos/.
        """
        return self.reader == "manifest_csv"

    def class_list(
        self, label: list[str], verb: list[str] | None = None, noun: list[str] | None = None
    ) -> ClassList:
        """Class names together with what the flips of this dataset do to a label."""
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
    """The TOML of a dataset; None where it has none (then it is a user's own data).

    Raises:
        InputError: the file is not valid, with the file and what is wrong in it.
    """
    path = folder / f"{dataset}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    try:
        return _spec_of(dataset, content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


REQUIRED = {"title": str, "reader": str, "reported_split": str, "files": dict}
OPTIONAL = {"num_splits": int, "frame_rates": list, "classes": dict, "flips": dict}


def _spec_of(dataset: str, content: dict) -> DatasetSpec:
    known = REQUIRED | OPTIONAL
    for key in REQUIRED:
        _check(key in content, f"{key} is missing")
    for key, value in content.items():
        _check(key in known, f"{key!r} is none of {', '.join(known)}")
        _check(type(value) is known[key], f"{key} must be a {known[key].__name__}")
    for role, patterns in content["files"].items():
        _check(_all(patterns, str) and patterns != [], f"files.{role} must be a list of patterns")
    classes = dict(content.get("classes", {}))
    labels = classes.pop("labels", [])
    rates = content.get("frame_rates", [])
    _check(_all(labels, str), "classes.labels must be a list of texts")
    _check(_all(list(classes.values()), int), "[classes] holds how many there are of each kind")
    _check(_all(rates, float), "frame_rates must be a list of numbers such as 12.0")
    return DatasetSpec(
        name=dataset,
        title=content["title"],
        reader=content["reader"],
        reported_split=content["reported_split"],
        files={role: tuple(patterns) for role, patterns in content["files"].items()},
        num_classes=classes,
        flips=content.get("flips", {}),
        num_splits=content.get("num_splits", 0),
        labels=tuple(labels),
        frame_rates=tuple(rates),
    )


def _all(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)
