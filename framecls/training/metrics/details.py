"""What `evaluate` says beyond the dev figures of training: of a model as it is, with its own decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import DEFAULT_BEAM, ModelConfig, ReadOptions
from framecls.inference.ctc import Edits, count_edits
from framecls.inference.engine import Engine
from framecls.inference.phones import decode, phone_engine, stitch_phones
from framecls.inference.tag import DEFAULT_THRESHOLD, to_probabilities
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.data.phones import with_phones
from framecls.training.metrics import scores as metrics
from framecls.training.metrics.measure import DevReport


def describe(report: DevReport, config: ModelConfig) -> dict[str, Any]:
    """Return the figures of a report, and with them ROC-AUC, equal error rate, calibration error and confusion.

    Args:
        report: with its answers.
        config: labels, thresholds and temperature that the model decides with.
    """
    assert report.answers is not None
    probabilities = to_probabilities(report.answers.logits, config)
    truth = report.answers.truth
    # A dict of rows is shown as a table: the plain numbers come first.
    plain = {key: value for key, value in report.figures.items() if not isinstance(value, dict)}
    rest = {key: value for key, value in report.figures.items() if isinstance(value, dict)}
    if config.overlapping:
        plain |= _overall_of_overlapping(probabilities, truth.astype(bool), config)
        own = _labels_that_overlap(probabilities, truth.astype(bool), config)
    else:
        plain |= _overall_of_exclusive(probabilities, truth.astype(np.int64))
        own = _exclusive_labels(probabilities, truth.astype(np.int64), config)
        rest["confusion"] = _confusion(probabilities.argmax(axis=1), truth.astype(np.int64), config.labels)
    seen = {label: row for label, row in own.items() if label in rest["labels"]}
    rest["labels"] = {label: _clean(rest["labels"][label] | row) for label, row in seen.items()}
    return plain | rest


def _overall_of_overlapping(
    probabilities: NDArray[np.float32], truth: NDArray[np.bool_], config: ModelConfig
) -> dict[str, float | None]:
    thresholds = [config.decision.thresholds.get(label, DEFAULT_THRESHOLD) for label in config.labels]
    right = (probabilities >= np.array(thresholds, np.float32)) == truth
    return _clean(
        {
            "accuracy": float(right.all(axis=1).mean()),  # frames of which every label is right
            "calibration_error": metrics.reliability_gap(probabilities.ravel(), truth.ravel()),
        }
    )


def _labels_that_overlap(
    probabilities: NDArray[np.float32], truth: NDArray[np.bool_], config: ModelConfig
) -> dict[str, dict[str, float]]:
    rows = {}
    for column, label in enumerate(config.labels):
        scores, holds = probabilities[:, column], truth[:, column]
        found = metrics.detection_at(scores, holds, config.decision.thresholds.get(label, DEFAULT_THRESHOLD))
        rows[label] = {
            "eer": metrics.equal_error_rate(scores, holds),
            "calibration_error": metrics.reliability_gap(scores, holds),
            "threshold": found.threshold,
            "precision_there": found.precision,
            "recall_there": found.recall,
            "f1_there": found.f1,
        }
    return rows


def _overall_of_exclusive(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float | None]:
    is_label = np.arange(probabilities.shape[1])[None] == truth[:, None]
    return _clean(
        {
            # Each item is tried as each label: how well the true one stands out.
            "eer": metrics.equal_error_rate(probabilities.ravel(), is_label.ravel()),
            "calibration_error": metrics.calibration_error(probabilities, truth) if len(truth) else float("nan"),
        }
    )


def _exclusive_labels(
    probabilities: NDArray[np.float32], truth: NDArray[np.int64], config: ModelConfig
) -> dict[str, dict[str, float]]:
    rows = {}
    for column, label in enumerate(config.labels):
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
    """Return for each true label that occurs how often each label was said."""
    counts = metrics.confusion_matrix(predicted, truth, len(labels))
    said = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1)).tolist()
    return {
        labels[true]: {labels[other]: int(counts[true, other]) for other in said} for true in said if counts[true].any()
    }


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    """Round to four digits; a figure that does not exist is None, which JSON has a word for."""
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
    """Return the phone error rate on the recordings whose phones are known, empty where there are none.

    Args:
        engine: of a model that hears phones.
        recordings: whole; those without phones are left out.
        store: their sound.
        progress: told how many are done, and of how many.
        beam: as `tag_string` takes it.
    """
    spoken = [recording for recording in with_phones(recordings, engine.config.phones) if recording.phones]
    sounds = (store.read(recording.file) for recording in spoken)
    running = phone_engine(engine).run(sounds, ReadOptions(sample_rate=store.sample_rate))
    edits, n_phones = Edits(), 0
    for number, (recording, windows) in enumerate(zip(spoken, running, strict=True), start=1):
        log_probs = stitch_phones(windows, windows.config.overlap_frames)
        heard = [engine.config.phones[said.symbol - 1] for said in decode(log_probs, beam)]
        edits += count_edits(recording.phones, heard)
        n_phones += len(recording.phones)
        if progress is not None:
            progress(number, len(spoken))
    if not n_phones:
        return {}
    return {
        "phone_error_rate": round(edits.total / n_phones, 4),
        "phones": {
            "recordings": len(spoken),
            "phones": n_phones,
            "substitutions": edits.substitutions,
            "deletions": edits.deletions,
            "insertions": edits.insertions,
        },
    }
