"""Draws confusion matrices of an evaluation. A run with verbs and nouns has one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.files import write_atomically
from shared.manifest import PLURAL
from train.evaluation.score_files import Scores, read_scores
from train.pictures.charts import MOST_NAMED_CLASSES, confusion_chart, most_confused
from train.pictures.style import Chart
from train.running.run_folder import RunFolder


def confusion_picture(scores: Scores, names: Sequence[str]) -> Chart:
    """The matrix of one kind of label as a chart, with "of verbs" or "of nouns" in its title.

    Args:
        names: class names, at least as many as the matrix has rows.
    """
    of_kind = "" if scores.kind == "label" else f" of {PLURAL[scores.kind]}"
    return confusion_chart(scores.confusion(), list(names), f"Confusion matrix{of_kind}")


def most_confused_picture(scores: Scores, names: Sequence[str]) -> Chart | None:
    """The matrix of the classes that are confused most often, with their names.

    None if the whole matrix is small enough to show its names, or if nothing is confused.
    """
    matrix = scores.confusion()
    numbers, counts = most_confused(matrix)
    if len(matrix) <= MOST_NAMED_CLASSES or not numbers:
        return None
    of_kind = "classes" if scores.kind == "label" else PLURAL[scores.kind]
    return confusion_chart(counts, [names[i] for i in numbers], f"Most confused {of_kind}")


def write_confusion(folder: RunFolder, name: str, names: Mapping[str, Sequence[str]]) -> list[Path]:
    """Write the matrices of an evaluation beside its scores; returns the paths of the pictures.

    Args:
        name: name of the evaluation, such as test or val-hmdb51-<map>.
        names: class names by kind of label.

    Raises:
        InputError: the score file is damaged.
    """
    paths = []
    for scores in read_scores(folder.scores(name)):
        path = folder.confusion(name, scores.kind)
        write_atomically(path, confusion_picture(scores, names[scores.kind]).file())
        paths.append(path)
    return paths
