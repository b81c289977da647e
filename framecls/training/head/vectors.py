"""What a frozen encoder makes of recordings: each is heard once, and its vectors are kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.checkpoints.frontends import open_frontend
from framecls.config import ModelConfig, ReadOptions, to_dict
from framecls.errors import OutputError
from framecls.inference.engine import Engine
from framecls.nn.frontend import PretrainedFrontend
from framecls.nn.network import Network, Output
from framecls.replacing import replacing
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording

Vectors = NDArray[np.float16]  # (frame, channel)


@dataclass(frozen=True, eq=False)
class Heard:
    """One recording as the encoder hears it: its windows, as the model reads them."""

    windows: list[Vectors]
    firsts: list[int]  # the frame of the recording that each window begins with


class Hearing(Network):
    """The encoder alone: what it gives is the vector of each frame, the mean of the vectors that are joined in one.

    Args:
        config: of the model whose encoder it is.
        source: as the recipe names the encoder.
        all_layers: give the vectors of all layers, one after the other, not those of the last.
    """

    def __init__(self, config: ModelConfig, source: str, *, all_layers: bool = False) -> None:
        frontend = open_frontend(config.features.pretrained, source)
        super().__init__(config, frontend)
        self.frontend, self.all_layers = frontend, all_layers

    def forward(self, waveform: Tensor, n_frames: Tensor) -> Output:
        """Return (batch, frame, channel) in place of logits; see `Network.forward`."""
        joined = self.config.encoder.subsampling
        frontend: PretrainedFrontend = self.frontend
        if self.all_layers:
            vectors = torch.cat(frontend.layers(waveform, n_frames * joined), dim=2)
        else:
            vectors = frontend(waveform, n_frames * joined)
        return Output(vectors.reshape(len(vectors), -1, joined, vectors.shape[2]).mean(dim=2))


class VectorCache:
    """Vectors of recordings in a folder, a file each; they are of one encoder, at one rate, on one grid of windows."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._folder = folder
        settings = [to_dict(config.features), to_dict(config.window), config.encoder.subsampling]
        self._key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def path(self, recording: Recording) -> Path:
        """Return the file of a recording, which another version of the sound has not."""
        status = recording.audio.stat()
        name = f"{self._key}\0{recording.file}\0{status.st_size}\0{status.st_mtime_ns}"
        return self._folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:24]}.npz"

    def read(self, recording: Recording) -> Heard | None:
        """Return what is kept of a recording, None if nothing is, or it is damaged."""
        try:
            with np.load(self.path(recording)) as file:
                return Heard(np.split(file["vectors"], np.cumsum(file["lengths"])[:-1]), file["firsts"].tolist())
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def write(self, recording: Recording, heard: Heard) -> None:
        """Keep the vectors of a recording.

        Raises:
            OutputError: they cannot be written.
        """
        lengths = [len(window) for window in heard.windows]
        try:
            with replacing(self.path(recording)) as temporary, temporary.open("wb") as file:
                np.savez(file, vectors=np.concatenate(heard.windows), lengths=lengths, firsts=heard.firsts)
        except OSError as error:
            raise OutputError(f"{self._folder}: vectors cannot be kept here: {error.strerror}") from error


def hear(
    engine: Engine,
    recordings: Sequence[Recording],
    store: ClipStore,
    cache: VectorCache | None,
    progress: Callable[[float, float], None] | None = None,
) -> list[Heard]:
    """Return the vectors of recordings, of those that are not in the cache for the first time.

    Args:
        engine: of a `Hearing`.
        recordings: in any order.
        store: their sound.
        cache: where vectors are kept; None: nowhere.
        progress: told the seconds that are done, and those of all.
    """
    found = [cache.read(recording) if cache else None for recording in recordings]
    missing = [index for index, heard in enumerate(found) if heard is None]
    lengths_s = [store.n_samples(recordings[index].file) / store.sample_rate for index in missing]
    total_s, done_s = sum(lengths_s), 0.0
    sounds = (store.read(recordings[index].file) for index in missing)
    running = engine.run(sounds, ReadOptions(sample_rate=store.sample_rate))
    for index, length_s, request in zip(missing, lengths_s, running, strict=True):
        outputs = list(request)
        windows = [output.logits.astype(np.float16) for output in outputs]
        heard = Heard(windows, [output.window.first for output in outputs])
        found[index] = heard
        if cache is not None:
            cache.write(recordings[index], heard)
        done_s += length_s
        if progress is not None:
            progress(done_s, total_s)
    return [heard for heard in found if heard is not None]
