"""What a run takes for what: the scores of an evaluation, and their confusion matrices as pictures.

Runs that learned verb and noun have a matrix of each, as each kind of label has numbers and names
of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from shared.errors import InputError
from shared.files import write_atomically
from shared.manifest import PLURAL
from train.pictures.charts import confusion_chart
from train.pictures.style import Chart
from train.running.run_folder import RunFolder


@dataclass(frozen=True)
class Scores:
    """One kind of label of scores-<split>.h5, for n clips.

    Attributes:
        kind: "label", "verb" or "noun".
        num_classes: that were told apart.
        clip_id: texts [n].
        label: int [n], -1 where unknown.
        predicted: int [n], the likeliest class.
        probability: float32 [n], 0..1, given to it.
    """

    kind: str
    num_classes: int
    clip_id: list[str]
    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray

    def confusion(self) -> np.ndarray:
        """Counts int64 [true, predicted]; clips without a label do not count."""
        # A manifest that has changed may number classes that the run does not know.
        count = max(self.num_classes, 1 + int(self.label.max(initial=0)))
        matrix = np.zeros((count, count), dtype=np.int64)
        known = self.label >= 0
        np.add.at(matrix, (self.label[known], self.predicted[known]), 1)
        return matrix


def read_scores(path: Path) -> list[Scores]:
    """The scores of an evaluation, one a kind of label; none where there is no such file.

    Raises:
        InputError: the file is not what the evaluation writes.
    """
    if not path.is_file():
        return []
    try:
        with h5py.File(path, "r") as file:
            clip_id = [clip_id.decode() for clip_id in file["/clip/id"][:]]
            found = [_scores_of(file, kind, clip_id) for kind in PLURAL if kind in file]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error!r}") from None
    if not found:
        raise InputError(f"{path} cannot be read: it has none of {', '.join(PLURAL)}")
    return found


def confusion_picture(scores: Scores, names: Sequence[str]) -> Chart:
    """The matrix of one kind of label as a chart, whose title names the kind where it is not the
    only one; `names` of the classes are at least as many as the matrix has rows."""
    of_kind = "" if scores.kind == "label" else f" of {PLURAL[scores.kind]}"
    return confusion_chart(scores.confusion(), list(names), f"Confusion matrix{of_kind}")


def write_confusion(folder: RunFolder, name: str, names: Mapping[str, Sequence[str]]) -> list[Path]:
    """Draw the matrices of an evaluation beside its scores; returns the pictures.

    Args:
        name: of the evaluation: test, val-hmdb51-<map>.
        names: of the classes, by kind of label.

    Raises:
        InputError: the scores cannot be read.
    """
    paths = []
    for scores in read_scores(folder.scores(name)):
        path = folder.confusion(name, scores.kind)
        write_atomically(path, confusion_picture(scores, names[scores.kind]).png())
        paths.append(path)
    return paths


def _scores_of(file: h5py.File, kind: str, clip_id: list[str]) -> Scores:
    probability, label = file[kind]["probability"][:], file[kind]["label"][:]
    if probability.ndim != 2 or not len(clip_id) == len(probability) == len(label):
        raise ValueError(f"/{kind} is not of {len(clip_id)} clips")
    return Scores(
        kind=kind,
        num_classes=probability.shape[1],
        clip_id=clip_id,
        label=label,
        predicted=probability.argmax(axis=1),
        probability=probability.max(axis=1),
    )
