"""The figures of `evaluate` beyond those of training: of a model with its own thresholds, and of phones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import DEFAULT_BEAM, ModelConfig
from framecls.inference.ctc import Edits, count_edits
from framecls.inference.engine import Engine
from framecls.inference.phones import decode, phone_engine, stitch_phones
from framecls.inference.tag import DEFAULT_THRESHOLD, to_probabilities
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.data.phones import with_phones
from framecls.training.metrics import scores as metrics
from framecls.training.metrics.frames import run_over
from framecls.training.metrics.report import DevReport


def describe(report: DevReport, config: ModelConfig) -> dict[str, Any]:
    """Return the figures of a report, and with them ROC-AUC, equal error rate, calibration error and confusion.

    Args:
        report: with its answers.
        config: labels, thresholds and temperature that the model decides with.
    """
    assert report.outputs is not None
    probabilities = to_probabilities(report.outputs.logits, config)
    # Tables show a dict of rows below the plain numbers.
    plain = {key: value for key, value in report.figures.items() if not isinstance(value, dict)}
    rows = {key: value for key, value in report.figures.items() if isinstance(value, dict)}
    if config.overlapping:
        holds = report.outputs.truth.astype(bool)
        plain |= _clean(_overall_of_overlapping(probabilities, holds, config))
        by_label = _rows_of_overlapping(probabilities, holds, config)
    else:
        truth = report.outputs.truth.astype(np.int64)
        plain |= _clean(_overall_of_exclusive(probabilities, truth))
        by_label = _rows_of_exclusive(probabilities, truth, config.labels)
        rows["confusion"] = _confusion(probabilities.argmax(axis=1), truth, config.labels)
    rows["labels"] = {
        label: _clean(rows["labels"][label] | row) for label, row in by_label.items() if label in rows["labels"]
    }
    return plain | rows


def _overall_of_overlapping(
    probabilities: NDArray[np.float32], holds: NDArray[np.bool_], config: ModelConfig
) -> dict[str, float]:
    thresholds = [config.decision.thresholds.get(label, DEFAULT_THRESHOLD) for label in config.labels]
    right = (probabilities >= np.array(thresholds, np.float32)) == holds
    return {
        "accuracy": float(right.all(axis=1).mean()),  # of frames with every label right
        "calibration_error": metrics.reliability_gap(probabilities.ravel(), holds.ravel()),
    }


def _rows_of_overlapping(
    probabilities: NDArray[np.float32], holds: NDArray[np.bool_], config: ModelConfig
) -> dict[str, dict[str, float]]:
    rows = {}
    for label, scores, truth in zip(config.labels, probabilities.T, holds.T, strict=True):
        found = metrics.detection_at(scores, truth, config.decision.thresholds.get(label, DEFAULT_THRESHOLD))
        rows[label] = {
            "eer": metrics.equal_error_rate(scores, truth),
            "calibration_error": metrics.reliability_gap(scores, truth),
            "threshold": found.threshold,
            "precision_there": found.precision,
            "recall_there": found.recall,
            "f1_there": found.f1,
        }
    return rows


def _overall_of_exclusive(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float]:
    is_label = np.arange(probabilities.shape[1])[None] == truth[:, None]
    return {
        # Of all items as all labels: how well the true label stands out.
        "eer": metrics.equal_error_rate(probabilities.ravel(), is_label.ravel()),
        "calibration_error": metrics.calibration_error(probabilities, truth) if len(truth) else float("nan"),
    }


def _rows_of_exclusive(
    probabilities: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    rows = {}
    for column, label in enumerate(labels):
        scores, holds = probabilities[:, column], truth == column
        rows[label] = {
            "roc_auc": metrics.roc_auc(scores, holds),
            "eer": metrics.equal_error_rate(scores, holds),
            "items": int(holds.sum()),
        }
    return rows


def _confusion(
    predicted: NDArray[np.int64], truth: NDArray[np.int64], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Return for each true label that occurs how often each label was predicted."""
    counts = metrics.confusion_matrix(predicted, truth, len(labels))
    used = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1)).tolist()
    return {
        labels[true]: {labels[other]: int(counts[true, other]) for other in used} for true in used if counts[true].any()
    }


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    """Round to four digits; NaN becomes None, for JSON."""
    return {
        key: (None if math.isnan(value) else round(value, 4)) if isinstance(value, float) else value
        for key, value in row.items()
    }


def phone_figures(
    engine: Engine,
    recordings: Sequence[Recording],
    store: ClipStore,
    progress: Callable[[int, int], None] | None = None,
    beam: int = DEFAULT_BEAM,
) -> dict[str, Any]:
    """Return the phone error rate on the recordings whose phones are known, empty if there are none.

    Args:
        engine: of a model with a phone head.
        recordings: those without phones are left out.
        store: their sound.
        progress: called with how many are done, and of how many.
        beam: as in `tag_string`.
    """
    annotated = [recording for recording in with_phones(recordings, engine.config.phones) if recording.phones]
    edits, n_phones = Edits(), 0
    for recording, windows in run_over(phone_engine(engine), annotated, store, progress):
        log_probs = stitch_phones(windows, windows.config.overlap_frames)
        predicted = [engine.config.phones[span.symbol - 1] for span in decode(log_probs, beam)]
        edits += count_edits(recording.phones, predicted)
        n_phones += len(recording.phones)
    if not n_phones:
        return {}
    return {
        "phone_error_rate": round(edits.total / n_phones, 4),
        "phones": {
            "recordings": len(annotated),
            "phones": n_phones,
            "substitutions": edits.substitutions,
            "deletions": edits.deletions,
            "insertions": edits.insertions,
        },
    }
