"""What a measurement says of a model, as the report that a page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import ModelConfig
from framecls.inference.identify import posteriors
from framecls.inference.tag import DEFAULT_THRESHOLD, to_probabilities
from framecls.report import Figure, HeldOut, LabelFigures, TrainingReport
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.metrics.report import DevReport, Outputs
from framecls.training.metrics.scores import confusion_matrix, overlapping_confusion


def name_score(config: ModelConfig) -> str:
    """Return what the score of a measurement is."""
    if config.embedding:
        return "1 - equal error rate"
    if config.task == "pooled":
        return "balanced accuracy"
    return "mean F1" if config.overlapping else "accuracy"


def hold_out(
    config: ModelConfig, recordings: Sequence[Recording], logits: Sequence[NDArray[np.float32]], store: ClipStore
) -> tuple[HeldOut, ...]:
    """Return what a model says of each recording, beside the truth.

    Args:
        config: labels and temperature.
        recordings: that were measured on.
        logits: of each (label,), or (frame, label).
        store: the sound.
    """
    held_out = []
    for recording, values in zip(recordings, logits, strict=True):
        duration_s = store.n_samples(recording.file) / store.sample_rate
        spans = [(s.label, s.start_s, duration_s if s.end_s is None else s.end_s) for s in recording.spans]
        scores = posteriors(values, config) if config.task == "pooled" else to_probabilities(values, config)
        held_out.append(
            HeldOut(
                file=str(recording.audio),
                fold=1,
                scores=np.asarray(scores, np.float32),
                start_s=recording.section.start_s if recording.section else 0.0,
                duration_s=duration_s,
                spans=tuple(spans),
            )
        )
    return tuple(held_out)


def review(report: DevReport, config: ModelConfig, recordings: Sequence[Recording], how: str) -> TrainingReport:
    """Return a measurement as a report.

    Args:
        report: with its answers, and the figures that `details.describe` gives.
        config: of the model.
        recordings: that were measured on.
        how: what they are, in words.
    """
    rows: dict[str, Any] = report.figures.get("labels", {})
    confusion = np.zeros((0, 0), np.int64)
    if report.outputs is not None:
        confusion = _confuse(report.outputs, config)
    return TrainingReport(
        model=config.name,
        task=config.task,
        labels=config.labels,
        overlapping=config.overlapping,
        hop_s=config.hop_s,
        way="",
        split=how,
        score_name=name_score(config),
        score=Figure(report.score),
        folds=(report.score,),
        seconds=0.0,
        label_figures={label: _describe(label, row, config, recordings) for label, row in rows.items()},
        confusion=confusion,
        held_out=report.held_out,
    )


def _describe(label: str, row: dict[str, Any], config: ModelConfig, recordings: Sequence[Recording]) -> LabelFigures:
    end = "_there" if config.overlapping else ""
    own = [recording for recording in recordings if any(span.label == label for span in recording.spans)]
    ends = [(span.start_s, span.end_s) for r in own for span in r.spans if span.label == label]
    return LabelFigures(
        clips=len(own),
        groups=len({recording.speaker for recording in own}),
        seconds=sum(end_s - start_s for start_s, end_s in ends if end_s is not None),
        precision=Figure(row[f"precision{end}"]),
        recall=Figure(row[f"recall{end}"]),
        f1=Figure(row[f"f1{end}"]),
        threshold=config.decision.thresholds.get(label, DEFAULT_THRESHOLD) if config.overlapping else None,
    )


def _confuse(outputs: Outputs, config: ModelConfig) -> NDArray[np.int64]:
    """Return (true label, predicted label) counts; of overlapping labels as `overlapping_confusion` gives them."""
    if not config.overlapping:
        return confusion_matrix(outputs.logits.argmax(axis=1), outputs.truth.astype(np.int64), len(config.labels))
    limits = [config.decision.thresholds.get(label, DEFAULT_THRESHOLD) for label in config.labels]
    said = to_probabilities(outputs.logits, config) >= np.array(limits, np.float32)
    return overlapping_confusion(said, outputs.truth.astype(bool))
