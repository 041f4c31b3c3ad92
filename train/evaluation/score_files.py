"""Files of scores: what an evaluation writes of every clip, and what is read of it again.

The file of a split is scores-<split>.h5 in the folder of the run. It holds every kind of label by
itself: a run that learned verbs and nouns has numbers and names of classes for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from shared.errors import InputError
from shared.files import write_atomically
from shared.manifest import PLURAL
from train.clips.table import ClipTable


def write_scores(path: Path, table: ClipTable, scores: dict[str, np.ndarray]) -> None:
    """Write scores-<split>.h5: /clip/id S64 [n], and for each kind of label
    /<kind>/probability float32 [n, classes] and /<kind>/label int64 [n] (-1 where unknown)."""
    with h5py.File("scores.h5", "w", driver="core", backing_store=False) as file:
        file.create_dataset("/clip/id", data=table.ids, track_times=False)
        for kind, values in scores.items():
            file.create_dataset(f"/{kind}/probability", data=values, track_times=False)
            file.create_dataset(f"/{kind}/label", data=table.labels[kind], track_times=False)
        file.flush()
        data = file.id.get_file_image()
    write_atomically(path, data)


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
