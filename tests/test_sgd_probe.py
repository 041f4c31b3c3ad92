"""The linear probe by SGD: it learns what is linear, and comes close to the logistic regression."""

import numpy as np
import pytest
from errors import refuses

from train.evaluation import sgd_probe
from train.evaluation.frozen import fit_linear_probe
from train.evaluation.sgd_probe import fit_sgd_probe


def three_classes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [count, 6] of very different scales, whose classes overlap a little."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = 2.5 * np.eye(3, 6)[labels]
    scales = np.array([1e-3, 1.0, 100.0, 1.0, 10.0, 1e-2])
    return ((centres + rng.normal(size=(count, 6))) * scales).astype(np.float32), labels


@pytest.mark.parametrize("with_others", [True, False])
def test_it_is_nearly_as_good_as_the_logistic_regression(with_others):
    known, labels = three_classes(300, 0)
    held_out = three_classes(60, 1) if with_others else None
    asked, truth = three_classes(400, 2)
    scores = fit_sgd_probe(known, labels, 4, held_out, epochs=20)(asked)
    assert scores.shape == (400, 4) and np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    linear = fit_linear_probe(known, labels, 4, held_out)(asked)
    right, best = ((each.argmax(1) == truth).mean() for each in (scores, linear))
    assert right > best - 0.02 > 0.8


def test_it_is_the_same_again_and_chooses_its_rate(monkeypatch):
    known, labels = three_classes(60, 0)
    asked, _ = three_classes(5, 1)
    one, again = (fit_sgd_probe(known, labels, 3, None, epochs=3)(asked) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    monkeypatch.setattr(sgd_probe, "RATES", (1e-9, 0.3))
    assert fit_sgd_probe(known, labels, 3, three_classes(60, 2), epochs=5).learning_rate == 0.3


def test_too_little_to_learn_from_is_refused():
    known, _ = three_classes(20, 0)
    with refuses("too-few-clips", 20, "1 classes"):
        fit_sgd_probe(known, np.zeros(20, np.int64), 3, None)
