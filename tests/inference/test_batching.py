"""Many recordings through one network: in order, each as if it were alone, and never too far ahead."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framecls.audio import AudioStream, open_audio
from framecls.config import WindowConfig
from framecls.errors import AudioError
from framecls.inference.batching import Item, Load, Pump
from framecls.inference.engine import Engine, cut_windows
from framecls.inference.segments import Window, padded_length
from framecls.model import Model
from framecls.nn.network import Network
from framecls.results import TagResult
from support.models import tiny_config
from support.signals import RATE, make_swell

CPU = torch.device("cpu")
CONFIG = replace(tiny_config("frame"), window=WindowConfig(length_s=0.4, overlap_s=0.1))
MIXED_S = (2.0, 0.3, 7.9, 0.02, 1.0, 0.31, 4.4, 1.0, 0.9, 12.1, 0.5)


def make_model(task: Any = "frame", batch_size: int | None = None) -> Model:
    torch.manual_seed(3)
    return Model(Engine(Network(tiny_config(task)).eval(), CPU, batch_size))


# --- the pump, with a function in the place of a network


def checksums(items: list[Item]) -> list[tuple[Window, int, float]]:
    """Return what identifies each window; batches must be of one length class."""
    assert len({padded_length(window.n_frames, CONFIG.window_frames) for window, _ in items}) == 1
    return [(window, len(samples), float(samples.sum(dtype=np.float64))) for window, samples in items]


def pump_all(openers: Iterable[Any], load: Load) -> list[list[Any]]:
    """Return the answers to each recording, with the error that ended them, if one did."""
    pump = Pump(openers, partial(cut_windows, config=CONFIG), checksums, load)
    found: list[list[Any]] = []
    with closing(pump.run()) as recordings:
        for recording in recordings:
            found.append([])
            try:
                for answer in pump.answers(recording):
                    found[-1].append(answer)
            except AudioError as error:
                found[-1].append(error)
    return found


def opener(n_samples: int, number: int) -> Any:
    return partial(open_audio, make_swell(n_samples / RATE, number), RATE, RATE)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30000), max_size=12), st.integers(1, 5), st.integers(1, 3), st.floats(0.05, 2))
def test_answers_are_those_of_each_recording_alone(
    lengths: list[int], batch_size: int, n_threads: int, block_s: float
) -> None:
    load = Load(CONFIG.window_frames, batch_size, n_threads, n_threads, block_s)
    openers = [opener(n_samples, number) for number, n_samples in enumerate(lengths)]
    alone = [
        [answer for item in cut_windows([make_swell(n_samples / RATE, number)], CONFIG) for answer in checksums([item])]
        for number, n_samples in enumerate(lengths)
    ]
    got = pump_all(iter(openers), load)
    assert [[a[:1] for a in answers] for answers in got] == [[a[:1] for a in answers] for answers in alone]
    for mine, theirs in zip(got, alone, strict=True):
        np.testing.assert_allclose([a[2] for a in mine], [a[2] for a in theirs], atol=1e-9)


def test_a_recording_that_fails_stops_no_other() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield make_swell(2.0)
        raise AudioError("decoding broke")

    def missing() -> AudioStream:
        raise AudioError("no such file")

    openers = [opener(8000, 1), missing, partial(open_audio, broken(), RATE, RATE), opener(9000, 2)]
    got = pump_all(openers, Load(CONFIG.window_frames, 4, 2, 2, block_s=0.5))
    assert [str(answers[-1]) for answers in got[1:3]] == ["no such file", "decoding broke"]
    assert len(got[2]) > 1  # what was decoded before it broke is there
    assert all(
        len(got[k]) == len(list(cut_windows([make_swell(n / RATE, k)], CONFIG))) for k, n in ((0, 8000), (3, 9000))
    )


def test_an_iterator_of_sources_that_fails_ends_the_run() -> None:
    def openers() -> Iterator[Any]:
        yield opener(8000, 1)
        raise RuntimeError("the list broke")

    with pytest.raises(RuntimeError, match="the list broke"):
        pump_all(openers(), Load(CONFIG.window_frames, 4))


def test_the_iterator_is_advanced_by_whoever_reads_the_answers() -> None:
    threads: set[int] = set()

    def openers() -> Iterator[Any]:
        for number in range(40):
            threads.add(threading.get_ident())
            yield opener(4000 * (1 + number % 3), number)

    assert len(pump_all(openers(), Load(CONFIG.window_frames, 4, 2, 3))) == 40
    assert threads == {threading.get_ident()}


def test_an_iterator_that_waits_apart_holds_nothing_up() -> None:
    """What has come is answered while the iterator waits for more."""
    feed: queue.SimpleQueue[Any] = queue.SimpleQueue()
    load = Load(CONFIG.window_frames, 4, 2, 2)
    pump = Pump(iter(feed.get, None), partial(cut_windows, config=CONFIG), checksums, load, wait_apart=True)
    with closing(pump.run()) as recordings:
        for number in range(5):
            feed.put(opener(8000, number))
            assert list(pump.answers(next(recordings)))
        feed.put(None)
        assert list(recordings) == []


def test_nothing_runs_far_ahead() -> None:
    begun: list[int] = []

    def openers() -> Iterator[Any]:
        for number in range(10000):
            begun.append(number)
            yield opener(8000, number)

    pump = Pump(openers(), partial(cut_windows, config=CONFIG), checksums, Load(CONFIG.window_frames, 4, 2, 2))
    with closing(pump.run()) as recordings:
        list(pump.answers(next(recordings)))
        time.sleep(0.3)
        assert len(begun) < 100
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("framecls-")]


def test_a_long_recording_is_not_decoded_far_ahead() -> None:
    taken = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield make_swell(0.5)

    pump = Pump(
        [partial(open_audio, blocks(), RATE, RATE)],
        partial(cut_windows, config=CONFIG),
        checksums,
        Load(CONFIG.window_frames, 4, 2, 2, block_s=0.5),
    )
    with closing(pump.run()) as recordings:
        next(iter(pump.answers(next(recordings))))
        time.sleep(0.3)
        assert taken < 200


def test_short_windows_share_a_batch_and_a_live_source_is_not_waited_for() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def silent() -> Iterator[np.ndarray]:
        gate.wait(30)
        yield make_swell(0.1)

    def count(items: list[Item]) -> list[int]:
        sizes.append(len(items))
        return [0] * len(items)

    openers = [opener(1600, number) for number in range(64)] + [partial(open_audio, silent(), RATE, RATE)]
    pump = Pump(openers, partial(cut_windows, config=CONFIG), count, Load(CONFIG.window_frames, 4, 1, 2))
    with closing(pump.run()) as recordings:
        for _ in range(64):
            assert list(pump.answers(next(recordings))) == [0]
        gate.set()
        assert list(pump.answers(next(recordings))) == [0]
    # Four times shorter than a whole window: four times as many to a batch.
    assert max(sizes) == 16
    assert len(sizes) < 20


# --- models


def same(a: TagResult, b: TagResult) -> None:
    assert (a.file, a.duration, a.audio) == (b.file, b.duration, b.audio)
    assert a.segments == b.segments
    np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("batch_size", [1, 3, None, 64])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_result_does_not_depend_on_its_company(batch_size: int | None, threads: int) -> None:
    clips = [make_swell(duration_s, seed) for seed, duration_s in enumerate(MIXED_S)]
    alone = make_model()
    wanted = [alone.tag(samples, sample_rate=RATE) for samples in clips]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = make_model(batch_size=batch_size)
        for order in (1, -1):
            for got, expected in zip(model.tag_many(clips[::order], sample_rate=RATE), wanted[::order], strict=True):
                assert isinstance(got, TagResult)
                same(got, expected)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_identifying_does_not_depend_on_company_either() -> None:
    model = make_model("pooled")
    clips = [make_swell(duration_s, seed) for seed, duration_s in enumerate(MIXED_S)]
    together = list(model.identify_many(clips, sample_rate=RATE))
    for samples, got in zip(clips, together, strict=True):
        assert got == model.identify(samples, sample_rate=RATE)


def test_a_bad_source_gives_its_error_in_its_place() -> None:
    bad = make_swell(1.0)
    bad[77] = np.nan
    first, second, third = make_model().tag_many([make_swell(1.0), bad, make_swell(2.0)], sample_rate=RATE)
    assert isinstance(second, AudioError)
    assert "NaN" in str(second)
    assert [r.duration for r in (first, third) if isinstance(r, TagResult)] == [1.0, 2.0]


def test_a_network_that_fails_fails_what_was_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(batch_size=1)
    forward = Engine.forward

    def fail_on_long(self: Engine, windows: list[Item]) -> Any:
        if windows[0][0].n_frames > 60:
            raise MemoryError
        return forward(self, windows)

    monkeypatch.setattr(Engine, "forward", fail_on_long)
    results = list(model.tag_many([make_swell(1.0), make_swell(1.9), make_swell(1.0)], sample_rate=RATE))
    assert [type(result) for result in results] == [TagResult, MemoryError, TagResult]


def test_scores_are_kept_only_if_they_are_asked_for() -> None:
    model = make_model()
    kept, dropped = (model.tag(make_swell(9.0), sample_rate=RATE, keep_scores=keep) for keep in (True, False))
    assert kept.segments == dropped.segments
    assert kept.outline is None
    assert dropped.scores.shape == (0, 3)
    assert dropped.outline is not None
    np.testing.assert_allclose(dropped.outline.means, kept.scores, atol=1e-6)  # short enough to have all frames
    np.testing.assert_allclose(dropped.outline.times, kept.times)


def test_a_stream_is_run_without_opening_it_again() -> None:
    engine = make_model()._engine
    with engine.open(make_swell(3.0), RATE) as stream:
        n_windows = len(list(engine.run(stream)))
    with open_audio(make_swell(3.0), RATE, RATE) as stream:
        [windows] = engine.run_many([lambda: nullcontext(stream)])
    assert n_windows == len(list(cut_windows([make_swell(3.0)], engine.config)))
    assert windows.n_samples >= 0
