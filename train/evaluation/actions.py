"""Verbs and nouns of a model that learned actions, the pairs of both.

MOFO's public code trains one model of the 3,806 actions of EPIC-KITCHENS-100 and adds up the
probabilities of the actions of a verb, and of those of a noun.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from shared.manifest import Clip, read_manifest
from train.evaluation.metrics import accuracy

PARTS = ("verb", "noun")


def parts_of_actions(clips: Iterable[Clip], num_actions: int) -> dict[str, np.ndarray]:
    """The verb and the noun of each action, int64 [A]: -1 for an action that no clip has.

    Args:
        clips: all clips of the manifest, whose label is the number of an action.
        num_actions: A.

    Returns:
        By kind of label. Empty if labels are not pairs of verb and noun: a clip has no verb or no
        noun, or clips of one label differ in them.
    """
    parts = {kind: np.full(num_actions, -1, np.int64) for kind in PARTS}
    for clip in clips:
        if clip.label is None or not clip.label < num_actions:
            continue
        for kind, of_action in parts.items():
            number = getattr(clip, kind)
            if number is None or of_action[clip.label] not in (-1, number):
                return {}
            of_action[clip.label] = number
    return parts if any((of_action >= 0).any() for of_action in parts.values()) else {}


def marginal(probability: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Add up the probabilities of the actions of each verb, or of each noun.

    Args:
        probability: float [n, A] of actions.
        part: int64 [A], the verb or noun of each action, -1 for none.

    Returns:
        float32 [n, 1 + the largest number in `part`].
    """
    summed = np.zeros((len(probability), 1 + int(part.max(initial=0))), np.float32)
    for action in np.flatnonzero(part >= 0):
        summed[:, part[action]] += probability[:, action]
    return summed


def marginal_accuracy(
    scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], manifest: Path
) -> dict[str, float]:
    """Accuracy of verbs and of nouns of a run that learned actions: {"verb_top1": percent, ...}.

    Args:
        scores: probabilities float [n, classes] by kind of label.
        labels: int [n] by kind of label.
        manifest: the clips of the dataset, which say what the verb and the noun of an action are.

    Returns:
        Nothing if the run learned something else, or if labels are not pairs of verb and noun.
    """
    if set(scores) != {"label"}:
        return {}
    probability = scores["label"]
    parts = parts_of_actions(read_manifest(manifest), probability.shape[1])
    figures: dict[str, float] = {}
    for kind, part in parts.items():
        known = labels[kind] >= 0
        found = accuracy({kind: marginal(probability, part)[known]}, {kind: labels[kind][known]})
        figures |= {f"{kind}_{name}": value for name, value in found.items()}
    return figures
