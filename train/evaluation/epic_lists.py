"""EPIC-KITCHENS-100's accuracies on tail classes and on participants not seen in training.

The official annotations have three lists for them (Damen et al. 2022, sec. 5.1): tail verbs, tail
nouns, and participants who have no video in split train.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import InputError
from train.evaluation.metrics import accuracy

TAIL_FILES = {"verb": "EPIC_100_tail_verbs.csv", "noun": "EPIC_100_tail_nouns.csv"}
UNSEEN_FILES = {
    "val": "EPIC_100_unseen_participant_ids_validation.csv",
    "test": "EPIC_100_unseen_participant_ids_test.csv",
}


@dataclass(frozen=True)
class EpicLists:
    """The lists that were found in a folder; a list that is missing is empty.

    Attributes:
        tail: class numbers, by "verb" and "noun".
        unseen: participants, such as "P18".
        digest: identifies the content of the files in the record of an evaluation.
    """

    tail: dict[str, frozenset[int]]
    unseen: frozenset[str]
    digest: str

    def figures(
        self, scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], ids: np.ndarray
    ) -> dict[str, float]:
        """Return the accuracy in percent on the clips of each list; nothing for an empty list.

        Args:
            scores: probabilities float [n, classes] of "verb" and "noun".
            labels: int [n] of both.
            ids: S64 [n] narration ids, which begin with the participant: P01_11_0.

        Returns:
            "tail_verb_top1", "tail_noun_top1", "unseen_verb_top1" and so on, top5 likewise. An
            action ("tail_top1", "unseen_top1") belongs to the tail if its verb or its noun does.
        """
        found: dict[str, float] = {}
        of_tail = {kind: np.isin(labels[kind], sorted(self.tail[kind])) for kind in self.tail}
        for kind, rows in of_tail.items():
            found |= _figures(f"tail_{kind}_", scores, labels, rows, f"{kind}_")
        if of_tail.keys() == TAIL_FILES.keys():
            rows = of_tail["verb"] | of_tail["noun"]
            found |= _figures("tail_", scores, labels, rows, "")
        participants = np.array([clip_id.decode().split("_")[0] for clip_id in ids])
        rows = np.isin(participants, sorted(self.unseen))
        for kind in ("verb_", "noun_", ""):
            found |= _figures(f"unseen_{kind}", scores, labels, rows, kind)
        return found


def read_epic_lists(folder: Path, split: str) -> EpicLists:
    """Read the lists for one split from a folder of EPIC-KITCHENS-100's annotations.

    Raises:
        InputError: the folder has none of the lists, or a list lacks the expected column or values.
    """
    hashed = hashlib.sha256()
    tail: dict[str, frozenset[int]] = {}
    for kind, name in TAIL_FILES.items():
        if (folder / name).is_file():
            values = _column(folder / name, kind, hashed)
            if not all(value.isdecimal() for value in values):
                raise InputError(
                    "wrong-type", f"{folder / name}: column {kind} must hold class numbers"
                )
            tail[kind] = frozenset(map(int, values))
    unseen = UNSEEN_FILES.get(split)
    participants: frozenset[str] = frozenset()
    if unseen is not None and (folder / unseen).is_file():
        participants = frozenset(_column(folder / unseen, "participant_id", hashed))
    if not tail and not participants:
        wanted = [*TAIL_FILES.values(), *([unseen] if unseen else [])]
        raise InputError(
            "missing-file",
            f"{folder} has none of {', '.join(wanted)}; name the folder with the annotations of "
            "EPIC-KITCHENS-100",
        )
    return EpicLists(tail, participants, hashed.hexdigest()[:16])


def _figures(
    title: str,
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    rows: np.ndarray,
    kind: str,
) -> dict[str, float]:
    """Top-1 and top-5 of `kind` ("verb_", "noun_", "" for actions) over the rows bool [n]."""
    if not rows.any():
        return {}
    chosen = [{name: each[rows] for name, each in part.items()} for part in (scores, labels)]
    figures = accuracy(*chosen)
    return {f"{title}{top}": figures[f"{kind}{top}"] for top in ("top1", "top5")}


def _column(path: Path, column: str, hashed: hashlib._Hash) -> list[str]:
    content = path.read_bytes()
    hashed.update(content)
    rows = csv.DictReader(content.decode("utf-8-sig", "replace").splitlines())
    if column not in (rows.fieldnames or []):
        raise InputError(
            "missing-key", f"{path}: no column {column}; found: {', '.join(rows.fieldnames or [])}"
        )
    return [(row[column] or "").strip() for row in rows]
