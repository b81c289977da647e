"""`tag`: one label a frame, or several, or none: what is heard when."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from framecls.config import ModelConfig
from framecls.inference.batching import Request
from framecls.inference.segments import (
    OutlineMaker,
    OverlappingSegmenter,
    Segmenter,
    SegmentRules,
    TilingSegmenter,
    order_segments,
)
from framecls.inference.windows import frame_times, stitch_parts
from framecls.results import Segment, TagResult

DEFAULT_THRESHOLD = 0.5


def to_probabilities(logits: NDArray[np.float32], config: ModelConfig) -> NDArray[np.float32]:
    """Turn (frame, label) logits into probabilities: each label's own, or shares of one."""
    scaled = logits / np.float32(config.decision.temperature)
    if config.overlapping:
        return np.asarray(1 / (1 + np.exp(-scaled)), np.float32)
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def tag_recording(recording: Request, config: ModelConfig, *, keep_scores: bool) -> TagResult:
    """Turn what the network says of a recording into labelled segments.

    Args:
        recording: its windows are read here.
        config: labels and decisions.
        keep_scores: keep every frame's probabilities; without, memory grows only with the number of segments.
    """
    segmenter = make_segmenter(config)
    outline_maker = OutlineMaker(len(config.labels), config.hop_s)
    segments: list[Segment] = []
    kept = [np.zeros((0, len(config.labels)), np.float32)]
    for logits in stitch_parts(recording, config.overlap_frames):
        scores = to_probabilities(logits, config)
        segments += segmenter.push(scores)
        if keep_scores:
            kept.append(scores)
        else:
            outline_maker.push(scores)
    segments += segmenter.finish(recording.duration_s)
    scores = np.concatenate(kept)
    return TagResult(
        **recording.facts(),
        model=config.name,
        hop=config.hop_s,
        labels=config.labels,
        segments=tuple(order_segments(segments, config.labels)),
        times=frame_times(len(scores), config.hop_s),
        scores=scores,
        overlapping=config.overlapping,
        band_hz=config.features.band_hz,
        outline=None if keep_scores else outline_maker.finish(),
    )


def make_segmenter(config: ModelConfig) -> Segmenter:
    """Return what decides on segments as the model's settings say."""
    decision = config.decision
    rules = SegmentRules(
        hop_s=config.hop_s,
        min_frames=round(decision.min_duration_s / config.hop_s),
        min_gap_frames=round(decision.min_gap_s / config.hop_s),
        min_frames_of={label: round(s / config.hop_s) for label, s in decision.min_durations_s.items()},
        min_gap_frames_of={label: round(s / config.hop_s) for label, s in decision.min_gaps_s.items()},
    )
    if not config.overlapping:
        return TilingSegmenter(config.labels, rules)
    thresholds = [decision.thresholds.get(label, DEFAULT_THRESHOLD) for label in config.labels]
    return OverlappingSegmenter(config.labels, thresholds, rules)
