"""Decisions learnt from clips held out: temperature, thresholds, and the least lengths of segments and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from framecls.config import DecisionConfig
from framecls.inference.segments import clean_runs, find_runs
from framecls.training.metrics import scores as metrics

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the shortest usual length that are tried as the least
_SHORTEST = 0.1  # quantile of the lengths of labelled segments, and of the gaps between them
_MATCH = 0.3  # intersection over union from which a segment is found
_SLACK = 0.01  # of F1
_NEVER = 1.0  # threshold of a label that reaches the wanted precision nowhere

Scores = NDArray[np.float32]
Truth = NDArray[np.bool_]


def choose_threshold(scores: Scores, truth: Truth, n_missed: int = 0, precision: float | None = None) -> float:
    """Return the threshold of best F1; of precisions from a wanted one on, that with the most found.

    It lies in the middle between two scores, so that it does not hang on one of them. Of those whose F1 is as good but
    for `_SLACK` it is the nearest to a half: the very best of a few items is there by chance.

    Args:
        scores: (item,) of those that could be given the label.
        truth: (item,) whether it holds.
        n_missed: how many more have the label and cannot be given it, whatever the threshold.
        precision: that is wanted, 0..1; None: the best F1.
    """
    if not truth.any():
        return _NEVER
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], truth[order].cumsum()
    found = np.arange(1, len(ranked) + 1)
    is_last = np.append(ranked[1:] != ranked[:-1], True)  # of equal scores all count or none
    if precision is None:
        value = 2 * hits / (found + truth.sum() + n_missed)
    else:
        value = np.where(hits / found >= precision, hits, -1)
    value = np.where(is_last, value, -1)
    if value.max() <= 0:
        return _NEVER
    cuts = (ranked + np.append(ranked[1:], np.float32(0))) / 2
    good = np.flatnonzero((value > 0) & (value >= value.max() - (_SLACK if precision is None else 0)))
    return round(float(cuts[good[np.abs(cuts[good] - 0.5).argmin()]]), 4)


def decide_clips(
    logits: Scores, truth: NDArray[np.int64], labels: Sequence[str], precision: float | None = None
) -> DecisionConfig:
    """Learn how a pooled model decides.

    Args:
        logits: (clip, label) of clips held out.
        truth: (clip,) label indices.
        labels: of the model.
        precision: that each label is to reach where it is given; None: the best F1.
    """
    from scipy.special import softmax

    decision = DecisionConfig(temperature=metrics.fit_temperature(logits, truth))
    probabilities = softmax(logits / decision.temperature, axis=1)
    answers = probabilities.argmax(axis=1)
    thresholds = {}
    for index, label in enumerate(labels):
        given, holds = answers == index, truth == index
        missed = int((holds & ~given).sum())
        thresholds[label] = choose_threshold(probabilities[given, index], holds[given], missed, precision)
    return replace(decision, thresholds=thresholds)


def decide_frames(
    scores: Sequence[Scores],
    truth: Sequence[Truth],
    labels: Sequence[str],
    hop_s: float,
    precision: float | None = None,
) -> DecisionConfig:
    """Learn how a model of overlapping labels decides.

    Args:
        scores: of each recording held out, (frame, label) probabilities.
        truth: of each, (frame, label).
        labels: of the model.
        hop_s: seconds of a frame.
        precision: that each label is to reach, of frames; None: the best F1.
    """
    flat, holds = np.concatenate(scores), np.concatenate(truth)
    thresholds = {
        label: choose_threshold(flat[:, column], holds[:, column], 0, precision) for column, label in enumerate(labels)
    }
    cuts = np.array([thresholds[label] for label in labels], np.float32)
    durations_s, gaps_s = {}, {}
    for column, label in enumerate(labels):
        found, holds_here = [rows[:, column] >= cuts[column] for rows in scores], [rows[:, column] for rows in truth]
        n_frames, n_gap_frames = _least_lengths(found, holds_here)
        durations_s[label], gaps_s[label] = round(n_frames * hop_s, 3), round(n_gap_frames * hop_s, 3)
    return DecisionConfig(thresholds=thresholds, min_durations_s=durations_s, min_gaps_s=gaps_s)


def _least_lengths(found: Sequence[Truth], truth: Sequence[Truth]) -> tuple[int, int]:
    """Return how many frames a segment of a label must have at least, and a gap, for the most segments to be right.

    Of equally good ones the mildest.
    """
    length, gap = _usual_lengths(truth)
    tried = {(round(a * length), round(b * gap)) for a, b in product(_SHARES, _SHARES)}
    return max(sorted(tried), key=lambda pair: (round(segment_f1(found, truth, *pair), 3), -sum(pair)))


def _usual_lengths(truth: Sequence[Truth]) -> tuple[float, float]:
    """Return how many frames the shorter segments of the truth have, and the shorter gaps within a label."""
    runs = [find_runs(rows) for rows in truth]
    lengths = [last - first for each in runs for first, last in each]
    gaps = [second[0] - first[1] for each in runs for first, second in pairwise(each)]
    shortest = float(np.quantile(lengths, _SHORTEST)) if lengths else 0.0
    return shortest, min(float(np.quantile(gaps, _SHORTEST)), shortest) if gaps else shortest


def segment_f1(found: Sequence[Truth], truth: Sequence[Truth], min_frames: int, min_gap_frames: int) -> float:
    """Return the F1 of the segments of a label, in which one that is found counts as far as it covers the truth.

    Args:
        found: of each recording, (frame,) whether the label reaches its threshold.
        truth: of each, (frame,) whether it holds.
        min_frames: shorter segments are dropped.
        min_gap_frames: closer ones are joined before.
    """
    hits, n_found, n_true = 0.0, 0, 0
    for rows, holds in zip(found, truth, strict=True):
        given, wanted = clean_runs(find_runs(rows), min_frames, min_gap_frames), find_runs(holds)
        hits += sum(match_segments(given, wanted))
        n_found, n_true = n_found + len(given), n_true + len(wanted)
    return 2 * hits / max(1, n_found + n_true)


def match_segments(given: Sequence[tuple[int, int]], wanted: Sequence[tuple[int, int]]) -> list[float]:
    """Return the intersection over union of each wanted segment that is found, by one segment each."""
    left, found = list(given), []
    for first, last in wanted:
        for run in left:
            shared = max(0, min(last, run[1]) - max(first, run[0])) / (max(last, run[1]) - min(first, run[0]))
            if shared >= _MATCH:
                left.remove(run)
                found.append(shared)
                break
    return found
