"""`identify`: one label a recording, pooled over its windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from framecls.config import UNKNOWN, ModelConfig
from framecls.engine import WindowOutput
from framecls.errors import ConfigError
from framecls.results import AudioInfo, Candidate, Identification


def pool_windows(outputs: Iterable[WindowOutput]) -> NDArray[np.float32]:
    """Return (label,) the mean logits of a recording's windows, a longer window counting more.

    Raises:
        ValueError: there is no window.
    """
    kept = list(outputs)
    if not kept:
        raise ValueError("a recording without a window has no label")
    weights = np.array([output.window.n_frames for output in kept], np.float32)
    return np.average(np.stack([output.logits for output in kept]), axis=0, weights=weights).astype(np.float32)


def choose_candidates(config: ModelConfig, among: Sequence[str] | None) -> list[int]:
    """Return the indices of the labels that may be the answer: those asked for, or the model's own choice.

    Raises:
        ConfigError: a label that the model does not have, or none at all.
    """
    wanted = config.decision.candidates or config.labels if among is None else tuple(among)
    if not wanted:
        raise ConfigError("no label is left to choose among")
    for label in wanted:
        if label not in config.labels:
            raise ConfigError(f"{label!r} is no label of {config.name}: it has {', '.join(config.labels)}")
    return [config.labels.index(label) for label in dict.fromkeys(wanted)]


def make_identification(
    logits: NDArray[np.float32],
    config: ModelConfig,
    candidates: Sequence[int],
    top_k: int,
    file: str,
    duration_s: float,
    audio: AudioInfo | None,
) -> Identification:
    """Rank the candidate labels of a recording; the answer is "unknown" if none is likely enough.

    Args:
        logits: (label,).
        config: temperature and threshold.
        candidates: indices of the labels that may be the answer.
        top_k: how many to report.
    """
    chosen = logits[list(candidates)] / config.decision.temperature
    powers = np.exp(chosen - chosen.max())
    scores = powers / powers.sum()
    order = np.argsort(-scores, kind="stable")[:top_k]
    top = tuple(Candidate(config.labels[candidates[i]], float(scores[i])) for i in order)
    unsure = top[0].score < config.decision.thresholds.get(UNKNOWN, 0.0)
    return Identification(
        file=file,
        model=config.name,
        duration=duration_s,
        label=UNKNOWN if unsure else top[0].label,
        score=top[0].score,
        top=top,
        audio=audio,
    )
