"""Results as a model would give them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from framecls.inference.segments import Segmenter, order_segments
from framecls.inference.windows import frame_times
from framecls.results import Alignment, AudioInfo, Candidate, Identification, Segment, StringResult, TagResult

LABELS = ("speech", "music", "noise")


def make_tag(file: str = "dir/a.wav", *, overlapping: bool = True, empty: bool = False) -> TagResult:
    """Return 12.345678 s with overlapping labels, or tiled by one label at a time."""
    spans: list[tuple[float, float, str, float]]
    if overlapping:
        spans = [(0.0, 1.26, "speech", 0.98765), (0.9, 12.345678, "music", 0.5), (3.0, 4.5, "speech", 0.75)]
    else:
        spans = [(0.0, 2.5, "speech", 0.9), (2.5, 7.0, "noise", 0.8), (7.0, 12.345678, "speech", 0.99999)]
    segments = () if empty else tuple(Segment(*span) for span in spans)
    times = frame_times(618, 0.02)
    scores = np.random.default_rng(0).random((618, 3)).astype(np.float32)
    audio = AudioInfo(44100, 2)
    return TagResult(file, "sound", 12.345678, 0.02, LABELS, segments, times, scores, overlapping, audio)


def make_string(file: str = "dir/a.wav") -> StringResult:
    """Return 2 s in which a word is said."""
    phones = ("h", "ə", "l", "oʊ")
    segments = tuple(Segment(0.5 + 0.1 * n, 0.56 + 0.1 * n, phone, 0.9) for n, phone in enumerate(phones))
    scores = np.full((100, 4), 0.01, np.float32)
    return StringResult(file, "phones", 2.0, 0.02, phones, segments, frame_times(100, 0.02), scores)


def make_alignment(file: str = "dir/a.wav") -> Alignment:
    """Return 2 s in which two words are said, with a pause between them."""
    spans = [("hh", 0.5, 0.56), ("ay", 0.56, 0.7), ("y", 1.0, 1.1), ("uw", 1.1, 1.3)]
    segments = tuple(Segment(start, end, phone, 0.9) for phone, start, end in spans)
    words = (Segment(0.5, 0.7, "Hi", 0.9), Segment(1.0, 1.3, "you", 0.8))
    labels = ("sil", "hh", "ay", "y", "uw")
    scores = np.full((100, 5), 0.2, np.float32)
    return Alignment(file, "phones", 2.0, 0.02, labels, segments, frame_times(100, 0.02), scores, words=words)


def make_identification(file: str = "b.wav", label: str = "de") -> Identification:
    top = (Candidate("de", 0.93456), Candidate("nl", 0.04), Candidate("da", 0.01))
    reason = "unsure" if label == "unknown" else None
    return Identification(file, "language", 12.34, label, None if reason else 0.93456, top, reason=reason)


def segment_whole(segmenter: Segmenter, scores: NDArray[np.float32]) -> list[Segment]:
    """Return the segments of a whole recording, (frame, label) probabilities, by start and label."""
    return order_segments([*segmenter.push(scores), *segmenter.finish(segmenter.rules.duration_s)], segmenter.labels)
