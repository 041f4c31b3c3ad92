"""Tube masks: exact counts, uniform places, the same for the same key."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from shared.randomness import counter_generator
from shared.scene import masked_counts, round_half_up, tube_mask

ratios = st.floats(0, 1)


@st.composite
def boxes_on_grid(draw, size=14):
    """A rectangle of positions on a size x size grid, possibly empty or everything."""
    top, bottom = sorted(draw(st.tuples(*[st.integers(0, size)] * 2)))
    left, right = sorted(draw(st.tuples(*[st.integers(0, size)] * 2)))
    inside = np.zeros((size, size), dtype=bool)
    inside[top:bottom, left:right] = True
    return inside.ravel()


@given(st.integers(1, 400), st.data(), ratios, ratios)
def test_counts_are_possible_and_total_is_exact(num_positions, data, mask_ratio, inside_ratio):
    num_inside = data.draw(st.integers(0, num_positions))
    total, inside = masked_counts(num_positions, num_inside, mask_ratio, inside_ratio)
    assert total == int(np.floor(mask_ratio * num_positions + 0.5))
    assert 0 <= inside <= num_inside
    assert 0 <= total - inside <= num_positions - num_inside


@pytest.mark.parametrize(
    ("num_inside", "expected"),
    # 176 of 196 are masked. Below 80 the box keeps its 75%; from 80 on everything outside is
    # masked and the box gets what is left of the total.
    [(0, 0), (40, 30), (79, 59), (80, 60), (100, 80), (196, 176)],
)
def test_paper_ratios_on_the_paper_grid(num_inside, expected):
    assert masked_counts(196, num_inside, 0.9, 0.75) == (176, expected)


def test_small_box_is_masked_less_than_its_surroundings():
    total, inside = masked_counts(196, 40, 0.9, 0.75)
    assert inside / 40 == 0.75
    assert (total - inside) / (196 - 40) == pytest.approx(0.936, abs=1e-3)


def test_rounding_is_half_up_not_half_even():
    assert [round_half_up(value) for value in (0.5, 1.5, 2.5, 2.49)] == [1, 2, 3, 2]


@given(boxes_on_grid(), ratios, ratios, st.integers(0, 2**63))
def test_mask_has_exact_share_inside_and_in_all(inside, mask_ratio, inside_ratio, seed):
    mask = tube_mask(inside, mask_ratio, inside_ratio, counter_generator(seed))
    total, masked_inside = masked_counts(inside.size, int(inside.sum()), mask_ratio, inside_ratio)
    assert mask.dtype == np.bool_ and mask.shape == inside.shape
    assert mask.sum() == total
    assert (mask & inside).sum() == masked_inside


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (2, 3, 9, 8), (0, 0, 14, 14)])
def test_every_position_of_a_part_is_equally_likely(box):
    left, top, right, bottom = box
    inside = np.zeros((14, 14), dtype=bool)
    inside[top:bottom, left:right] = True
    inside = inside.ravel()
    counts = np.zeros(inside.size)
    draws = 10_000
    for draw in range(draws):
        counts += tube_mask(inside, 0.9, 0.75, counter_generator(7, 0, f"clip{draw}", 0))
    for part in (inside, ~inside):
        if part.any():
            assert chisquare(counts[part]).pvalue > 1e-6


def test_the_key_decides_the_mask():
    inside = np.zeros(196, dtype=bool)
    inside[30:70] = True
    key = (0, 3, "clip", 1)
    first = tube_mask(inside, 0.9, 0.75, counter_generator(*key))
    assert np.array_equal(first, tube_mask(inside, 0.9, 0.75, counter_generator(*key)))
    for other in [(1, 3, "clip", 1), (0, 4, "clip", 1), (0, 3, "clap", 1), (0, 3, "clip", 2)]:
        assert not np.array_equal(first, tube_mask(inside, 0.9, 0.75, counter_generator(*other)))
