"""Dev figures of a network: what decides which weights are kept, sets its thresholds, and goes on its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.config import UNKNOWN, DecisionConfig, ModelConfig, ReadOptions
from framecls.inference.engine import Engine
from framecls.inference.windows import stitch
from framecls.nn.network import Network
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.examples.batch import IGNORED, Batch
from framecls.training.examples.frames import FrameExamples, hard_targets
from framecls.training.metrics import scores as metrics
from framecls.training.metrics import verification


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network said of each frame or recording, and what is right."""

    logits: NDArray[np.float32]  # (item, label)
    truth: NDArray[np.int64] | NDArray[np.bool_]  # (item,) label index, or (item, label) of labels that may overlap


@dataclass(frozen=True)
class DevReport:
    """What a network is worth on the dev examples."""

    score: float  # greater is better: what training maximises
    decision: DecisionConfig  # thresholds and temperature fitted on these examples
    figures: dict[str, Any] = field(default_factory=dict)  # plain numbers, for tables, JSON and the card
    answers: Answers | None = field(default=None, repr=False, compare=False)


@torch.inference_mode()
def collect(network: Network, batches: Iterable[Batch]) -> tuple[list[NDArray[np.float32]], list[Batch]]:
    """Return the logits of each batch, on the CPU, and the batches."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    logits, kept = [], []
    for batch in batches:
        output = network(batch.waveform.to(device), batch.n_frames.to(device))
        logits.append(output.logits.float().cpu().numpy())
        kept.append(batch)
    network.train(was_training)
    return logits, kept


def measure(network: Network, batches: Iterable[Batch]) -> DevReport:
    """Measure a network on dev batches, by the kind of its task."""
    logits, kept = collect(network, batches)
    if network.config.embedding:
        voices = np.concatenate([batch.targets.numpy() for batch in kept])
        names = [name for batch in kept for name in batch.sources]
        return report_voices(np.concatenate(logits), voices, names, network.config.decision)
    if network.config.task == "pooled":
        truth = np.concatenate([batch.targets.numpy() for batch in kept])
        sources = [name for batch in kept for name in (batch.sources or ("",) * len(batch.targets))]
        return report_pooled(np.concatenate(logits), truth, sources, network.config.labels, network.config.decision)
    real = [np.arange(batch.targets.shape[1])[None] < batch.n_frames.numpy()[:, None] for batch in kept]
    flat = np.concatenate([values[mask] for values, mask in zip(logits, real, strict=True)])
    truth = np.concatenate([batch.targets.numpy()[mask] for batch, mask in zip(kept, real, strict=True)])
    if network.config.overlapping:
        return report_overlapping(flat, truth > 0.5, network.config.labels, network.config.decision)
    return report_exclusive(flat, truth, network.config.labels, network.config.decision)


def report_overlapping(
    logits: NDArray[np.float32], truth: NDArray[np.bool_], labels: tuple[str, ...], decision: DecisionConfig
) -> DevReport:
    """Report labels that may hold at once: (frame, label) logits and truth."""
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
    return DevReport(score, replace(decision, thresholds=thresholds), figures, Answers(logits, truth))


def report_exclusive(
    logits: NDArray[np.float32], truth: NDArray[np.int64], labels: tuple[str, ...], decision: DecisionConfig
) -> DevReport:
    """Report one label a frame: (frame, label) logits, (frame,) truth with frames that do not count marked."""
    counted = truth != IGNORED
    logits, truth = logits[counted], truth[counted]
    predicted = logits.argmax(axis=1)
    accuracy = float((predicted == truth).mean()) if len(truth) else 0.0
    figures: dict[str, Any] = {"frames": len(truth), "accuracy": round(accuracy, 4), "labels": {}}
    for index, label in enumerate(labels):
        found = metrics.detection_at((predicted == index).astype(float), truth == index, 0.5)
        figures["labels"][label] = {k: round(getattr(found, k), 4) for k in ("f1", "precision", "recall")}
    return DevReport(accuracy, decision, figures, Answers(logits, truth))


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
        "labels": {},
    }
    names = np.array(sources)
    right, counted = among_candidates(logits, truth, labels, decision)
    if decision.candidates:
        figures |= {"candidate_items": int(counted.sum()), "candidate_accuracy": share_of(right, counted)}
    for source in sorted(set(sources)):
        of = names == source
        if decision.candidates:
            row = {"candidate_items": int((of & counted).sum()), "candidate_accuracy": share_of(right, of & counted)}
        else:
            row = {}
        figures["sources"][source] = row | {
            "items": int(of.sum()),
            "accuracy": round(float((predicted[of] == truth[of]).mean()), 4),
            "balanced_accuracy": round(metrics.balanced_accuracy(predicted[of], truth[of]), 4),
        }
    for index in np.unique(truth):
        found = metrics.detection_at((predicted == index).astype(float), truth == index, 0.5)
        figures["labels"][labels[index]] = {k: round(getattr(found, k), 4) for k in ("f1", "precision", "recall")}
    score = float(np.mean([row["balanced_accuracy"] for row in figures["sources"].values()]))
    return DevReport(score, replace(decision, temperature=temperature), figures, Answers(logits, truth))


def among_candidates(
    logits: NDArray[np.float32], truth: NDArray[np.int64], labels: tuple[str, ...], decision: DecisionConfig
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (item,) whether the likeliest candidate is right, and (item,) whether the true label is a candidate."""
    index = np.array([labels.index(label) for label in decision.candidates or labels])
    return index[logits[:, index].argmax(axis=1)] == truth, np.isin(truth, index)


