"""Frame, window and segment arithmetic at its edges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecls.timeline import (
    SegmentRules,
    clean_runs,
    count_frames,
    fade,
    find_runs,
    frame_times,
    overlapping_segments,
    plan_windows,
    tiling_segments,
)


@pytest.mark.parametrize(("n_samples", "n_frames"), [(0, 0), (1, 1), (319, 1), (320, 1), (321, 2), (640, 2)])
def test_count_frames(n_samples: int, n_frames: int) -> None:
    assert count_frames(n_samples, 320) == n_frames


def test_frame_times_are_centres() -> None:
    np.testing.assert_allclose(frame_times(3, 0.02), [0.01, 0.03, 0.05])


@pytest.mark.parametrize(
    ("n_frames", "firsts", "last_length"),
    [(0, [], 0), (1, [0], 1), (10, [0], 10), (11, [0, 8], 3), (18, [0, 8], 10), (19, [0, 8, 16], 3)],
)
def test_plan_windows(n_frames: int, firsts: list[int], last_length: int) -> None:
    windows = plan_windows(n_frames, 10, 2)
    assert [w.first for w in windows] == firsts
    assert not windows or windows[-1].n_frames == last_length


@given(st.integers(1, 500), st.integers(2, 60), st.data())
def test_windows_cover_and_their_weights_sum_to_one(n_frames: int, length: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, length // 2))
    windows = plan_windows(n_frames, length, overlap)
    total = np.zeros(n_frames)
    for i, window in enumerate(windows):
        weight = fade(window.n_frames, overlap, is_first=i == 0, is_last=i == len(windows) - 1)
        total[window.first : window.first + window.n_frames] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_runs() -> None:
    assert find_runs(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 2), (4, 5), (6, 7)]
    assert find_runs(np.zeros(0, bool)) == []
    assert clean_runs([(0, 2), (4, 5), (6, 7)], min_length=0, min_gap=2) == [(0, 2), (4, 7)]
    assert clean_runs([(0, 2), (4, 5), (9, 10)], min_length=2, min_gap=0) == [(0, 2)]


def test_overlapping_segments_end_with_the_file() -> None:
    scores = np.array([[0.9, 0.2], [0.8, 0.6], [0.7, 0.9]], np.float32)
    segments = overlapping_segments(scores, ["a", "b"], [0.5, 0.5], SegmentRules(0.02, duration_s=0.05))
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
    segments = tiling_segments(scores, "abc", SegmentRules(1.0, float(len(frames)), min_frames=min_frames))
    spans = [(s.label, int(s.start), int(s.end)) for s in segments]
    assert [span[1:] for span in spans] == [w[1:] for w in wanted]
    if frames != "abc":  # which of three single frames wins is a tie
        assert spans == wanted


@given(st.text("abc", min_size=1, max_size=80), st.integers(0, 6))
def test_tiles_abut_and_are_long_enough(frames: str, min_frames: int) -> None:
    segments = tiling_segments(one_hot(frames), "abc", SegmentRules(1.0, float(len(frames)), min_frames=min_frames))
    assert segments[0].start == 0
    assert segments[-1].end == len(frames)
    for before, after in pairwise(segments):
        assert before.end == after.start
        assert before.label != after.label
    if len(segments) > 1:
        assert min(s.end - s.start for s in segments) >= min_frames
