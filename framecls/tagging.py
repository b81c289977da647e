"""`tag`: one label (or several, or none) a frame. What is heard when."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from framecls.config import ModelConfig
from framecls.engine import WindowOutput
from framecls.results import AudioInfo, TagResult
from framecls.timeline import SegmentRules, fade, frame_times, overlapping_segments, tiling_segments

DEFAULT_THRESHOLD = 0.5


def stitch(outputs: Iterable[WindowOutput], overlap: int) -> NDArray[np.float32]:
    """Join the windows of a recording: where two overlap, the mean of their logits fades from one to the other.

    Args:
        outputs: windows in order, laid as by `timeline.plan_windows`.
        overlap: frames that neighbouring windows share.

    Returns:
        (frame, label) logits of the whole recording.
    """
    parts: list[NDArray[np.float32]] = []
    before: WindowOutput | None = None
    tail: NDArray[np.float32] | None = None  # the end of the window before, faded out
    for output in outputs:
        if before is not None:
            parts.append(_faded(before, overlap, tail, is_last=False))
            tail = _tail(before, overlap)
        before = output
    if before is not None:
        parts.append(_faded(before, overlap, tail, is_last=True))
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _faded(
    output: WindowOutput, overlap: int, tail: NDArray[np.float32] | None, *, is_last: bool
) -> NDArray[np.float32]:
    """Return the frames of a window that no later window changes, the tail of the one before added."""
    n_frames = output.window.n_frames
    weight = fade(n_frames, overlap, is_first=tail is None, is_last=is_last)
    mixed = output.logits * weight[:, None]
    if tail is not None:
        mixed[: len(tail)] += tail
    return mixed if is_last else mixed[: n_frames - overlap]


def _tail(output: WindowOutput, overlap: int) -> NDArray[np.float32]:
    weight = fade(output.window.n_frames, overlap, is_first=True, is_last=False)
    return (output.logits * weight[:, None])[output.window.n_frames - overlap :]


def to_probabilities(logits: NDArray[np.float32], config: ModelConfig) -> NDArray[np.float32]:
    """Turn (frame, label) logits into probabilities: each label's own, or shares of one."""
    scaled = logits / np.float32(config.decision.temperature)
    if config.overlapping:
        return np.asarray(1 / (1 + np.exp(-scaled)), np.float32)
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def make_result(
    logits: NDArray[np.float32], config: ModelConfig, file: str, duration_s: float, audio: AudioInfo | None
) -> TagResult:
    """Turn the (frame, label) logits of a recording into labelled segments."""
    decision = config.decision
    scores = to_probabilities(logits, config)
    rules = SegmentRules(
        hop_s=config.hop_s,
        duration_s=duration_s,
        min_frames=round(decision.min_duration_s / config.hop_s),
        min_gap_frames=round(decision.min_gap_s / config.hop_s),
    )
    if config.overlapping:
        thresholds = [decision.thresholds.get(label, DEFAULT_THRESHOLD) for label in config.labels]
        segments = overlapping_segments(scores, config.labels, thresholds, rules)
    else:
        segments = tiling_segments(scores, config.labels, rules)
    return TagResult(
        file=file,
        model=config.name,
        duration=duration_s,
        hop=config.hop_s,
        labels=config.labels,
        segments=tuple(segments),
        times=frame_times(len(scores), config.hop_s),
        scores=scores,
        overlapping=config.overlapping,
        audio=audio,
    )
