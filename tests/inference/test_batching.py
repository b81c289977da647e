"""Many recordings through one network: in order, each as if it were alone, and never too far ahead."""

from __future__ import annotations

import copy
import io
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framecls.audio import AudioStream, open_audio
from framecls.checkpoints.network import save_model
from framecls.config import WindowConfig
from framecls.errors import AudioError
from framecls.inference.batching import Batcher, BatchLimits, Request
from framecls.inference.engine import Engine
from framecls.inference.windows import Item, WindowOutput, cut_windows, padded_length
from framecls.model import Model
from framecls.nn.network import Network
from framecls.results import Identification, TagResult
from support.commands import HANG_S, run_command
from support.models import save_tiny_model, tiny_config
from support.signals import RATE, make_swell, write_wav

CPU = torch.device("cpu")
CONFIG = replace(tiny_config("frame"), window=WindowConfig(length_s=0.4, overlap_s=0.1))
MIXED_S = (2.0, 0.3, 7.9, 0.02, 1.0, 0.31, 4.4, 1.0, 0.9, 12.1, 0.5)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def make_model(task: Any = "frame", batch_size: int | None = None) -> Model:
    torch.manual_seed(3)
    return Model(Engine(Network(tiny_config(task)).eval(), CPU, batch_size))


def recordings_of(lengths: Iterable[int]) -> Iterator[Request]:
    """Yield recordings of these many samples, each with other noise."""
    for number, n_samples in enumerate(lengths):
        yield Request(partial(open_audio, make_swell(n_samples / RATE, number), RATE, RATE), CONFIG)


def blocks_of(blocks: Iterator[np.ndarray]) -> Request:
    """Return a recording that comes in blocks."""
    return Request(partial(open_audio, blocks, RATE, RATE), CONFIG)


# The batcher, with a function in the place of a network.


def checksums(items: list[Item]) -> list[WindowOutput]:
    """Return what identifies each window; batches must be of one padded length."""
    assert len({padded_length(window.n_frames, CONFIG.window_frames) for window, _ in items}) == 1
    sums = [np.array([len(samples), samples.sum(dtype=np.float64)]) for _, samples in items]
    return [WindowOutput(window, total, 0.0) for (window, _), total in zip(items, sums, strict=True)]


def read_all(batcher: Batcher) -> list[list[Any]]:
    """Return the outputs for each recording, with the error that ended them, if one did."""
    found: list[list[Any]] = []
    with closing(batcher.run()) as recordings:
        for recording in recordings:
            found.append([])
            try:
                for output in recording:
                    found[-1].append(output)
            except AudioError as error:
                found[-1].append(error)
    return found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30000), max_size=12), st.integers(1, 5), st.integers(1, 3), st.floats(0.05, 2))
def test_outputs_are_those_of_each_recording_alone(
    lengths: list[int], batch_size: int, n_threads: int, block_s: float
) -> None:
    limits = BatchLimits(batch_size, n_threads, n_threads, block_s)
    got = read_all(Batcher(recordings_of(lengths), [CONFIG], checksums, limits))
    assert len(got) == len(lengths)
    for number, (n_samples, outputs) in enumerate(zip(lengths, got, strict=True)):
        alone = [checksums([item])[0] for item in cut_windows([make_swell(n_samples / RATE, number)], CONFIG)]
        assert [output.window for output in outputs] == [output.window for output in alone]
        for mine, theirs in zip(outputs, alone, strict=True):
            np.testing.assert_allclose(mine.logits, theirs.logits, atol=1e-9)


def test_a_recording_that_fails_stops_no_other() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield make_swell(2.0)
        raise AudioError("decoding broke")

    def missing() -> AudioStream:
        raise AudioError("no such file")

    first, last = recordings_of([8000, 9000])
    bad = [Request(missing, CONFIG), blocks_of(broken())]
    got = read_all(Batcher([first, *bad, last], [CONFIG], checksums, BatchLimits(4, 2, 2, block_s=0.5)))
    assert [str(outputs[-1]) for outputs in got[1:3]] == ["no such file", "decoding broke"]
    assert len(got[2]) > 1  # what was decoded before it broke is there
    for outputs, n_samples in ((got[0], 8000), (got[3], 9000)):
        assert len(outputs) == len(list(cut_windows([make_swell(n_samples / RATE)], CONFIG)))


def test_an_iterator_of_sources_that_fails_ends_the_run() -> None:
    def recordings() -> Iterator[Request]:
        yield from recordings_of([8000])
        raise RuntimeError("the list broke")

    with pytest.raises(RuntimeError, match="the list broke"):
        read_all(Batcher(recordings(), [CONFIG], checksums, BatchLimits(4)))


def test_the_iterator_is_advanced_by_whoever_reads_the_outputs() -> None:
    threads: set[int] = set()

    def recordings() -> Iterator[Request]:
        for recording in recordings_of([4000, 8000, 12000] * 13):
            threads.add(threading.get_ident())
            yield recording

    assert len(read_all(Batcher(recordings(), [CONFIG], checksums, BatchLimits(4, 2, 3)))) == 39
    assert threads == {threading.get_ident()}


