"""One reader for each way that samples come in: libsndfile, a WAV stream, PyAV in another process, an array."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
import soundfile
import soxr
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
from framecls.audio.extent import WHOLE, Extent
from framecls.audio.faults import explain_os_error, one_line
from framecls.audio.wav import WavFormat
from framecls.config import ReadOptions
from framecls.errors import AudioError
from framecls.results import AudioInfo, Remarks

_log = logging.getLogger(__name__)

NO_AUDIO = "there is no audio in it"
LEAST_MISSING_S = 0.25  # padding, and what rounding makes of a length, is less


class Reader(Protocol):
    """Samples in order, once."""

    @property
    def info(self) -> AudioInfo:
        """Sample rate and channels."""

    @property
    def duration_s(self) -> float | None:
        """What the header says of the length, if anything: an estimate for some formats."""

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """Return (frame, channel) the next samples, at most `n_frames` of each channel and none at the end.

        Raises:
            AudioError: decoding broke.
        """

    def close(self) -> None:
        """Stop; a second call does nothing."""


class ArrayReader:
    """Samples that are in memory already.

    Args:
        samples: (sample,) or (channel, sample), as `as_array` returns them; also (sample, channel) where nothing else
            makes sense.
        sample_rate: Hz.
        remarks: what is to be said of them is added.

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
        remarks: what is to be said of them is added.

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
        if dtype.kind == "f":  # whoever reads the chunks sees to these
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


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A SoundFile that only goes forward.

    After every read soundfile seeks to where it is. That restarts the decoder of an mp3, and it fails at the end of a
    FLAC stream whose header leaves the length open.
    """

    def seekable(self) -> bool:
        return False


class SoundFileReader:
    """What libsndfile reads.

    Args:
        handle: a seekable binary file, which stays open.
        is_fresh: nothing was read from the handle yet and it is a file of the operating system.
        extent: what is known of the file's length.
        remarks: is told if it is not whole.

    Raises:
        soundfile.LibsndfileError: libsndfile does not know this format.
    """

    def __init__(self, handle: IO[bytes], is_fresh: bool, extent: Extent, remarks: Remarks) -> None:
        # A descriptor spares libsndfile a call into Python for every few kB, and any thought about names. Windows has
        # descriptors that belong to one C library, which need not be libsndfile's.
        by_descriptor = is_fresh and os.name == "posix"
        self._file = _ForwardFile(handle.fileno() if by_descriptor else handle, closefd=False)
        # libsndfile crashes when a file is closed in one thread while another reads it.
        self._lock = threading.Lock()
        self.info = AudioInfo(self._file.samplerate, self._file.channels)
        self.n_frames: int = self._file.frames
        self.is_wav: bool = self._file.format in ("WAV", "WAVEX")
        # The header of a FLAC file has the number of samples, which libsndfile passes on whatever there is.
        self._promised_s = self.duration_s if self._file.format == "FLAC" else extent.promised_s
        self._is_cut = extent.is_cut
        self._is_broken = False  # decoding failed, and there is no going on
        self._remarks: Remarks | None = remarks
        self._n_read = 0

    @property
    def duration_s(self) -> float | None:
        """See Reader."""
        # libsndfile says 2^63 - 1 where a header leaves the length open.
        return self.n_frames / self.info.sample_rate if 0 < self.n_frames < 2**60 else None

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        with self._lock:
            if self._file.closed:
                raise AudioError("it was closed while it was read")
            buffer = np.empty((0 if self._is_broken else n_frames, self.info.channels), np.float32)
            try:
                chunk: NDArray[np.float32] = self._file.read(out=buffer)
            except soundfile.LibsndfileError as error:
                chunk = buffer[: self._count_rescued()]
                self._is_broken = True
                if not self._n_read and not len(chunk):
                    raise AudioError(f"decoding broke at its start: it is damaged ({error.error_string})") from error
        self._n_read += len(chunk)
        if not len(chunk) and self._remarks is not None:
            is_cut = self._is_cut or self._is_broken
            remark_end(self._remarks, self._n_read / self.info.sample_rate, self._promised_s, is_cut)
            self._remarks = None
        return chunk

    def _count_rescued(self) -> int:
        """Return how many frames of the read that failed came before the damage."""
        try:
            return max(0, int(self._file.tell()) - self._n_read)
        except soundfile.LibsndfileError:
            return 0

    def close(self) -> None:
        """See Reader."""
        with self._lock:
            self._file.close()


class ChainReader:
    """Files that were joined, one after the other, as the first of them would be: at its rate, with its channels.

    An internet radio's recording is such a chain, a link for each piece.

    Args:
        handle: a seekable binary file, which stays open.
        extent: where the links begin.
        remarks: is told if the last one is not whole.

    Raises:
        soundfile.LibsndfileError: libsndfile does not know the first one.
    """

    def __init__(self, handle: IO[bytes], extent: Extent, remarks: Remarks) -> None:
        ends = [*extent.links[1:], handle.seek(0, os.SEEK_END)]
        self._spans = list(zip(extent.links, ends, strict=True))
        self._handle, self._remarks, self._extent = handle, remarks, extent
        self._link = self._open()
        self._resampler: soxr.ResampleStream | None = None
        self.info = self._link.info
        self.duration_s: float | None = None

    def _open(self) -> SoundFileReader:
        first, last = self._spans.pop(0)
        # Only the last link can be cut off.
        extent = WHOLE if self._spans else Extent(is_cut=self._extent.is_cut)
        part = io.BufferedReader(_Part(self._handle, first, last))
        return SoundFileReader(cast(IO[bytes], part), False, extent, self._remarks)

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        while True:
            chunk = self._link.read(n_frames)
            is_over = not len(chunk)
            chunk = self._fit(chunk, is_over)
            if len(chunk):
                return chunk
            if is_over and not self._next():
                return chunk

    def _next(self) -> bool:
        """Go on to the next link; False: there is none."""
        while self._spans:
            self._link.close()
            try:
                self._link = self._open()
            except soundfile.LibsndfileError:
                self._remarks.warnings.append("a part of it is damaged and was skipped")
                continue
            ours, its = self.info.sample_rate, self._link.info.sample_rate
            if ours != its:
                self._resampler = soxr.ResampleStream(its, ours, self.info.channels, dtype="float32", quality="HQ")
            return True
        return False

    def _fit(self, chunk: NDArray[np.float32], is_over: bool) -> NDArray[np.float32]:
        """Return (frame, channel) a chunk of this link at the rate and with the channels of the first."""
        channels = self.info.channels
        if chunk.shape[1] != channels:
            mono = chunk.mean(axis=1, keepdims=True)
            chunk = np.repeat(mono, channels, axis=1)
        if self._resampler is not None:
            chunk = self._resampler.resample_chunk(np.ascontiguousarray(chunk), last=is_over)
            chunk = chunk.reshape(-1, channels)
            self._resampler = None if is_over else self._resampler
        return chunk

    def close(self) -> None:
        """See Reader."""
        self._link.close()


class _Part(io.RawIOBase):
    """The bytes `[first, last)` of a file as a file."""

    def __init__(self, handle: IO[bytes], first: int, last: int) -> None:
        self._handle, self._first, self._last = handle, first, last
        self._position = first

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._first, os.SEEK_CUR: self._position, os.SEEK_END: self._last}[whence]
        self._position = max(self._first, base + offset)
        return self._position - self._first

    def readinto(self, buffer: Any) -> int:
        self._handle.seek(self._position)
        data = self._handle.read(max(0, min(len(buffer), self._last - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class WavStreamReader:
    """A WAV stream that cannot be wound back; the samples come next.

    Args:
        handle: binary, which stays open.
        wav: what its header said.
        remarks: is told if less comes than that.
    """

    def __init__(self, handle: IO[bytes], wav: WavFormat, remarks: Remarks) -> None:
        self._remarks: Remarks | None = remarks
        self._n_read = 0
        self._handle = handle
        self._wav = wav
        self._left = wav.n_frames
        self._ahead = b""  # read already, to see whether samples go on
        self.info = AudioInfo(wav.sample_rate, wav.channels)
        self.duration_s: float | None = None if wav.n_frames is None else wav.n_frames / wav.sample_rate

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        if self._left == 0 and self._goes_on():
            self._left = None
        if self._left is not None:
            n_frames = min(n_frames, self._left)
        n_bytes = n_frames * self._wav.frame_bytes
        data = self._ahead[:n_bytes] + read_exactly(self._handle, max(0, n_bytes - len(self._ahead)))
        self._ahead = self._ahead[n_bytes:]
        n_frames = len(data) // self._wav.frame_bytes
        if self._left is not None:
            self._left -= n_frames
        self._n_read += n_frames
        if n_frames == 0:
            if self._remarks is not None:
                remark_end(self._remarks, self._n_read / self._wav.sample_rate, self.duration_s, False)
                self._remarks = None
            return np.zeros((0, self._wav.channels), np.float32)
        # libsndfile knows A-law and the rest; to it this is a small file without a header.
        decoded: NDArray[np.float32] = soundfile.read(
            io.BytesIO(data[: n_frames * self._wav.frame_bytes]),
            dtype="float32",
            always_2d=True,
            samplerate=self._wav.sample_rate,
            channels=self._wav.channels,
            format="RAW",
            subtype=self._wav.subtype,
            endian=self._wav.endian,
        )[0]
        return decoded

    def _goes_on(self) -> bool:
        """Tell whether more samples follow those that the header counted, and no chunk."""
        ahead = read_exactly(self._handle, 9)
        if len(ahead) < 8 or not ahead.strip(b"\0"):
            return False
        # Chunks begin at even places, or right behind the samples where a writer forgot that.
        if any(re.match(rb"[A-Za-z0-9_]{3}[A-Za-z0-9_ \0]|ID3|TAG", ahead[skip:]) for skip in (0, 1)):
            return False
        assert self.duration_s is not None
        if self._remarks is not None:
            self._remarks.notes.append(f"its header says {self.duration_s:.1f} s, and samples go on: all are read")
        self._ahead = ahead
        return True

    def close(self) -> None:
        """See Reader."""


def read_exactly(handle: IO[bytes], n_bytes: int) -> bytes:
    """Return the next `n_bytes` of a stream, which may hand out fewer at a time, or what is left of it."""
    parts: list[bytes] = []
    try:
        while n_bytes > 0:
            part = handle.read(n_bytes)
            if part is None:  # in non-blocking mode, where nothing has come yet
                _wait_for(handle)
                continue
            if not part:
                break
            parts.append(part)
            n_bytes -= len(part)
    except OSError as error:
        raise explain_os_error(error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _wait_for(handle: IO[bytes]) -> None:
    """Wait until something can be read, or the other end is closed; now and then come back to be sure."""
    try:
        select.select([handle], [], [], 1.0)
    except (OSError, ValueError):  # nothing that a system can wait for
        time.sleep(0.01)


class DecoderMissingError(AudioError):
    """PyAV is wanted and does not load."""


class ContainerReader:
    """What PyAV reads, decoded by the program `container.py` in a process of its own.

    Args:
        path: a file of the operating system.
        options: which track, and how long to wait for the decoder.
        remarks: is told what there is to say of the recording.
        extent: what is known of its length.
        inherited: a descriptor that the path names.

    Raises:
        AudioError: it cannot be read, or PyAV is not there.
    """

    def __init__(
        self,
        path: Path,
        options: ReadOptions,
        remarks: Remarks,
        extent: Extent = WHOLE,
        inherited: int | None = None,
    ) -> None:
        self._timeout_s = options.timeout_s
        self._remarks = remarks
        self._extent = extent
        self._ended: dict[str, Any] | None = None
        self._frames = np.zeros((0, 1), np.float32)
        self._n_read = 0
        program = Path(__file__).with_name("container.py")
        try:
            # A process group of its own: Ctrl-C at a terminal is for this program alone, which may want to finish. Its
            # standard input is never written to; the process ends when this one does and closes it.
            self._process = subprocess.Popen(
                [sys.executable, "-P", program, path, str(options.track or 0)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=() if inherited is None else (inherited,),
                process_group=0,
            )
        except OSError as error:
            raise AudioError(f"no process can be started to decode it: {error.strerror}") from error
        try:
            kind, payload = self._receive()
            if kind != b"H":
                self._finish(json.loads(payload))
                raise AudioError(NO_AUDIO)
            header = json.loads(payload)
        except BaseException:
            self.close()
            raise
        self.info = AudioInfo(header["rate"], header["channels"])
        self.duration_s: float | None = header["duration_s"]

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        while not len(self._frames) and self._ended is None:
            kind, payload = self._receive()
            if kind == b"A":
                self._frames = np.frombuffer(payload, np.float32).reshape(-1, self.info.channels)
            else:
                self._finish(json.loads(payload))
        chunk, self._frames = self._frames[:n_frames], self._frames[n_frames:]
        self._n_read += len(chunk)
        return chunk

    def _receive(self) -> tuple[bytes, bytearray]:
        """Return the next message and its kind.

        Raises:
            AudioError: none comes any more, or none in time.
        """
        assert self._process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        alarm = threading.Timer(self._timeout_s, expire)
        alarm.start()
        try:
            head = read_exactly(self._process.stdout, 5)
            size = struct.unpack("<I", head[1:])[0] if len(head) == 5 else 0
            payload = bytearray(read_exactly(self._process.stdout, size))
        finally:
            alarm.cancel()
        if len(head) < 5 or len(payload) < size:
            status = self._process.wait()
            if expired.is_set():
                raise AudioError(f"its decoder gave nothing for {self._timeout_s:g} s and was stopped (--timeout)")
            where = f" after {self._n_read / self.info.sample_rate:.2f} s" if self._n_read else ""
            raise AudioError(f"its decoder died{where}: the file is damaged (exit status {status})")
        return head[:1], payload

    def _finish(self, end: dict[str, Any]) -> None:
        """Take what the program said last.

        Raises:
            AudioError: it could not read the recording.
        """
        self._ended = end
        if "missing" in end:
            raise DecoderMissingError(
                "not audio that libsndfile can read; m4a, mp4, webm and all other kinds need PyAV, which does not load "
                f"({one_line(end['missing'])}): pip install av"
            )
        if "error" in end:
            where = f" after {self._n_read / self.info.sample_rate:.2f} s" if self._n_read else ""
            raise AudioError(f"{one_line(end['error'])}{where}")
        if end["note"]:
            self._remarks.notes.append(one_line(end["note"]))
        is_cut = end["cut"] or self._extent.is_cut
        remark_end(self._remarks, end["end_s"], end["promised_s"] or self._extent.promised_s, is_cut)
        if end["n_damaged"] and not self._remarks.truncated:
            many = end["n_damaged"] > 1
            packets = f"{end['n_damaged']} damaged packets, the first" if many else "a damaged packet"
            were = "were" if many else "was"
            self._remarks.warnings.append(f"{packets} at {end['damaged_s']:.1f} s, {were} skipped")
        if end["jumps_s"]:
            at = ", ".join(f"{second:.1f} s" for second in end["jumps_s"])
            self._remarks.warnings.append(f"its times jump at {at}: what follows may be heard at another time")

    def close(self) -> None:
        """See Reader."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def remark_end(remarks: Remarks, came_s: float, promised_s: float | None, is_cut: bool) -> None:
    """Remark where a recording ended, if it is not whole.

    Args:
        remarks: of the recording.
        came_s: its length in seconds.
        promised_s: what its header says of that; None: nothing.
        is_cut: its last packet is not whole, or not marked as the last.
    """
    if promised_s is not None and promised_s - came_s > LEAST_MISSING_S:
        reason = f"but its header says {promised_s:.1f} s"
    elif is_cut:
        reason = "in the middle of its data"
    else:
        return
    remarks.truncated = True
    remarks.warnings.append(f"it ends after {came_s:.1f} s, {reason}: it was cut off")
