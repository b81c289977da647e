"""Choose the reader of a file or a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

import soundfile

from framecls.audio.faults import explain_os_error
from framecls.audio.header import FileLength, PcmFormat, parse_wav_header
from framecls.audio.length.measure import measure_length
from framecls.audio.readers.base import NO_AUDIO, Reader, read_exactly
from framecls.audio.readers.decoder import DecoderMissingError, DecoderReader
from framecls.audio.readers.pcm import PcmReader
from framecls.audio.readers.sndfile import ChainReader, SoundFileReader
from framecls.config import RAW_ENCODINGS, RawAudio, ReadOptions
from framecls.errors import AudioError
from framecls.results import Remarks

# Names of open files, where the system has them.
_DESCRIPTORS = Path("/dev/fd")
# A pipe that is not WAV is copied to a file before it is read. No recording is as large; an endless pipe is.
_MAX_PIPE_BYTES = 8 << 30


class FileOpener:
    """Finds the reader for a file or a pipe.

    Args:
        options: how it is read.
        remarks: gets notes and warnings on it.
        resources: gets what is to be closed with the recording.
    """

    def __init__(self, options: ReadOptions, remarks: Remarks, resources: contextlib.ExitStack) -> None:
        self._options = options
        self._remarks = remarks
        self._resources = resources

    def open_path(self, path: Path) -> Reader:
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                raise AudioError("it is a folder, not a file")
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
                raise AudioError("it is a device, not a file: pipe audio in, with - for its name")
            # Unbuffered: closing a buffered file waits for a thread that reads it, for ever if that is a silent pipe.
            handle = self._resources.enter_context(open(path, "rb", buffering=0))  # noqa: SIM115
        except (OSError, ValueError) as error:
            raise explain_os_error(error) from error
        if status.st_size == 0 and not stat.S_ISFIFO(status.st_mode):
            raise AudioError("the file is empty (0 bytes)")
        if self._options.raw is not None:
            return self._read_pcm(handle, _raw_format(self._options.raw))
        if stat.S_ISFIFO(status.st_mode):
            return self._open_pipe(handle)
        return self._open_regular(handle, path)

    def open_file_object(self, handle: BinaryIO) -> Reader:
        if isinstance(handle, io.TextIOBase):
            raise AudioError("the file object is open as text: open it in binary mode")
        if getattr(handle, "closed", False):
            raise AudioError("the file object is closed: open the file again")
        raw = self._options.raw
        try:
            if handle.isatty():
                raise AudioError("standard input is a terminal: pipe audio into it, or give a file")
            if not handle.seekable():
                return self._open_pipe(handle) if raw is None else self._read_pcm(handle, _raw_format(raw))
            if handle.seek(0, os.SEEK_END) == 0:
                raise AudioError("the file is empty (0 bytes)")
            handle.seek(0)
        except OSError as error:
            raise explain_os_error(error) from error
        return self._open_regular(handle, None) if raw is None else self._read_pcm(handle, _raw_format(raw))

    def _open_regular(self, handle: IO[bytes], path: Path | None) -> Reader:
        """Open a seekable file with the first decoder that knows it and reads it to its end.

        Args:
            handle: the file, at its start.
            path: None if it has no name to hand to another process.
        """
        try:
            length = measure_length(handle)
        except OSError as error:
            raise explain_os_error(error) from error
        if not length.has_samples:
            raise AudioError(NO_AUDIO)
        if length.samples is not None:
            handle.seek(length.first_byte)
            self._remarks.notes.append(f"its header says {length.promised_s:.1f} s, and samples go on: all are read")
            return self._read_pcm(handle, length.samples)
        if length.beyond_libsndfile:
            try:
                if length.links:
                    return ChainReader(handle, length, self._remarks)
                return self._open_with_pyav(handle, path, length)
            except soundfile.LibsndfileError:
                return self._open_with_pyav(handle, path, length)
            except DecoderMissingError as error:
                what = "what is whole in it" if length.n_damaged else "only its first part"
                self._remarks.warnings.append(f"{what} is read: the rest needs PyAV ({error})")
                handle.seek(0)
        try:
            rescue = partial(self._open_with_pyav, handle, path, length)
            reader = SoundFileReader(handle, path is not None, length, self._remarks, rescue)
        except (soundfile.LibsndfileError, TypeError):  # soundfile wants to be told the rate of what is called .raw
            return self._open_with_pyav(handle, path, length)
        if reader.n_frames == 0 and reader.is_wav:
            # A recorder that was killed leaves a length of 0 in the header, with the samples after it.
            reader.close()
            handle.seek(0)
            wav = parse_wav_header(lambda n_bytes: read_exactly(handle, n_bytes))
            if wav is None:
                raise AudioError(NO_AUDIO)
            return self._read_pcm(handle, wav)
        return reader

    def _read_pcm(self, handle: IO[bytes], wav: PcmFormat) -> PcmReader:
        return PcmReader(handle, wav, self._remarks)

    def _open_with_pyav(self, handle: IO[bytes], path: Path | None, length: FileLength) -> DecoderReader:
        inherited = None
        if path is None:
            handle.seek(0)
            handle, path = self._copy_to_file(handle, b"")
        if path.parent == _DESCRIPTORS:
            inherited = handle.fileno()
            handle.seek(0)
        return DecoderReader(path, self._options, self._remarks, length, inherited)

    def _open_pipe(self, handle: IO[bytes]) -> Reader:
        head = bytearray()  # read already, in case that it is not WAV

        def read(n_bytes: int) -> bytes:
            data = read_exactly(handle, n_bytes)
            head.extend(data)
            return data

        wav = parse_wav_header(read)
        if wav is not None:
            return self._read_pcm(handle, wav)
        if not head:
            raise AudioError("nothing came through the pipe (0 bytes)")
        file, path = self._copy_to_file(handle, bytes(head))
        return self._open_regular(file, path)

    def _copy_to_file(self, handle: IO[bytes], head: bytes) -> tuple[IO[bytes], Path]:
        """Copy `head` and the rest of a stream to a temporary file; return that file at its start, and its path."""
        try:
            if _DESCRIPTORS.is_dir():
                # Without a name of its own it is gone with this process, however that ends.
                file: IO[bytes] = self._resources.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
                path = _DESCRIPTORS / str(file.fileno())
            else:
                folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="framecls-"))
                path = Path(folder) / "audio"
                file = self._resources.enter_context(open(path, "w+b", buffering=0))  # noqa: SIM115
            n_bytes = 0
            part = head or read_exactly(handle, 1 << 20)
            while part:
                view = memoryview(part)
                while view:
                    view = view[file.write(view) :]
                n_bytes += len(part)
                if head and n_bytes > _MAX_PIPE_BYTES:
                    size = f"{_MAX_PIPE_BYTES >> 30} GB"
                    raise AudioError(f"{size} came through the pipe and no end: pipe WAV in, which needs none")
                part = read_exactly(handle, 1 << 20)
            file.seek(0)
        except OSError as error:
            raise AudioError(f"it cannot be copied to a temporary file: {error.strerror or error}") from error
        return file, path


def _raw_format(raw: RawAudio) -> PcmFormat:
    """Return the format of samples without a header, of unknown length."""
    subtype, endian, sample_bytes = RAW_ENCODINGS[raw.encoding]
    return PcmFormat(raw.sample_rate, raw.channels, subtype, raw.channels * sample_bytes, None, endian)
