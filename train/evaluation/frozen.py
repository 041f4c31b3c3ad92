"""Classifiers on frozen features: a linear probe and k nearest neighbours (k-NN).

Letters: n training clips, m clips to classify, D features, C classes. Both classifiers return
scores float32 [m, C] whose rows add up to 1. A class without a training clip has score 0.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from torch.nn import functional as F

from shared.errors import InputError

# Inverse strengths of the L2 penalty that are tried, from the strongest penalty to the weakest.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
PENALTIES_OF_UNIT_LENGTH = (*PENALTIES, 100.0, 1000.0)
FOLDS = 5
CHUNK = 256  # clips whose similarities to all training clips are in memory at a time
BLOCK = 1 << 24  # values that are in memory as float64 at a time


@dataclass(frozen=True)
class Standardiser:
    """Subtracts the mean of each feature over the training clips and divides by its deviation.

    MAE's linear probe does the same with a BatchNorm without learned parameters (He et al. 2022,
    appendix A.1), because the features of a masked autoencoder differ in scale by orders of
    magnitude.

    Attributes:
        penalties: the inverse penalties that a linear probe tries on such features.
    """

    penalties: ClassVar[tuple[float, ...]] = PENALTIES

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, chosen: np.ndarray | None = None) -> Standardiser:
        """The means and deviations of features [n, D], or of tokens [n, N, D].

        Args:
            chosen: bool [n], the clips that count; None for all.
        """
        rows = np.arange(len(features)) if chosen is None else np.flatnonzero(chosen)
        blocks = [rows[block] for block in _blocks(len(rows), features[0].size)]
        count = len(rows) * features[0].size // features.shape[-1]
        mean = sum(_exact(features[block]).sum(axis=0) for block in blocks) / count
        squares = sum(((_exact(features[b]) - mean) ** 2).sum(axis=0) for b in blocks)
        return cls(mean, np.sqrt(squares / count) + 1e-6)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        scaled = np.empty(features.shape, np.float32)
        for block in _blocks(len(features), features.shape[1]):
            scaled[block] = (features[block] - self.mean) / self.deviation
        return scaled


def _blocks(num_rows: int, values_of_row: int) -> list[slice]:
    """Rows of at most BLOCK values, or a single row."""
    size = max(1, BLOCK // values_of_row)
    return [slice(first, first + size) for first in range(0, num_rows, size)]


def _exact(features: np.ndarray) -> np.ndarray:
    """Features [..., D] as float64 [_, D]."""
    return features.reshape(-1, features.shape[-1]).astype(np.float64)


@dataclass(frozen=True)
class CommonScale:
    """Subtracts the mean of each feature and divides all features by one number.

    The mean squared length of the training clips is then 1. This is for features whose sizes mean
    something, as in Fisher vectors: a feature that hardly varies stays small there, and a
    Standardiser would blow up its noise. Clips are shorter than with a Standardiser, so that weaker
    penalties are tried too.

    Attributes:
        penalties: the inverse penalties that a linear probe tries on such features.
    """

    penalties: ClassVar[tuple[float, ...]] = PENALTIES_OF_UNIT_LENGTH

    mean: np.ndarray
    length: float

    @classmethod
    def of(cls, features: np.ndarray) -> CommonScale:
        exact = features.astype(np.float64)
        variances = exact.var(axis=0)
        return cls(exact.mean(axis=0), float(np.sqrt(variances.sum())) + 1e-6)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.mean) / self.length).astype(np.float32)


Scaling = Standardiser | CommonScale


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on scaled features, and the penalty that was chosen for it.

    Attributes:
        basis: float32 [D, n], the axes that the model works on; see `_span`.
    """

    standardise: Scaling
    basis: np.ndarray | None
    model: LogisticRegression
    num_classes: int
    penalty: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features [m, D] -> scores float32 [m, C]."""
        scores = np.zeros((len(features), self.num_classes), np.float32)
        inputs = _on_axes(self.standardise(features), self.basis)
        scores[:, self.model.classes_] = self.model.predict_proba(inputs)
        return scores


def fit_linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    scaling: type[Scaling] = Standardiser,
) -> LinearProbe:
    """Fit a multinomial logistic regression with an L2 penalty, chosen by accuracy on other clips.

    Args:
        features: float [n, D].
        labels: int [n], 0 to num_classes - 1.
        held_out: features and labels of the clips that choose the penalty. None chooses it by
            cross-validation on five parts of the training clips.
        scaling: how features are scaled before the fit, and with it which penalties are tried.

    Raises:
        InputError: there are fewer than two classes, or too few clips for cross-validation.
    """
    if len(np.unique(labels)) < 2:
        raise InputError(
            "too-few-clips",
            f"all {len(labels)} training clips are of one class; a probe needs at least two",
        )
    standardise, penalties = scaling.of(features), scaling.penalties
    inputs = standardise(features)
    basis = _span(inputs)
    inputs = _on_axes(inputs, basis)
    if held_out is not None:
        others = _on_axes(standardise(held_out[0]), basis)
        right = _right_by_penalty(penalties, inputs, labels, others, held_out[1])
    else:
        if len(labels) < 2 * FOLDS:
            raise InputError(
                "too-few-clips",
                f"there are {len(labels)} training clips and none in split val; at least "
                f"{2 * FOLDS} are needed to choose a penalty",
            )
        right = np.zeros(len(penalties), np.int64)
        for fit, rest in KFold(FOLDS, shuffle=True, random_state=0).split(inputs):
            known, asked = (inputs[fit], labels[fit]), (inputs[rest], labels[rest])
            right += _right_by_penalty(penalties, *known, *asked)
    penalty = penalties[int(np.argmax(right))]  # the strongest one of those that are equally good
    model = _regression(penalty)
    _fit(model, inputs, labels)
    return LinearProbe(standardise, basis, model, num_classes, penalty)


def _span(inputs: np.ndarray) -> np.ndarray | None:
    """Axes [D, n] that span n clips of D > n features; None if there are fewer features.

    With an L2 penalty the weights of the optimum are sums of the training clips, and the penalty
    does not depend on the axes. So the same classifier is found with n features instead of D.
    """
    if inputs.shape[1] <= len(inputs):
        return None
    return np.linalg.svd(inputs, full_matrices=False)[2].T


def _on_axes(inputs: np.ndarray, basis: np.ndarray | None) -> np.ndarray:
    return inputs if basis is None else inputs @ basis


def _right_by_penalty(
    penalties: tuple[float, ...],
    inputs: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    their_labels: np.ndarray,
) -> np.ndarray:
    """Count how many of the other clips are classified correctly with each penalty."""
    if len(np.unique(labels)) < 2:
        return np.zeros(len(penalties), np.int64)
    model = _regression(penalties[0])
    right = []
    for penalty in penalties:
        model.set_params(C=penalty)
        _fit(model, inputs, labels)
        right.append(int((model.predict(others) == their_labels).sum()))
    return np.array(right)


def _regression(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=1000, warm_start=True)


def _fit(model: LogisticRegression, inputs: np.ndarray, labels: np.ndarray) -> None:
    with warnings.catch_warnings():
        # With a weak penalty and separable classes there is no optimum to converge to.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs, labels)


def nearest_neighbours(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    asked: np.ndarray,
    neighbours: int,
    temperature: float,
    device: torch.device | None = None,
) -> np.ndarray:
    """Classify by weighted k-NN on cosine similarity s, with weights exp(s / temperature).

    Wu et al. 2018, sec. 3.4. DINO (Caron et al. 2021) uses k = 20 and temperature 0.07.

    Args:
        features: float [n, D] of the training clips, with labels int [n].
        asked: float [m, D] of the clips to classify.
        neighbours: k; if it is above n, all n training clips vote.

    Returns:
        float32 [m, C].
    """
    known = F.normalize(torch.from_numpy(features).to(device, torch.float32), dim=1)
    labels_on = torch.from_numpy(labels).to(device)
    scores = []
    for part in torch.from_numpy(asked).to(device, torch.float32).split(CHUNK):
        similar, nearest = (F.normalize(part, dim=1) @ known.T).topk(min(neighbours, len(known)))
        weights = (similar / temperature).softmax(dim=1)
        each = torch.zeros(len(part), num_classes, device=device)
        scores.append(each.scatter_add_(1, labels_on[nearest], weights).cpu())
    return torch.cat(scores).numpy()
