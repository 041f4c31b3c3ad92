"""Reads and writes score files: the class probabilities of every clip in an evaluation.

The file of a split is scores-<split>.h5 in the folder of the run. Each kind of label has a group of
its own, because verbs and nouns have their own class numbers and names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from shared.errors import InputError
from shared.manifest import PLURAL
from train.clips.table import ClipTable
from train.evaluation.h5_files import atomic_h5


def write_scores(path: Path, table: ClipTable, scores: dict[str, np.ndarray]) -> None:
    """Write a score file in one step.

    It holds /clip/id S64 [n], and for each kind of label /<kind>/probability float32 [n, classes]
    and /<kind>/label int64 [n] (-1 where unknown).
    """
    with atomic_h5(path) as file:
        file.create_dataset("/clip/id", data=table.ids, track_times=False)
        for kind, values in scores.items():
            file.create_dataset(f"/{kind}/probability", data=values, track_times=False)
            file.create_dataset(f"/{kind}/label", data=table.labels[kind], track_times=False)


@dataclass(frozen=True)
class Scores:
    """The scores of n clips for one kind of label.

    Attributes:
        kind: "label", "verb" or "noun".
        num_classes: number of classes that have a probability.
        clip_id: texts [n].
        label: int [n], -1 where unknown.
        predicted: int [n], the class with the highest probability.
        probability: float32 [n], 0..1, of that class.
    """

    kind: str
    num_classes: int
    clip_id: list[str]
    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray

    def confusion(self) -> np.ndarray:
        """Return counts int64 [true, predicted]; clips without a label are not counted."""
        # If the manifest has changed, it may have class numbers that the run does not know.
        count = max(self.num_classes, 1 + int(self.label.max(initial=0)))
        matrix = np.zeros((count, count), dtype=np.int64)
        known = self.label >= 0
        np.add.at(matrix, (self.label[known], self.predicted[known]), 1)
        return matrix


def read_scores(path: Path) -> list[Scores]:
    """Read the scores of an evaluation, one item for each kind of label.

    Returns:
        An empty list if the file does not exist.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        with h5py.File(path, "r") as file:
            clip_id = [clip_id.decode() for clip_id in file["/clip/id"][:]]
            found = [_scores_of(file, kind, clip_id) for kind in PLURAL if kind in file]
    except (OSError, KeyError, ValueError) as error:
        raise _damaged(path, repr(error)) from None
    if not found:
        raise _damaged(path, f"it has none of {', '.join(PLURAL)}")
    return found


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(
        "damaged-file",
        f"{path} cannot be read: {problem}; `python -m train.evaluate --overwrite` writes it again",
    )


def _scores_of(file: h5py.File, kind: str, clip_id: list[str]) -> Scores:
    probability, label = file[kind]["probability"][:], file[kind]["label"][:]
    if probability.ndim != 2 or not len(clip_id) == len(probability) == len(label):
        raise ValueError(f"/{kind} does not have {len(clip_id)} clips")
    return Scores(
        kind=kind,
        num_classes=probability.shape[1],
        clip_id=clip_id,
        label=label,
        predicted=probability.argmax(axis=1),
        probability=probability.max(axis=1),
    )
