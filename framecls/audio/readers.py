"""One reader for each way that samples come in: libsndfile, a WAV stream from a pipe, the ffmpeg program, an array."""

from __future__ import annotations

import functools
import io
import logging
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from framecls.audio.arrays import (
    MAX_CHANNELS,
    Scale,
    as_array,
    explain_axes,
    find_channel_axis,
    find_peak,
    guess_scale,
    guess_scale_of_first,
    scale_of,
)
from framecls.audio.faults import explain_os_error, one_line
from framecls.config import RAW_ENCODINGS, RawAudio
from framecls.errors import AudioError
from framecls.results import AudioInfo, Remarks

_log = logging.getLogger(__name__)

NO_AUDIO = "there is no audio in it"
# By its name alone ffmpeg takes a huge file of anything for an mp3, and looks for the first frame to its end.
FFMPEG_START_LIMIT_S = 30.0


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

    Raises:
        soundfile.LibsndfileError: libsndfile does not know this format.
    """

    def __init__(self, handle: IO[bytes], is_fresh: bool) -> None:
        # A descriptor spares libsndfile a call into Python for every few kB, and any thought about names. Windows has
        # descriptors that belong to one C library, which need not be libsndfile's.
        by_descriptor = is_fresh and os.name == "posix"
        self._file = _ForwardFile(handle.fileno() if by_descriptor else handle, closefd=False)
        # libsndfile crashes when a file is closed in one thread while another reads it.
        self._lock = threading.Lock()
        self.info = AudioInfo(self._file.samplerate, self._file.channels)
        self.n_frames: int = self._file.frames
        self.is_wav: bool = self._file.format in ("WAV", "WAVEX")

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
            try:
                chunk: NDArray[np.float32] = self._file.read(n_frames, dtype="float32", always_2d=True)
                return chunk
            except soundfile.LibsndfileError as error:
                raise _broken(self._position_s(), f"libsndfile: {error.error_string}") from error

    def _position_s(self) -> float:
        try:
            return max(0.0, float(self._file.tell() / self.info.sample_rate))
        except soundfile.LibsndfileError:
            return 0.0

    def close(self) -> None:
        """See Reader."""
        with self._lock:
            self._file.close()


def _broken(position_s: float, reason: str) -> AudioError:
    return AudioError(f"decoding broke after {position_s:.2f} s: the file is damaged or cut off ({one_line(reason)})")


@dataclass(frozen=True)
class WavFormat:
    """What the header of a WAV stream says."""

    sample_rate: int
    channels: int
    subtype: str  # libsndfile's name
    frame_bytes: int
    n_frames: int | None  # None: until the stream ends
    endian: Literal["LITTLE", "BIG"] = "LITTLE"

    @classmethod
    def of_raw(cls, raw: RawAudio) -> WavFormat:
        """Return samples without a header as what follows the header of a WAV stream of no known length."""
        subtype, endian, sample_bytes = RAW_ENCODINGS[raw.encoding]
        return cls(raw.sample_rate, raw.channels, subtype, raw.channels * sample_bytes, None, endian)


# (format code, bits) to libsndfile's name
_WAV_SUBTYPES = {
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}
_EXTENSIBLE = 0xFFFE
_MAX_CHUNK_BYTES = 1 << 20
# Programs that write into a pipe cannot go back to fill in the length: ffmpeg leaves 2^32 - 1, sox and arecord about
# 2^31, others 0.
_MIN_OPEN_BYTES = 0x7FFF0000


def parse_wav_header(read: Callable[[int], bytes]) -> WavFormat | None:
    """Read a RIFF/WAVE header up to the first sample.

    Args:
        read: returns that many bytes, or fewer at the end of the stream.

    Returns:
        the format, or None where this is no WAV stream of a kind that has one sample after the other.
    """
    head = read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    fmt = b""
    while len(chunk := read(8)) == 8:
        name, n_bytes = struct.unpack("<4sI", chunk)
        if name == b"data":
            return _wav_format(fmt, n_bytes)
        if n_bytes > _MAX_CHUNK_BYTES:
            return None
        body = read(n_bytes + n_bytes % 2)  # chunks begin at even places
        if name == b"fmt ":
            fmt = body
    return None


def _wav_format(fmt: bytes, data_bytes: int) -> WavFormat | None:
    if len(fmt) < 16:
        return None
    code, channels, sample_rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", fmt)
    if code == _EXTENSIBLE and len(fmt) >= 26:
        (code,) = struct.unpack_from("<H", fmt, 24)  # the sub-format begins with what the code would have been
    subtype = _WAV_SUBTYPES.get((code, bits))
    if subtype is None or not 1 <= channels <= MAX_CHANNELS or sample_rate < 1 or frame_bytes != channels * bits // 8:
        return None
    is_open = data_bytes == 0 or data_bytes >= _MIN_OPEN_BYTES
    return WavFormat(sample_rate, channels, subtype, frame_bytes, None if is_open else data_bytes // frame_bytes)


class WavStreamReader:
    """A WAV stream that cannot be wound back; the samples come next.

    Args:
        handle: binary, which stays open.
        wav: what its header said.
    """

    def __init__(self, handle: IO[bytes], wav: WavFormat) -> None:
        self._handle = handle
        self._wav = wav
        self._left = wav.n_frames
        self.info = AudioInfo(wav.sample_rate, wav.channels)
        self.duration_s: float | None = None if wav.n_frames is None else wav.n_frames / wav.sample_rate

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        if self._left is not None:
            n_frames = min(n_frames, self._left)
        data = read_exactly(self._handle, n_frames * self._wav.frame_bytes)
        n_frames = len(data) // self._wav.frame_bytes
        if self._left is not None:
            self._left -= n_frames
        if n_frames == 0:
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

    def close(self) -> None:
        """See Reader."""


def read_exactly(handle: IO[bytes], n_bytes: int) -> bytes:
    """Return the next `n_bytes` of a stream, which may hand out fewer at a time, or what is left of it."""
    parts: list[bytes] = []
    try:
        while n_bytes > 0 and (part := handle.read(n_bytes)):
            parts.append(part)
            n_bytes -= len(part)
    except OSError as error:
        raise explain_os_error(error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


class FfmpegReader:
    """What the ffmpeg program reads, as a WAV stream of floats at the file's own rate and channels.

    Args:
        path: a file of the operating system.

    Raises:
        AudioError: there is no such program, or it cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        program = shutil.which("ffmpeg")
        if program is None:
            raise AudioError(
                "not audio that libsndfile can read; any other kind needs the program ffmpeg, which is not on PATH"
            )
        self._path = path
        # `file:` keeps a name from being taken for an option or an address. The whitelist keeps what is in the file (a
        # playlist, say) from sending ffmpeg to the network, whatever the defaults of its version are.
        command = [program, "-v", "error", "-nostdin", "-protocol_whitelist", "file", "-i", f"file:{path}"]
        command += ["-vn", "-sn", "-dn", "-map_metadata", "-1", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
        # A file, not a pipe: nobody has to empty it for ffmpeg to go on.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # close() closes it
        try:
            # A process group of its own: Ctrl-C at a terminal is for this program alone, which may want to finish.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, process_group=0
            )
        except OSError as error:
            self._errors.close()
            raise AudioError(f"the program {program} cannot be run: {error.strerror}") from error
        assert self._process.stdout is not None
        alarm = threading.Timer(FFMPEG_START_LIMIT_S, self._process.kill)
        alarm.start()
        try:
            wav = parse_wav_header(functools.partial(read_exactly, self._process.stdout))
            if wav is None:
                raise self._explain_start()
        except BaseException:
            self.close()
            raise
        finally:
            alarm.cancel()
        self._stream = WavStreamReader(self._process.stdout, wav)
        self.info = self._stream.info
        self._position = 0

    @functools.cached_property
    def duration_s(self) -> float | None:
        """See Reader; asks the program ffprobe, if there is one."""
        program = shutil.which("ffprobe")
        if program is None:
            return None
        command = [program, "-v", "error", "-protocol_whitelist", "file", "-show_entries", "format=duration"]
        command += ["-of", "default=noprint_wrappers=1:nokey=1", f"file:{self._path}"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
            duration_s = float(done.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None
        return duration_s if 0 < duration_s < float("inf") else None

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        chunk = self._stream.read(n_frames)
        self._position += len(chunk)
        if not len(chunk) and self._process.wait() != 0:
            raise _broken(self._position / self.info.sample_rate, f"ffmpeg: {self._last_error()}")
        return chunk

    def _explain_start(self) -> AudioError:
        self._process.wait()
        if self._process.returncode == -signal.SIGKILL:
            limit = f"{FFMPEG_START_LIMIT_S:g} s"
            return AudioError(f"not audio that libsndfile or ffmpeg can read (ffmpeg: nothing found in {limit})")
        reason = self._last_error()
        if "does not contain any stream" in reason:
            return AudioError(NO_AUDIO)
        return AudioError(f"not audio that libsndfile or ffmpeg can read (ffmpeg: {reason})")

    def _last_error(self) -> str:
        """Return the last line that ffmpeg wrote to its standard error, without the name of the file."""
        self._errors.seek(0)
        text = os.fsdecode(self._errors.read()).replace(f"file:{self._path}: ", "")
        text = text.encode("utf-8", "replace").decode()  # half a name may be left that is not valid UTF-8
        lines = [line for line in text.splitlines() if line.strip()]
        return one_line(lines[-1]) if lines else f"exit status {self._process.returncode}"

    def close(self) -> None:
        """See Reader."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
