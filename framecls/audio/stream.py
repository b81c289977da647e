"""Open a recording, whatever it is and wherever it comes from, and stream it as mono blocks at one rate."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
import soxr
from numpy.typing import NDArray

from framecls.audio.arrays import SupportsArray, as_array, is_array
from framecls.audio.channels import Channel
from framecls.audio.levels import STRETCH_S, Mixer, OffsetRemover, settle_scale
from framecls.audio.readers.base import NO_AUDIO, Reader
from framecls.audio.readers.decoder import DecoderReader
from framecls.audio.readers.memory import ArrayReader, BlocksReader
from framecls.audio.readers.opening import FileOpener
from framecls.config import DEFAULT_READING, ReadOptions
from framecls.errors import AudioError, SourceTypeError
from framecls.results import AudioInfo, Remarks

# A path, a file object, an array (or a tensor, a list, a Series), an iterator of arrays that follow each other, or one
# channel of such a source.
Source = str | os.PathLike[str] | BinaryIO | NDArray[Any] | Sequence[Any] | Iterator[Any] | SupportsArray | Channel

# Numbers decoded or resampled at once, over all channels: 4 MB of float32 however many channels there are.
_MAX_CHUNK = 1 << 20
# Rates that recorders have. Below, a megabyte would be days of nothing that can be heard; above, the resampler's filter
# is longer than any recording. Either is a header that lies.
_MIN_RATE_HZ, _MAX_RATE_HZ = 1000, 3_072_000
# Integers that were stored as floats as they are reach 2^31; the square of what is much larger is no float any more.
_MAX_SAMPLE = 2.0**32


class AudioStream:
    """A recording being read, once, from its start to its end. Made by `open_audio`; a context manager.

    Attributes:
        info: sample rate and channels of the original.
        sample_rate: Hz of the blocks.
        remarks: notes and warnings on the recording; complete after the last block.
        last_read_at: when samples last came from the decoder, as `time.monotonic` counts.
    """

    def __init__(
        self,
        reader: Reader,
        sample_rate: int,
        resources: contextlib.ExitStack,
        options: ReadOptions,
        remarks: Remarks,
    ) -> None:
        self.info: AudioInfo = reader.info
        self.remarks = remarks
        self._options = options
        self.sample_rate = sample_rate
        self.last_read_at = time.monotonic()
        self._reader = reader
        self._resources = resources
        self._started = False
        self._channel = options.channel_number
        if self._channel is not None and self._channel > self.info.channels:
            has = "1 channel" if self.info.channels == 1 else f"{self.info.channels} channels"
            raise AudioError(f"there is no channel {self._channel} in it: it has {has}")

    @property
    def duration_s(self) -> float | None:
        """What the header says of the length in seconds, for a progress bar: an estimate, or None for unknown."""
        return self._reader.duration_s

    def blocks(self, block_s: float = 30.0) -> Iterator[NDArray[np.float32]]:
        """Yield (sample,) mono blocks at `sample_rate`, each `block_s` long save the last.

        Channels are mixed by their mean, and where they cancel each other the loudest is heard in its place (see
        `levels.Mixer`), unless one of them was chosen. Floats that can only be integers are scaled, and a constant
        offset is subtracted (see `levels`); an ordinary recording is left as it is. Together the blocks have
        ceil(n * sample_rate / original rate) samples for n samples of the original, and the same ones whatever
        `block_s` is. The memory needed does not depend on the length of the recording.

        Resampling is soxr's at its quality HQ (a flat passband to 0.91 of Nyquist, aliases below -120 dB). soxr and not
        torchaudio, because its ResampleStream carries its filters' state from block to block, so that blocks join
        without seams, and because decoding runs in a thread of its own on the CPU and must not load torch.

        Raises:
            AudioError: decoding broke, a sample is not finite, there are no samples at all, the recording is longer
                than `max_duration_s`, or, after the last block, there was a warning and reading is strict.
            RuntimeError: a second call: the recording has gone by.
        """
        if self._started:
            raise RuntimeError("the blocks of an AudioStream can be read once: open the recording again")
        if not 0 < block_s < float("inf"):
            raise ValueError(f"block_s must be above 0, not {block_s}")
        self._started = True
        return self._blocks(max(1, round(block_s * self.sample_rate)))

    def _blocks(self, block_samples: int) -> Iterator[NDArray[np.float32]]:
        rate = self.info.sample_rate
        # Never more than a block is asked for, so that a block of a live source is not delayed.
        chunk_frames = min(
            -(-block_samples * rate // self.sample_rate),
            _MAX_CHUNK // self.info.channels,
            _MAX_CHUNK * rate // self.sample_rate,
        )
        chunk_frames = max(1, chunk_frames)
        pieces = _read_mono(self._read_chunks(chunk_frames), self.info, chunk_frames, self._channel, self.remarks)
        if rate != self.sample_rate:
            pieces = _resample(pieces, rate, self.sample_rate)
        longest_s = self._options.max_duration_s
        n_samples = 0
        for block in _rechunk(pieces, block_samples):
            n_samples += len(block)
            if longest_s is not None and n_samples > longest_s * self.sample_rate + 1:
                raise AudioError(f"it is longer than --max-duration {longest_s:g} s")
            yield block
        if not n_samples:
            raise AudioError(NO_AUDIO)
        if self._options.strict and self.remarks.warnings:
            raise AudioError(self.remarks.warnings[0])

    def _read_chunks(self, chunk_frames: int) -> Iterator[NDArray[np.float32]]:
        while len(chunk := self._reader.read(chunk_frames)):
            self.last_read_at = time.monotonic()
            yield chunk

    def close(self) -> None:
        """Close what `open_audio` opened; a file object that was given to it stays open."""
        self._resources.close()

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class VectorStream(AudioStream):
    """(vector, feature) features that were computed elsewhere, read as blocks of vectors."""

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


def has_own_rate(source: object) -> bool:
    """Tell whether a source is a path or a file object, which states its own sample rate."""
    return isinstance(source, str | os.PathLike) or hasattr(source, "read")


def is_stored(source: object) -> bool:
    """Tell whether a source is a file, of which all is there already; a pipe, an array and live blocks are none."""
    if isinstance(source, Channel):
        source = source.source
    try:
        if isinstance(source, str | os.PathLike):
            return not stat.S_ISFIFO(os.stat(source).st_mode)
        return hasattr(source, "read") and cast(BinaryIO, source).seekable()
    except (OSError, ValueError):  # opening it fails
        return True


def split_channels(
    source: Source, raw_sample_rate: int | None = None, options: ReadOptions = DEFAULT_READING
) -> list[Channel]:
    """Return each channel of a source as a source of its own; opened one by one, each of them is decoded anew.

    Raises:
        AudioError: the source cannot be opened, or not more than once.
    """
    is_readable_twice = os.path.isfile(source) if isinstance(source, str | os.PathLike) else is_array(source)
    if not is_readable_twice:
        raise AudioError("each of its channels is read for itself, which needs a file or an array: choose one channel")
    mixed = dataclasses.replace(options, channel=None)
    with open_audio(source, raw_sample_rate=raw_sample_rate, options=mixed) as stream:
        return [Channel(source, number) for number in range(1, stream.info.channels + 1)]


def open_audio(
    source: Source,
    sample_rate: int = 16000,
    raw_sample_rate: int | None = None,
    options: ReadOptions = DEFAULT_READING,
) -> AudioStream:
    """Open a recording.

    libsndfile reads what it can (wav, flac, ogg, opus, mp3, aiff, au, caf and more), PyAV all else. From a pipe, WAV is
    decoded as it comes, of any length; other formats are copied to a temporary file first, as most of them cannot be
    read without going back.

    Args:
        source: a path; a binary file object, read from its start if it can seek and from where it is if it cannot; or
            an array, (sample,) or (channel, sample), of real numbers in -1..1 or of integers: of NumPy, PyTorch or
            pandas, say, or a list; or an iterator of such arrays, the blocks of one recording. Where another order of
            the axes or another scale is the only one that makes sense, it is taken for that, and `remarks` says so.
        sample_rate: Hz of the blocks that the stream yields.
        raw_sample_rate: Hz of an array or of blocks; nothing else takes or needs it.
        options: how it is read.

    Raises:
        AudioError: the source is missing, unreadable, empty, or not audio, or the rate of an array cannot be.
        SourceTypeError: the source is of none of these types.
        ValueError: `raw_sample_rate` without an array, or an array without it, or with `options.raw`.
    """
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be at least 1 Hz, not {sample_rate}")
    if isinstance(source, Channel):
        options = dataclasses.replace(options, channel=source.number)
        source = source.source
    is_file = has_own_rate(source)
    if not (is_file or is_array(source) or isinstance(source, Iterator)):
        kind = type(source).__name__
        wanted = "a path, a binary file object, an array or an iterator of arrays"
        raise SourceTypeError(f"{wanted} can be opened, not {kind}")
    if is_file == (raw_sample_rate is not None):
        raise ValueError("an array needs its raw_sample_rate, and nothing else has one")
    if raw_sample_rate is not None and not float(raw_sample_rate).is_integer():
        raise AudioError(f"{raw_sample_rate} Hz: a sample rate is a whole number")
    if options.raw is not None and not is_file:
        raise ValueError("raw is for files: an array has no encoding")
    with contextlib.ExitStack() as resources:
        remarks = Remarks()
        reader = _open_reader(source, int(raw_sample_rate or 0), options, remarks, resources)
        resources.callback(reader.close)
        if (options.track or 1) > 1 and not isinstance(reader, DecoderReader):  # which chooses among several itself
            raise AudioError(f"there is no audio track {options.track}: it has 1")
        if not _MIN_RATE_HZ <= reader.info.sample_rate <= _MAX_RATE_HZ:
            rate = reader.info.sample_rate
            raise AudioError(f"a sample rate of {rate} Hz: only {_MIN_RATE_HZ} to {_MAX_RATE_HZ} Hz can be read")
        return AudioStream(reader, sample_rate, resources.pop_all(), options, remarks)
    raise AssertionError("unreachable: an ExitStack of closers swallows nothing")


def _open_reader(
    source: Source, raw_sample_rate: int, options: ReadOptions, remarks: Remarks, resources: contextlib.ExitStack
) -> Reader:
    if is_array(source):
        return ArrayReader(as_array(source), raw_sample_rate, remarks)
    opener = FileOpener(options, remarks, resources)
    if isinstance(source, str | os.PathLike):
        return opener.open_path(Path(source))
    if has_own_rate(source):
        return opener.open_file_object(cast(BinaryIO, source))
    return BlocksReader(cast(Iterator[Any], source), raw_sample_rate, remarks)


def _read_mono(
    chunks: Iterable[NDArray[np.float32]], info: AudioInfo, chunk_frames: int, channel: int | None, remarks: Remarks
) -> Iterator[NDArray[np.float32]]:
    """Yield (sample,) one channel, or the mix of all, on the usual scale and without a constant offset.

    Raises:
        AudioError: a sample is NaN, infinite or absurd; such a value would spread through everything that comes after.
    """
    rate, channels = info.sample_rate, info.channels
    stretch_frames = max(1, min(round(STRETCH_S * rate), _MAX_CHUNK // channels))
    mixer = Mixer(channels, rate, channel, remarks)
    offset = OffsetRemover(stretch_frames)
    scaled = settle_scale(_rechunk(chunks, chunk_frames), remarks)
    position = 0
    for stretch in _rechunk(scaled, stretch_frames):
        mono = mixer.mix(stretch)
        # NaN is not below anything, and the largest of numbers of which one is NaN is NaN.
        if not max(mono.max(), -mono.min()) < _MAX_SAMPLE:
            bad = int((np.abs(mono) < _MAX_SAMPLE).argmin())
            value = f"{mono[bad]:.0e}, where -1 to 1 is usual" if np.isfinite(mono[bad]) else "NaN or infinite"
            second = (position + bad) / rate
            raise AudioError(f"the sample at {second:.3f} s is {value}: repair the file or cut that part out")
        position += len(mono)
        yield offset.remove(mono)
        del stretch, mono  # before the next ones are made


def _resample(pieces: Iterable[NDArray[np.float32]], rate: int, target: int) -> Iterator[NDArray[np.float32]]:
    """Resample (sample,) pieces from `rate` to `target` Hz as one signal of ceil(n * target / rate) samples."""
    resampler = soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ")
    n_in = n_out = 0
    for piece in pieces:
        n_in += len(piece)
        out = resampler.resample_chunk(piece)
        n_out += len(out)
        yield out
    if n_in:
        # Left to itself soxr rounds the length down as well as up, and a lone sample at 44.1 kHz to nothing. It takes
        # what follows the end for silence anyway, so explicit silence only makes the output long enough.
        silence = np.zeros(-(-rate // target) + 1, np.float32)
        out = resampler.resample_chunk(silence, last=True)
        yield out[: -(-n_in * target // rate) - n_out]


def _rechunk(pieces: Iterable[NDArray[np.float32]], block_samples: int) -> Iterator[NDArray[np.float32]]:
    """Yield the same samples in blocks of `block_samples`, the last one perhaps shorter; copies only to join."""
    pending: list[NDArray[np.float32]] = []
    n_pending = 0
    for piece in pieces:
        pending.append(piece)
        n_pending += len(piece)
        if n_pending < block_samples:
            continue
        whole = pending[0] if len(pending) == 1 else np.concatenate(pending)
        n_whole = n_pending - n_pending % block_samples
        for first in range(0, n_whole, block_samples):
            yield whole[first : first + block_samples]
        n_pending -= n_whole
        pending = [whole[n_whole:]] if n_pending else []
        del piece, whole  # before the next ones are made
    if n_pending:
        yield np.concatenate(pending)
