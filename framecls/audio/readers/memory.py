"""Readers of samples that are in memory: a whole array, or blocks that arrive one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.audio.arrays import (
    Scale,
    as_array,
    explain_axes,
    find_channel_axis,
    find_peak,
    guess_scale,
    guess_scale_of_first,
    scale_of,
)
from framecls.errors import AudioError
from framecls.results import AudioInfo, Remarks

_log = logging.getLogger(__name__)


class ArrayReader:
    """Samples that are in memory already.

    Args:
        samples: (sample,) or (channel, sample), as `as_array` returns them; also (sample, channel) where nothing else
            makes sense.
        sample_rate: Hz.
        remarks: gets notes on what was guessed.

    Raises:
        AudioError: another shape, numbers on a scale that makes no sense, or no rate.
    """

    def __init__(self, samples: NDArray[Any], sample_rate: int, remarks: Remarks) -> None:
        axis = 0
        if samples.size and samples.ndim == 2:
            axis = find_channel_axis(samples.shape)
            _say(remarks, explain_axes(samples.shape, axis))
        self._frames = _to_frames(samples, axis) if samples.size else np.zeros((0, 1), np.float32)
        _require_rate(sample_rate)
        self._scale = guess_scale(self._frames)
        if self._scale.bits is not None:
            _say(remarks, self._scale.explain(find_peak(self._frames)))
        self._position = 0
        self.info = AudioInfo(sample_rate, self._frames.shape[1])
        self.duration_s: float | None = len(self._frames) / sample_rate

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        # Always a copy: what the caller does to a block must not change the array it came from.
        chunk = self._scale.apply(self._frames[self._position : self._position + n_frames])
        self._position += len(chunk)
        return chunk

    def close(self) -> None:
        """See Reader."""


class BlocksReader:
    """Samples that come block by block, from a microphone say.

    Args:
        blocks: each (sample,) or (channel, sample), or all of them (sample, channel): the first one decides. Empty ones
            are passed over.
        sample_rate: Hz.
        remarks: gets notes on what was guessed.

    Raises:
        AudioError: another shape or type, or no rate.
    """

    def __init__(self, blocks: Iterator[Any], sample_rate: int, remarks: Remarks) -> None:
        _require_rate(sample_rate)
        self._blocks = blocks
        self._remarks = remarks
        self._axis = 0
        self._n_channels: int | None = None  # None: before the first block
        self._scales: dict[np.dtype[Any], Scale] = {}  # of integers, as long as they are loud enough to tell
        self._frames = np.zeros((0, 1), np.float32)
        self._next()
        self.info = AudioInfo(sample_rate, self._frames.shape[1])
        self.duration_s: float | None = None

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        if not len(self._frames):
            self._next()
        chunk, self._frames = self._frames[:n_frames], self._frames[n_frames:]
        return chunk

    def _next(self) -> None:
        """Take the next block that is not empty, if there is one."""
        for block in self._blocks:
            samples = as_array(block)
            if samples.size:
                frames = self._lay_out(samples)
                self._frames = self._find_scale(frames).apply(frames)
                return

    def _lay_out(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Return (sample, channel) the samples of a block."""
        if self._n_channels is None and samples.ndim == 2:
            self._axis = find_channel_axis(samples.shape)
            _say(self._remarks, explain_axes(samples.shape, self._axis))
        if self._n_channels == 1 and samples.ndim == 2 and 1 in samples.shape:
            samples = samples.reshape(-1)
        frames = _to_frames(samples, self._axis)
        if self._n_channels is None:
            self._n_channels = frames.shape[1]
        if frames.shape[1] != self._n_channels:
            raise AudioError(f"a block has {frames.shape[1]} channels, the first {self._n_channels}")
        return frames

    def _find_scale(self, frames: NDArray[Any]) -> Scale:
        dtype = frames.dtype
        if dtype.kind == "f":  # `levels.settle_scale` handles these
            return Scale()
        known = self._scales.get(dtype)
        if known is None:
            known = guess_scale_of_first(frames)
            if known is None:
                return scale_of(dtype)
            self._scales[dtype] = known
            if known.bits is not None:
                _say(self._remarks, known.explain(find_peak(frames)))
        elif known.bits is not None and find_peak(frames) > known.full + known.centre:
            raise AudioError(
                f"a block reaches {find_peak(frames):.6g}, and earlier ones were on the scale of {known.bits}-bit "
                f"integers: give {dtype} over its whole range, or floats in -1..1"
            )
        return known

    def close(self) -> None:
        """See Reader."""


def _to_frames(samples: NDArray[Any], channel_axis: int) -> NDArray[Any]:
    """Return (sample, channel) a view of samples; (sample,) ones are one channel."""
    if samples.ndim == 1:
        return samples[:, np.newaxis]
    return samples if channel_axis == 1 else samples.T


def _require_rate(sample_rate: int) -> None:
    if sample_rate < 1:
        raise AudioError(f"{sample_rate} Hz is not a sample rate")


def _say(remarks: Remarks, note: str | None) -> None:
    """Add what was guessed of an array, and log it: not every use of an array has a result to carry it."""
    if note is not None:
        remarks.notes.append(note)
        _log.warning("an array: %s", note)
