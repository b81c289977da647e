"""How good heads are on what was held out from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecls.config import ModelConfig
from framecls.training.head.decide import choose_threshold
from framecls.training.metrics import scores as metrics

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a head says of a recording that was held out from it, and the truth."""

    row: int  # the number of the recording
    fold: int  # from 0
    logits: Floats  # (label,), or (frame, label)
    truth: Floats  # of the same shape, 0 or 1


def score_name(config: ModelConfig) -> str:
    """Return what `TrainingReport.score` is."""
    if config.task == "pooled":
        return "balanced accuracy on clips held out"
    return f"mean F1 of {'labels' if config.overlapping else 'frames by label'} on recordings held out"


def epoch_score_name(config: ModelConfig) -> str:
    """Return what `score_fold` gives."""
    if config.task == "pooled":
        return score_name(config)
    return f"{'mean average precision' if config.overlapping else 'balanced accuracy'} on recordings held out"


def score_fold(config: ModelConfig, logits: Sequence[Floats], truth: Sequence[Floats]) -> float:
    """Return how good the answers to the recordings of a fold are, whatever the thresholds: epochs are compared by it.

    The balanced accuracy; of labels that may overlap the mean average precision.
    """
    scores, holds = _flat(config, logits), _flat(config, truth) > 0.5
    if not config.overlapping:
        known = holds.any(axis=1)
        return (
            metrics.balanced_accuracy(scores[known].argmax(axis=1), holds[known].argmax(axis=1)) if known.any() else 0.0
        )
    from sklearn.metrics import average_precision_score

    present = [column for column in range(holds.shape[1]) if holds[:, column].any()]
    values = [average_precision_score(holds[:, column], scores[:, column]) for column in present]
    return float(np.mean(values)) if values else 0.0


def _flat(config: ModelConfig, rows: Sequence[Floats]) -> Floats:
    return np.stack(rows) if config.task == "pooled" else np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class Decided:
    """The decisions on what was held out, with thresholds that other folds gave."""

    given: NDArray[np.bool_]  # (item, label)
    truth: NDArray[np.bool_]  # (item, label)
    folds: NDArray[np.int64]  # (item,)


def decide_held_out(config: ModelConfig, answers: Sequence[Answers], precision: float | None) -> Decided:
    """Decide on each fold as the other folds would have it; where there are no others, as it would have it itself."""
    from scipy.special import expit

    folds = np.concatenate([np.full(_n_items(config, each), each.fold) for each in answers])
    logits = _flat(config, [each.logits for each in answers])
    truth = _flat(config, [each.truth for each in answers]) > 0.5
    if not config.overlapping:
        known = truth.any(axis=1)
        given = np.eye(logits.shape[1], dtype=bool)[logits.argmax(axis=1)]
        return Decided(given[known], truth[known], folds[known])
    scores, given = expit(logits), np.zeros(truth.shape, bool)
    for fold in np.unique(folds):
        here = folds == fold
        others = here if here.all() else ~here
        for column in range(truth.shape[1]):
            cut = choose_threshold(scores[others, column], truth[others, column], 0, precision)
            given[here, column] = scores[here, column] >= cut
    return Decided(given, truth, folds)


def _n_items(config: ModelConfig, answers: Answers) -> int:
    return 1 if config.task == "pooled" else len(answers.logits)


def rates(given: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of one label; 0 where they are not defined."""
    hits = int((given & truth).sum())
    n_given, n_true = int(given.sum()), int(truth.sum())
    return hits / max(1, n_given), hits / max(1, n_true), 2 * hits / max(1, n_given + n_true)


def mean_score(config: ModelConfig, decided: Decided, rows: NDArray[np.bool_]) -> float:
    """Return the score of some items: mean recall of clips, or mean F1 of frames, over the labels that occur there."""
    which = 1 if config.task == "pooled" else 2
    given, truth = decided.given[rows], decided.truth[rows]
    values = [rates(given[:, c], truth[:, c])[which] for c in range(truth.shape[1]) if truth[:, c].any()]
    return float(np.mean(values)) if values else 0.0
