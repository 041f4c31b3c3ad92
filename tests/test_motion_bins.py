"""The tube that shows moving and still positions: exact counts, and motion that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st

from shared.flow_tube import FINE
from shared.masks import MASKS, Scene
from shared.motion_bins import mean_steps
from shared.randomness import counter_generator
from shared.scene import round_half_up


def draw(flow: np.ndarray, *key: int, **options) -> np.ndarray:
    """bool [T', R, Q]"""
    grid = (flow.shape[1] // FINE, flow.shape[2] // FINE)
    scene = Scene(len(flow) + 1, np.zeros(grid, np.bool_), flow=flow.astype(np.float32))
    mask = MASKS["motion_bins"].draw(scene, counter_generator(*key), **options)
    assert mask.dtype == np.bool_ and mask.shape == (scene.time_steps * scene.inside.size,)
    return mask.reshape(scene.time_steps, *grid)


def slow_mean_steps(flow: np.ndarray) -> np.ndarray:
    """Point by point and step by step."""
    rows, columns = flow.shape[1:3]
    means = np.zeros((rows, columns))
    for row, column in np.ndindex(rows, columns):
        x, y = (column + 0.5) / FINE, (row + 0.5) / FINE
        lengths = []
        for step in flow.astype(float):
            at = math.floor(x * FINE), math.floor(y * FINE)
            if not (0 <= at[0] < columns and 0 <= at[1] < rows):
                break
            moved = step[at[1], at[0]]
            if np.isnan(moved).any():
                break
            lengths.append(math.hypot(*moved))
            x, y = x + moved[0], y + moved[1]
        means[row, column] = sum(lengths) / len(lengths) if lengths else 0.0
    of_positions = np.zeros((rows // FINE, columns // FINE))
    for row, column in np.ndindex(rows, columns):
        of_positions[row // FINE, column // FINE] += means[row, column] / FINE**2
    return of_positions


@given(seed=st.integers(0, 10**6), size=st.tuples(*[st.integers(1, 5)] * 3))
def test_mean_steps_are_those_of_loops(seed, size):
    rng, (steps, rows, columns) = np.random.default_rng(seed), size
    flow = rng.normal(0, 0.8, (steps, rows * FINE, columns * FINE, 2)).astype(np.float32)
    flow[rng.random(flow.shape[:3]) < 0.2] = np.nan
    np.testing.assert_allclose(mean_steps(flow), slow_mean_steps(flow), atol=1e-9)


@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(2, 7)),
    ratio=st.floats(0.05, 0.95),
    share=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_counts_are_exact_and_the_same_at_all_times(size, ratio, share, seed):
    steps, rows, columns = size
    flow = np.random.default_rng(seed).normal(0, 1, (steps - 1, rows * FINE, columns * FINE, 2))
    mask = draw(flow, seed, mask_ratio=ratio, moving_share=share)
    assert (mask == mask[0]).all()
    positions = rows * columns
    num_visible = positions - round_half_up(ratio * positions)
    assert (~mask[0]).sum() == num_visible
    order = np.argsort(-mean_steps(flow.astype(np.float32)).ravel(), kind="stable")
    half = math.ceil(positions / 2)
    if steps > 1:  # otherwise nothing tells the halves apart
        of_moving = (~mask[0]).ravel()[order[:half]].sum()
        least = max(0, num_visible - (positions - half))
        assert of_moving == min(max(round_half_up(share * num_visible), least), half)


def test_what_moves_is_half_of_what_is_visible_and_drawn_evenly():
    """A quarter of the grid moves, so that half of the moving half is still, at random."""
    flow = np.zeros((4, 8 * FINE, 8 * FINE, 2))
    flow[:, :, : 2 * FINE, 1] = 0.01
    shown = np.zeros((8, 8))
    for seed in range(600):
        shown += ~draw(flow, seed, mask_ratio=0.75)[0]
    moving, still = shown[:, :2] / 600, shown[:, 2:] / 600
    assert moving.mean() == pytest.approx(8 / 32, abs=0.01)  # 8 of the 32 of the moving half
    assert still.mean() == pytest.approx((16 - 4) / 48, abs=0.01)
    assert moving.std() < 0.03 and still.std() < 0.03


def test_all_or_none_of_what_moves_can_be_shown():
    flow = np.zeros((3, 4 * FINE, 4 * FINE, 2))
    flow[:, : 2 * FINE] = [0.02, 0.0]
    for seed in range(20):
        hidden = draw(flow, seed, mask_ratio=0.75, moving_share=0.0)[0]
        assert hidden[:2].all() and (~hidden[2:]).sum() == 4
        hidden = draw(flow, seed, mask_ratio=0.25, moving_share=1.0)[0]
        assert (~hidden[:2]).all() and (~hidden[2:]).sum() == 4  # the other half fills the rest


def test_impossible_options_are_refused():
    flow = np.zeros((1, FINE, 2 * FINE, 2))
    with refuses("out-of-range", "moving_share", 1.5):
        draw(flow, mask_ratio=0.5, moving_share=1.5)
    with refuses("out-of-range", "mask_ratio", 1.0):
        draw(flow, mask_ratio=1.0)
