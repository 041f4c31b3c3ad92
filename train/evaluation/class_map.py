"""Maps the classes of a run to the classes of the clips that it is tested on.

A run that was finetuned on one dataset can be tested on another that shares some of its classes
(UCF101 and HMDB51), or on some classes of its own dataset. Several classes of the run may stand for
one tested class: "Rock Climbing Indoor" and "Rope Climbing" for "climb". Their probabilities are
added up. Clips whose class has no counterpart in the run are left out.

Classes of the run that stand for no tested class stay in the running: a clip for which one of them
is the likeliest counts as wrong. This is partial domain adaptation (Fan et al. 2023, sec. 4.4,
table 3), whose difficulty is exactly that the run may answer with a class that the target lacks.
`among_tested=True` leaves these classes out instead, so that the run chooses only among the tested
classes. That question is easier, and its accuracy is never lower.
"""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared.errors import InputError
from shared.wording import counted, listed
from train.clips.table import ClipTable

COLUMNS = ("class", "stands_for")
NOT_TESTED = -1


@dataclass(frozen=True)
class ClassMap:
    """A map from C classes of a run, and from Q classes of a dataset, to K tested classes.

    Attributes:
        names: names of the K tested classes.
        tested_of: int64 [C], for each class of the run its tested class, 0 to K - 1, or NOT_TESTED.
        label_of: int64 [Q], the same for each class of the dataset.
        others: names of the O classes of the run that stand for no tested class, in its order.
        digest: identifies the map in the record of an evaluation.
    """

    names: tuple[str, ...]
    tested_of: np.ndarray
    label_of: np.ndarray
    others: tuple[str, ...]
    digest: str

    def take(self, table: ClipTable) -> ClipTable:
        """Return the clips of tested classes, with labels 0 to K - 1.

        Raises:
            InputError: no clip is of a tested class.
        """
        labels = table.labels["label"]
        known = (labels >= 0) & (labels < len(self.label_of))
        tested = np.where(known, self.label_of[np.where(known, labels, 0)], NOT_TESTED)
        kept = np.flatnonzero(tested != NOT_TESTED)
        if not len(kept):
            raise InputError(
                "no-match",
                f"no clip is of a tested class ({listed(self.names)}); check that the class map "
                "belongs to this dataset",
            )
        return replace(table.take(kept), labels={"label": tested[kept]})

    def columns(self, among_tested: bool = False) -> list[str]:
        """The class names of the columns of `regroup`."""
        return [*self.names, *(() if among_tested else self.others)]

    def regroup(self, scores: np.ndarray, among_tested: bool = False) -> np.ndarray:
        """Turn the run's class probabilities into those of the tested and the other classes.

        Args:
            scores: float32 [n, C], probabilities of the run's classes.
            among_tested: leave the other classes out, and scale the rest to a sum of 1.

        Returns:
            float32 [n, K + O]: probabilities of the tested classes, then of the others; [n, K] with
            `among_tested`.
        """
        regrouped = np.zeros((len(scores), len(self.names)), np.float32)
        for column in np.flatnonzero(self.tested_of != NOT_TESTED):
            regrouped[:, self.tested_of[column]] += scores[:, column]
        if not among_tested:
            return np.concatenate([regrouped, scores[:, self.tested_of == NOT_TESTED]], axis=1)
        total = regrouped.sum(axis=1, keepdims=True)
        return regrouped / np.maximum(total, np.finfo(np.float32).tiny)


def read_class_map(path: Path, classes: list[str], tested: list[str]) -> ClassMap:
    """Read a map from a CSV file with the columns `class` (of the run) and `stands_for` (tested).

    Args:
        classes: class names of the run.
        tested: class names of the dataset that is tested on.

    Raises:
        InputError: the file or a column is missing, a class is unknown or is given twice, or fewer
            than two classes would be tested.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError("missing-file", f"no class map at {path}; check the path") from None
    rows = csv.DictReader(content.decode("utf-8-sig", "replace").splitlines())
    if tuple(rows.fieldnames or ())[:2] != COLUMNS:
        raise InputError("missing-key", f"{path}: the header must be {','.join(COLUMNS)}")
    pairs: dict[str, str] = {}
    for row in rows:
        theirs, ours = (str(row[column] or "") for column in COLUMNS)
        for name, known in ((theirs, classes), (ours, tested)):
            if name not in known:
                raise InputError(
                    "unknown-name",
                    f"{path}, row {rows.line_num}: no class {name!r}; there are {len(known)}: "
                    f"{listed(known)}",
                )
        if theirs in pairs:
            raise InputError(
                "duplicate",
                f"{path}, row {rows.line_num}: class {theirs!r} has a row already; keep one row "
                "for each class",
            )
        pairs[theirs] = ours
    return _class_map(pairs, classes, tested, str(path))


def match_names(classes: list[str], tested: list[str]) -> ClassMap:
    """Map classes of the same name, ignoring case, spaces and punctuation.

    Raises:
        InputError: fewer than two names are the same, or a name fits two tested classes.
    """
    plain: dict[str, str] = {}
    for name in tested:
        if (other := plain.setdefault(_plain(name), name)) != name:
            raise InputError(
                "duplicate",
                f"classes {other!r} and {name!r} differ only in case, spaces and punctuation, so "
                f"classes cannot be matched by name; give --class-map a CSV file with the columns "
                f"{','.join(COLUMNS)}",
            )
    pairs = {name: plain[_plain(name)] for name in classes if _plain(name) in plain}
    return _class_map(pairs, classes, tested, "class names")


def _class_map(
    pairs: dict[str, str], classes: list[str], tested: list[str], source: str
) -> ClassMap:
    names = tuple(name for name in tested if name in set(pairs.values()))
    if len(names) < 2:
        raise InputError(
            "too-few-clips",
            f"{source}: {counted(len(names), 'tested class', 'tested classes')}; at least two are "
            f"needed. Give --class-map a CSV file with the columns {','.join(COLUMNS)} that maps "
            "more classes",
        )
    number = {name: index for index, name in enumerate(names)}
    return ClassMap(
        names,
        np.array([number.get(pairs.get(name, ""), NOT_TESTED) for name in classes], np.int64),
        np.array([number.get(name, NOT_TESTED) for name in tested], np.int64),
        tuple(name for name in classes if name not in pairs),
        hashlib.sha256(repr(sorted(pairs.items())).encode()).hexdigest()[:16],
    )


def _plain(name: str) -> str:
    """Letters, marks and digits of a name, of every alphabet, in lower case."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(each for each in folded if unicodedata.category(each)[0] in "LMN")
