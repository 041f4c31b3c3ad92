"""Learning from few labels: which labelled clips are used, the same ones whatever the run.

A label is what people have to give; clips without one can still be pretrained on. The chosen clips
are nested: the 5 of a class are among its 10, and a tenth of a class is within its fifth. Another
seed chooses other clips.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from shared.errors import InputError
from shared.scene import round_half_up
from shared.wording import counted


@dataclass(frozen=True)
class FewLabels:
    """How many labelled clips of each class are used. Default: all.

    Attributes:
        per_class: clips of each class, or all of a class that has fewer; 0: all.
        share: of the clips of each class, rounded, at least one.
        seed: another seed, other clips.
    """

    per_class: int = 0
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class < 0:
            raise InputError(
                "out-of-range", f"labels_per_class is {self.per_class}; at least 0 is allowed"
            )
        if not 0.0 < self.share <= 1.0:
            raise InputError(
                "out-of-range", f"label_share is {self.share}; above 0 up to 1 is allowed"
            )
        if self.per_class and self.share < 1.0:
            raise InputError(
                "option-conflict",
                f"labels_per_class is {self.per_class} and label_share is {self.share}: both limit "
                "the labels; give one",
            )

    @property
    def are_all(self) -> bool:
        return self.per_class == 0 and self.share == 1.0

    def choose(self, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The clips that are used.

        Args:
            ids: S64 [n], clip ids; they and the seed alone decide the order within a class.
            labels: int64 [n, kinds of label]; rows that are equal are one class.

        Returns:
            int64 [m], rising rows.
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


def say_labels(few: FewLabels, chosen: int, with_label: int, clips: int) -> str | None:
    """A line on clips of split train that are not learned from; None where all are."""
    parts = []
    if chosen < with_label:
        parts.append(f"{counted(chosen, 'clip')} of {with_label:,} are used ({few.words()})")
    if without := clips - with_label:
        parts.append(f"{counted(without, 'clip')} without a label can only be pretrained on")
    return f"labels of split train: {'; '.join(parts)}" if parts else None


def _draw(seed: int, clip_id: bytes) -> int:
    """The place of a clip in the order of its class, 0 to 2**64 - 1."""
    digest = hashlib.blake2b(b"%d/%b" % (seed, clip_id), digest_size=8).digest()
    return int.from_bytes(digest, "little")