def wait_until_full(batcher: Batcher, n_running: int = 0) -> None:
    """Wait until as much is decoded as may wait, and so many batches run: from then on nothing more is decoded."""
    deadline = time.monotonic() + 60
    while True:
        with batcher._changed:
            if batcher._n_queued >= batcher._max_queued and batcher._n_running >= n_running:
                return
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_nothing_runs_far_ahead() -> None:
    """While the network answers nothing, a bounded number of recordings is begun."""
    begun: list[Request] = []
    may_answer = threading.Event()

    def recordings() -> Iterator[Request]:
        for recording in recordings_of([8000] * 10000):
            begun.append(recording)
            yield recording

    def answer_late(items: list[Item]) -> list[WindowOutput]:
        may_answer.wait(HANG_S)
        return checksums(items)

    def read_one() -> None:
        with closing(batcher.run()) as running:
            list(next(running))

    batcher = Batcher(recordings(), [CONFIG], answer_late, BatchLimits(4, 2, 2))
    reader = threading.Thread(target=read_one)
    reader.start()
    wait_until_full(batcher, n_running=4)
    n_begun = len(begun)
    may_answer.set()
    reader.join(HANG_S)
    assert 10 < n_begun < 100
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("framecls-")]


def test_a_long_recording_is_not_decoded_far_ahead() -> None:
    n_taken = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal n_taken
        while True:
            n_taken += 1
            yield make_swell(0.5)

    batcher = Batcher([blocks_of(blocks())], [CONFIG], checksums, BatchLimits(4, 2, 2, block_s=0.5))
    with closing(batcher.run()) as recordings:
        next(iter(next(recordings)))
        wait_until_full(batcher)
        assert n_taken < 200


def test_short_windows_share_a_batch_and_a_live_source_is_not_waited_for() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def silent() -> Iterator[np.ndarray]:
        gate.wait(HANG_S)
        yield make_swell(0.1)

    def count(items: list[Item]) -> list[WindowOutput]:
        sizes.append(len(items))
        return checksums(items)

    recordings = [*recordings_of([1600] * 64), blocks_of(silent())]
    batcher = Batcher(recordings, [CONFIG], count, BatchLimits(4, 1, 2))
    with closing(batcher.run()) as running:
        for _ in range(64):
            assert len(list(next(running))) == 1
        assert not gate.is_set()
        gate.set()
        assert len(list(next(running))) == 1
    # Four times shorter than a whole window: four times as many to a batch.
    assert max(sizes) <= 16
    assert len(sizes) < 33  # more than two windows to a batch, even where the machine is slow


# Time limits.


class StuckFile(io.BytesIO):
    """A file on a disk that does not answer from some byte on."""

    def __init__(self, content: bytes, stuck_at: int) -> None:
        super().__init__(content)
        self.stuck_at = stuck_at
        self.is_stuck = False
        self.may_go_on = threading.Event()

    def readinto(self, buffer: Any) -> int:
        self._wait()
        return super().readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        self._wait()
        return super().read(size)

    def _wait(self) -> None:
        if self.tell() >= self.stuck_at:
            self.is_stuck = True
            self.may_go_on.wait(HANG_S)


def as_wav(samples: np.ndarray) -> bytes:
    target = io.BytesIO()
    soundfile.write(target, samples, RATE, format="WAV", subtype="FLOAT")
    return target.getvalue()


