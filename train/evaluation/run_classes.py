"""Checks that a finetuned run and its dataset still have the same clips and classes.

A run records the names of its classes, the digest of its manifest and that of the clips of split
train in options.json. The class numbers of another manifest may stand for other classes, and its
test clips may be clips that the run was trained on. An accuracy of the run on such clips would be
wrong. Labels of split train that were corrected later do not matter: the run is tested on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import PLURAL, ClassList
from shared.wording import counted, listed
from train.running.run_folder import ROWS, RunFolder


def class_names(options: Mapping[str, Any], classes: ClassList) -> dict[str, list[str]]:
    """Return the names of a run's classes by kind of label.

    Args:
        options: the resolved options of a finetuned run.
        classes: the classes of its dataset. They name the classes of a run that did not record
            names, as the first version did not.
    """
    recorded = options.get("class_names") or {}
    return {
        kind: list(recorded.get(kind) or classes.class_names(kind, count))
        for kind, count in options["classes"].items()
    }


def check_same_dataset(
    layout: DatasetLayout,
    folder: RunFolder,
    options: Mapping[str, Any],
    classes: ClassList,
    digest: str,
    rows: Mapping[str, Mapping[str, str]],
) -> None:
    """Refuse a run whose dataset has other classes, another manifest or another split train now.

    What a run of an earlier version did not record is not compared.

    Args:
        layout: the dataset of the run.
        options: the resolved options of the run.
        classes: the classes of the dataset now.
        digest, rows: `manifest_digest` and `row_digests` of its manifest now.

    Raises:
        InputError: it names both lists of classes, or both digests.
    """
    run = folder.path.name
    ways_out = "restore the manifest that the run was trained with, or train again"
    if set(options.get("classes") or ()) == {"label"}:
        by_name = layout.make("evaluate", f"--run {run} --on {layout.dataset}")
        ways_out += f", or test the run on the present clips by class name: `{by_name}`"
    for kind, learned in (options.get("class_names") or {}).items():
        present = getattr(classes, kind)
        if learned != present:
            raise InputError(
                "other-classes",
                f"run {run} learned {_described(kind, learned)}, and {layout.classes} has "
                f"{_described(kind, present)}{_first_difference(learned, present)}; {ways_out}",
            )
    if (trained := options.get("manifest")) not in (None, digest):
        raise InputError(
            "other-manifest",
            f"run {run} was trained with manifest {trained[:12]}, and {layout.manifest} is "
            f"{digest[:12]} now, so its test clips may be clips of the training; {ways_out}",
        )
    learned_from, train = (_clips_of_train(each) for each in (options.get(ROWS) or {}, rows))
    if learned_from not in (None, train):
        raise InputError(
            "other-manifest",
            f"run {run} was trained on the clips {learned_from[:12]} of split train, and split "
            f"train of {layout.manifest} has the clips {(train or 'none')[:12]} now, so its test "
            f"clips may be clips of the training; {ways_out}",
        )


def _clips_of_train(rows: Mapping[str, Mapping[str, str]]) -> str | None:
    return rows.get("train", {}).get("clips")


def _described(kind: str, names: list[str]) -> str:
    """`3 classes (left, right, up)`."""
    noun = "class" if kind == "label" else kind
    return f"{counted(len(names), noun, PLURAL[kind])} ({listed(names)})"


def _first_difference(learned: list[str], present: list[str]) -> str:
    """Both names of the first class that differs, where both lists are equally long."""
    if len(learned) != len(present):
        return ""
    pairs = zip(learned, present, strict=True)
    number = next(place for place, (one, other) in enumerate(pairs) if one != other)
    return f"; number {number} is {learned[number]!r} in the run and {present[number]!r} now"
