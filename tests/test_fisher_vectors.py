"""Fisher vectors: the formulas, what they tell apart, and where little is there to fit."""

import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from train.evaluation import fisher_vectors
from train.evaluation.fisher_vectors import FisherVectors
from train.evaluation.frozen import CommonScale, fit_linear_probe
from train.evaluation.sgd_probe import fit_sgd_probe


def random_tokens(clips: int, of_clip: int, channels: int, seed: int) -> np.ndarray:
    """float16 [clips, of_clip, channels] around three centres, in channels of unequal spread."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(3, channels))
    tokens = centres[rng.integers(3, size=(clips, of_clip))]
    tokens += 0.4 * rng.normal(size=tokens.shape)
    return (tokens * np.geomspace(0.3, 3, channels) + 1).astype(np.float16)


def by_the_formulas(fisher: FisherVectors, tokens: np.ndarray) -> np.ndarray:
    """The improved Fisher vector of one clip, one token and one Gaussian at a time."""
    mixture = fisher.mixture
    weights, means, deviations = mixture.weights_, mixture.means_, np.sqrt(mixture.covariances_)
    u, v = np.zeros_like(means), np.zeros_like(means)
    for token in tokens.astype(np.float64):
        point = fisher.basis.T @ (token - fisher.mean)
        # In logarithms, because a token can be so far from all Gaussians that densities are 0.
        logs = [
            np.log(w) - np.sum(((point - m) / d) ** 2 / 2 + np.log(d))
            for w, m, d in zip(weights, means, deviations, strict=True)
        ]
        densities = [np.exp(each - max(logs)) for each in logs]
        for k, density in enumerate(densities):
            share = density / sum(densities)
            apart = (point - means[k]) / deviations[k]
            u[k] += share * apart / (len(tokens) * np.sqrt(weights[k]))
            v[k] += share * (apart**2 - 1) / (len(tokens) * np.sqrt(2 * weights[k]))
    vector = np.concatenate([u.ravel(), v.ravel()])
    vector = np.sign(vector) * np.sqrt(np.abs(vector))
    return vector / np.sqrt(np.sum(vector**2))


@settings(max_examples=15, deadline=None)
@given(
    clips=st.integers(2, 8),
    of_clip=st.integers(6, 12),
    channels=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
@example(clips=3, of_clip=7, channels=24, seed=3)
def test_it_is_what_the_formulas_say(clips, of_clip, channels, seed):
    fisher = FisherVectors.fit(random_tokens(clips, of_clip, channels, seed), seed)
    asked = random_tokens(2, 7, channels, seed + 1)
    found = fisher(asked)
    assert found.shape == (2, 2 * fisher.gaussians * fisher.axes) and found.dtype == np.float32
    for row, tokens in zip(found, asked, strict=True):
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(row, by_the_formulas(fisher, tokens), atol=2e-4)


def test_it_is_the_gradient_of_the_likelihood():
    fisher = FisherVectors.fit(random_tokens(40, 20, 6, 0), 0)
    tokens = random_tokens(1, 30, 6, 1)[0]
    mixture = fisher.mixture
    weights = torch.from_numpy(mixture.weights_)
    means = torch.from_numpy(mixture.means_).requires_grad_()
    deviations = torch.from_numpy(mixture.covariances_).sqrt().requires_grad_()
    each = Independent(Normal(means, deviations), 1)
    points = torch.from_numpy((tokens - fisher.mean) @ fisher.basis)
    MixtureSameFamily(Categorical(weights), each).log_prob(points).mean().backward()
    of_means, of_deviations = fisher.gradients(tokens)
    size = deviations.detach() / weights[:, None].sqrt()
    np.testing.assert_allclose(of_means, size * means.grad, atol=1e-8)
    np.testing.assert_allclose(of_deviations, size / 2**0.5 * deviations.grad, atol=1e-8)


def test_the_order_of_tokens_has_no_effect():
    fisher = FisherVectors.fit(random_tokens(30, 20, 8, 0), 0)
    asked = random_tokens(4, 20, 8, 1)
    order = np.random.default_rng(2).permutation(20)
    np.testing.assert_allclose(fisher(asked), fisher(asked[:, order]), atol=1e-4)
    np.testing.assert_array_equal(fisher(asked), fisher(clip for clip in asked))


def two_spreads(clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens float16 [clips, 32, 8] with mean 0 and, by label, another spread on two channels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % 2
    tokens = rng.normal(size=(clips, 32, 8))
    tokens[labels == 1, :, :2] *= 2
    return (tokens - tokens.mean(axis=1, keepdims=True)).astype(np.float16), labels


@pytest.mark.parametrize("probe", [fit_linear_probe, fit_sgd_probe])
def test_it_tells_apart_what_a_mean_does_not(probe):
    (known, labels), (asked, truth), (others, theirs) = (two_spreads(80, s) for s in range(3))

    def accuracy(train, held_out, test, **scaling):
        fitted = probe(train, labels, 2, (held_out, theirs), **scaling)
        return (fitted(test).argmax(axis=1) == truth).mean()

    means = [each.astype(np.float32).mean(axis=1) for each in (known, others, asked)]
    assert accuracy(*means) < 0.7  # of two classes
    fisher = FisherVectors.fit(known, 0)
    assert accuracy(*map(fisher, (known, others, asked)), scaling=CommonScale) > 0.9


def test_all_features_get_one_scale():
    features = random_tokens(50, 1, 6, 0)[:, 0].astype(np.float32)
    scale = CommonScale.of(features)
    scaled = scale(features)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
    assert (scaled**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(scaled * scale.length, features - features.mean(axis=0), atol=1e-5)
    labels = np.arange(50) % 3
    probe = fit_linear_probe(features, labels, 3, (features, labels), CommonScale)
    slow = LogisticRegression(C=probe.penalty, max_iter=5000).fit(scaled, labels)
    np.testing.assert_allclose(probe(features), slow.predict_proba(scaled), atol=2e-3)


def test_weak_penalties_are_tried_on_features_of_one_scale():
    """Two clips of each class that lie close to each other need a weak penalty."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = np.eye(3, 40)[labels] * 0.02 + rng.normal(size=(60, 40)) * 1e-4
    features[:, 39] += rng.normal(size=60)  # varies most, and says nothing
    probe = fit_linear_probe(features.astype(np.float32), labels, 3, None, CommonScale)
    assert probe.penalty > 10


