"""Arrays of any library as samples: their type, the order of their axes, and the scale of their numbers."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from framecls.audio.header import MAX_CHANNELS
from framecls.errors import AudioError
from framecls.text import one_line

# An axis that is longer is samples, unless the other one is longer still.
_LIKELY_CHANNELS = 32
# Frames examined at once, so that a long array needs no copy of itself.
_PIECE = 1 << 20
# Real numbers that stay above this for half of so many frames are no audio in -1..1, however loud it was recorded: that
# is 12 dB above full scale. A click reaches as far, but does not last.
LOUDEST = 4.0
_SUSTAINED_FRAMES = 1024
# Below this an integer of 32 bits is silence whether it is read as one of 16 or of 32 bits.
_QUIET_INTEGER = 1 << 8


class SupportsArray(Protocol):
    """What NumPy makes an array of: a tensor, a Series of pandas, an array of JAX."""

    def __array__(self) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Scale:
    """Which numbers stand for the range -1..1."""

    full: float = 1.0  # what 1 is
    centre: float = 0.0  # what 0 is, of unsigned integers
    bits: int | None = None  # of the integers that the numbers were taken for; None: as their type says

    def apply(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Return a copy of the samples in -1..1."""
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, which the reading of it reports
            scaled = samples.astype(np.float32)
        if self.centre:
            scaled -= np.float32(self.centre)
        if self.full != 1:
            scaled /= np.float32(self.full)
        return scaled

    def explain(self, peak: float) -> str:
        """Return the note on a scale that was guessed."""
        return f"its samples reach {peak:.6g}: they are taken for {self.bits}-bit integers"


def is_array(source: object) -> bool:
    """Tell whether `as_array` accepts an object: an array or tensor of any library, a pandas Series, a list."""
    is_known = isinstance(source, np.ndarray | list | tuple | array.array) or hasattr(source, "__array__")
    return is_known and not isinstance(source, str)  # NumPy has strings with that method


def as_array(source: Any) -> NDArray[Any]:
    """Return the numbers of an array of any library, of a tensor on any device or of a list, without a copy if it can.

    Raises:
        AudioError: they are no real numbers, or do not form an array.
    """
    torch: Any = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(source, torch.Tensor):
            tensor = source.detach().cpu()
            # NumPy has no bfloat16, nor any smaller floats.
            is_small = tensor.is_floating_point() and tensor.element_size() <= 2 and tensor.dtype != torch.float16
            found: NDArray[Any] = (tensor.float() if is_small else tensor.resolve_neg()).numpy()
        elif isinstance(source, list | tuple) and any(is_array(item) for item in source):
            found = np.asarray([as_array(item) for item in source])
        else:
            found = np.asarray(source)
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise AudioError(f"this {type(source).__name__} cannot be read as an array: {one_line(str(error))}") from error
    if found.dtype.name == "bfloat16":  # of the package ml_dtypes, which JAX uses
        found = found.astype(np.float32)
    if found.dtype.kind not in "fiu":
        kind = {"O": "objects", "U": "text", "S": "bytes", "b": "true and false"}.get(found.dtype.kind, found.dtype)
        raise AudioError(f"an array must hold real numbers or integers, not {kind}")
    if np.ma.is_masked(source):
        raise AudioError("some values of this array are masked: fill them in")
    if found.ndim not in (1, 2):
        raise AudioError(f"an array must be (sample,) or (channel, sample); this one has {found.ndim} axes")
    return found


def find_channel_axis(shape: Sequence[int]) -> int:
    """Return the axis of two that is the channels: 0 of (channel, sample), 1 of (sample, channel).

    Raises:
        AudioError: neither can be.
    """
    rows, columns = shape
    if rows <= columns and rows <= MAX_CHANNELS:
        return 0
    if columns <= _LIKELY_CHANNELS:
        return 1
    raise AudioError(f"an array must be (channel, sample); {rows} channels are too many: transpose it?")


def explain_axes(shape: Sequence[int], axis: int) -> str | None:
    """Return the note on the order of two axes, if it needs one."""
    if axis == 1:
        return f"{tuple(shape)} is taken for (sample, channel), as the first axis is too long for channels"
    return f"{tuple(shape)} is taken for {shape[0]} channels" if shape[0] > _LIKELY_CHANNELS else None


