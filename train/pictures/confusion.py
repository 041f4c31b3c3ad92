"""Confusion matrices as charts: which class an evaluation takes for which.

A run that learned verbs and nouns has a chart of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.files import write_atomically
from shared.manifest import PLURAL
from train.evaluation.score_files import Scores, read_scores
from train.pictures.charts import confusion_chart
from train.pictures.style import Chart
from train.running.run_folder import RunFolder


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