def test_the_same_tokens_give_the_same_bits_and_other_clips_another_mixture():
    tokens, asked = random_tokens(60, 20, 12, 0), random_tokens(3, 20, 12, 1)
    first, again, fewer = (FisherVectors.fit(part, 0) for part in (tokens, tokens, tokens[:40]))
    np.testing.assert_array_equal(first(asked), again(asked))
    assert not np.allclose(first.mixture.means_, fewer.mixture.means_)


def test_each_clip_gives_the_same_number_of_tokens(monkeypatch):
    numbered = np.arange(5)[:, None, None] + np.zeros((5, 20, 3))
    for most, of_clip in ((17, 3), (1000, 20), (4, 1)):
        monkeypatch.setattr(fisher_vectors, "MOST_TOKENS", most)
        drawn = fisher_vectors._draw(numbered, 0)
        assert np.bincount(drawn[:, 0].astype(int)).tolist() == [of_clip] * 5


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e3])
def test_the_unit_of_tokens_has_no_effect(unit):
    tokens, asked = (random_tokens(n, 20, 8, n).astype(np.float32) for n in (30, 3))
    expected = FisherVectors.fit(tokens, 0)(asked)
    found = FisherVectors.fit(tokens * np.float32(unit), 0)(asked * np.float32(unit))
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_few_tokens_give_few_gaussians():
    few = FisherVectors.fit(random_tokens(3, 8, 50, 0), 0)
    assert (few.gaussians, few.axes) == (2, 23)  # 24 tokens span 23 axes
    two = FisherVectors.fit(random_tokens(2, 1, 5, 0), 0)
    assert (two.gaussians, two.axes) == (1, 1)
    assert np.isfinite(two(random_tokens(4, 3, 5, 1))).all()
    many = FisherVectors.fit(random_tokens(40, 10, 50, 0), 0)
    assert (many.gaussians, many.axes) == (32, 32)
    with refuses("empty", "1 tokens", "1 clips"):
        FisherVectors.fit(random_tokens(1, 1, 5, 0), 0)
    with refuses("empty", "12 tokens", "3 clips"):
        FisherVectors.fit(np.ones((3, 4, 5), np.float16), 0)


def test_a_channel_that_is_constant_is_no_axis():
    tokens = random_tokens(40, 20, 8, 0)
    tokens[..., 3] = 7
    fisher = FisherVectors.fit(tokens, 0)
    assert fisher.axes == 7
    np.testing.assert_allclose(fisher.basis[3], 0, atol=1e-12)
