"""Arithmetic of samples, frames, windows and segments, as pure functions.

Frame i of a recording stands for the samples `[i * hop, (i + 1) * hop)`; the last frame may be partly past the end.
A window is a run of frames that the encoder reads at once; neighbouring windows overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from framecls.results import Segment


def count_frames(n_samples: int, hop_samples: int) -> int:
    """Return the number of frames that cover a clip, the last one perhaps only in part."""
    return -(-n_samples // hop_samples)


def frame_times(n_frames: int, hop_s: float) -> NDArray[np.float64]:
    """Return (frame,) the seconds at the middle of each frame."""
    return (np.arange(n_frames, dtype=np.float64) + 0.5) * np.float64(hop_s)


@dataclass(frozen=True)
class Window:
    """Frames `[first, first + n_frames)` of a clip."""

    first: int
    n_frames: int


def plan_windows(n_frames: int, length: int, overlap: int) -> list[Window]:
    """Lay windows of `length` frames over a clip so that each frame is in one or two of them.

    The grid starts at the clip's first frame and does not depend on its end: only the last window is shorter.
    A clip no longer than `length` is one window.
    """
    step = length - overlap
    windows = [Window(0, min(length, n_frames))] if n_frames else []
    while windows and windows[-1].first + windows[-1].n_frames < n_frames:
        first = windows[-1].first + step
        windows.append(Window(first, min(length, n_frames - first)))
    return windows


def fade(n_frames: int, overlap: int, *, is_first: bool, is_last: bool) -> NDArray[np.float32]:
    """Return (frame,) the weight of each frame of one window, so that the weights of all windows sum to one.

    The weight ramps linearly over the frames shared with a neighbour: where one window's say ends, the other's is full,
    so no seam can be seen.
    """
    weight = np.ones(n_frames, np.float32)
    ramp = ((np.arange(overlap) + 0.5) / max(overlap, 1)).astype(np.float32)
    if not is_first:
        weight[:overlap] = ramp[:n_frames]
    if not is_last:
        weight[n_frames - overlap :] = ramp[::-1]
    return weight


def find_runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the half-open runs `[first, last)` where a (frame,) mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def clean_runs(runs: Sequence[tuple[int, int]], min_length: int, min_gap: int) -> list[tuple[int, int]]:
    """Join runs less than `min_gap` frames apart, then drop those shorter than `min_length` frames."""
    joined: list[tuple[int, int]] = []
    for first, last in runs:
        if joined and first - joined[-1][1] < min_gap:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return [run for run in joined if run[1] - run[0] >= min_length]


@dataclass(frozen=True)
class SegmentRules:
    """How frames become segments, in frames and seconds."""

    hop_s: float
    duration_s: float
    min_frames: int = 0
    min_gap_frames: int = 0

    def segment(self, run: tuple[int, int], label: str, scores: NDArray[np.float32]) -> Segment:
        """Return the run as a segment that ends with the file at the latest; scores: (frame,) of its label."""
        first, last = run
        # Rounding to a microsecond takes the dust of binary fractions off the times without moving any of them.
        end = min(round(last * self.hop_s, 6), self.duration_s)
        return Segment(round(first * self.hop_s, 6), end, label, float(scores[first:last].mean()))


def overlapping_segments(
    scores: NDArray[np.float32], labels: Sequence[str], thresholds: Sequence[float], rules: SegmentRules
) -> list[Segment]:
    """Give each label its own segments where its probability reaches its threshold.

    Args:
        scores: (frame, label) probabilities.
        labels: one name a column of `scores`.
        thresholds: one probability a column.
        rules: hop, duration, shortest segment and shortest gap.

    Returns:
        segments by start, then in the order of `labels`.
    """
    segments = [
        rules.segment(run, label, scores[:, column])
        for column, (label, threshold) in enumerate(zip(labels, thresholds, strict=True))
        for run in clean_runs(find_runs(scores[:, column] >= threshold), rules.min_frames, rules.min_gap_frames)
    ]
    return sorted(segments, key=lambda s: (s.start, list(labels).index(s.label)))


def tiling_segments(scores: NDArray[np.float32], labels: Sequence[str], rules: SegmentRules) -> list[Segment]:
    """Give each frame its likeliest label and tile the clip with runs of equal labels.

    A run shorter than `rules.min_frames` goes to whichever neighbour its own frames find likelier.

    Args:
        scores: (frame, label) probabilities.
        labels: one name a column of `scores`.
        rules: hop, duration and shortest segment; gaps do not occur.
    """
    if not len(scores):
        return []
    best = scores.argmax(axis=1)
    cuts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
    runs = [(first, last, int(best[first])) for first, last in pairwise(cuts)]
    for length in range(1, rules.min_frames):  # the shortest runs go first, so that what they join may survive
        runs = _absorb_runs(runs, length, scores)
    return [rules.segment((first, last), labels[label], scores[:, label]) for first, last, label in runs]


def _absorb_runs(
    runs: list[tuple[int, int, int]], length: int, scores: NDArray[np.float32]
) -> list[tuple[int, int, int]]:
    """Give each run of `length` frames to a neighbour, in one pass, and join runs of equal labels."""
    joined: list[tuple[int, int, int]] = []
    for index, (first, last, label) in enumerate(runs):
        if last - first == length and len(runs) > 1:
            after = [runs[index + 1][2]] if index + 1 < len(runs) else []
            neighbours = [*(run[2] for run in joined[-1:]), *after]
            label = max(neighbours, key=lambda other: float(scores[first:last, other].sum()))
        if joined and joined[-1][2] == label:
            joined[-1] = (joined[-1][0], last, label)
        else:
            joined.append((first, last, label))
    return joined
