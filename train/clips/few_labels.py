"""Chooses the labelled clips for learning from few labels; the same clips in every run.

Labels cost human work; pretraining also uses clips without a label. The choices are nested: the 5
clips of a class are among its 10, and a tenth of a class is part of its fifth. Another seed chooses
other clips.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from shared.errors import InputError
from shared.scene import round_half_up
from shared.wording import counted
from train.clips.table import ClipTable


@dataclass(frozen=True)
class FewLabels:
    """How many labelled clips of each class are used. The default is all.

    Attributes:
        per_class: number of clips of each class; all clips of a class that has fewer. 0 is all.
        share: share of the clips of each class, rounded, but at least one clip.
        seed: chooses the clips.
    """

    per_class: int = 0
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class < 0:
            raise InputError(
                "out-of-range", f"labels_per_class is {self.per_class}; it must be at least 0"
            )
        if not 0.0 < self.share <= 1.0:
            raise InputError(
                "out-of-range", f"label_share is {self.share}; it must be above 0 and at most 1"
            )
        if self.per_class and self.share < 1.0:
            raise InputError(
                "option-conflict",
                f"labels_per_class is {self.per_class} and label_share is {self.share}: both limit "
                "the labels; give one of them",
            )

    @property
    def are_all(self) -> bool:
        return self.per_class == 0 and self.share == 1.0

    def choose(self, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The clips that are used.

        Args:
            ids: S64 [n], ids of the clips. Ids and seed decide the order within a class.
            labels: int64 [n, kinds of label]; equal rows are one class.

        Returns:
            int64 [m], increasing rows.
        """
        if self.are_all:
            return np.arange(len(ids))
        drawn = np.array([_draw(self.seed, clip_id) for clip_id in ids], dtype=np.uint64)
        _, classes = np.unique(labels, axis=0, return_inverse=True)
        chosen = []
        for number in range(int(classes.max()) + 1):
            rows = np.flatnonzero(classes.ravel() == number)
            wanted = self.per_class or max(1, round_half_up(self.share * len(rows)))
            chosen.append(rows[np.argsort(drawn[rows])][:wanted])
        return np.sort(np.concatenate(chosen))

    def words(self) -> str:
        """`30 of each class, seed 0`."""
        if self.are_all:
            return "all"
        of_class = f"{self.per_class}" if self.per_class else f"{100 * self.share:g} %"
        return f"{of_class} of each class, seed {self.seed}"


def share_of_clips(table: ClipTable, share: float) -> ClipTable:
    """A share of the clips of a table, at least one, whatever their labels."""
    if share == 1.0:
        return table
    one_class = np.zeros((len(table), 1), np.int64)
    return table.take(FewLabels(share=share).choose(table.ids, one_class))


def say_labels(few: FewLabels, chosen: int, with_label: int, clips: int) -> str | None:
    """A line about clips of split train that are left out; None if there are none."""
    sentences = []
    if chosen < with_label:
        used = f"{chosen:,} of {counted(with_label, 'labelled clip')}"
        sentences.append(f"In split train, {used} are used ({few.words()}).")
    if num_unlabelled := clips - with_label:
        left_out = f"{counted(num_unlabelled, 'clip')} without a label"
        sentences.append(f"Training leaves out {left_out}.")
    return " ".join(sentences) or None


def _draw(seed: int, clip_id: bytes) -> int:
    """A number from 0 to 2**64 - 1 that orders the clips of a class."""
    digest = hashlib.blake2b(b"%d/%b" % (seed, clip_id), digest_size=8).digest()
    return int.from_bytes(digest, "little")
