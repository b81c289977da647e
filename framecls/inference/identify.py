"""`identify`: one label a recording, pooled over its windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecls.config import NOT_NAMED, NOT_TRUSTED, UNKNOWN, UNSURE, ModelConfig, listed, not_heard
from framecls.errors import AudioError, ConfigError
from framecls.inference.batching import Request
from framecls.inference.windows import WindowOutput
from framecls.results import Candidate, Identification

# A gated model does not answer for less than this of what its gate passes.
MIN_HEARD_S = 0.3
# Prior odds of a label that is not named with `among` to one that is: low enough for a similar language to lose against
# those that are named, and high enough for a quite different one to win.
NOT_NAMED_ODDS = 0.1
# A label counts as one of several where its windows have so many seconds, and such a share of what is named.
_LEAST_OF_SEVERAL_S = 5.0
_LEAST_OF_SEVERAL = 0.1


@dataclass(frozen=True)
class Choice:
    """Which labels can be the answer."""

    indices: tuple[int, ...]
    other_odds: float  # prior odds of each other label to one of these
    reason: str  # for "unknown", where another label is likely


@dataclass(frozen=True)
class Ranking:
    """The likeliest answers, and how likely it is that none of them is right."""

    top: tuple[Candidate, ...]  # the best first
    rest: float  # probability of all that cannot be the answer
    reason: str  # for "unknown", where that is likelier than not


def pool_windows(outputs: Iterable[WindowOutput], least_s: float | None = None) -> tuple[NDArray[np.float32], float]:
    """Return (label,) the weighted mean of the logits of a recording's windows, and the seconds that counted.

    A window is weighted by its `weight_s`; if all of these are zero, all windows count alike. With `least_s`, windows
    of at least that weight count for their length, and the others not at all. Seconds that two windows share are
    counted once.

    Raises:
        AudioError: there is no window.
    """
    kept = list(outputs)
    if not kept:
        raise AudioError("there is no audio in it")
    weights_s = np.array([output.weight_s for output in kept])
    heard_s = float(sum(output.weight_s - output.shared_s for output in kept))
    if least_s is not None:
        lengths = np.array([output.window.n_frames for output in kept], float)
        weights_s = np.where(weights_s >= least_s, lengths, 0.0)
    logits = np.stack([output.logits for output in kept])
    return np.average(logits, axis=0, weights=weights_s if weights_s.any() else None).astype(np.float32), heard_s


def choose_candidates(config: ModelConfig, among: Sequence[str] | None) -> Choice:
    """Return which labels can be the answer: those asked for, or the model's own choice.

    Raises:
        ConfigError: a label that the model does not have, or none at all.
    """
    wanted = config.decision.candidates or config.labels if among is None else check_among(among)
    if not wanted:
        raise ConfigError("no label is left to choose among")
    for label in wanted:
        if label not in config.labels:
            raise ConfigError(f"{label!r} is no label of {config.name}: it has {', '.join(config.labels)}")
    indices = tuple(config.labels.index(label) for label in dict.fromkeys(wanted))
    return Choice(indices, 1.0, NOT_TRUSTED) if among is None else Choice(indices, NOT_NAMED_ODDS, NOT_NAMED)


def check_among(among: Sequence[str]) -> tuple[str, ...]:
    """Return the labels or names that can be the answer.

    Raises:
        ConfigError: a single string, which would be taken letter by letter.
    """
    if isinstance(among, str):
        raise ConfigError(f"among is a list, such as [{among!r}], not a string")
    return tuple(among)


def posteriors(logits: NDArray[np.float32], config: ModelConfig) -> NDArray[np.float64]:
    """Return (..., label) calibrated probabilities of all labels that the model knows, from their logits."""
    decision = config.decision
    shifted = logits.astype(np.float64) / decision.temperature
    if decision.candidates:
        shifted += [0.0 if label in decision.candidates else np.log(decision.other_odds) for label in config.labels]
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def share_out(
    logits: NDArray[np.float32], config: ModelConfig, choice: Choice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share the probability out among the labels that can be the answer, and all others together.

    Args:
        logits: (..., label).
        config: labels, and what makes probabilities of logits.
        choice: which labels can be the answer.

    Returns:
        (..., candidate) and (...,).
    """
    chosen = posteriors(logits, config)[..., list(choice.indices)]
    others = np.maximum(0.0, 1.0 - chosen.sum(axis=-1, keepdims=True)) * choice.other_odds
    scores = chosen / (chosen.sum(axis=-1, keepdims=True) + others)
    return scores, np.maximum(0.0, 1.0 - scores.sum(axis=-1))


def rank(logits: NDArray[np.float32], config: ModelConfig, choice: Choice, top_k: int) -> Ranking:
    """Rank the labels that can be the answer; the others keep their share of the probability.

    Args:
        logits: (label,).
        config, choice: as of `share_out`.
        top_k: how many to return.
    """
    scores, rest = share_out(logits, config, choice)
    order = np.argsort(-scores, kind="stable")[:top_k]
    top = tuple(Candidate(config.labels[choice.indices[i]], float(scores[i])) for i in order)
    return Ranking(top, float(rest), choice.reason)


def find_several(outputs: Sequence[WindowOutput], config: ModelConfig, choice: Choice) -> str | None:
    """Return what to say of a recording in whose windows more than one label is likelier than all others, or None."""
    if len(outputs) < 2:
        return None
    scores, _ = share_out(np.stack([output.logits for output in outputs]), config, choice)
    seconds: dict[str, float] = {}
    for row, output in zip(scores, outputs, strict=True):
        if row.max() > 0.5:
            label = config.labels[choice.indices[int(row.argmax())]]
            seconds[label] = seconds.get(label, 0.0) + output.weight_s - output.shared_s
    least_s = max(_LEAST_OF_SEVERAL_S, _LEAST_OF_SEVERAL * sum(seconds.values()))
    found = [f"{label} for {heard_s:.0f} s" for label, heard_s in seconds.items() if heard_s >= least_s]
    if len(found) < 2:
        return None
    return f"more than one label is heard: {listed(found)}; framecls tag -m {config.name} says when"


def decide(recording: Request, ranking: Ranking, heard_s: float, config: ModelConfig) -> Identification:
    """Return the best of a ranking as the answer for a recording, or "unknown"; arguments as of `find_rejection`."""
    best, reason = ranking.top[0], find_rejection(ranking, heard_s, config)
    label, score = (best.label, best.score) if reason is None else (UNKNOWN, None)
    return Identification(
        **recording.facts(), model=config.name, label=label, score=score, top=ranking.top, reason=reason
    )


def find_rejection(ranking: Ranking, heard_s: float, config: ModelConfig) -> str | None:
    """Return why the best of a ranking is rejected, or None if it is the answer.

    It must reach the threshold of its label, or else that of "unknown". Where the model has neither, it must be at
    least as likely as that nothing in the ranking is right.

    Args:
        ranking: what may be the answer.
        heard_s: seconds that counted; a model with a gate does not answer where too little passed it.
        config: gate and thresholds.
    """
    if config.gate and heard_s < MIN_HEARD_S:
        return not_heard(config.gate)
    best, thresholds = ranking.top[0], config.decision.thresholds
    if best.score >= thresholds.get(best.label, thresholds.get(UNKNOWN, ranking.rest)):
        return None
    return ranking.reason if ranking.rest > 0.5 else UNSURE
