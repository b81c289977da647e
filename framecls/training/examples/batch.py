"""Training batches: their tensors, and what the makers of all kinds of examples share.

Batch n of a seed is the same in whatever process and order it is made: worker processes can make batches ahead, an
interrupted run continues exactly, and dev batches are fixed by their numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framecls.config import ModelConfig
from framecls.inference.windows import count_frames
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.examples.augment import Samples, augment_batch, perturb
from framecls.training.recipe import Recipe

# Marks targets that do not count: the default ignore_index of cross_entropy.
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """The examples of one training step."""

    waveform: Tensor  # (batch, sample) with the margins that the features need
    n_frames: Tensor  # (batch,)
    targets: Tensor  # (batch, frame, label) 0..1, (batch, frame) label index, or (batch,) label index
    phones: Tensor  # (batch, phone) indices from 1, padded with 0; all 0 where they are not known
    phone_frames: Tensor  # (batch, frame) phone index, 0 in a pause, `IGNORED` where it is not known
    sources: tuple[str, ...] = ()  # of the examples, for dev figures by source
    soft_targets: Tensor | None = None  # (batch, label) a teacher's probabilities, 0 where there are none (pooled)
    teacher_vectors: Tensor | None = None  # (batch, number) unit vectors that an embedding is to match


class NoiseBank:
    """Recorded noise to add to examples."""

    def __init__(self, recordings: Sequence[Recording], store: ClipStore, rng: np.random.Generator) -> None:
        self._recordings, self._store, self._rng = recordings, store, rng
        by_source: dict[str, list[Recording]] = defaultdict(list)
        for recording in recordings:
            by_source[recording.source].append(recording)
        self._sources = list(by_source.values())

    def sample(self, n_samples: int) -> Samples:
        """Sample (sample,) noise of a length: a source, a recording, a place in it; short recordings are repeated."""
        source = self._sources[self._rng.integers(len(self._sources))]
        recording = source[self._rng.integers(len(source))]
        length = self._store.n_samples(recording.file)
        start = int(self._rng.integers(0, max(1, length - n_samples)))
        samples = self._store.read(recording.file, start, start + n_samples)
        return np.resize(samples, n_samples) if len(samples) else np.zeros(n_samples, np.float32)


class BatchMaker:
    """Base of the makers of examples: recipe, recordings, augmentation, and waveforms as the network takes them."""

    def __init__(self, config: ModelConfig, recipe: Recipe, store: ClipStore, noise: Sequence[Recording]) -> None:
        self.config, self.recipe, self.store, self.noise = config, recipe, store, noise
        self.sample_rate = config.features.sample_rate
        self.notes: list[dict[str, Any]] | None = None  # a list to log what each example is made of, for previews

    def rng(self, number: int) -> np.random.Generator:
        """Return the random generator of one batch."""
        return np.random.default_rng((self.recipe.optim.seed, number))

    def augment(self, waveforms: Tensor, rng: np.random.Generator) -> Tensor:
        """Augment (batch, sample) as the recipe says; precomputed features stay as they are."""
        if self.config.features.kind == "precomputed":
            return waveforms
        sample_noise = NoiseBank(self.noise, self.store, rng).sample if self.noise else None
        return augment_batch(waveforms, rng, self.recipe.augment, self.sample_rate, sample_noise, self.notes)

    def perturb(self, samples: Samples, rng: np.random.Generator) -> tuple[Samples, float]:
        """Change speed, tempo and pitch of (sample,) as the recipe says; precomputed features stay as they are."""
        if self.config.features.kind == "precomputed":
            return samples, 1.0
        return perturb(samples, rng, self.recipe.augment, self.sample_rate)

    def begin_note(self) -> None:
        """Begin the log of the next example."""
        if self.notes is not None:
            self.notes.append({"clips": []})

    def note_clip(self, recording: Recording, start: int, speed: float = 1.0) -> None:
        """Log that the current example contains a recording from a sample on."""
        if self.notes is not None:
            clip = {"file": str(recording.file), "label": recording.label, "start": round(start / self.sample_rate, 3)}
            self.notes[-1]["clips"].append(clip | ({"speed": speed} if speed != 1 else {}))

    def silence(self, n_samples: int) -> Samples:
        """Return (sample,) zeros, or (vector, feature) zeros for precomputed features."""
        return np.zeros((n_samples, *self.config.features.sample_shape), np.float32)

    def with_margins(self, waveforms: Tensor) -> Tensor:
        """Pad (batch, sample) to whole frames, and by the features' margin on both sides."""
        n_frames = count_frames(waveforms.shape[1], self.config.hop_samples)
        margin = self.config.features.margin_samples
        missing = n_frames * self.config.hop_samples - waveforms.shape[1]
        last_axes = (0, 0) * (waveforms.ndim - 2)
        return torch.nn.functional.pad(waveforms, (*last_axes, margin, margin + missing))


def pad_stack(rows: Sequence[Samples], n_samples: int | None = None) -> Tensor:
    """Stack (sample, ...) arrays into (row, sample, ...), the shorter ones padded with zeros."""
    stacked = np.zeros((len(rows), n_samples or max(map(len, rows)), *rows[0].shape[1:]), np.float32)
    for target, row in zip(stacked, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(stacked)
