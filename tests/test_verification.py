"""Figures of voices: by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from framecls.config import DecisionConfig
from framecls.training.verification import (
    Pairs,
    Trials,
    all_pairs,
    equal_error_rate,
    error_rates,
    fit_same_voice,
    run_trials,
    share_named,
    unknown_threshold,
)


def draw_pairs(rng: np.random.Generator, gap: float, n_same: int = 400, n_different: int = 4000) -> Pairs:
    scores = np.concatenate([rng.normal(gap, 1, n_same), rng.normal(0, 1, n_different)])
    return Pairs(scores, np.arange(len(scores)) < n_same)


def draw_voices(
    rng: np.random.Generator, n_voices: int, per_voice: int, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    centres = rng.standard_normal((n_voices, 16))
    voices = np.repeat(np.arange(n_voices), per_voice)
    return (centres[voices] + spread * rng.standard_normal((len(voices), 16))).astype(np.float32), voices


def test_all_pairs_by_hand() -> None:
    vectors = np.array([[1, 0], [0, 2], [3, 3]], np.float32)
    pairs = all_pairs(vectors, np.array([0, 1, 0]))
    np.testing.assert_allclose(pairs.scores, [0, 0.5**0.5, 0.5**0.5], atol=1e-6)
    assert pairs.same.tolist() == [False, True, False]


def test_rates_by_hand() -> None:
    pairs = Pairs(np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True]))
    thresholds, accepts, rejects = error_rates(pairs)
    assert thresholds.tolist() == [0.1, 0.4, 0.6, 0.9]
    assert accepts.tolist() == [1.0, 0.5, 0.5, 0.0]
    assert rejects.tolist() == [0.0, 0.0, 0.5, 0.5]
    assert equal_error_rate(pairs) == 0.5


def test_equal_error_rate_at_the_ends() -> None:
    same = np.arange(6) < 3
    assert equal_error_rate(Pairs(np.array([3.0, 4, 5, 0, 1, 2]), same)) == 0.0
    assert equal_error_rate(Pairs(np.array([0.0, 1, 2, 3, 4, 5]), same)) == 1.0
    assert equal_error_rate(Pairs(np.zeros(6), same)) == 0.5
    assert np.isnan(equal_error_rate(Pairs(np.zeros(3), np.ones(3, bool))))


@pytest.mark.parametrize("gap", [0.0, 1.0, 3.0])
def test_equal_error_rate_agrees_with_another(gap: float, rng: np.random.Generator) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    pairs = draw_pairs(rng, gap)
    accepts, found, _ = metrics.roc_curve(pairs.same, pairs.scores)
    nearest = np.argmin(np.abs(accepts - (1 - found)))
    assert equal_error_rate(pairs) == pytest.approx((accepts[nearest] + 1 - found[nearest]) / 2, abs=0.005)


def test_fitted_chances_are_as_often_right_as_they_say(rng: np.random.Generator) -> None:
    pairs = draw_pairs(rng, 2.0, 20000, 20000)
    slope, offset = fit_same_voice(pairs)
    # Two bells of equal width: the logarithm of their ratio is a line, of slope 2 through 1.
    assert slope == pytest.approx(2, abs=0.1)
    assert -offset / slope == pytest.approx(1, abs=0.05)


def test_both_kinds_of_pairs_weigh_as_much(rng: np.random.Generator) -> None:
    slope, offset = fit_same_voice(draw_pairs(rng, 2.0, 2000, 40000))
    assert -offset / slope == pytest.approx(1, abs=0.1)


def test_separate_kinds_do_not_diverge() -> None:
    slope, offset = fit_same_voice(Pairs(np.array([0.9, 0.8, 0.1, 0.2]), np.array([True, True, False, False])))
    assert 0 < slope < 1e4
    assert np.isfinite(offset)


def test_trials_find_who_is_enrolled(rng: np.random.Generator) -> None:
    vectors, voices = draw_voices(rng, 12, 9, 0.1)
    decision = DecisionConfig(same_voice=fit_same_voice(all_pairs(vectors, voices)))
    trials = run_trials(vectors, voices, decision)
    assert trials.known.shape == (12 * 6, 2)
    assert trials.unknown.shape == (12 * 6,)
    threshold = unknown_threshold(trials)
    assert (trials.unknown >= threshold).mean() <= 0.02
    assert share_named(trials, threshold) > 0.95


def test_trials_of_a_model_that_knows_nothing(rng: np.random.Generator) -> None:
    vectors, voices = draw_voices(rng, 12, 9, 100.0)
    trials = run_trials(vectors, voices, DecisionConfig(same_voice=fit_same_voice(all_pairs(vectors, voices))))
    assert share_named(trials, unknown_threshold(trials)) < 0.2


def test_there_may_be_nobody_to_try() -> None:
    trials = run_trials(np.eye(3, dtype=np.float32), np.arange(3), DecisionConfig())
    assert trials.known.shape == (0, 2)
    assert unknown_threshold(trials) == 0.5
    assert np.isnan(share_named(Trials(np.zeros((0, 2)), np.zeros(0)), 0.5))
