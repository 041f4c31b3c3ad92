"""What probes that are trained by gradients share: the loop, and the choice of the learning rate.

Letters: n training clips, m clips to classify, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.errors import InputError

HELD_OUT = 5  # without other clips every fifth training clip chooses the learning rate


class RatedProbe(Protocol):
    """A trained probe and its learning rate; it gives scores float32 [m, C]."""

    @property
    def learning_rate(self) -> float: ...

    def __call__(self, features: np.ndarray, /) -> np.ndarray: ...


Probe = TypeVar("Probe", bound=RatedProbe)


def refuse_too_few(labels: np.ndarray, what: str) -> None:
    """Refuse training clips from which no learning rate can be chosen.

    Args:
        labels: int64 [n].
        what: the probe, for the message.

    Raises:
        InputError: there are fewer than two classes, or fewer than HELD_OUT clips.
    """
    count = len(np.unique(labels))
    if count < 2 or len(labels) < HELD_OUT:
        raise InputError(
            "too-few-clips",
            f"there are {len(labels)} training clips of {count} classes; {what} needs at least "
            f"{HELD_OUT} clips and two classes",
        )


def chosen_to_fit(num_clips: int, has_others: bool, seed: int) -> np.ndarray:
    """The training clips on which each learning rate is tried, bool [n].

    Args:
        has_others: whether other clips choose the rate; without them, every fifth clip does.
    """
    is_fit = np.ones(num_clips, np.bool_)
    if not has_others:
        is_fit[np.random.default_rng(seed).permutation(num_clips)[::HELD_OUT]] = False
    return is_fit


def at_best_rate(
    train: Callable[[float, np.ndarray], Probe],
    rates: Sequence[float],
    is_fit: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray],
) -> Probe:
    """The probe with the learning rate that gets most of the held-out clips right.

    Where some training clips were held out, it is trained again on all of them.

    Args:
        train: trains at a rate on the clips that are True in bool [n].
        rates: rates to try; of those that are equally good the first one is chosen.
        is_fit: see `chosen_to_fit`.
        held_out: features and labels of the clips that choose.
    """
    features, labels = held_out
    best, most_right = None, -1
    for rate in rates:
        probe = train(rate, is_fit)
        right = int((probe(features).argmax(1) == labels).sum())
        if right > most_right:
            best, most_right = probe, right
    assert best is not None, "there is a rate to try"
    return best if is_fit.all() else train(best.learning_rate, np.ones_like(is_fit))


def train_classifier(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    chosen: np.ndarray,
    epochs: int,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Train with cross-entropy; the learning rate falls to 0 as a cosine.

    Args:
        inputs, targets: one row for each clip, on the device of the model.
        chosen: bool [n], the clips to train on.
        generator: draws the order of the clips of each epoch.
    """
    places = torch.from_numpy(np.flatnonzero(chosen)).to(inputs.device)
    steps = epochs * -(-len(places) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for drawn in torch.randperm(len(places), generator=generator).split(batch):
            rows = places[drawn.to(inputs.device)]
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
