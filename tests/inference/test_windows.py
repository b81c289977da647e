"""Windows of a recording: planned, cut, padded and faded, at their edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framecls.config import WindowConfig
from framecls.inference.windows import count_frames, cut_windows, fade, frame_times, padded_length, plan_windows
from support.models import tiny_config


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


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000))
def test_padding_depends_on_the_window_alone_and_wastes_little(n_frames: int, whole: int) -> None:
    padded = padded_length(min(n_frames, whole), whole)
    assert min(n_frames, whole) <= padded <= whole
    assert padded <= max(1.125 * min(n_frames, whole), min(n_frames, whole) + 1)
    assert padded_length(padded, whole) == padded


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40000), st.lists(st.integers(1, 9000), min_size=1, max_size=8))
def test_windows_are_those_of_the_plan_however_the_stream_is_cut(n_samples: int, sizes: list[int]) -> None:
    config = replace(tiny_config("frame"), window=WindowConfig(length_s=0.4, overlap_s=0.1))
    samples = np.arange(1, n_samples + 1, dtype=np.float32)
    blocks, at, turn = [], 0, 0
    while at < n_samples:
        blocks.append(samples[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    got = list(cut_windows(blocks, config))
    hop, margin = config.hop_samples, config.features.margin_samples
    assert [w for w, _ in got] == plan_windows(-(-n_samples // hop), config.window_frames, config.overlap_frames)
    padded = np.concatenate([np.zeros(margin, np.float32), samples, np.zeros(30000, np.float32)])
    for window, held in got:
        wanted = padded[window.first * hop :][: window.n_frames * hop + 2 * margin]
        filled = np.concatenate([held, np.zeros(30000, np.float32)])[: len(wanted)]
        np.testing.assert_array_equal(filled, wanted)
