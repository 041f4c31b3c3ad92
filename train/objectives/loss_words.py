"""What the loss of pretraining is of, in words, and what it must fall below, by target.

The loss is a mean squared error beside which that of predicting zeros is logged
(`mean_predictor_loss`). Targets are normalised, so what zeros say depends on the target: of pixels
the mean colour of each patch, of displacements that nothing moves, and of histograms, whose mean
over a patch is taken off, that all their bins are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LossWords:
    """Of one target.

    Attributes:
        target: what is predicted: "normalised pixels".
        zeros: what predicting zeros predicts: "every patch's mean colour".
        level: a short name for the loss of that, for charts and the progress bar.
    """

    target: str
    zeros: str
    level: str


PIXELS = LossWords("normalised pixels", "every patch's mean colour", "mean of each patch")
STILL, EVEN = ("that nothing moves", "rest"), ("even histograms", "even histograms")
TRACKED = {
    "positions": LossWords("displacements of points", *STILL),
    "shape": LossWords("histograms of oriented gradients", *EVEN),
}
FIXED = {
    "flow": LossWords("flow", *STILL),
    "hog": LossWords("histograms of oriented gradients", *EVEN),
    "hof": LossWords("histograms of flow", *EVEN),
    "mbh": LossWords("motion boundary histograms", *EVEN),
}


def loss_words(config: Mapping[str, Any]) -> LossWords:
    """Words for a pretraining.

    Args:
        config: of a run as options.json has it.
    """
    target, wanted = config.get("target"), config.get("trajectories")
    if target == "normalised_pixels":
        return PIXELS
    if target != "trajectories" or not isinstance(wanted, Mapping):  # a target of somebody's own
        return LossWords(str(target).replace("_", " "), "zeros", "zeros")
    if wanted.get("kind") in FIXED:
        return FIXED[wanted["kind"]]
    parts = [words for name, words in TRACKED.items() if wanted.get(name, True)]
    return LossWords(
        " and ".join(words.target for words in parts),
        " and ".join(words.zeros for words in parts),
        " and ".join(words.level for words in parts),
    )
