"""A loaded model: audio blocks in, one vector of logits a frame or a window out.

The window grid belongs to the model, so what comes out does not depend on batch size, block size or other files.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from framecls.audio import AudioStream, Channel, Source, as_array, has_own_rate, is_array, open_audio, open_vectors
from framecls.checkpoints.network import load_network
from framecls.checkpoints.registry import GATE_MODEL, locate
from framecls.config import DEFAULT_READING, ModelConfig, ReadOptions
from framecls.errors import ConfigError, ModelError, UsageError
from framecls.inference.batching import Batcher, BatchLimits, Block, Item, Opener, Recording
from framecls.inference.segments import Window, count_frames, padded_length
from framecls.nn.network import Network, Output
from framecls.results import AudioInfo, Remarks

_BLOCK_S = 30.0
# Windows of one forward pass: more gains nothing on a CPU, whose caches are small.
_BATCH_SIZE = {"cpu": 8, "cuda": 256, "mps": 64}
# Numbers that the largest array of a batch may have unless a batch size is asked for: 1 GB as 32-bit floats.
_MOST_BATCH_NUMBERS = 2**28
# Threads that each run a whole batch share no barrier between two layers, unlike threads that share one batch.
_MAX_WORKERS = 8
_MAX_DECODERS = 4


@dataclass(frozen=True, eq=False)
class WindowOutput:
    """What the network says of one window of a recording."""

    window: Window
    logits: NDArray[np.float32]  # (frame, label), or (label,) of a pooled task, or (number,) an embedding
    weight_s: float  # seconds that count: all of the window, or those in which the gate's label is heard
    shared_s: float = 0.0  # those of them that the window before counted, too


class Engine:
    """A network on a device, fed with recordings."""

    def __init__(
        self, network: Network, device: torch.device, batch_size: int | None = None, gate: Network | None = None
    ) -> None:
        self.network = network.to(device)
        self.config: ModelConfig = network.config
        self.device = device
        fits = max(1, _MOST_BATCH_NUMBERS // self.config.largest_array)
        self.batch_size = batch_size or min(_BATCH_SIZE.get(device.type, 8), fits)
        self.gate = Gate(gate.to(device), self.config) if gate is not None else None

    @property
    def n_workers(self) -> int:
        """Batches that a run has under way at once, among which the CPU threads of torch are shared out."""
        return min(_torch_threads.wanted(), _MAX_WORKERS) if self.device.type == "cpu" else 1

    def open(
        self, source: Source, sample_rate: int | None = None, options: ReadOptions = DEFAULT_READING
    ) -> AudioStream:
        """Open a path, a binary file object or an array at `sample_rate`, to be read at the model's rate.

        Blocks of one recording, an iterator of arrays, are a source too; `options` say how it is read.

        Raises:
            UsageError: the model takes features computed elsewhere, and this is none of them.
            ConfigError: an array without `sample_rate`, or a file with it.
            AudioError: the source is missing, unreadable, empty, or not audio.
        """
        features = self.config.features
        if features.kind == "given":
            vectors = as_array(source) if is_array(source) else np.zeros(0)
            if vectors.ndim != 2 or vectors.shape[1] != features.n_given:
                raise UsageError(
                    f"the model {self.config.name} takes vectors of {features.n_given} numbers that were computed "
                    "elsewhere, not audio: measure it with framecls evaluate"
                )
            return open_vectors(np.asarray(vectors, np.float32), features.sample_rate)
        recording = source.source if isinstance(source, Channel) else source
        is_raw = not has_own_rate(recording) and (is_array(recording) or isinstance(recording, Iterator))
        if sample_rate is None and is_raw:
            raise ConfigError("an array needs its sample_rate: how many samples a second it has")
        if sample_rate is not None and has_own_rate(recording):
            raise ConfigError("sample_rate is for arrays, a file says its own; one without a header needs raw")
        return open_audio(source, features.sample_rate, sample_rate, options)

    def run(self, stream: AudioStream, progress: Callable[[float], None] | None = None) -> Iterator[WindowOutput]:
        """Classify the windows of a stream as they are decoded, in order; `progress` gets the seconds done."""
        with closing(self.run_many([lambda: nullcontext(stream)], progress=progress)) as recordings:
            for windows in recordings:
                yield from windows

    def run_many(
        self,
        openers: Iterable[Opener],
        *,
        progress: Callable[[float], None] | None = None,
        block_s: float | None = None,
        own_thread: bool = False,
    ) -> Generator[RunningWindows, None, None]:
        """Classify many recordings: decoded ahead, and their windows batched together.

        On a CPU torch's threads are shared out among workers that run a batch each; the setting comes back when the
        run ends.

        Args:
            openers: each opens one recording; they are called ahead of time and in other threads, but the iterator is
                advanced in the thread that reads the results.
            progress: told the seconds done of the recording whose windows are being read.
            block_s: seconds decoded at once; a live source is waited for that long.
            own_thread: the iterator may block for long, and is advanced in a thread of its own.

        Yields:
            the recordings in order; reading the windows of one raises what opening, decoding or running it raised.
        """
        n_workers = self.n_workers
        load = BatchLimits(self.config.window_frames, self.batch_size, n_workers, count_decoders(), block_s or _BLOCK_S)
        with _torch_threads.shared_out(n_workers):
            batcher = Batcher(openers, self._cut, lambda items: list(self.forward(items)), load, own_thread=own_thread)
            with closing(batcher.run()) as recordings:
                for recording in recordings:
                    yield RunningWindows(self.config, batcher, recording, progress)

    def _cut(self, blocks: Iterable[Block]) -> Iterator[Item]:
        return cut_windows(blocks, self.config)

    def forward(self, windows: list[tuple[Window, NDArray[np.float32]]]) -> Iterator[WindowOutput]:
        """Run the network on a batch of windows, each with its samples and margins."""
        longest = max(padded_length(window.n_frames, self.config.window_frames) for window, _ in windows)
        n_samples = longest * self.config.hop_samples + 2 * self.config.features.margin_samples
        batch = np.zeros((len(windows), n_samples, *self.config.features.sample_shape), np.float32)
        for row, (_, samples) in zip(batch, windows, strict=True):
            row[: len(samples)] = samples[:n_samples]
        n_frames = torch.tensor([window.n_frames for window, _ in windows], device=self.device)
        with torch.inference_mode():
            waveform = torch.from_numpy(batch).to(self.device)
            output: Output = self.network(waveform, n_frames)
            logits = output.logits.float().cpu().numpy()
            n_shared = torch.tensor([self.config.overlap_frames if window.first else 0 for window, _ in windows])
            counted = self.gate.weigh(waveform, n_frames, n_shared) if self.gate else (n_frames, n_shared)
        hop_s = self.gate.hop_s if self.gate else self.config.hop_s
        counts = [(counted[0] * hop_s).tolist(), (counted[1] * hop_s).tolist()]
        for (window, _), row, weight_s, shared_s in zip(windows, logits, *counts, strict=True):
            yield WindowOutput(window, row[: window.n_frames] if row.ndim == 2 else row, weight_s, shared_s)


def count_decoders() -> int:
    """Return how many recordings a run decodes at once."""
    return min(os.cpu_count() or 1, _MAX_DECODERS)


class Gate:
    """A frame model that says how much of a window is what another model should listen to."""

    def __init__(self, network: Network, listener: ModelConfig) -> None:
        own = network.config
        # A spectrum window that is shorter than the transform has zeros around it, and reads no further than itself.
        reach_samples = (own.features.window_samples - own.features.hop_samples) // 2
        fits = (
            own.features.sample_rate == listener.features.sample_rate
            and reach_samples <= listener.features.margin_samples
            and 0 in (listener.hop_samples % own.hop_samples, own.hop_samples % listener.hop_samples)
        )
        if not fits or listener.gate not in own.labels:
            raise ModelError(f"{listener.name}: the model {own.name} cannot tell it where {listener.gate!r} is heard")
        self._network = network
        self._label = own.labels.index(listener.gate)
        self._hops = (listener.hop_samples, own.hop_samples)
        self._margins = (listener.features.margin_samples, own.features.margin_samples)
        self.hop_s = own.hop_s

    def weigh(
        self, waveform: torch.Tensor, n_frames: torch.Tensor, n_shared: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Count the gate's frames, of `hop_s` seconds, in which the label is likelier than not.

        Args:
            waveform: (batch, sample) as the listener's network takes it.
            n_frames: (batch,) real frames, counted in the listener's.
            n_shared: (batch,) those of them, the first ones, that the window before has too.

        Returns:
            (batch,) how many there are, and (batch,) how many among the shared.
        """
        logits = self._network(self._widen(waveform), self._count(n_frames)).logits[:, :, self._label]
        index = torch.arange(logits.shape[1], device=logits.device)
        heard = (logits > 0) & (index < self._count(n_frames).unsqueeze(1))
        shared = index < self._count(n_shared.to(logits.device)).unsqueeze(1)
        return heard.sum(dim=1), (heard & shared).sum(dim=1)

    def _count(self, n_frames: torch.Tensor) -> torch.Tensor:
        """Return how many of the gate's frames so many of the listener's last, the last one perhaps in part."""
        theirs, own = self._hops
        return (n_frames * theirs + own - 1) // own

    def _widen(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return (batch, sample) a whole number of the gate's frames, with its margins in place of the listener's."""
        (_, own), (margin, own_margin) = self._hops, self._margins
        n_samples = waveform.shape[1] - 2 * margin
        behind = -n_samples % own + own_margin - margin
        return functional.pad(waveform, (own_margin - margin, behind))


class RunningWindows:
    """Iterate, once, over the window outputs of one recording, in order."""

    def __init__(
        self,
        config: ModelConfig,
        batcher: Batcher[WindowOutput],
        recording: Recording[WindowOutput],
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self._config = config
        self._pump = batcher
        self._recording = recording
        self._progress = progress

    @property
    def info(self) -> AudioInfo | None:
        """What the recording was, once it is open."""
        return self._recording.info

    @property
    def remarks(self) -> Remarks:
        """What is to be said of the recording, once its windows have been read."""
        return self._recording.remarks

    @property
    def n_samples(self) -> int:
        """Samples at the model's rate: of the whole recording, once its windows have been read."""
        return self._recording.n_samples

    def __iter__(self) -> Iterator[WindowOutput]:
        for output in self._pump.answers(self._recording):
            if self._progress is not None:
                self._progress((output.window.first + output.window.n_frames) * self._config.hop_s)
            yield output


class _TorchThreads:
    """The number of threads that torch uses for one computation on a CPU, which all of a process share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_runs = 0
        self._before = 1

    def wanted(self) -> int:
        """Return the number that was set outside of any run."""
        with self._lock:
            return self._before if self._n_runs else torch.get_num_threads()

    @contextmanager
    def shared_out(self, n_workers: int) -> Iterator[None]:
        """Give each of several workers its share while the block runs."""
        with self._lock:
            if not self._n_runs:
                self._before = torch.get_num_threads()
            self._n_runs += 1
            torch.set_num_threads(max(1, self._before // n_workers))
        try:
            yield
        finally:
            with self._lock:
                self._n_runs -= 1
                if not self._n_runs:
                    torch.set_num_threads(self._before)


_torch_threads = _TorchThreads()


def cut_windows(
    blocks: Iterable[NDArray[np.float32]], config: ModelConfig
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Cut a stream of sample blocks into the windows of `timeline.plan_windows`.

    Args:
        blocks: (sample,) pieces of one recording, of any length.
        config: window, hop and margin of the model.

    Yields:
        each window, and (sample,) its samples with a margin on both sides: what is there in the recording, zeros
        beyond its ends.
    """
    length, step = config.window_frames, config.window_frames - config.overlap_frames
    margin, hop = config.features.margin_samples, config.hop_samples
    wanted = length * hop + 2 * margin
    held = np.zeros((margin, *config.features.sample_shape), np.float32)  # begins a margin before sample first * hop
    first = n_samples = 0
    for block in blocks:
        n_samples += len(block)
        held = np.concatenate([held, block])
        while len(held) >= wanted:
            yield Window(first, length), held[:wanted]
            held = held[step * hop :]
            first += step
    n_frames = count_frames(n_samples, hop)
    overlap = length - step
    # A full window that began at first - step already reached first + overlap; what is left may need some more.
    while n_frames > (first + overlap if first else 0):
        size = min(length, n_frames - first)
        yield Window(first, size), held[:wanted]
        held = held[step * hop :]
        first += step


def pick_device(name: str) -> torch.device:
    """Return the device called "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UsageError: the name is not one of these, or this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in _BATCH_SIZE or (index and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f"no device is called {name!r}: choose auto, cpu, cuda, cuda:N or mps")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(index or 0) >= present:
        raise UsageError(f"this machine has no device {name!r}: choose auto or cpu")
    return torch.device(name)


def load_engine(
    model: str | Path, *, device: str = "auto", threads: int | None = None, batch_size: int | None = None
) -> Engine:
    """Load a model by name or path onto a device.

    Args:
        model: a shipped model's name, or a model file.
        device: as `pick_device` takes it.
        threads: CPU threads of torch; None leaves the setting of this process alone.
        batch_size: windows of one forward pass; it changes speed and memory, never what comes out.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size {batch_size}: at least 1")
    if threads is not None:
        if not 1 <= threads <= 4 * (os.cpu_count() or 1):
            raise UsageError(f"threads {threads}: 1 to {4 * (os.cpu_count() or 1)} on this machine")
        torch.set_num_threads(threads)
    network = load_network(locate(model))
    gate = load_network(locate(GATE_MODEL)) if network.config.gate else None
    return Engine(network, pick_device(device), batch_size, gate)