def scale_of(dtype: np.dtype[Any]) -> Scale:
    """Return the scale of a type: floats are in -1..1, integers cover the range of their type."""
    half = 2.0 ** (8 * dtype.itemsize - 1)
    return Scale() if dtype.kind == "f" else Scale(half, half if dtype.kind == "u" else 0.0)


def find_peak(frames: NDArray[Any]) -> float:
    """Return the greatest distance of any number from 0."""
    return max(float(frames.max()), -float(frames.min()))


def guess_scale(frames: NDArray[Any]) -> Scale:
    """Return the scale of the samples of a whole recording: that of their type, or the only one that makes sense.

    Integers of 32 and 64 bits that all are small enough for fewer are taken for 16-bit or 24-bit ones: as what their
    type says nobody could hear them. A 32-bit one is also taken for itself if its last byte is empty: that is how
    converters of fewer bits fill it. Floats are taken for such integers if all are whole and some are above 1, or if
    they stay 12 dB above full scale or more; what is only now and then above 1 is loud.

    Args:
        frames: (sample, channel) or (sample,).

    Raises:
        AudioError: 64-bit integers that make no sense.
    """
    usual = scale_of(frames.dtype)
    if not frames.size or (frames.dtype.kind != "f" and frames.dtype.itemsize <= 2):
        return usual
    peak = find_peak(frames)
    if frames.dtype.kind == "f":
        return _guess_of_floats(frames, peak)
    if frames.dtype.kind == "u":
        bits = next(bits for bits in (8, 16, 24, 32, 64) if peak < 2.0**bits or bits == 64)
        return usual if bits == 8 * frames.dtype.itemsize else Scale(2.0 ** (bits - 1), 2.0 ** (bits - 1), bits)
    if not peak:
        return usual
    bits = _fewest_bits(peak, lambda: _all(frames, lambda piece: piece & 0xFF == 0))
    if bits == 64 and peak < 2.0**55:
        raise AudioError(f"its samples reach {peak:.6g}, which is the scale of no integers: divide them")
    return usual if bits == 8 * frames.dtype.itemsize else Scale(2.0 ** (bits - 1), bits=bits)


def guess_scale_of_first(frames: NDArray[Any]) -> Scale | None:
    """Return the scale of blocks of integers from the first of them; None: it is too quiet to tell.

    What is still to come may be louder, so only 32-bit and 64-bit integers that would be far too quiet are taken for
    16-bit ones.

    Raises:
        AudioError: as for `guess_scale`.
    """
    if frames.dtype.kind == "u":
        return guess_scale(frames)
    peak = find_peak(frames)
    if peak < _QUIET_INTEGER:
        return None
    scale = guess_scale(frames)
    if scale.bits != 24:
        return scale
    return scale_of(frames.dtype) if frames.dtype.itemsize == 4 else Scale(2.0**31, bits=32)


def _guess_of_floats(frames: NDArray[Any], peak: float) -> Scale:
    if not 2 <= peak <= 2.0**32:  # NaN as well
        return Scale()
    if _all(frames, lambda piece: piece == np.rint(piece)):
        bits = _fewest_bits(peak, lambda: _all(frames, lambda piece: piece % 256 == 0))
    elif peak > LOUDEST and is_sustained(frames):
        bits = _fewest_bits(peak / 2, lambda: False)  # filters overshoot
    else:
        return Scale()
    return Scale(2.0 ** (bits - 1), bits=bits) if bits < 64 else Scale()


def _fewest_bits(peak: float, is_padded: Callable[[], bool]) -> int:
    """Return the bits of the integers that reach so far; padded: they have an empty byte at the end."""
    if peak <= 2.0**15:
        return 16
    if peak <= 2.0**23:
        return 32 if is_padded() else 24
    return 32 if peak <= 2.0**31 else 64


def is_sustained(frames: NDArray[Any]) -> bool:
    """Tell whether (sample, channel) or (sample,) numbers stay above `LOUDEST` long enough to be no click."""
    for piece in _pieces(frames):
        level = np.abs(piece) if piece.ndim == 1 else np.abs(piece).max(axis=1)
        size = min(len(level), _SUSTAINED_FRAMES)
        blocks = level[: len(level) - len(level) % size].reshape(-1, size)
        if (np.median(blocks, axis=1) > LOUDEST).any():
            return True
    return False


def _all(frames: NDArray[Any], holds: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> bool:
    return all(bool(holds(piece).all()) for piece in _pieces(frames))


def _pieces(frames: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for first in range(0, len(frames), _PIECE):
        yield frames[first : first + _PIECE]
