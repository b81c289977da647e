"""Figures of a model of voices: speaker verification on pairs of embeddings, and naming of enrolled voices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import UNKNOWN, DecisionConfig
from framecls.speakers.recognition import speaker_posteriors
from framecls.training.metrics.report import DevReport
from framecls.training.metrics.scores import equal_error_rate

Floats = NDArray[np.floating]
_PENALTY = 1e-4  # L2 penalty: keeps slope and offset finite where the two kinds of pairs are separable


@dataclass(frozen=True)
class Pairs:
    """All pairs of some recordings."""

    scores: NDArray[np.float64]  # (pair,) cosines
    same: NDArray[np.bool_]  # (pair,) of one voice


def all_pairs(vectors: Floats, voices: NDArray[np.integer]) -> Pairs:
    """Return all pairs of recordings.

    Args:
        vectors: (recording, number) of any length.
        voices: (recording,) who it is.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(len(unit), k=1)
    return Pairs((unit @ unit.T)[first, second].astype(np.float64), voices[first] == voices[second])


def fit_same_voice(pairs: Pairs) -> tuple[float, float]:
    """Fit slope and offset of a logistic regression of cosines, both kinds of pairs weighing the same."""
    from scipy.optimize import minimize
    from scipy.special import expit

    # Standardised scores make the two parameters nearly independent.
    centre, spread = float(pairs.scores.mean()), max(1e-6, float(pairs.scores.std()))
    inputs = np.stack([(pairs.scores - centre) / spread, np.ones(len(pairs.scores))], axis=1)
    weights = np.where(pairs.same, 0.5 / max(1, pairs.same.sum()), 0.5 / max(1, (~pairs.same).sum()))

    def cost(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the penalised negative log-likelihood, and its gradient."""
        logits = inputs @ line
        losses = np.logaddexp(0, np.where(pairs.same, -logits, logits))
        gradient = inputs.T @ (weights * (expit(logits) - pairs.same)) + _PENALTY * line
        return float(weights @ losses + _PENALTY / 2 * line @ line), gradient

    found = minimize(cost, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    slope = max(1e-3, found[0] / spread)
    return round(float(slope), 4), round(float(found[1] - slope * centre), 4)


@dataclass(frozen=True)
class Trials:
    """Recordings of enrolled voices, each compared with all of them, with and without its own."""

    known: NDArray[np.float64]  # (trial, 2) the probability of the best voice, and 1 if it is right
    unknown: NDArray[np.float64]  # (trial,) the probability of the best voice when its own is not enrolled


def run_trials(vectors: Floats, voices: NDArray[np.integer], decision: DecisionConfig, n_enrolled: int = 3) -> Trials:
    """Enroll the first recordings of every voice, and compare all others with them.

    Args:
        vectors: (recording, number).
        voices: (recording,) who it is; a voice of one recording cannot be tried and is enrolled only.
        decision: what makes chances of cosines.
        n_enrolled: recordings to enroll of a voice that has more; else all but one.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    names = np.unique(voices)
    people, tried, who = [], [], []
    for index, voice in enumerate(names):
        own = np.flatnonzero(voices == voice)
        n_own = min(n_enrolled, max(1, len(own) - 1))
        people.append(unit[own[:n_own]].mean(axis=0))
        tried += own[n_own:].tolist()
        who += [index] * (len(own) - n_own)
    if not tried or len(names) < 2:
        return Trials(np.zeros((0, 2)), np.zeros(0))
    matrix = np.stack(people) / np.linalg.norm(people, axis=1, keepdims=True)
    cosines, truth = unit[tried] @ matrix.T, np.array(who)
    chances = speaker_posteriors(cosines, decision)
    known = np.stack([chances.max(axis=1), chances.argmax(axis=1) == truth], axis=1)
    others = cosines[np.arange(len(names)) != truth[:, None]].reshape(len(tried), len(names) - 1)
    return Trials(known, speaker_posteriors(others, decision).max(axis=1))


def unknown_threshold(trials: Trials, false_accepts: float = 0.01) -> float:
    """Return the chance from which on a name is given, so that so many of those who are not enrolled get one."""
    if not len(trials.unknown):
        return 0.5
    return min(0.999, round(float(np.quantile(trials.unknown, 1 - false_accepts)) + 5e-4, 3))


def share_named(trials: Trials, threshold: float) -> float:
    """Return the share of those who are enrolled that are given their name."""
    return float((trials.known[:, 1] * (trials.known[:, 0] >= threshold)).mean()) if len(trials.known) else float("nan")


def report_voices(
    vectors: NDArray[np.float32], voices: NDArray[np.int64], sources: Sequence[str], decision: DecisionConfig
) -> DevReport:
    """Report embeddings: (item, number) vectors, (item,) voice and source; all pairs within a source are compared."""
    names = np.array(sources)
    pairs = {name: all_pairs(vectors[names == name], voices[names == name]) for name in sorted({*sources})}
    rates = {name: equal_error_rate(found.scores, found.same) for name, found in pairs.items()}
    both = Pairs(
        np.concatenate([found.scores for found in pairs.values()]),
        np.concatenate([found.same for found in pairs.values()]),
    )
    figures: dict[str, Any] = {
        "items": len(vectors),
        "voices": len(np.unique(voices)),
        "equal_error_rate": round(equal_error_rate(both.scores, both.same), 4),
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
    decision = replace(decision, same_voice=fit_same_voice(both))
    tried = [run_trials(vectors[names == name], voices[names == name], decision) for name in pairs]
    trials = Trials(np.concatenate([part.known for part in tried]), np.concatenate([part.unknown for part in tried]))
    threshold = unknown_threshold(trials)
    figures["named"] = round(share_named(trials, threshold), 4)
    return DevReport(score, replace(decision, thresholds={UNKNOWN: threshold}), figures)
