"""Segments of frames, at their edges and while the frames come."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framecls.inference.segments import (
    OutlineMaker,
    OverlappingSegmenter,
    Segmenter,
    SegmentRules,
    TilingSegmenter,
    clean_runs,
    find_runs,
    order_segments,
)
from support.results import segment_whole


def test_runs() -> None:
    assert find_runs(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 2), (4, 5), (6, 7)]
    assert find_runs(np.zeros(0, bool)) == []
    assert clean_runs([(0, 2), (4, 5), (6, 7)], min_length=0, min_gap=2) == [(0, 2), (4, 7)]
    assert clean_runs([(0, 2), (4, 5), (9, 10)], min_length=2, min_gap=0) == [(0, 2)]


def test_overlapping_segments_end_with_the_file() -> None:
    scores = np.array([[0.9, 0.2], [0.8, 0.6], [0.7, 0.9]], np.float32)
    segments = segment_whole(OverlappingSegmenter(["a", "b"], [0.5, 0.5], SegmentRules(0.02, duration_s=0.05)), scores)
    assert [(s.start, s.end, s.label) for s in segments] == [(0.0, 0.05, "a"), (0.02, 0.05, "b")]
    assert segments[0].score == pytest.approx(0.8)


def one_hot(labels: str) -> np.ndarray:
    return np.array([[c == "a", c == "b", c == "c"] for c in labels], np.float32)


@pytest.mark.parametrize(
    ("frames", "min_frames", "wanted"),
    [
        ("", 0, []),
        ("aab", 0, [("a", 0, 2), ("b", 2, 3)]),
        ("aaabaaa", 2, [("a", 0, 7)]),
        ("abc", 9, [("c", 0, 3)]),
        ("aaabbbb", 3, [("a", 0, 3), ("b", 3, 7)]),
    ],
)
def test_tiling_segments(frames: str, min_frames: int, wanted: list[tuple[str, int, int]]) -> None:
    scores = one_hot(frames).reshape(-1, 3)
    rules = SegmentRules(1.0, float(len(frames)), min_frames=min_frames)
    segments = segment_whole(TilingSegmenter("abc", rules), scores)
    spans = [(s.label, int(s.start), int(s.end)) for s in segments]
    assert [span[1:] for span in spans] == [w[1:] for w in wanted]
    if frames != "abc":  # which of three single frames wins is a tie
        assert spans == wanted


@given(st.text("abc", min_size=1, max_size=80), st.integers(0, 6))
def test_tiles_abut_and_are_long_enough(frames: str, min_frames: int) -> None:
    rules = SegmentRules(1.0, float(len(frames)), min_frames=min_frames)
    segments = segment_whole(TilingSegmenter("abc", rules), one_hot(frames))
    assert segments[0].start == 0
    assert segments[-1].end == len(frames)
    for before, after in pairwise(segments):
        assert before.end == after.start
        assert before.label != after.label
    if len(segments) > 1:
        assert min(s.end - s.start for s in segments) >= min_frames


# --- online against a reference that looks at the whole recording at once


def whole_overlapping(scores: np.ndarray, thresholds: list[float], rules: SegmentRules) -> list[tuple[float, ...]]:
    """Return (first, last, label, score) by the rules as the documentation words them."""
    found = []
    for label, threshold in enumerate(thresholds):
        runs = find_runs(scores[:, label] >= threshold)
        for first, last in clean_runs(runs, rules.least("abc"[label]), rules.gap("abc"[label])):
            found.append((first, last, label, scores[first:last, label].mean(dtype=np.float64)))
    return sorted(found, key=lambda s: (s[0], s[2]))


def whole_tiling(scores: np.ndarray, least: list[int]) -> list[tuple[float, ...]]:
    """Return (first, last, label, score): in one pass a length, each short run joins its likelier neighbour."""
    best = scores.argmax(axis=1)
    cuts = [0, *(np.flatnonzero(np.diff(best)) + 1), len(best)]
    runs = [(int(a), int(b), int(best[a])) for a, b in pairwise(cuts)]
    for length in range(1, max(least)):
        joined: list[tuple[int, int, int]] = []
        for index, (first, last, label) in enumerate(runs):
            if last - first == length < least[label] and len(runs) > 1:
                neighbours = [run[2] for run in (*joined[-1:], *runs[index + 1 : index + 2])]
                label = max(neighbours, key=lambda other: scores[first:last, other].sum(dtype=np.float64))
            if joined and joined[-1][2] == label:
                joined[-1] = (joined[-1][0], last, label)
            else:
                joined.append((first, last, label))
        runs = joined
    return [(a, b, label, scores[a:b, label].mean(dtype=np.float64)) for a, b, label in runs]


def in_pieces(segmenter: Segmenter, scores: np.ndarray, sizes: list[int]) -> list[tuple[float, ...]]:
    """Push scores in pieces of these sizes, in turn, and return (first, last, label, score) by start."""
    found, at, turn = [], 0, 0
    while at < len(scores):
        size = sizes[turn % len(sizes)]
        found += segmenter.push(scores[at : at + size])
        at, turn = at + size, turn + 1
    found += segmenter.finish(float(len(scores)))
    ordered = order_segments(found, segmenter.labels)
    return [(int(s.start), int(s.end), segmenter.labels.index(s.label), s.score) for s in ordered]


def random_scores(seed: int, n_frames: int, stay: float) -> np.ndarray:
    """Return (frame, 3) probabilities in quarters, which linger and tie."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random((n_frames, 3)) * 4) / 4
    for frame in range(1, n_frames):
        kept = rng.random(3) < stay
        scores[frame, kept] = scores[frame - 1, kept]
    return scores.astype(np.float32)


