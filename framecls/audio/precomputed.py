"""Stream precomputed features in place of samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from framecls.audio.stream import AudioStream
from framecls.results import AudioInfo, Remarks


class VectorStream(AudioStream):
    """(vector, feature) in memory, read as blocks of vectors. Made by `open_vectors`."""

    def __init__(self, vectors: NDArray[np.float32], vectors_per_s: int) -> None:
        self.info = AudioInfo(vectors_per_s, 1)
        self.remarks = Remarks()
        self.sample_rate = vectors_per_s
        self._vectors = vectors
        self._resources = contextlib.ExitStack()

    @property
    def duration_s(self) -> float | None:
        """The length in seconds."""
        return len(self._vectors) / self.sample_rate

    def blocks(self, block_s: float = 30.0) -> Iterator[NDArray[np.float32]]:
        """Yield (vector, feature) blocks, each `block_s` long save the last."""
        size = max(1, round(block_s * self.sample_rate))
        return (self._vectors[first : first + size] for first in range(0, len(self._vectors), size))


def open_vectors(vectors: NDArray[np.float32], vectors_per_s: int) -> VectorStream:
    """Open (vector, feature) precomputed features."""
    return VectorStream(vectors, vectors_per_s)