def share_of(right: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float:
    """Return the share of right answers among the items that count; 0 where none does."""
    return round(float(right[counted].mean()), 4) if counted.any() else 0.0


def report_voices(
    vectors: NDArray[np.float32], voices: NDArray[np.int64], sources: Sequence[str], decision: DecisionConfig
) -> DevReport:
    """Report embeddings: (item, number) vectors, (item,) voice and source; all pairs within a source are compared."""
    names = np.array(sources)
    pairs = {name: verification.all_pairs(vectors[names == name], voices[names == name]) for name in sorted({*sources})}
    rates = {name: metrics.equal_error_rate(found.scores, found.same) for name, found in pairs.items()}
    both = verification.Pairs(
        np.concatenate([found.scores for found in pairs.values()]),
        np.concatenate([found.same for found in pairs.values()]),
    )
    figures: dict[str, Any] = {
        "items": len(vectors),
        "voices": len(np.unique(voices)),
        "equal_error_rate": round(metrics.equal_error_rate(both.scores, both.same), 4),
        "sources": {
            name: {
                "voices": len(np.unique(voices[names == name])),
                "items": int((names == name).sum()),
                "equal_error_rate": round(rate, 4),
            }
            for name, rate in rates.items()
        },
    }
    score = 1 - float(np.nanmean(list(rates.values())))
    decision = replace(decision, same_voice=verification.fit_same_voice(both))
    tried = [verification.run_trials(vectors[names == name], voices[names == name], decision) for name in pairs]
    trials = verification.Trials(
        np.concatenate([part.known for part in tried]), np.concatenate([part.unknown for part in tried])
    )
    threshold = verification.unknown_threshold(trials)
    figures["named"] = round(verification.share_named(trials, threshold), 4)
    return DevReport(score, replace(decision, thresholds={UNKNOWN: threshold}), figures)


def collect_frames(
    engine: Engine,
    recordings: Sequence[Recording],
    store: ClipStore,
    frames: FrameExamples,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Return for each recording (frame, label) logits, and (frame, label) 0 or 1 what its annotation says."""
    logits, truth = [], []
    sounds = (store.read(recording.file) for recording in recordings)
    running = engine.run(sounds, ReadOptions(sample_rate=store.sample_rate))
    for number, (recording, windows) in enumerate(zip(recordings, running, strict=True), start=1):
        logits.append(stitch(windows, engine.config.overlap_frames))
        truth.append(frames.annotate(recording, 0, len(logits[-1])))
        if progress is not None:
            progress(number, len(recordings))
    return logits, truth


def report_frames(
    config: ModelConfig, logits: Sequence[NDArray[np.float32]], truth: Sequence[NDArray[np.float32]]
) -> DevReport:
    """Report what `collect_frames` gave."""
    scores, holds = np.concatenate(logits), np.concatenate(truth)
    if config.overlapping:
        return report_overlapping(scores, holds > 0.5, config.labels, config.decision)
    hard = hard_targets(torch.from_numpy(holds).unsqueeze(0))[0].numpy()
    return report_exclusive(scores, hard, config.labels, config.decision)
