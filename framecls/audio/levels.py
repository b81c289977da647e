"""Prepare samples for resampling: find their scale, mix to mono, remove a constant offset.

All of it is decided while the recording is read, for stretches whose length does not depend on the size of reads, and
leaves an ordinary recording as it is, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from framecls.audio.arrays import LOUDEST, Scale, find_peak, guess_scale, is_sustained
from framecls.errors import AudioError
from framecls.results import Remarks

Chunk = NDArray[np.float32]  # (sample, channel)

# Length of the stretches over which the mix and the offset are decided.
STRETCH_S = 0.5
# The mean of channels that have nothing in common keeps 1/n of their mean power. One that keeps less than this share
# of that has lost it because they cancel.
_CANCELLED = 0.1
# Mean power, below which there is nothing to lose: -70 dB.
_SOUNDING = 1e-7
# Another channel is taken for the loudest once it is 6 dB louder than the one that was.
_LOUDER = 4.0
_FADE_S = 0.01
# A mean that is further from 0 is an offset if the stretch follows a straight line: no eighth of it is further from it
# than half the mean. Low notes and thumps do not. A smaller offset is heard by no model.
_OFFSET = 0.003
_PARTS = 8


def settle_scale(chunks: Iterable[Chunk], remarks: Remarks) -> Iterator[Chunk]:
    """Yield chunks of floats in -1..1; those that can only be integers are divided.

    The first chunk that is not silent decides for the whole recording.

    Raises:
        AudioError: later ones are on another scale.
    """
    scale: Scale | None = None
    for chunk in chunks:
        peak = find_peak(chunk)
        if scale is None and peak != 0:
            scale = guess_scale(chunk)
            if scale.bits is not None:
                remarks.notes.append(scale.explain(peak))
        elif scale is not None and peak > LOUDEST and _contradicts(chunk, peak, scale):
            raise AudioError(
                f"its samples reach {peak:.6g}, after earlier ones on the scale of "
                f"{'-1..1' if scale.bits is None else f'{scale.bits}-bit integers'}: give all of them the same scale"
            )
        yield chunk if scale is None or scale.bits is None else scale.apply(chunk)
        del chunk  # before the next one is made


def _contradicts(chunk: Chunk, peak: float, scale: Scale) -> bool:
    if scale.bits is None:
        return guess_scale(chunk).bits is not None and is_sustained(chunk)
    return peak > 2 * scale.full and is_sustained(chunk / np.float32(scale.full))


class Mixer:
    """Mixes channels to one: by their mean, or by one of them where that is lost.

    Where channels cancel each other (one is the other turned upside down, say), the loudest of them is heard in place
    of their mean, for as long as they do; a fade of 10 ms leads from one to the other.

    Args:
        n_channels: of the recording.
        sample_rate: Hz.
        channel: the only one to hear, from 1; None: all.
        remarks: where the channels cancel is added.
    """

    def __init__(self, n_channels: int, sample_rate: int, channel: int | None, remarks: Remarks) -> None:
        self._mean = np.full(n_channels, 1 / n_channels, np.float32)
        self._weights = self._mean
        self._fade = max(1, round(_FADE_S * sample_rate))
        self._channel = channel
        self._sample_rate = sample_rate
        self._remarks = remarks
        self._said = False
        self._position = 0

    def mix(self, stretch: Chunk) -> NDArray[np.float32]:
        """Return (sample,) the mix of the next stretch."""
        if self._channel is not None:
            return stretch[:, self._channel - 1]
        if stretch.shape[1] == 1:
            return stretch[:, 0]
        with np.errstate(invalid="ignore", over="ignore"):  # checked by the caller
            mono = stretch @ self._mean
            weights = self._choose(stretch, mono)
            if weights is not self._mean or self._weights is not self._mean:
                mono = stretch @ weights
                if weights is not self._weights:
                    n_fade = min(self._fade, len(mono))
                    share = (np.arange(n_fade, dtype=np.float32) + 1) / (n_fade + 1)
                    mono[:n_fade] = share * mono[:n_fade] + (1 - share) * (stretch[:n_fade] @ self._weights)
        self._weights = weights
        self._position += len(stretch)
        return mono

    def _choose(self, stretch: Chunk, mono: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weights of the channels in a stretch."""
        # Variances: the offset of each channel does not count, and the stretch is not copied.
        share = np.full(len(stretch), 1 / len(stretch), np.float32)
        means = share @ stretch  # stretch.mean(axis=0), which takes 50 times as long for two channels
        powers = np.einsum("ij,ij->j", stretch, stretch) / len(stretch) - means**2
        mean_power = float(powers.mean())
        if not mean_power > _SOUNDING:
            return self._weights
        if not float(mono.var()) * len(powers) < _CANCELLED * mean_power:
            return self._mean
        if not self._said:
            self._said = True
            second = self._position / self._sample_rate
            self._remarks.notes.append(
                f"its channels cancel each other from {second:.1f} s on: where they do, the loudest is heard alone"
            )
        loudest = int(powers.argmax())
        if self._weights is not self._mean and powers[loudest] < _LOUDER * powers[int(self._weights.argmax())]:
            return self._weights
        weights = np.zeros(len(powers), np.float32)
        weights[loudest] = 1
        return weights


class OffsetRemover:
    """Subtracts a constant offset, once there is one; what has none stays as it is.

    It is measured again in each stretch, and what is subtracted goes from one value to the next in a straight line, so
    that an offset that drifts is followed, and nothing that can be heard is added.

    Args:
        stretch_samples: of a whole stretch; the last one of a recording may be shorter.
    """

    def __init__(self, stretch_samples: int) -> None:
        self._stretch_samples = stretch_samples
        self._level: float | None = None  # at the end of the stretch before; None: there was no offset yet
        self._has_begun = False

    def remove(self, mono: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next (sample,) stretch without its offset."""
        # The rest behind the last whole stretch may be a few samples, which have a mean by chance.
        is_long_enough = len(mono) >= self._stretch_samples or not self._has_begun
        self._has_begun = True
        if self._level is None and not (is_long_enough and _has_offset(mono)):
            return mono
        if self._level is None:
            self._level, last = _fit_line(mono)
        elif len(mono) < self._stretch_samples:
            last = self._level  # too short to measure
        else:
            _, last = _fit_line(mono)
        line = np.linspace(self._level, last, len(mono), endpoint=False)
        self._level = last
        return (mono - line).astype(np.float32)


def _fit_line(samples: NDArray[np.floating]) -> tuple[float, float]:
    """Return where the straight line begins and ends that has the mean of each half of (sample,) samples."""
    half = len(samples) // 2
    before, after = float(samples[:half].mean(dtype=np.float64)), float(samples[half:].mean(dtype=np.float64))
    return 1.5 * before - 0.5 * after, 1.5 * after - 0.5 * before  # the means are its values at 1/4 and 3/4


def _has_offset(mono: NDArray[np.float32]) -> bool:
    size = len(mono) // _PARTS
    if not size:
        return False
    means = mono[: size * _PARTS].reshape(_PARTS, size).mean(axis=1, dtype=np.float64)
    mean = abs(float(means.mean()))
    if not mean > _OFFSET:
        return False
    first, last = _fit_line(means)
    line = first + (last - first) * (np.arange(_PARTS) + 0.5) / _PARTS
    return bool((np.abs(means - line) < mean / 2).all())
