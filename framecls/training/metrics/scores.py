"""Metrics: those of scikit-learn, and the few that it does not have.

scikit-learn and scipy are imported where they are used, to keep the start of commands that do not measure fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer]


def roc_auc(scores: Floats, truth: Bools) -> float:
    """Return the area under the ROC curve; NaN if one class is missing.

    Args:
        scores: (item,).
        truth: (item,).
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores)) if _has_both(truth) else float("nan")


def _has_both(truth: Bools) -> bool:
    return bool(truth.any() and not truth.all())


@dataclass(frozen=True)
class Detection:
    """The precision, recall and F1 of a threshold."""

    threshold: float
    precision: float
    recall: float
    f1: float


def detection_at(scores: Floats, truth: Bools, threshold: float) -> Detection:
    """Return precision, recall and F1 of `scores >= threshold`; 0 where they are not defined."""
    from sklearn.metrics import precision_recall_fscore_support

    found = scores >= threshold
    precision, recall, f1, _ = precision_recall_fscore_support(truth, found, average="binary", zero_division=0)
    return Detection(threshold, float(precision), float(recall), float(f1))


def best_detection(scores: Floats, truth: Bools) -> Detection:
    """Return the detection with the greatest F1, over 99 thresholds from 0.01 to 0.99."""
    return detection_at(scores, truth, float(_THRESHOLDS[_f1_curve(scores, truth).argmax()]))


def strict_threshold(scores: Floats, truth: Bools, slack: float = 0.005) -> float:
    """Return the greatest threshold whose F1 is within `slack` of the best.

    F1 is flat around its maximum; of equally good thresholds, the greatest has the fewest false alarms.
    """
    f1 = _f1_curve(scores, truth)
    return float(_THRESHOLDS[np.flatnonzero(f1 >= f1.max() - slack)[-1]])


_THRESHOLDS = np.arange(1, 100) / 100


def _f1_curve(scores: Floats, truth: Bools) -> NDArray[np.float64]:
    """Return (threshold,) the F1 at each of 99 thresholds."""
    # Two cumulative histograms instead of 99 passes over millions of frames.
    bins = np.searchsorted(_THRESHOLDS, scores, side="right")
    found = np.bincount(bins, minlength=100)[::-1].cumsum()[::-1][1:]
    hits = np.bincount(bins[truth], minlength=100)[::-1].cumsum()[::-1][1:]
    return np.asarray(2 * hits / np.maximum(1, found + truth.sum()), np.float64)


def equal_error_rate(scores: Floats, truth: Bools) -> float:
    """Return the error rate at the threshold where false-negative and false-positive rate are equal, interpolated.

    NaN if one class is missing.

    Args:
        scores: (item,).
        truth: (item,).
    """
    from sklearn.metrics import roc_curve

    if not _has_both(truth):
        return float("nan")
    wrong, hit, _ = roc_curve(truth, scores, drop_intermediate=False)
    missed = 1 - hit
    after = int(np.argmax(wrong >= missed))  # the curves have met by here; between the two points they are straight
    gap_before, gap_after = missed[after - 1] - wrong[after - 1], missed[after] - wrong[after]
    part = gap_before / (gap_before - gap_after)
    return float(wrong[after - 1] + part * (wrong[after] - wrong[after - 1]))


def balanced_accuracy(predicted: Ints, truth: Ints) -> float:
    """Return the mean recall of the labels that occur."""
    from sklearn.metrics import recall_score

    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0))


def label_figures(
    predicted: Ints, truth: Ints, labels: Sequence[str], indices: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Return F1, precision and recall of some labels; 0 where they are not defined.

    Args:
        predicted: (item,) label indices.
        truth: (item,) label indices.
        labels: of all indices.
        indices: of the labels to report.
    """
    from sklearn.metrics import precision_recall_fscore_support

    if not len(indices):
        return {}
    columns = precision_recall_fscore_support(truth, predicted, labels=list(indices), zero_division=0)[:3]
    rows = zip(indices, *(column.tolist() for column in columns), strict=True)
    return {
        labels[index]: {"f1": round(f1, 4), "precision": round(precision, 4), "recall": round(recall, 4)}
        for index, precision, recall, f1 in rows
    }


def calibration_error(probabilities: Floats, truth: Ints, n_bins: int = 10) -> float:
    """Return the expected calibration error (Naeini et al. 2015) of (item, label) probabilities."""
    return reliability_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth, n_bins)


def reliability_gap(probabilities: Floats, truth: Bools, n_bins: int = 10) -> float:
    """Return the mean difference of probabilities and frequencies, over equal bins of probability.

    Args:
        probabilities: (item,).
        truth: (item,).
        n_bins: between 0 and 1.
    """
    bins = np.minimum((probabilities * n_bins).astype(int), n_bins - 1)
    gaps = [
        abs(float(probabilities[bins == b].mean()) - float(truth[bins == b].mean())) * float((bins == b).mean())
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """Fit the temperature, 0.2 to 8, that maximises the likelihood of softmax(logits / temperature) (Guo et al. 2017).

    Args:
        logits: (item, label).
        truth: (item,) label indices.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    items = np.arange(len(truth))

    def cost(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[items, truth].mean())

    found = minimize_scalar(cost, bounds=(np.log(0.2), np.log(8)), method="bounded")
    return round(float(np.exp(found.x)), 3)


def confusion_matrix(predicted: Ints, truth: Ints, n_labels: int) -> NDArray[np.int64]:
    """Return (true label, predicted label) counts."""
    from sklearn import metrics as sklearn_metrics

    counts: NDArray[np.int64] = sklearn_metrics.confusion_matrix(truth, predicted, labels=np.arange(n_labels))
    return counts


def overlapping_confusion(said: Bools, truth: Bools) -> NDArray[np.int64]:
    """Return (true label, said label) counts of labels that may overlap; the last row and column are "none of these".

    A label that is missed is counted as taken for each label that was said wrongly.

    Args:
        said: (item, label).
        truth: (item, label).
    """
    missed, false = truth & ~said, said & ~truth
    counts = np.zeros((truth.shape[1] + 1,) * 2, np.int64)
    counts[:-1, :-1] = missed.T.astype(np.int64) @ false + np.diag((truth & said).sum(axis=0))
    counts[:-1, -1] = (missed & ~false.any(axis=1, keepdims=True)).sum(axis=0)
    counts[-1, :-1] = (false & ~missed.any(axis=1, keepdims=True)).sum(axis=0)
    counts[-1, -1] = (~truth & ~said).all(axis=1).sum()
    return counts
