"""`identify`: one label a recording, pooled over its windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from framecls.config import UNKNOWN, ModelConfig
from framecls.engine import WindowOutput
from framecls.errors import AudioError, ConfigError
from framecls.results import Candidate

# With less of what its gate lets through, a gated model does not answer.
MIN_HEARD_S = 0.3


def pool_windows(outputs: Iterable[WindowOutput], least_s: float | None = None) -> tuple[NDArray[np.float32], float]:
    """Return (label,) the mean logits of a recording's windows, and the seconds that counted.

    A window counts for its `weight_s`; if none counts for anything, all count alike. With `least_s` those with as many
    seconds count for their length, whatever else is in them, and the others not at all. Of the seconds, those that two
    windows share are counted once.

    Raises:
        AudioError: there is no window.
    """
    kept = list(outputs)
    if not kept:
        raise AudioError("there is no audio in it")
    weights_s = np.array([output.weight_s for output in kept])
    heard_s = float(sum(output.weight_s - output.again_s for output in kept))
    if least_s is not None:
        lengths = np.array([output.window.n_frames for output in kept], float)
        weights_s = np.where(weights_s >= least_s, lengths, 0.0)
    logits = np.stack([output.logits for output in kept])
    return np.average(logits, axis=0, weights=weights_s if weights_s.any() else None).astype(np.float32), heard_s


def choose_candidates(config: ModelConfig, among: Sequence[str] | None) -> list[int]:
    """Return the indices of the labels that may be the answer: those asked for, or the model's own choice.

    Raises:
        ConfigError: a label that the model does not have, or none at all.
    """
    wanted = config.decision.candidates or config.labels if among is None else check_among(among)
    if not wanted:
        raise ConfigError("no label is left to choose among")
    for label in wanted:
        if label not in config.labels:
            raise ConfigError(f"{label!r} is no label of {config.name}: it has {', '.join(config.labels)}")
    return [config.labels.index(label) for label in dict.fromkeys(wanted)]


def check_among(among: Sequence[str]) -> tuple[str, ...]:
    """Return the labels or names that can be the answer.

    Raises:
        ConfigError: a single string, which would be taken letter by letter.
    """
    if isinstance(among, str):
        raise ConfigError(f"among is a list, such as [{among!r}], not a string")
    return tuple(among)


def rank(
    logits: NDArray[np.float32], config: ModelConfig, candidates: Sequence[int], top_k: int
) -> tuple[Candidate, ...]:
    """Return the likeliest candidates, the best first, their calibrated probabilities summing to one over all.

    Args:
        logits: (label,).
        config: labels and temperature.
        candidates: indices of the labels that may be the answer.
        top_k: how many to return.
    """
    chosen = logits[list(candidates)] / config.decision.temperature
    powers = np.exp(chosen - chosen.max())
    scores = powers / powers.sum()
    order = np.argsort(-scores, kind="stable")[:top_k]
    return tuple(Candidate(config.labels[candidates[i]], float(scores[i])) for i in order)


def decide(top: Sequence[Candidate], heard_s: float, config: ModelConfig) -> str:
    """Return the best label, or "unknown" if it is not likely enough or there was nothing to listen to.

    Args:
        top: candidates, the best first.
        heard_s: seconds that counted.
        config: threshold and gate.
    """
    nothing_heard = bool(config.gate) and heard_s < MIN_HEARD_S
    unsure = top[0].score < config.decision.thresholds.get(UNKNOWN, 0.0)
    return UNKNOWN if unsure or nothing_heard else top[0].label
