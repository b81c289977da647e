"""A network on a device: recordings in, logits of their windows out.

The window grid belongs to the model, so what comes out does not depend on batch size, block size or other recordings.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.audio import (
    AudioStream,
    Channel,
    Source,
    VectorStream,
    as_array,
    has_own_rate,
    is_array,
    is_stored,
    open_audio,
    split_channels,
)
from framecls.checkpoints.network import load_network
from framecls.checkpoints.registry import GATE_MODEL, locate
from framecls.config import DEFAULT_READING, EACH, PRECISIONS, ModelConfig, ReadOptions
from framecls.errors import ConfigError, UsageError
from framecls.inference.batching import Batcher, BatchLimits, Request
from framecls.inference.gate import Gate
from framecls.inference.windows import Item, WindowOutput, pad_windows
from framecls.nn.network import Network
from framecls.nn.precision import is_lowered, lower, multiplies_bfloat16

_BLOCK_S = 30.0
# Windows of one forward pass: more gains nothing on a CPU, whose caches are small.
_BATCH_SIZE = {"cpu": 8, "cuda": 256, "mps": 64}
# Numbers that the largest array of a batch may have unless a batch size is asked for: 1 GB as 32-bit floats.
_MAX_BATCH_NUMBERS = 2**28
# Threads that each run a whole batch need no barrier between two layers, unlike threads that share one batch.
_MAX_WORKERS = 8
_MAX_DECODERS = 4


class Runner(ABC):
    """What runs over recordings: it says how they are read and cut into windows, and what becomes of these."""

    config: ModelConfig  # of the network; of several, those of the first
    device: torch.device
    batch_size: int

    @property
    def grids(self) -> Sequence[ModelConfig]:
        """How recordings are cut into windows; a window says which of these it is of."""
        return (self.config,)

    @abstractmethod
    def forward(self, items: list[Item]) -> list[WindowOutput]:
        """Run the network on a batch of windows of one grid."""

    @property
    def n_workers(self) -> int:
        """Batches that a run has under way at once, among which the CPU threads of torch are shared out."""
        return min(_torch_threads.wanted(), _MAX_WORKERS) if self.device.type == "cpu" else 1

    def open(self, source: Source, options: ReadOptions = DEFAULT_READING) -> AudioStream:
        """Open a recording to be read at the model's rate.

        Raises:
            UsageError: the model takes features computed elsewhere, and this is none of them.
            ConfigError: an array without a sample rate in the options, or a file with it.
            AudioError: the source is missing, unreadable, empty, or not audio.
        """
        features = self.config.features
        if features.kind == "precomputed":
            vectors = as_array(source) if is_array(source) else np.zeros(0)
            if vectors.ndim != 2 or vectors.shape[1] != features.precomputed_dim:
                raise UsageError(
                    f"the model {self.config.name} takes vectors of {features.precomputed_dim} numbers that were "
                    "computed elsewhere, not audio: measure it with framecls evaluate"
                )
            return VectorStream(np.asarray(vectors, np.float32), features.sample_rate)
        recording = source.source if isinstance(source, Channel) else source
        is_raw = not has_own_rate(recording) and (is_array(recording) or isinstance(recording, Iterator))
        if isinstance(recording, list | tuple) and any(isinstance(item, str | os.PathLike) for item in recording):
            raise UsageError("this is a list of recordings, where one is wanted: tag_many and the like take a list")
        if options.sample_rate is None and is_raw:
            raise ConfigError("an array needs its sample_rate: how many samples a second it has")
        if options.sample_rate is not None and has_own_rate(recording):
            raise ConfigError("sample_rate is for arrays, a file says its own; one without a header needs raw")
        return open_audio(source, features.sample_rate, options.sample_rate, options)

    def run(
        self,
        sources: Iterable[Source],
        options: ReadOptions = DEFAULT_READING,
        *,
        progress: Callable[[float], None] | None = None,
        block_s: float | None = None,
    ) -> Generator[Request, None, None]:
        """Classify recordings: decoded ahead, and their windows batched together.

        On a CPU torch's threads are shared out among workers that run a batch each; the setting comes back when the
        run ends.

        Args:
            sources: advanced some recordings ahead in the thread that reads the results.
            options: how they are read.
            progress: told the seconds done of the recording that is being read.
            block_s: seconds decoded at once; a live source is waited for that long.

        Yields:
            the recordings in order, with `channel="each"` one a channel; reading one raises what opening, decoding or
            running it raised.
        """
        limits = BatchLimits(self.batch_size, self.n_workers, count_decoders(), block_s or _BLOCK_S)
        recordings = self._recordings(sources, options, progress)
        with _torch_threads.shared_out(limits.n_workers):
            yield from Batcher(recordings, self.grids, self.forward, limits).run()

    def _recordings(
        self, sources: Iterable[Source], options: ReadOptions, progress: Callable[[float], None] | None
    ) -> Generator[Request, None, None]:
        iterator = iter(sources)
        try:
            for source in iterator:
                parts: Sequence[Source] = [source]
                try:
                    if options.channel == EACH and not isinstance(source, Channel):
                        parts = split_channels(source, options.sample_rate, options)
                except Exception as error:  # raised to whoever reads the recording, as where it cannot be opened
                    yield Request(partial(_fail, error), self.config, name_source(source))
                    continue
                for part in parts:
                    channel = part.number if isinstance(part, Channel) else options.channel_number
                    open_part = partial(self.open, part, options)
                    yield Request(
                        open_part,
                        self.config,
                        name_source(part),
                        channel,
                        progress,
                        options.timeout_s,
                        partial(is_stored, part),
                    )
        finally:
            if isinstance(iterator, Generator):
                iterator.close()


class Engine(Runner):
    """A network on a device, with a gate if its settings want one."""

    may_lower = False  # what of it may be computed in lower precision, and gains

    def __init__(
        self, network: Network, device: torch.device, batch_size: int | None = None, gate: Network | None = None
    ) -> None:
        self.network = network.to(device)
        self.config: ModelConfig = network.config
        self.device = device
        fits = max(1, _MAX_BATCH_NUMBERS // self.config.largest_array)
        self.batch_size = batch_size or min(_BATCH_SIZE.get(device.type, 8), fits)
        self.gate = Gate(gate.to(device), self.config) if gate is not None else None

    @property
    def precision(self) -> str:
        """What large matrices multiply in."""
        return "bf16" if is_lowered(self.network) else "fp32"

    def pad(self, items: list[Item]) -> tuple[Tensor, Tensor]:
        """Return (batch, sample) windows on the device as the network takes them, and (batch,) their real frames."""
        n_frames = torch.tensor([window.n_frames for window, _ in items], device=self.device)
        return torch.from_numpy(pad_windows(items, self.config)).to(self.device), n_frames

    def forward(self, items: list[Item]) -> list[WindowOutput]:
        """Run the network, and the gate, on a batch of windows."""
        with torch.inference_mode():
            waveform, n_frames = self.pad(items)
            logits = self.network(waveform, n_frames).logits.float().cpu().numpy()
            gated = self.hear(waveform, n_frames)
        return self.outputs(items, list(logits), gated)

    def hear(self, waveform: Tensor, n_frames: Tensor) -> NDArray[np.float32] | None:
        """Return (batch, gate frame) logits of the gate's label; None: there is no gate."""
        return self.gate.hear(waveform, n_frames).float().cpu().numpy() if self.gate else None

    def outputs(
        self, items: list[Item], logits: list[NDArray[np.float32]], gated: NDArray[np.float32] | None
    ) -> list[WindowOutput]:
        """Return what was found in each window, without the padding, and how much of it counts."""
        found = []
        for row, (window, _) in enumerate(items):
            n_frames, n_shared = window.n_frames, self.config.overlap_frames if window.first else 0
            own = logits[row][:n_frames] if logits[row].ndim == 2 else logits[row]
            if self.gate is None or gated is None:
                output = WindowOutput(window, own, n_frames * self.config.hop_s, n_shared * self.config.hop_s)
            else:
                gate = gated[row, : self.gate.count(n_frames)]
                heard = gate > 0
                n_heard, n_both = int(heard.sum()), int(heard[: self.gate.count(n_shared)].sum())
                output = WindowOutput(window, own, n_heard * self.gate.hop_s, n_both * self.gate.hop_s, gate)
            found.append(output)
        return found


