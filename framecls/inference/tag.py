"""`tag`: one label (or several, or none) a frame. What is heard when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from framecls.config import ModelConfig
from framecls.inference.engine import WindowOutput
from framecls.inference.segments import (
    OutlineMaker,
    OverlappingSegmenter,
    Segmenter,
    SegmentRules,
    TilingSegmenter,
    fade,
    frame_times,
    order_segments,
)
from framecls.results import AudioInfo, Segment, TagResult

DEFAULT_THRESHOLD = 0.5


def stitch_parts(outputs: Iterable[WindowOutput], overlap: int) -> Iterator[NDArray[np.float32]]:
    """Join the windows of a recording: where two overlap, the mean of their logits fades from one to the other.

    Args:
        outputs: windows in order, laid as by `timeline.plan_windows`.
        overlap: frames that neighbouring windows share.

    Yields:
        (frame, label) logits that follow each other, each as soon as no later window can change them.
    """
    held: NDArray[np.float32] | None = None  # the end of the window before, which the next one shares
    for output in outputs:
        n_frames = output.window.n_frames
        mixed = output.logits * fade(n_frames, overlap, is_first=held is None, is_last=True)[:, None]
        if held is not None:
            mixed[:overlap] += held * fade(overlap, overlap, is_first=True, is_last=False)[:, None]
        n_final = max(0, n_frames - overlap)
        yield mixed[:n_final]
        held = mixed[n_final:]
    if held is not None:
        yield held


def stitch(outputs: Iterable[WindowOutput], overlap: int) -> NDArray[np.float32]:
    """Return (frame, label) what `stitch_parts` yields as a whole."""
    parts = list(stitch_parts(outputs, overlap))
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def to_probabilities(logits: NDArray[np.float32], config: ModelConfig) -> NDArray[np.float32]:
    """Turn (frame, label) logits into probabilities: each label's own, or shares of one."""
    scaled = logits / np.float32(config.decision.temperature)
    if config.overlapping:
        return np.asarray(1 / (1 + np.exp(-scaled)), np.float32)
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


class Tagger:
    """Turns the logits of one recording into labelled segments while they come."""

    def __init__(self, config: ModelConfig, *, keep_scores: bool) -> None:
        """Begin a recording.

        Args:
            config: labels and decisions.
            keep_scores: keep every frame's probabilities; without, memory grows only with the number of segments.
        """
        self._config = config
        self._segmenter = make_segmenter(config)
        self._segments: list[Segment] = []
        self._kept: list[NDArray[np.float32]] | None = [] if keep_scores else None
        self._outline = OutlineMaker(len(config.labels), config.hop_s)

    def push(self, logits: NDArray[np.float32]) -> None:
        """Take the next (frame, label) logits."""
        scores = to_probabilities(logits, self._config)
        self._segments += self._segmenter.push(scores)
        if self._kept is None:
            self._outline.push(scores)
        else:
            self._kept.append(scores)

    def finish(self, file: str, duration_s: float, audio: AudioInfo | None) -> TagResult:
        """Return what was found, once the recording is over."""
        config = self._config
        self._segments += self._segmenter.finish(duration_s)
        scores = np.concatenate([np.zeros((0, len(config.labels)), np.float32), *(self._kept or ())])
        return TagResult(
            file=file,
            model=config.name,
            duration=duration_s,
            hop=config.hop_s,
            labels=config.labels,
            segments=tuple(order_segments(self._segments, config.labels)),
            times=frame_times(len(scores), config.hop_s),
            scores=scores,
            overlapping=config.overlapping,
            audio=audio,
            outline=self._outline.finish() if self._kept is None else None,
        )


def make_segmenter(config: ModelConfig) -> Segmenter:
    """Return what decides on segments as the model's settings say."""
    decision = config.decision
    rules = SegmentRules(
        hop_s=config.hop_s,
        min_frames=round(decision.min_duration_s / config.hop_s),
        min_gap_frames=round(decision.min_gap_s / config.hop_s),
    )
    if not config.overlapping:
        return TilingSegmenter(config.labels, rules)
    thresholds = [decision.thresholds.get(label, DEFAULT_THRESHOLD) for label in config.labels]
    return OverlappingSegmenter(config.labels, thresholds, rules)
