"""Figures of a pooled task: one label a recording."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import DecisionConfig
from framecls.training.metrics import scores as metrics
from framecls.training.metrics.report import DevReport, Outputs


def report_pooled(
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    sources: list[str],
    labels: tuple[str, ...],
    decision: DecisionConfig,
) -> DevReport:
    """Report one label a recording: (item, label) logits, (item,) truth and source."""
    temperature = metrics.fit_temperature(logits, truth)
    scaled = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    probabilities = scaled / scaled.sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    ranks = (logits >= logits[np.arange(len(truth)), truth][:, None]).sum(axis=1)
    figures: dict[str, Any] = {
        "items": len(truth),
        "accuracy": round(float((predicted == truth).mean()), 4),
        "balanced_accuracy": round(metrics.balanced_accuracy(predicted, truth), 4),
        "top3": round(float((ranks <= 3).mean()), 4),
        "calibration_error": round(metrics.calibration_error(probabilities, truth), 4),
        "sources": {},
        "labels": metrics.label_figures(predicted, truth, labels, np.unique(truth).tolist()),
    }
    names = np.array(sources)
    right, counted = among_candidates(logits, truth, labels, decision)
    if decision.candidates:
        figures |= {"candidate_items": int(counted.sum()), "candidate_accuracy": share_of(right, counted)}
    for source in sorted(set(sources)):
        of = names == source
        row: dict[str, Any] = {}
        if decision.candidates:
            row = {"candidate_items": int((of & counted).sum()), "candidate_accuracy": share_of(right, of & counted)}
        figures["sources"][source] = row | {
            "items": int(of.sum()),
            "accuracy": round(float((predicted[of] == truth[of]).mean()), 4),
            "balanced_accuracy": round(metrics.balanced_accuracy(predicted[of], truth[of]), 4),
        }
    score = float(np.mean([row["balanced_accuracy"] for row in figures["sources"].values()]))
    return DevReport(score, replace(decision, temperature=temperature), figures, Outputs(logits, truth))


def among_candidates(
    logits: NDArray[np.float32], truth: NDArray[np.int64], labels: tuple[str, ...], decision: DecisionConfig
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (item,) whether the likeliest candidate is right, and (item,) whether the true label is a candidate."""
    index = np.array([labels.index(label) for label in decision.candidates or labels])
    return index[logits[:, index].argmax(axis=1)] == truth, np.isin(truth, index)


def share_of(right: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float:
    """Return the accuracy on the items that count; 0 where none does."""
    return round(float(right[counted].mean()), 4) if counted.any() else 0.0
