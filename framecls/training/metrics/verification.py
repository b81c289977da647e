"""Figures of vectors that stand for voices: how well pairs of one voice are told from pairs of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecls.config import DecisionConfig
from framecls.speakers.recognition import speaker_posteriors

Floats = NDArray[np.floating]
_PULL = 1e-4  # keeps the line finite where the two kinds of pairs do not overlap


@dataclass(frozen=True)
class Pairs:
    """Every pair of some recordings, once."""

    scores: NDArray[np.float64]  # (pair,) cosines
    same: NDArray[np.bool_]  # (pair,) one voice, or two


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
    """Return slope and offset of the logistic function that makes the pairs likeliest, both kinds weighing as much.

    The likelihood, with a slight pull of both numbers towards zero, has one maximum.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    # Around their middle and in units of their spread, the scores make the two numbers nearly independent.
    centre, spread = float(pairs.scores.mean()), max(1e-6, float(pairs.scores.std()))
    inputs = np.stack([(pairs.scores - centre) / spread, np.ones(len(pairs.scores))], axis=1)
    weights = np.where(pairs.same, 0.5 / max(1, pairs.same.sum()), 0.5 / max(1, (~pairs.same).sum()))

    def cost(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the negative log-likelihood of a line, and its gradient."""
        logits = inputs @ line
        losses = np.logaddexp(0, np.where(pairs.same, -logits, logits))
        gradient = inputs.T @ (weights * (expit(logits) - pairs.same)) + _PULL * line
        return float(weights @ losses + _PULL / 2 * line @ line), gradient

    found = minimize(cost, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    slope = max(1e-3, found[0] / spread)
    return round(float(slope), 4), round(float(found[1] - slope * centre), 4)


@dataclass(frozen=True)
class Trials:
    """Recordings of a closed circle, each compared with all of it, once with and once without its own voice."""

    known: NDArray[np.float64]  # (trial, 2) the chance of the best, and 1 if that is who speaks
    unknown: NDArray[np.float64]  # (trial,) the chance of the best where the own voice is not enrolled


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
