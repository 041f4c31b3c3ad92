"""Intervals of accuracies, and of differences between two methods on the same clips.

Clips of one source video are not independent: all are right or wrong together. Therefore whole
sources are resampled (a cluster bootstrap), and both methods get the same resamples (paired).
Letters: n clips, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its interval, in percent or in percentage points."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracies:
    """Top-1 and mean class accuracy (the mean over classes of the top-1 of a class)."""

    top1: Estimate
    mean_class: Estimate


class Resampler:
    """The same resamples of sources for all methods that were tested on n clips.

    Args:
        sources: the source video of each clip, [n].
        classes: int [n], the true class of each clip.
        seed: of the resamples.
    """

    def __init__(
        self,
        sources: Sequence[str],
        classes: np.ndarray,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        _, self._source = np.unique(np.asarray(sources), return_inverse=True)
        _, self._class = np.unique(classes, return_inverse=True)
        count = int(self._source.max()) + 1
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        self._weights = np.concatenate([np.ones((1, count)), drawn])  # [1 + R, sources]
        self._totals = self._by_source(np.ones(len(classes)))

    def accuracies(self, correct: np.ndarray) -> Accuracies:
        """Accuracies of one method; `correct` float [n], 0 to 1 (the share of seeds)."""
        return Accuracies(*map(_estimate, self._figures(correct)))

    def difference(self, correct: np.ndarray, other: np.ndarray) -> Accuracies:
        """Accuracies of a method minus those of another one on the same clips."""
        both = zip(self._figures(correct), self._figures(other), strict=True)
        return Accuracies(*(_estimate(ours - theirs) for ours, theirs in both))

    def _figures(self, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top-1 and mean class accuracy in percent [1 + R]; the first is without resampling."""
        right = self._weights @ self._by_source(correct)  # [1 + R, classes]
        totals = self._weights @ self._totals
        top1 = right.sum(axis=1) / totals.sum(axis=1)
        of_class = np.divide(right, totals, out=np.zeros_like(right), where=totals > 0)
        # A resample may lack all sources of a class.
        mean_class = of_class.sum(axis=1) / (totals > 0).sum(axis=1)
        return 100 * top1, 100 * mean_class

    def _by_source(self, values: np.ndarray) -> np.ndarray:
        """Sums [sources, classes] of a value of each clip."""
        sums = np.zeros((self._source.max() + 1, self._class.max() + 1))
        np.add.at(sums, (self._source, self._class), values)
        return sums


def _estimate(values: np.ndarray) -> Estimate:
    """The first value, and the interval of the others."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values[0]), float(low), float(high))
