"""Decoder masks: functions that choose the hidden tokens of a clip that the decoder predicts.

The decoder of a masked autoencoder computes all hidden tokens, which are nine tenths of a clip.
VideoMAE V2 (Wang et al., CVPR 2023, sec. 3.2, "dual masking") decodes a share of them: the others
are neither in the decoder nor in the loss. The number of decoded tokens is exact and the same for
every clip, because clips are stacked to a batch.

A decoder mask is a function `(scene, hidden, rng, *, options) -> bool [N]`. `hidden` is the mask of
the encoder, bool [N]; the result is True for decoded tokens, which are among the hidden ones. The
keyword-only parameters are the options of a recipe's `decoder_mask` table. `DECODER_MASKS`, at the
end, lists all decoder masks. Letters are those of shared/masks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.scene import Scene, check_share, round_half_up
from shared.weighted_draws import drawn_by_weight

ALL = "all"
HALF = 0.5  # VideoMAE V2, table 1: as good as all tokens
CELL = 2  # rows and columns of a running cell


def all_hidden(scene: Scene, hidden: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All hidden tokens, as in VideoMAE."""
    return hidden


def random(
    scene: Scene, hidden: np.ndarray, rng: np.random.Generator, *, share: float = HALF
) -> np.ndarray:
    """A share of the hidden tokens, all equally likely."""
    order = rng.permutation(np.flatnonzero(hidden))
    return _first_of(order, hidden, share)


def running_cell(
    scene: Scene, hidden: np.ndarray, rng: np.random.Generator, *, share: float = HALF
) -> np.ndarray:
    """A share of the hidden tokens that is spread evenly over space and time (VideoMAE V2).

    The grid is divided into cells of 2 x 2 positions. The four positions of a cell are ranked; from
    one time step to the next the ranks move on by one position. The tokens of the lowest ranks are
    decoded, and among equal ranks the choice is random. The first ranks are drawn for each clip.
    With a share of 1/4, 1/2 or 3/4 these are the positions of the public code (Qing et al. 2022,
    "MAR"), but for the few that have to be left out or added for the exact number.
    """
    rows, columns = scene.grid
    row, column = np.arange(rows)[:, None], np.arange(columns)[None, :]
    place = CELL * (row % CELL) + column % CELL  # 0 to 3
    time = np.arange(scene.time_steps)[:, None, None]
    size = CELL * CELL
    rank = size - 1 - (place + time + rng.integers(size)) % size
    tokens = rng.permutation(np.flatnonzero(hidden))
    order = tokens[np.argsort(rank.ravel()[tokens], kind="stable")]
    return _first_of(order, hidden, share)


def motion(
    scene: Scene, hidden: np.ndarray, rng: np.random.Generator, *, share: float = HALF
) -> np.ndarray:
    """A share of the hidden tokens that is drawn one after another by motion.

    The probability of a token is proportional to its motion among the tokens that are left. Tokens
    without motion come last, in random order.
    """
    assert scene.motion is not None, "the decoder mask motion needs the motion of the clip"
    tokens = np.flatnonzero(hidden)
    weights = scene.motion.reshape(1, -1).astype(np.float64)[:, tokens]
    drawn = drawn_by_weight(weights, num_decoded(share, tokens.size), rng)[0]
    return _first_of(tokens[drawn], hidden, share)


def num_decoded(share: float, num_hidden: int) -> int:
    """How many of so many hidden tokens are decoded, at least 1.

    Raises:
        InputError: the share is not above 0 and below 1.
    """
    check_share("share", share)
    return max(1, round_half_up(share * num_hidden))


def _first_of(order: np.ndarray, hidden: np.ndarray, share: float) -> np.ndarray:
    """bool [N]: the first of the hidden tokens in this order, as many as the share gives."""
    decoded = np.zeros(hidden.size, dtype=np.bool_)
    decoded[order[: num_decoded(share, int(hidden.sum()))]] = True
    return decoded


@dataclass(frozen=True)
class DecoderMask:
    """A decoder mask, and the data that it needs.

    Attributes:
        draw: `(scene, hidden, rng, *, options) -> bool [N]`.
        needs_motion: whether it uses `scene.motion`, and so needs motion maps.
    """

    draw: Callable[..., np.ndarray]
    needs_motion: bool = False


DECODER_MASKS: dict[str, DecoderMask] = {
    ALL: DecoderMask(all_hidden),
    "running_cell": DecoderMask(running_cell),
    "random": DecoderMask(random),
    "motion": DecoderMask(motion, needs_motion=True),
}
"""All decoder masks by the `kind` of a recipe's `decoder_mask`."""
