"""Figures of a frame task: one label a frame, or labels that overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.config import DecisionConfig, ModelConfig, ReadOptions
from framecls.inference.batching import Request
from framecls.inference.engine import Engine
from framecls.inference.windows import stitch
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.examples.batch import IGNORED
from framecls.training.examples.frames import FrameExamples, hard_targets
from framecls.training.metrics import scores as metrics
from framecls.training.metrics.report import DevReport, Outputs


def report_overlapping(
    logits: NDArray[np.float32], truth: NDArray[np.bool_], labels: tuple[str, ...], decision: DecisionConfig
) -> DevReport:
    """Report labels that may overlap: (frame, label) logits and truth."""
    probabilities = 1 / (1 + np.exp(-logits))
    figures: dict[str, Any] = {"frames": len(truth), "labels": {}}
    thresholds = {}
    for column, label in enumerate(labels):
        scores, holds = probabilities[:, column], truth[:, column]
        best = metrics.best_detection(scores, holds)
        thresholds[label] = round(metrics.strict_threshold(scores, holds), 2)
        figures["labels"][label] = {
            "roc_auc": round(metrics.roc_auc(scores, holds), 4),
            "f1": round(best.f1, 4),
            "precision": round(best.precision, 4),
            "recall": round(best.recall, 4),
            "share": round(float(holds.mean()), 4),
        }
    score = float(np.nanmean([row["f1"] for row in figures["labels"].values()]))
    return DevReport(score, replace(decision, thresholds=thresholds), figures, Outputs(logits, truth))


def report_exclusive(
    logits: NDArray[np.float32], truth: NDArray[np.int64], labels: tuple[str, ...], decision: DecisionConfig
) -> DevReport:
    """Report one label a frame: (frame, label) logits, (frame,) truth, `IGNORED` where a frame does not count."""
    counted = truth != IGNORED
    logits, truth = logits[counted], truth[counted]
    predicted = logits.argmax(axis=1)
    accuracy = float((predicted == truth).mean()) if len(truth) else 0.0
    rows = metrics.label_figures(predicted, truth, labels, range(len(labels)))
    figures: dict[str, Any] = {"frames": len(truth), "accuracy": round(accuracy, 4), "labels": rows}
    return DevReport(accuracy, decision, figures, Outputs(logits, truth))


def run_over(
    engine: Engine,
    recordings: Sequence[Recording],
    store: ClipStore,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Recording, Request]]:
    """Yield each recording with what an engine makes of it.

    Args:
        engine: that runs.
        recordings: in any order.
        store: their sound.
        progress: called with how many are done, and of how many.
    """
    running = engine.run((store.read(each.file) for each in recordings), ReadOptions(sample_rate=store.sample_rate))
    for number, pair in enumerate(zip(recordings, running, strict=True), start=1):
        yield pair
        if progress is not None:
            progress(number, len(recordings))


def collect_frames(
    engine: Engine,
    recordings: Sequence[Recording],
    store: ClipStore,
    frames: FrameExamples,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Return for each recording (frame, label) logits, and (frame, label) annotated targets."""
    logits, truth = [], []
    for recording, windows in run_over(engine, recordings, store, progress):
        logits.append(stitch(windows, engine.config.overlap_frames))
        truth.append(frames.annotate(recording, 0, len(logits[-1])))
    return logits, truth


def report_frames(
    config: ModelConfig, logits: Sequence[NDArray[np.float32]], truth: Sequence[NDArray[np.float32]]
) -> DevReport:
    """Report the logits and targets of `collect_frames`."""
    scores, holds = np.concatenate(logits), np.concatenate(truth)
    if config.overlapping:
        return report_overlapping(scores, holds > 0.5, config.labels, config.decision)
    hard = hard_targets(torch.from_numpy(holds).unsqueeze(0))[0].numpy()
    return report_exclusive(scores, hard, config.labels, config.decision)
