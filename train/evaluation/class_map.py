"""Which class of one dataset stands for which of another: for testing a run on other clips.

A run finetuned on one dataset can be tested on another where some classes mean the same (UCF101 to
HMDB51), or on some classes of its own. Several classes of the run may stand for one that is tested:
"Rock Climbing Indoor" and "Rope Climbing" for "climb"; their probabilities are added up. Classes
that stand for none are out of the running, and clips of classes that nothing stands for are left
out.
"""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared.errors import InputError
from train.clips.table import ClipTable

COLUMNS = ("class", "stands_for")
NOT_TESTED = -1


@dataclass(frozen=True)
class ClassMap:
    """C classes of a run, K classes that are tested, Q classes of the dataset they are taken from.

    Attributes:
        names: of the K tested classes.
        tested_of: int64 [C], 0 to K - 1 or NOT_TESTED, for each class of the run.
        label_of: int64 [Q], the same for each label of the dataset.
        digest: for the record of an evaluation.
    """

    names: tuple[str, ...]
    tested_of: np.ndarray
    label_of: np.ndarray
    digest: str

    def take(self, table: ClipTable) -> ClipTable:
        """The clips of tested classes, labelled 0 to K - 1.

        Raises:
            InputError: there is none.
        """
        labels = table.labels["label"]
        known = (labels >= 0) & (labels < len(self.label_of))
        tested = np.where(known, self.label_of[np.where(known, labels, 0)], NOT_TESTED)
        kept = np.flatnonzero(tested != NOT_TESTED)
        if not len(kept):
            raise InputError(
                f"no clip is of a tested class ({', '.join(self.names)[:200]}); the class map, or "
                "the dataset, is another one"
            )
        return replace(table.take(kept), labels={"label": tested[kept]})

    def regroup(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities float32 [n, C] of the run's classes -> [n, K] of those tested."""
        regrouped = np.zeros((len(scores), len(self.names)), np.float32)
        for column in np.flatnonzero(self.tested_of != NOT_TESTED):
            regrouped[:, self.tested_of[column]] += scores[:, column]
        total = regrouped.sum(axis=1, keepdims=True)
        return regrouped / np.maximum(total, np.finfo(np.float32).tiny)


def read_class_map(path: Path, classes: list[str], tested: list[str]) -> ClassMap:
    """A map from a CSV file with the columns `class` (of the run) and `stands_for` (tested).

    Raises:
        InputError: no such file or columns, a class that is not in its list, or one given twice.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no class map at {path}") from None
    rows = csv.DictReader(content.decode("utf-8-sig", "replace").splitlines())
    if tuple(rows.fieldnames or ())[:2] != COLUMNS:
        raise InputError(f"{path}: the header must be {','.join(COLUMNS)}")
    pairs: dict[str, str] = {}
    for row in rows:
        theirs, ours = (str(row[column] or "") for column in COLUMNS)
        for name, known in ((theirs, classes), (ours, tested)):
            if name not in known:
                raise InputError(
                    f"{path}, row {rows.line_num}: no class {name!r}; there are {len(known)}: "
                    f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"
                )
        if theirs in pairs:
            raise InputError(f"{path}, row {rows.line_num}: class {theirs!r} stands there twice")
        pairs[theirs] = ours
    return _class_map(pairs, classes, tested, str(path))


def match_names(classes: list[str], tested: list[str]) -> ClassMap:
    """Every class stands for the one of the same name, whatever its case, spaces and signs.

    Raises:
        InputError: fewer than two names are the same, or a name stands for two.
    """
    plain: dict[str, str] = {}
    for name in tested:
        if (other := plain.setdefault(_plain(name), name)) != name:
            raise InputError(
                f"classes {other!r} and {name!r} differ in case, spaces and signs alone, so that "
                f"names do not tell them apart; a CSV file with the columns {','.join(COLUMNS)} "
                "says which class stands for which (--class-map)"
            )
    pairs = {name: plain[_plain(name)] for name in classes if _plain(name) in plain}
    return _class_map(pairs, classes, tested, "class names")


def _class_map(
    pairs: dict[str, str], classes: list[str], tested: list[str], source: str
) -> ClassMap:
    names = tuple(name for name in tested if name in set(pairs.values()))
    if len(names) < 2:
        raise InputError(
            f"{source}: {len(names)} classes would be tested, and it takes two; a CSV file with "
            f"the columns {','.join(COLUMNS)} says which class stands for which (--class-map)"
        )
    number = {name: place for place, name in enumerate(names)}
    return ClassMap(
        names,
        np.array([number.get(pairs.get(name, ""), NOT_TESTED) for name in classes], np.int64),
        np.array([number.get(name, NOT_TESTED) for name in tested], np.int64),
        hashlib.sha256(repr(sorted(pairs.items())).encode()).hexdigest()[:16],
    )


def _plain(name: str) -> str:
    """Its letters, marks and digits, those of every alphabet, without case."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(sign for sign in folded if unicodedata.category(sign)[0] in "LMN")
