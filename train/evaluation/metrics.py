"""Accuracy of scored clips, in percent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import recall_score

TOP = (1, 5)


def accuracy(
    scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Top-1, top-5 and mean class accuracy.

    Args:
        scores: by kind of label, float [n, classes], higher is likelier; probabilities where verb
            and noun are combined.
        labels: by kind of label, int [n].

    Returns:
        "top1", "top5", "mean_class_accuracy" in percent. With verb and noun these figures come for
        each kind ("verb_top1"), and plain "top1", "top5" count actions: both right.
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
    """An action's score is the product of its verb's and noun's (EPIC-KITCHENS-100)."""
    most = max(TOP)
    # The best pairs are made of the best verbs and the best nouns alone.
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
    """Share of the rows of bool [n, k] with any True, in percent."""
    return 100 * float(right.any(axis=1).mean())
