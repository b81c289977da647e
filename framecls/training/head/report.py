"""Make the report of a run: figures of what was held out, decisions, and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from framecls.config import DecisionConfig, ModelConfig
from framecls.report import CurvePoint, Epoch, Figure, HeldOut, LabelFigures, TrainingReport
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.head.decide import decide_clips, decide_frames
from framecls.training.head.measure import (
    Answers,
    Decided,
    decide_held_out,
    epoch_score_name,
    mean_score,
    rates,
    score_name,
)
from framecls.training.head.plan import Plan
from framecls.training.head.verdict import judge_label, judge_run
from framecls.training.metrics.review import hold_out
from framecls.training.metrics.scores import confusion_matrix, overlapping_confusion


@dataclass(frozen=True, eq=False)
class Findings:
    """What a run has found out."""

    recordings: Sequence[Recording]
    store: ClipStore
    plan: Plan
    config: ModelConfig
    answers: list[Answers]  # to what was held out
    epochs: list[Epoch]
    curve: list[list[Answers]]  # to what was held out from heads that learnt from half, by fold
    hop_s: float = 0.0
    way: str = ""
    seconds: float = 0.0


def make_report(findings: Findings, precision: float | None) -> tuple[TrainingReport, DecisionConfig]:
    """Return the report of a run, and how its model is to decide.

    Args:
        findings: of the run.
        precision: that each label is to reach; None: the best F1.
    """
    config = findings.config
    decision = learn_decision(config, findings.answers, precision)
    decided = decide_held_out(config, findings.answers, precision)
    score, by_fold = _score(config, decided)
    confusion = _confuse(decided, config)
    curve = _curve(findings, precision, score)
    figures = _label_figures(findings, decision, decided)
    figures = {label: judge_label(label, row, precision) for label, row in figures.items()}
    report = TrainingReport(
        model=config.name,
        task=config.task,
        labels=config.labels,
        overlapping=config.overlapping,
        hop_s=findings.hop_s,
        way=findings.way,
        split=findings.plan.how,
        score_name=score_name(config),
        score=score,
        folds=tuple(by_fold),
        seconds=round(findings.seconds, 1),
        label_figures=figures,
        confusion=confusion,
        epochs=tuple(findings.epochs),
        curve=curve,
        held_out=_held_out(findings, decision),
        verdict=judge_run(config, figures, confusion, curve),
        figures=_plain_figures(config, score, figures),
        epoch_score_name=epoch_score_name(config),
    )
    return report, decision


def learn_decision(config: ModelConfig, answers: Sequence[Answers], precision: float | None) -> DecisionConfig:
    """Return thresholds, temperature and least lengths as they are best on what was held out."""
    if config.task == "pooled":
        logits, truth = np.stack([a.logits for a in answers]), np.array([int(a.truth.argmax()) for a in answers])
        return decide_clips(logits, truth, config.labels, precision)
    if not config.overlapping:
        return config.decision
    from scipy.special import expit

    scores, holds = [expit(a.logits) for a in answers], [a.truth > 0.5 for a in answers]
    return decide_frames(scores, holds, config.labels, config.hop_s, precision)


def _confuse(decided: Decided, config: ModelConfig) -> NDArray[np.int64]:
    """Return (true label, given label) counts; of overlapping labels as `overlapping_confusion` gives them."""
    given, truth = decided.given, decided.truth
    if config.overlapping:
        return overlapping_confusion(given, truth)
    return confusion_matrix(given.argmax(axis=1), truth.argmax(axis=1), truth.shape[1])


def _score(config: ModelConfig, decided: Decided) -> tuple[Figure, list[float]]:
    folds = [mean_score(config, decided, decided.folds == fold) for fold in np.unique(decided.folds)]
    everything = np.ones(len(decided.folds), bool)
    return _figure(mean_score(config, decided, everything), folds), [round(value, 4) for value in folds]


def _figure(mean: float, folds: Sequence[float]) -> Figure:
    return Figure(round(mean, 4), round(float(np.std(folds)), 4) if len(folds) > 1 else 0.0)


def _label_figures(findings: Findings, decision: DecisionConfig, decided: Decided) -> dict[str, LabelFigures]:
    found = {}
    for column, label in enumerate(findings.config.labels):
        given, truth = decided.given[:, column], decided.truth[:, column]
        folds = [decided.folds == fold for fold in np.unique(decided.folds)]
        by_fold = np.array([rates(given[here], truth[here]) for here in folds if truth[here].any()]).reshape(-1, 3)
        figures = [
            _figure(mean, column_) for mean, column_ in zip(rates(given, truth), by_fold.T.tolist(), strict=True)
        ]
        holders = [i for i, r in enumerate(findings.recordings) if any(span.label == label for span in r.spans)]
        spans = [span for i in holders for span in findings.recordings[i].spans if span.label == label]
        is_clip = findings.config.task == "pooled"
        found[label] = LabelFigures(
            clips=len(holders) if is_clip else len(spans),
            groups=len({findings.plan.groups[i] for i in holders}),
            seconds=round(_seconds(findings, column), 1),
            precision=figures[0],
            recall=figures[1],
            f1=figures[2],
            threshold=decision.thresholds.get(label),
        )
    return found


def _seconds(findings: Findings, column: int) -> float:
    """Return for how long a label holds in what was held out."""
    truths = [each.truth for each in findings.answers]
    if findings.config.task == "frame":
        return float(sum(truth[:, column].sum() for truth in truths)) * findings.hop_s
    return 0.0


def _held_out(findings: Findings, decision: DecisionConfig) -> tuple[HeldOut, ...]:
    """Return what was said of each recording while it was held out, by the decisions that were learnt."""
    config, answers = replace(findings.config, decision=decision), findings.answers
    recordings, logits = [findings.recordings[each.row] for each in answers], [each.logits for each in answers]
    held_out = hold_out(config, recordings, logits, findings.store)
    return tuple(replace(clip, fold=each.fold + 1) for clip, each in zip(held_out, answers, strict=True))


def _curve(findings: Findings, precision: float | None, score: Figure) -> tuple[CurvePoint, ...]:
    if not findings.curve:
        return ()
    config, plan = findings.config, findings.plan
    half, _ = _score(config, decide_held_out(config, [a for fold in findings.curve for a in fold], precision))
    n_learnt = round(float(np.mean([len(plan.train(fold)) for fold in range(plan.n_folds)])))
    return CurvePoint(0.5, n_learnt // 2, half), CurvePoint(1.0, n_learnt, score)


def _plain_figures(config: ModelConfig, score: Figure, figures: dict[str, LabelFigures]) -> dict[str, object]:
    """Return figures for the model's card."""
    return {
        score_name(config): score.mean,
        "spread over folds": score.spread,
        "labels": {
            label: {"f1": row.f1.mean, "precision": row.precision.mean, "recall": row.recall.mean, "clips": row.clips}
            for label, row in figures.items()
        },
    }
