"""Random draws without replacement by weight."""

from __future__ import annotations

import numpy as np


def drawn_by_weight(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` positions of each row of weights [K, P] without replacement, bool [K, P].

    The probability of a position is proportional to its weight among those that are left. Positions
    without weight come last, in random order. The method is that of Efraimidis and Spirakis (2006):
    each position has an exponential clock with its weight as rate, and the first ones to ring win.
    """
    clocks = rng.exponential(size=weights.shape)
    with np.errstate(divide="ignore", over="ignore"):
        rings = clocks / weights  # infinite without weight
    order = np.lexsort((clocks, rings), axis=-1)
    drawn = np.zeros(weights.shape, dtype=np.bool_)
    np.put_along_axis(drawn, order[:, :count], True, axis=-1)
    return drawn