@pytest.mark.parametrize(("stage", "n_decoders"), [("opening", 1), ("decoding", 1), ("decoding", 2)])
def test_a_file_whose_decoder_is_stuck_fails_alone(
    stage: str, n_decoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framecls.inference.engine.count_decoders", lambda: n_decoders)
    content = as_wav(make_swell(70.0))
    stuck = StuckFile(content, 0 if stage == "opening" else len(content) // 4)
    started = time.monotonic()
    first, second, third = make_model().tag_many([io.BytesIO(content), stuck, io.BytesIO(content)], timeout_s=1)
    assert time.monotonic() - started >= 1
    assert stuck.is_stuck
    assert isinstance(second, AudioError)
    assert str(second) == "its decoder gave nothing for 1 s and was stopped (--timeout)"
    assert isinstance(first, TagResult)
    assert isinstance(third, TagResult)
    same(first, third)
    stuck.may_go_on.set()
    deadline = time.monotonic() + HANG_S
    while any(thread.name == "framecls-decode" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_slow_pipe_is_waited_for(tmp_path: Path) -> None:
    """Longer than the time limit nothing comes through it, first before it is opened and then in the middle."""
    content = as_wav(make_swell(1.0))
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        time.sleep(2.5)
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            pipe.write(content[:9000])
            time.sleep(2.5)
            pipe.write(content[9000:])

    writer = threading.Thread(target=write)
    writer.start()
    model = make_model()
    got = model.tag(tmp_path / "pipe", timeout_s=0.5)
    writer.join()
    np.testing.assert_array_equal(got.scores, model.tag(io.BytesIO(content)).scores)


def test_a_file_that_waits_for_the_network_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Engine.forward

    def slow(self: Engine, windows: list[Item]) -> Any:
        time.sleep(0.4)
        return forward(self, windows)

    monkeypatch.setattr(Engine, "forward", slow)
    content = as_wav(make_swell(12.0))
    assert isinstance(make_model(batch_size=1).tag(io.BytesIO(content), timeout_s=0.2), TagResult)


def test_a_command_ends_though_a_decoder_is_stuck(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path, "frame")
    paths = [str(write_wav(tmp_path / name)) for name in ("a.wav", "b.wav", "c.wav")]
    code = (
        "import sys, threading\n"
        "from framecls.audio.readers.sndfile import SoundFileReader\n"
        "from framecls.cli.boundary import main\n"
        "read = SoundFileReader.read\n"
        "def stick(self, n_frames):\n"
        "    if self.n_frames == 32000:\n"
        "        threading.Event().wait()\n"
        "    return read(self, n_frames)\n"
        "SoundFileReader.read = stick\n"
        f"sys.argv = ['framecls', 'tag', *{paths!r}, '-m', {str(model)!r}, '--timeout', '1', '-f', 'jsonl', '-q']\n"
        "main()\n"
    )
    write_wav(tmp_path / "b.wav", 2.0)
    answer = run_command(code=code)
    assert answer.status == 1
    assert [Path(record["file"]).name for record in answer.records] == ["a.wav", "c.wav"]
    assert "b.wav: its decoder gave nothing for 1 s and was stopped (--timeout)" in answer.err


# Models.


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


def test_what_is_under_way_is_told_in_seconds() -> None:
    """Progress starts anew with each recording, and ends with its length."""
    told: list[float] = []
    list(make_model().tag_many([make_swell(5.0), make_swell(3.0)], sample_rate=RATE, progress=told.append))
    cut = told.index(max(told)) + 1
    assert told[:cut] == sorted(told[:cut])
    assert told[cut:] == sorted(told[cut:])
    assert (round(told[cut - 1], 1), round(told[-1], 1)) == (5.0, 3.0)


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


def test_two_threads_use_one_model_at_once() -> None:
    """Each gets what it would alone, and the threads of torch are as they were."""
    model = make_model("frame")
    clips = [make_swell(duration_s, seed) for seed, duration_s in enumerate(MIXED_S)]
    wanted = [model.tag(samples, sample_rate=RATE) for samples in clips]
    together = threading.Barrier(2)
    found: dict[int, list[Any]] = {}
    before = torch.get_num_threads()

    def run(order: int) -> None:
        results = model.tag_many(clips[::order], sample_rate=RATE)
        first = next(results)
        together.wait(HANG_S)  # both runs are under way
        found[order] = [first, *results]

    threads = [threading.Thread(target=run, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert torch.get_num_threads() == before
    for order in (1, -1):
        for got, expected in zip(found[order], wanted[::order], strict=True):
            same(got, expected)


@pytest.mark.parametrize("other", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_one_network_on_two_devices_at_once(other: str) -> None:
    """Two engines of the same weights, their runs interleaved; a gate is on the device of the network."""
    torch.manual_seed(3)
    gate, network = Network(tiny_config("frame")).eval(), Network(replace(tiny_config("pooled"), gate="speech")).eval()
    devices = [torch.device("cpu"), torch.device(other)]
    models = [Model(Engine(copy.deepcopy(network), device, gate=copy.deepcopy(gate))) for device in devices]
    clips = [make_swell(duration_s, seed) for seed, duration_s in enumerate(MIXED_S)]
    runs = [model.identify_many(clips, sample_rate=RATE) for model in models]
    n_results = 0
    for first, second in zip(*runs, strict=True):
        assert isinstance(first, Identification)
        assert isinstance(second, Identification)
        assert (first.label, first.reason) == (second.label, second.reason)
        np.testing.assert_allclose([c.score for c in first.top], [c.score for c in second.top], atol=1e-4)
        n_results += 1
    assert n_results == len(MIXED_S)
    assert [model.device for model in models] == ["cpu", other]


MEMORY = """
import re, sys
import numpy as np
from framecls.model import load

minutes = int(sys.argv[2])
noise = np.random.default_rng(0).standard_normal(160000).astype(np.float32) * 0.1
blocks = (noise.copy() for _ in range(6 * minutes))
result = load(sys.argv[1], device="cpu").tag(blocks, sample_rate=16000, keep_scores=False)
assert result.duration == 60 * minutes and result.segments
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no peak memory")
def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Fifty minutes take hardly more than ten; their samples alone would be 190 MB."""
    config = tiny_config("frame")
    few_frames = replace(config.features, window_samples=1600, hop_samples=1600, n_fft=1600)  # so that it takes seconds
    save_model(Network(replace(config, features=few_frames)), tmp_path / "model.safetensors")
    model = str(tmp_path / "model.safetensors")
    peaks_kb = [int(run_command(model, minutes, code=MEMORY).out) for minutes in ("10", "50")]
    assert peaks_kb[1] <= min(1.5 * peaks_kb[0], peaks_kb[0] + 100_000)
