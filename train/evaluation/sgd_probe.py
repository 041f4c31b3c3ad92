"""A linear probe that is trained by SGD, as papers on masked video models do.

MAE (He et al. 2022, appendix A.1) and papers that follow it train the linear classifier by SGD with
momentum, without weight decay, on batches that are normalised without learned parameters. Here the
features are computed once, without augmentation, so that an epoch needs no encoder. The probe
`linear` (a logistic regression) is the optimum that this one approaches.

Letters: n training clips, m clips to classify, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from train.evaluation.frozen import CommonScale, Scaling, Standardiser
from train.evaluation.gradient_probes import (
    at_best_rate,
    chosen_to_fit,
    refuse_too_few,
    train_classifier,
)

EPOCHS = 100
"""Epochs of the papers on Kinetics-400 and small datasets; some have 20."""
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Learning rates for a batch of 256 clips that are tried; MAE has 0.1."""
RATES_OF_UNIT_LENGTH = (1.0, 3.0, 10.0, 30.0, 100.0)
"""The same for features of a CommonScale, which are shorter, so that their gradients are too."""
BATCH = 256
MOMENTUM = 0.9


@dataclass(frozen=True)
class SgdProbe:
    """A linear classifier on scaled features, and the learning rate that was chosen."""

    standardise: Scaling
    model: nn.Linear
    learning_rate: float

    @torch.inference_mode()
    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features [m, D] -> scores float32 [m, C]; each row adds up to 1."""
        inputs = torch.from_numpy(self.standardise(features)).to(self.model.weight.device)
        return self.model(inputs).softmax(1).cpu().numpy()


def fit_sgd_probe(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: torch.device | None = None,
    scaling: type[Scaling] = Standardiser,
) -> SgdProbe:
    """Train a linear classifier by SGD with a cosine schedule.

    Args:
        features: float [n, D].
        labels: int64 [n], 0 to num_classes - 1.
        held_out: features and labels of the clips that choose the learning rate. None chooses it
            on every fifth training clip, and trains on all clips again.
        seed: of the order of clips.
        scaling: how features are scaled first, and with it which learning rates are tried.

    Raises:
        InputError: there are fewer than two classes, or fewer than five clips.
    """
    refuse_too_few(labels, "a probe by SGD")
    is_fit = chosen_to_fit(len(labels), held_out is not None, seed)
    chooses = held_out or (features[~is_fit], labels[~is_fit])
    standardise = scaling.of(features[is_fit])
    rates = RATES_OF_UNIT_LENGTH if scaling is CommonScale else RATES
    inputs = torch.from_numpy(standardise(features)).to(device)
    targets = torch.from_numpy(labels).to(device)

    def train(rate: float, chosen: np.ndarray) -> SgdProbe:
        model = _train(inputs, targets, chosen, num_classes, rate, epochs, seed)
        return SgdProbe(standardise, model, rate)

    return at_best_rate(train, rates, is_fit, chooses)


def _train(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    chosen: np.ndarray,
    num_classes: int,
    rate: float,
    epochs: int,
    seed: int,
) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(inputs.shape[1], num_classes).to(inputs.device)
    nn.init.zeros_(model.weight)  # the problem is convex, so that no random start is needed
    nn.init.zeros_(model.bias)
    batch = min(BATCH, int(chosen.sum()))
    optimizer = torch.optim.SGD(model.parameters(), rate * batch / BATCH, momentum=MOMENTUM)
    train_classifier(model, optimizer, inputs, targets, chosen, epochs, batch, generator)
    return model
