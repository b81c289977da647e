"""Read what libsndfile decodes: one file, or several that were joined into one."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from typing import IO, Any, cast

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from framecls.audio.header import WHOLE, FileLength
from framecls.audio.readers.base import LEAST_MISSING_S, Reader, remark_damage, remark_end
from framecls.errors import AudioError
from framecls.results import AudioInfo, Remarks


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
        length: what is known of the file's length.
        remarks: gets a warning if it is not whole.
        rescue: opens the same file with another decoder, for where libsndfile gives up.

    Raises:
        soundfile.LibsndfileError: libsndfile does not know this format.
    """

    def __init__(
        self,
        handle: IO[bytes],
        is_fresh: bool,
        length: FileLength,
        remarks: Remarks,
        rescue: Callable[[], Reader] | None = None,
    ) -> None:
        # A descriptor spares libsndfile a call into Python for every few kB, and encodings of names. Windows has
        # descriptors that belong to one C library, which need not be libsndfile's.
        by_descriptor = is_fresh and os.name == "posix"
        self._file = _ForwardFile(handle.fileno() if by_descriptor else handle, closefd=False)
        # libsndfile crashes when a file is closed in one thread while another reads it.
        self._lock = threading.Lock()
        self.info = AudioInfo(self._file.samplerate, self._file.channels)
        self.n_frames: int = self._file.frames
        self.is_wav: bool = self._file.format in ("WAV", "WAVEX")
        # The header of a FLAC file has the number of samples, the last page of an Ogg file the time of its end.
        self._promised_s = self.duration_s if self._file.format in ("FLAC", "OGG") else length.promised_s
        self._length = length
        self._is_broken = False  # decoding failed for good
        self._remarks: Remarks | None = remarks
        self._n_read = 0
        self._rescue = rescue
        self._successor: Reader | None = None

    @property
    def duration_s(self) -> float | None:
        """See Reader."""
        # libsndfile says 2^63 - 1 where a header leaves the length open.
        return self.n_frames / self.info.sample_rate if 0 < self.n_frames < 2**60 else None

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        if self._successor is not None:
            return self._read_on(self._successor, n_frames)
        with self._lock:
            if self._file.closed:
                raise AudioError("it was closed while it was read")
            buffer = np.empty((0 if self._is_broken else n_frames, self.info.channels), np.float32)
            try:
                chunk: NDArray[np.float32] = self._file.read(out=buffer)
            except soundfile.LibsndfileError as error:
                chunk = buffer[: self._count_rescued()]
                # What follows all that the header promised is no part of it.
                self._is_broken = not 0 < self.n_frames <= self._n_read + len(chunk)
                if not self._n_read and not len(chunk) and not self._hand_over():
                    raise AudioError(f"decoding broke at its start: it is damaged ({error.error_string})") from error
        self._n_read += len(chunk)
        if not len(chunk) and self._is_broken:
            self._hand_over()
        if self._successor is not None:
            return self._read_on(self._successor, n_frames)
        if not len(chunk) and self._remarks is not None:
            self._remark_end(self._remarks, self._n_read / self.info.sample_rate)
            self._remarks = None
        return chunk

    def _remark_end(self, remarks: Remarks, came_s: float) -> None:
        missing_s = (self._promised_s or 0.0) - came_s
        if self._file.format == "OGG" and not self._length.is_cut and missing_s > LEAST_MISSING_S:
            remarks.warnings.append(
                f"{missing_s:.1f} s in it are damaged and left out: what follows is heard too early"
            )
        else:
            remark_end(remarks, came_s, self._promised_s, self._length.is_cut or self._is_broken)
        remark_damage(remarks, self._length)

    def _hand_over(self) -> bool:
        """Let the other decoder go to where libsndfile gave up, if there is one that knows the file."""
        rescue, self._rescue = self._rescue, None
        if rescue is None:
            return False
        try:
            other = rescue()
        except AudioError:
            return False
        if other.info != self.info:
            other.close()
            return False
        self._successor = other
        n_left = self._n_read
        while n_left and len(skipped := other.read(n_left)):
            n_left -= len(skipped)
        return True

    def _read_on(self, successor: Reader, n_frames: int) -> NDArray[np.float32]:
        chunk = successor.read(n_frames)
        if not len(chunk) and self._remarks is not None:
            if not self._remarks.warnings:
                self._remarks.warnings.append(f"it is damaged at {self._n_read / self.info.sample_rate:.1f} s")
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
        if self._successor is not None:
            self._successor.close()


class ChainReader:
    """Files that were joined, one after the other, at the rate and with the channels of the first.

    An internet radio's recording is such a chain, a link for each piece.

    Args:
        handle: a seekable binary file, which stays open.
        length: where the links begin.
        remarks: is told if the last one is not whole.

    Raises:
        soundfile.LibsndfileError: libsndfile does not know the first one.
    """

    def __init__(self, handle: IO[bytes], length: FileLength, remarks: Remarks) -> None:
        ends = [*length.links[1:], length.end or handle.seek(0, os.SEEK_END)]
        self._spans = list(zip(length.links, ends, strict=True))
        self._handle, self._remarks, self._length = handle, remarks, length
        self._link = self._open()
        self._resampler: soxr.ResampleStream | None = None
        self.info = self._link.info
        self.duration_s: float | None = None

    def _open(self) -> SoundFileReader:
        first, last = self._spans.pop(0)
        # Only the last link can be cut off.
        length = WHOLE if self._spans else FileLength(is_cut=self._length.is_cut, n_damaged=self._length.n_damaged)
        part = io.BufferedReader(_Part(self._handle, first, last))
        return SoundFileReader(cast(IO[bytes], part), False, length, self._remarks)

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
        """Open the next link; False: there is none."""
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
