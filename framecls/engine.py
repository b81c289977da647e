"""A loaded model: audio blocks in, one vector of logits a frame or a window out.

The window grid belongs to the model, so what comes out does not depend on batch size, block size or other files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.audio import AudioStream, Source, open_audio, open_vectors, prefetch
from framecls.checkpoint import load_network
from framecls.config import ModelConfig
from framecls.errors import ModelError, UsageError
from framecls.nn.model import Network, Output
from framecls.pretrained import locate
from framecls.timeline import Window, count_frames

# The shipped model that tells others which windows to listen to.
GATE_MODEL = "sound"
_BLOCK_S = 30.0
# Windows of one forward pass: more gains nothing on a CPU, whose caches are small.
_BATCH_SIZE = {"cpu": 8, "cuda": 256, "mps": 64}


@dataclass(frozen=True, eq=False)
class WindowOutput:
    """What the network says of one window of a recording."""

    window: Window
    logits: NDArray[np.float32]  # (frame, label), or (label,) of a pooled task
    weight_s: float  # seconds that count: all of the window, or those in which the gate's label is heard


class Engine:
    """A network on a device, fed with recordings."""

    def __init__(
        self, network: Network, device: torch.device, batch_size: int | None = None, gate: Network | None = None
    ) -> None:
        self.network = network.to(device)
        self.config: ModelConfig = network.config
        self.device = device
        self.batch_size = batch_size or _BATCH_SIZE.get(device.type, 8)
        self.gate = Gate(gate.to(device), self.config) if gate is not None else None

    def open(self, source: Source, sample_rate: int | None = None) -> AudioStream:
        """Open a path, a binary file object or an array at `sample_rate`, to be read at the model's rate.

        Raises:
            UsageError: the model takes features computed elsewhere, and this is none of them.
        """
        features = self.config.features
        if features.kind == "given":
            if not isinstance(source, np.ndarray) or source.ndim != 2 or source.shape[1] != features.n_given:
                raise UsageError(
                    f"the model {self.config.name} takes vectors of {features.n_given} numbers that were computed "
                    "elsewhere, not audio: measure it with framecls evaluate"
                )
            return open_vectors(source, features.sample_rate)
        return open_audio(source, self.config.features.sample_rate, sample_rate)

    def run(self, stream: AudioStream, progress: Callable[[float], None] | None = None) -> RunningWindows:
        """Classify the windows of a stream as they are decoded, in order; `progress` gets the seconds done."""
        return RunningWindows(self, stream, progress)

    def forward(self, windows: list[tuple[Window, NDArray[np.float32]]]) -> Iterator[WindowOutput]:
        """Run the network on a batch of windows, each with its samples and margins."""
        longest = max(window.n_frames for window, _ in windows)
        n_samples = longest * self.config.hop_samples + 2 * self.config.features.margin_samples
        batch = np.zeros((len(windows), n_samples, *self.config.features.sample_shape), np.float32)
        for row, (_, samples) in zip(batch, windows, strict=True):
            row[: len(samples)] = samples[:n_samples]
        n_frames = torch.tensor([window.n_frames for window, _ in windows], device=self.device)
        with torch.inference_mode():
            waveform = torch.from_numpy(batch).to(self.device)
            output: Output = self.network(waveform, n_frames)
            logits = output.logits.float().cpu().numpy()
            weights_s = self.gate.weigh(waveform, n_frames) if self.gate else n_frames * self.config.hop_s
        for (window, _), row, weight_s in zip(windows, logits, weights_s.tolist(), strict=True):
            yield WindowOutput(window, row[: window.n_frames] if row.ndim == 2 else row, weight_s)


class Gate:
    """A frame model that says how much of a window is what another model should listen to."""

    def __init__(self, network: Network, listener: ModelConfig) -> None:
        own = network.config
        fits = (
            own.features.sample_rate == listener.features.sample_rate
            and own.features.margin_samples == listener.features.margin_samples
            and listener.hop_samples % own.hop_samples == 0
        )
        if not fits or listener.gate not in own.labels:
            raise ModelError(f"{listener.name}: the model {own.name} cannot tell it where {listener.gate!r} is heard")
        self._network = network
        self._label = own.labels.index(listener.gate)
        self._ratio = listener.hop_samples // own.hop_samples

    def weigh(self, waveform: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
        """Return (batch,) the seconds of each window in which the label is likelier than not.

        Args:
            waveform: (batch, sample) as the listener's network takes it.
            n_frames: (batch,) real frames, counted in the listener's.
        """
        own_frames = n_frames * self._ratio
        logits = self._network(waveform, own_frames).logits[:, :, self._label]
        real = torch.arange(logits.shape[1], device=logits.device) < own_frames.unsqueeze(1)
        n_heard: torch.Tensor = ((logits > 0) & real).sum(dim=1)
        return n_heard * self._network.config.hop_s


class RunningWindows:
    """Iterate over the window outputs of one recording; `n_samples` and `n_frames` are known once it is done."""

    def __init__(self, engine: Engine, stream: AudioStream, progress: Callable[[float], None] | None) -> None:
        self._engine = engine
        self._stream = stream
        self._progress = progress
        self.n_samples = 0

    @property
    def n_frames(self) -> int:
        """Frames seen so far."""
        return count_frames(self.n_samples, self._engine.config.hop_samples)

    def __iter__(self) -> Iterator[WindowOutput]:
        config = self._engine.config
        batch: list[tuple[Window, NDArray[np.float32]]] = []
        with closing(prefetch(self._stream.blocks(_BLOCK_S))) as blocks:
            for item in cut_windows(self._count(blocks), config):
                batch.append(item)
                if len(batch) == self._engine.batch_size:
                    yield from self._finish(batch)
                    batch = []
            if batch:
                yield from self._finish(batch)

    def _count(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for block in blocks:
            self.n_samples += len(block)
            yield block

    def _finish(self, batch: list[tuple[Window, NDArray[np.float32]]]) -> Iterator[WindowOutput]:
        yield from self._engine.forward(batch)
        if self._progress is not None:
            last = batch[-1][0]
            self._progress((last.first + last.n_frames) * self._engine.config.hop_s)


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