class EngineGroup(Runner):
    """Several engines on what is decoded once; a window's grid is the number of its engine."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        """Take engines of one device.

        Raises:
            UsageError: they want different sample rates.
        """
        self._engines = tuple(engines)
        first = engines[0].config
        for other in (engine.config for engine in engines[1:]):
            if other.features.sample_rate != first.features.sample_rate or "precomputed" in (
                other.features.kind,
                first.features.kind,
            ):
                raise UsageError(f"{other.name} does not read the same samples as {first.name}: run them one by one")
        self.config, self.device = first, engines[0].device
        self.batch_size = min(engine.batch_size for engine in engines)

    @property
    def grids(self) -> Sequence[ModelConfig]:
        """See Runner."""
        return tuple(engine.config for engine in self._engines)

    def forward(self, items: list[Item]) -> list[WindowOutput]:
        """See Runner."""
        return self._engines[items[0][0].grid].forward(items)


def _fail(error: Exception) -> NoReturn:
    raise error


def name_source(source: object) -> str:
    """Return what a source is called in results."""
    if isinstance(source, Channel):
        return name_source(source.source)
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "-")) if hasattr(source, "read") else "array"


def count_decoders() -> int:
    """Return how many recordings a run decodes at once."""
    return min(os.cpu_count() or 1, _MAX_DECODERS)


class _TorchThreads:
    """The number of threads that torch uses for one computation on a CPU, which all runs of a process share."""

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
    model: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
) -> Engine:
    """Load a model by name or path onto a device.

    Args:
        model: a shipped model's name, or a model file.
        device: as `pick_device` takes it.
        threads: CPU threads of torch; None leaves the setting of this process alone.
        batch_size: windows of one forward pass; it changes speed and memory, never what comes out.
        precision: "fp32"; "bf16": the large matrices of an encoder multiply in bfloat16; "auto": they do where the
            device does so faster, and the model does not compare vectors with those of another day.

    Raises:
        UsageError: a number out of range, or this machine has no such device.
        ModelError: there is no such model, or it cannot be used.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: choose {', '.join(PRECISIONS)}")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size {batch_size}: at least 1")
    if threads is not None:
        if not 1 <= threads <= 4 * (os.cpu_count() or 1):
            raise UsageError(f"threads {threads}: 1 to {4 * (os.cpu_count() or 1)} on this machine")
        torch.set_num_threads(threads)
    network = load_network(locate(model))
    if precision == "bf16" and network.config.embedding:
        raise UsageError(
            f"the model {network.config.name} compares vectors with stored ones, all in fp32: without bf16"
        )
    gate = load_network(locate(GATE_MODEL)) if network.config.gate else None
    engine = Engine(network, pick_device(device), batch_size, gate)
    engine.may_lower = precision == "bf16" or (precision == "auto" and multiplies_bfloat16(engine.device))
    if engine.may_lower and not network.config.embedding:
        lower(engine.network)
    return engine
