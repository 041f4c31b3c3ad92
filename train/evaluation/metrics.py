"""Accuracy of scored clips, in percent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import recall_score

TOP = (1, 5)


def accuracy(
    scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return top-1, top-5 and mean class accuracy.

    Args:
        scores: float [n, classes] by kind of label; higher is likelier. Verbs and nouns need
            probabilities, because their scores are multiplied.
        labels: int [n] by kind of label.

    Returns:
        "top1", "top5", "mean_class_accuracy" in percent. A run with verbs and nouns has these for
        each kind ("verb_top1"), and "top1", "top5" of actions: verb and noun are both right.
    """
    if len(scores) == 1:
        [kind] = scores
        return _of_kind(scores[kind], labels[kind])
    figures = {
        f"{kind}_{name}": value
        for kind in scores
        for name, value in _of_kind(scores[kind], labels[kind]).items()
    }
    return figures | _of_actions(scores, labels)


def _of_kind(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    ranked = np.argsort(-scores, axis=1, kind="stable")
    figures = {f"top{k}": _percent(ranked[:, :k] == labels[:, None]) for k in TOP}
    present = np.unique(labels)
    recall = recall_score(labels, ranked[:, 0], labels=present, average="macro")
    return {**figures, "mean_class_accuracy": 100 * float(recall)}


def _of_actions(
    scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Accuracy of actions, whose score is that of the verb times that of the noun (EPIC-100)."""
    most = max(TOP)
    # The best pairs can only consist of the best verbs and the best nouns.
    best = {kind: np.argsort(-scores[kind], axis=1)[:, :most] for kind in ("verb", "noun")}
    verb, noun = (np.take_along_axis(scores[k], best[k], axis=1) for k in ("verb", "noun"))
    pairs = (verb[:, :, None] * noun[:, None, :]).reshape(len(verb), -1)
    right = (best["verb"] == labels["verb"][:, None])[:, :, None] & (
        best["noun"] == labels["noun"][:, None]
    )[:, None, :]
    order = np.argsort(-pairs, axis=1, kind="stable")
    ranked = np.take_along_axis(right.reshape(len(right), -1), order, axis=1)
    return {f"top{k}": _percent(ranked[:, :k]) for k in TOP}


def _percent(right: np.ndarray) -> float:
    """Share of the rows of bool [n, k] that have a True, in percent."""
    return 100 * float(right.any(axis=1).mean())
