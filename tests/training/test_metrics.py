"""Figures of merit: by hand, and against other ways of computing them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn import metrics as reference

from framecls.config import DecisionConfig
from framecls.training.metrics import scores as metrics
from framecls.training.metrics.pooled import report_pooled


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random(5000) < 0.3
    return np.round(np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0, 1), 2), truth


def test_roc_auc_with_ties(scored: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = scored
    assert metrics.roc_auc(scores, truth) == pytest.approx(reference.roc_auc_score(truth, scores), abs=1e-12)
    assert np.isnan(metrics.roc_auc(scores, np.ones(len(scores), bool)))


def test_detection(scored: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = scored
    got = metrics.detection_at(scores, truth, 0.5)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(truth, scores >= 0.5, average="binary")
    assert (got.precision, got.recall, got.f1) == pytest.approx((precision, recall, f1))
    best = metrics.best_detection(scores + 0.001, truth)
    wanted = max(reference.f1_score(truth, scores + 0.001 >= t) for t in np.arange(1, 100) / 100)
    assert best.f1 == pytest.approx(wanted)
    strict = metrics.strict_threshold(scores + 0.001, truth, slack=0.02)
    assert strict >= best.threshold
    assert metrics.detection_at(scores + 0.001, truth, strict).f1 >= best.f1 - 0.02
    assert metrics.detection_at(scores + 0.001, truth, strict + 0.01).f1 < best.f1 - 0.02


@pytest.mark.parametrize("digits", [1, 6])
def test_equal_error_rate(digits: int) -> None:
    rng = np.random.default_rng(4)
    truth = rng.random(3000) < 0.2
    scores = np.round(np.clip(rng.normal(0.4 + 0.2 * truth, 0.15), 0, 1), digits)
    wrong, hit, _ = reference.roc_curve(truth, scores, drop_intermediate=False)
    wanted = brentq(lambda x: 1 - x - np.interp(x, wrong, hit), 0, 1)
    assert metrics.equal_error_rate(scores, truth) == pytest.approx(wanted, abs=1e-9)
    assert metrics.equal_error_rate(-scores, truth) == pytest.approx(1 - wanted, abs=1e-9)
    assert metrics.equal_error_rate(truth.astype(float), truth) == 0
    assert metrics.equal_error_rate(-truth.astype(float), truth) == 1
    assert metrics.equal_error_rate(np.zeros(3000), truth) == 0.5
    assert np.isnan(metrics.equal_error_rate(scores, np.ones(3000, bool)))


def test_equal_error_rate_by_hand() -> None:
    scores, truth = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True])
    assert metrics.equal_error_rate(scores, truth) == 0.5
    # At 0.7 one of three is missed and none taken in wrongly, at 0.6 none is missed and half is taken in.
    scores, truth = np.array([0.9, 0.8, 0.6, 0.7, 0.1]), np.array([True, True, True, False, False])
    assert metrics.equal_error_rate(scores, truth) == pytest.approx(1 / 3)


def test_roc_auc_by_hand() -> None:
    truth = np.array([False, True, False, True])
    assert metrics.roc_auc(np.array([0.1, 0.4, 0.6, 0.9]), truth) == 0.75
    assert metrics.roc_auc(np.array([0.1, 0.4, 0.4, 0.9]), truth) == 0.875


def test_detection_by_hand() -> None:
    scores, truth = np.array([0.2, 0.5, 0.6, 0.9]), np.array([True, True, False, True])
    found = metrics.detection_at(scores, truth, 0.5)
    assert (found.precision, found.recall, found.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_reliability_by_hand() -> None:
    rains = np.array([True, False, False, False, True])
    assert metrics.reliability_gap(np.array([0.25, 0.25, 0.25, 0.25, 1.0]), rains) == pytest.approx(0)
    assert metrics.reliability_gap(np.full(5, 0.9), rains) == pytest.approx(0.5)


def test_nothing_there_and_nothing_found() -> None:
    assert metrics.detection_at(np.zeros(4), np.zeros(4, bool), 0.5).f1 == 0


def test_balanced_accuracy_and_confusion() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    assert metrics.balanced_accuracy(predicted, truth) == pytest.approx(
        reference.balanced_accuracy_score(truth, predicted)
    )
    np.testing.assert_array_equal(
        metrics.confusion_matrix(predicted, truth, 4), reference.confusion_matrix(truth, predicted)
    )


def test_calibration_error_by_hand() -> None:
    sure_and_right = np.array([[1.0, 0.0]] * 4)
    assert metrics.calibration_error(sure_and_right, np.zeros(4, int)) == 0
    assert metrics.calibration_error(sure_and_right, np.array([0, 0, 1, 1])) == pytest.approx(0.5)


def test_temperature_mends_overconfidence() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1.5, (20000, 5))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([rng.choice(5, p=p) for p in chances])
    assert metrics.fit_temperature(logits * 3, truth) == pytest.approx(3, rel=0.08)


def test_candidates_are_measured_among_themselves() -> None:
    logits = np.array([[3, 2, 1], [3, 1, 2], [0, 1, 2], [1, 0, 2]], np.float32)
    truth, sources = np.array([1, 2, 2, 0]), ["a", "a", "b", "b"]
    report = report_pooled(logits, truth, sources, ("x", "y", "z"), DecisionConfig(candidates=("y", "z")))
    assert report.figures["accuracy"] == 0.25
    assert (report.figures["candidate_items"], report.figures["candidate_accuracy"]) == (3, 1.0)
    assert [report.figures["sources"][s]["candidate_items"] for s in "ab"] == [2, 1]
    assert "candidate_items" not in report_pooled(logits, truth, sources, ("x", "y", "z"), DecisionConfig()).figures
