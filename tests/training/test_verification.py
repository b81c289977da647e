"""Figures of voices: by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from framecls.config import DecisionConfig
from framecls.training.metrics.verification import (
    Pairs,
    Trials,
    all_pairs,
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


def test_fitted_chances_are_as_often_right_as_they_say(rng: np.random.Generator) -> None:
    pairs = draw_pairs(rng, 2.0, 20000, 20000)
    slope, offset = fit_same_voice(pairs)
    # Two bells of equal width: the logarithm of their ratio is a line, of slope 2 through 1.
    assert slope == pytest.approx(2, abs=0.1)
    assert -offset / slope == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("gap", "n_same", "n_different"), [(0.2, 400, 4000), (2.0, 30, 30), (9.0, 50, 2000)])
def test_the_fit_is_that_of_a_weighted_logistic_regression(
    gap: float, n_same: int, n_different: int, rng: np.random.Generator
) -> None:
    pairs = draw_pairs(rng, gap, n_same, n_different)
    centre, spread = pairs.scores.mean(), pairs.scores.std()
    weights = np.where(pairs.same, 0.5 / n_same, 0.5 / n_different)
    # Its penalty spares the offset; a column of ones in the place of an offset is not spared.
    inputs = np.stack([(pairs.scores - centre) / spread, np.ones(len(weights))], axis=1)
    regression = LogisticRegression(C=1e4, fit_intercept=False, tol=1e-12, max_iter=10000)
    (line,) = regression.fit(inputs, pairs.same, sample_weight=weights).coef_
    slope, offset = fit_same_voice(pairs)
    assert slope == pytest.approx(line[0] / spread, rel=1e-3, abs=1e-4)
    assert offset == pytest.approx(line[1] - line[0] / spread * centre, rel=1e-3, abs=1e-3)


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