FRAMES = st.tuples(st.integers(0, 10**6), st.integers(1, 200), st.sampled_from([0.0, 0.6, 0.95]))
OF_LABELS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 12))
PIECES = st.lists(st.integers(1, 60), min_size=1, max_size=5)


@settings(deadline=None)
@given(FRAMES, PIECES, st.integers(0, 9), st.integers(0, 9), OF_LABELS, OF_LABELS)
def test_overlapping_segments_online(
    frames: tuple[int, int, float],
    sizes: list[int],
    min_frames: int,
    min_gap: int,
    frames_of: dict[str, int],
    gaps_of: dict[str, int],
) -> None:
    scores, thresholds = random_scores(*frames), [0.5, 0.75, 0.25]
    rules = SegmentRules(
        1.0, min_frames=min_frames, min_gap_frames=min_gap, min_frames_of=frames_of, min_gap_frames_of=gaps_of
    )
    got = in_pieces(OverlappingSegmenter("abc", thresholds, rules), scores, sizes)
    wanted = whole_overlapping(scores, thresholds, rules)
    assert [s[:3] for s in got] == [s[:3] for s in wanted]
    np.testing.assert_allclose([s[3] for s in got], [s[3] for s in wanted])


@settings(deadline=None)
@given(FRAMES, PIECES, st.integers(0, 12), OF_LABELS)
def test_tiling_segments_online(
    frames: tuple[int, int, float], sizes: list[int], min_frames: int, frames_of: dict[str, int]
) -> None:
    scores = random_scores(*frames)
    rules = SegmentRules(1.0, min_frames=min_frames, min_frames_of=frames_of)
    got = in_pieces(TilingSegmenter("abc", rules), scores, sizes)
    wanted = whole_tiling(scores, [frames_of.get(label, min_frames) for label in "abc"])
    assert [s[:3] for s in got] == [s[:3] for s in wanted]
    np.testing.assert_allclose([s[3] for s in got], [s[3] for s in wanted])


def test_a_segment_is_given_as_soon_as_it_is_final() -> None:
    frame = {char: np.array([[char == "a"]], np.float32) for char in "a."}
    segmenter = OverlappingSegmenter("a", [0.5], SegmentRules(1.0, min_gap_frames=3))
    given_after = [len(segmenter.push(frame[char])) for char in "aa..a....a."]
    assert given_after == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert [(s.start, s.end) for s in segmenter.finish(10.5)] == [(9.0, 10.0)]
    tiles = TilingSegmenter("abc", SegmentRules(1.0, min_frames=2))
    found = [[s.label for s in tiles.push(one_hot(char))] for char in "aaabbcaacc"]
    assert found == [[], [], [], [], ["a"], [], [], ["b"], [], ["a"]]


@settings(deadline=None)
@given(st.integers(1, 700), PIECES)
def test_an_outline_has_the_means_and_peaks_of_its_columns(n_frames: int, sizes: list[int]) -> None:
    scores = random_scores(n_frames, n_frames, 0.5)
    maker = OutlineMaker(3, 0.5, n_columns=16)
    at, turn = 0, 0
    while at < n_frames:
        maker.push(scores[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    outline = maker.finish()
    width = 1
    while n_frames > 16 * width:
        width *= 2
    columns = [scores[first : first + width] for first in range(0, n_frames, width)]
    assert len(columns) <= 16
    np.testing.assert_allclose(outline.means, [c.mean(axis=0) for c in columns], atol=1e-6)
    np.testing.assert_array_equal(outline.peaks, [c.max(axis=0) for c in columns])
    np.testing.assert_allclose(outline.times, [0.5 * (k * width + len(c) / 2) for k, c in enumerate(columns)])
