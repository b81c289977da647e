"""Figures of vectors that stand for voices: how well pairs of one voice are told from pairs of two, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


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


def error_rates(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (threshold,) ascending scores, and at each the share of false accepts and of false rejects.

    A pair is accepted if its score is at least the threshold.
    """
    thresholds = np.unique(pairs.scores)
    different, same = np.sort(pairs.scores[~pairs.same]), np.sort(pairs.scores[pairs.same])
    accepts = 1 - np.searchsorted(different, thresholds, side="left") / max(1, len(different))
    rejects = np.searchsorted(same, thresholds, side="left") / max(1, len(same))
    return thresholds, accepts, rejects


def equal_error_rate(pairs: Pairs) -> float:
    """Return the rate at which false accepts and false rejects are as frequent; NaN if one kind of pair is missing."""
    if pairs.same.all() or not pairs.same.any():
        return float("nan")
    _, accepts, rejects = error_rates(pairs)
    accepts, rejects = np.append(accepts, 0.0), np.append(rejects, 1.0)  # beyond the highest score nothing is accepted
    crossing = int(np.argmax(rejects >= accepts))
    if crossing == 0:
        return float((accepts[0] + rejects[0]) / 2)
    # Between two thresholds both rates are taken as straight lines.
    before, after = accepts[crossing - 1] - rejects[crossing - 1], accepts[crossing] - rejects[crossing]
    share = before / (before - after)
    return float(accepts[crossing - 1] + share * (accepts[crossing] - accepts[crossing - 1]))


def fit_same_voice(pairs: Pairs) -> tuple[float, float]:
    """Return slope and offset of the logistic function that makes the pairs likeliest, both kinds weighing as much.

    Newton's method on two numbers; the likelihood has one maximum.
    """
    # Around their middle and in units of their spread, the scores make the two numbers nearly independent.
    centre, spread = float(pairs.scores.mean()), max(1e-6, float(pairs.scores.std()))
    inputs = np.stack([(pairs.scores - centre) / spread, np.ones(len(pairs.scores))], axis=1)
    weights = np.where(pairs.same, 0.5 / max(1, pairs.same.sum()), 0.5 / max(1, (~pairs.same).sum()))
    found = np.zeros(2)
    for _ in range(50):
        chances = 1 / (1 + np.exp(-np.clip(inputs @ found, -60, 60)))
        gradient = inputs.T @ (weights * (chances - pairs.same)) + 1e-4 * found
        curvature = (inputs * (weights * chances * (1 - chances))[:, None]).T @ inputs + 1e-4 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found -= step
        if np.abs(step).max() < 1e-9:
            break
    slope = max(1e-3, found[0] / spread)
    return round(float(slope), 4), round(float(found[1] - slope * centre), 4)
