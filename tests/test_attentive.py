"""The attentive probe: it finds what only one token holds, and refuses what it cannot do."""

import tracemalloc

import numpy as np
import pytest
from errors import refuses

from train.evaluation import attentive, frozen
from train.evaluation.attentive import fit_attentive_probe, refuse_too_many
from train.evaluation.frozen import Standardiser, fit_linear_probe


def one_loud_token(num_clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens float16 [n, 24, 16] and labels: one token at a random place holds the class.

    That token is marked by its first channel; all others are noise, so their mean is mostly noise.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num_clips)
    tokens = rng.normal(size=(num_clips, 24, 16))
    places = rng.integers(24, size=num_clips)
    tokens[np.arange(num_clips), places, 0] = 8.0
    tokens[np.arange(num_clips), places, 1 + labels] += 4.0
    return tokens.astype(np.float16), labels


@pytest.fixture(scope="module")
def clips():
    return one_loud_token(240, 0), one_loud_token(120, 1)


def test_it_finds_the_token_that_a_mean_hides(clips):
    (tokens, labels), (asked, truth) = clips
    probe = fit_attentive_probe(tokens, labels, 3, one_loud_token(60, 2))
    scores = probe(asked)
    assert scores.shape == (120, 3) and np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    attended = (scores.argmax(axis=1) == truth).mean()
    linear = fit_linear_probe(tokens.mean(axis=1).astype(np.float32), labels, 3, None)
    averaged = (linear(asked.mean(axis=1).astype(np.float32)).argmax(axis=1) == truth).mean()
    assert attended > 0.85 > averaged


def test_the_same_seed_gives_the_same_scores(clips, monkeypatch):
    monkeypatch.setattr(attentive, "EPOCHS", 2)
    (tokens, labels), (asked, _) = clips
    first, again, other = (
        fit_attentive_probe(tokens, labels, 3, None, seed=seed)(asked) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.allclose(first, other)


def test_the_learning_rate_is_chosen_on_the_held_out_clips(clips, monkeypatch):
    monkeypatch.setattr(attentive, "EPOCHS", 8)
    monkeypatch.setattr(attentive, "RATES", (1e-7, 3e-3))
    (tokens, labels), held_out = clips
    assert fit_attentive_probe(tokens, labels, 3, held_out).learning_rate == 3e-3


def test_too_few_clips_and_too_many_tokens_are_refused(clips):
    (tokens, _), _ = clips
    with refuses("too-few-clips", "240", "1 classes"):
        fit_attentive_probe(tokens, np.zeros(len(tokens), np.int64), 3, None)
    with refuses("out-of-range", "168,913", "--labels-per-class"):
        refuse_too_many(168_913, 1568, 768)


def test_blocks_standardise_as_all_vectors_at_once(clips, monkeypatch):
    (tokens, _), _ = clips
    chosen = np.arange(len(tokens)) % 3 > 0
    vectors = tokens[chosen].reshape(-1, 16).astype(np.float64)
    whole = Standardiser.of(tokens, chosen)
    assert np.array_equal(whole.mean, vectors.mean(axis=0))
    assert np.array_equal(whole.deviation, vectors.std(axis=0) + 1e-6)
    scaled = whole(vectors)
    monkeypatch.setattr(frozen, "BLOCK", 1000)
    parts = Standardiser.of(tokens, chosen)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.deviation, whole.deviation, rtol=1e-12)
    assert np.array_equal(whole(vectors), scaled)


def test_tokens_are_not_copied_as_a_whole(clips, monkeypatch):
    """Only what NumPy takes is counted: few tokens at a time, and every fifth clip, held out."""
    monkeypatch.setattr(attentive, "EPOCHS", 1)
    monkeypatch.setattr(attentive, "RATES", (1e-3,))
    monkeypatch.setattr(frozen, "BLOCK", 1000)
    (tokens, labels), _ = clips
    tokens = np.tile(tokens, (1, 40, 1))  # so that they are more than what Python itself takes
    tracemalloc.start()
    try:
        fit_attentive_probe(tokens, labels, 3, None)
        assert tracemalloc.get_traced_memory()[1] < 0.6 * tokens.nbytes
    finally:
        tracemalloc.stop()
