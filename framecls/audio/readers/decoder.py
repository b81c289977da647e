"""Read what PyAV decodes in a process of its own, which runs `decoder_program.py`."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.audio.faults import explain_os_error, explain_stall
from framecls.audio.header import WHOLE, FileLength
from framecls.audio.readers.base import NO_AUDIO, remark_damage, remark_end
from framecls.config import ReadOptions
from framecls.errors import AudioError
from framecls.results import AudioInfo, Remarks
from framecls.text import one_line

_PROGRAM = Path(__file__).parents[1] / "decoder_program.py"
_MAX_IDLE = 4
_PIPE_BYTES = 1 << 20


class DecoderMissingError(AudioError):
    """PyAV is needed and does not load."""


class _DiedError(AudioError):
    """The process ended without an answer."""


class _Process:
    """A process that decodes one recording after another."""

    def __init__(self, inherited: int | None = None) -> None:
        self.owner = os.getpid()
        self.is_used = False
        try:
            # A process group of its own: Ctrl-C at a terminal is for this program alone, which may want to finish. The
            # process ends when this one does and its standard input closes.
            self.popen = subprocess.Popen(
                [sys.executable, "-P", _PROGRAM],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=() if inherited is None else (inherited,),
                process_group=0,
            )
        except OSError as error:
            raise AudioError(f"no process can be started to decode it: {error.strerror}") from error
        # Fewer turns between the two processes, which count where others compute; not every system can.
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            assert self.popen.stdout is not None
            fcntl.fcntl(self.popen.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def request(self, path: str, track: int) -> None:
        """Ask for a recording."""
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said last is still to be read
            self.popen.stdin.write(json.dumps({"path": path, "track": track}).encode() + b"\n")

    def receive(self, timeout_s: float) -> tuple[bytes, bytearray]:
        """Return the next message and its kind.

        Raises:
            AudioError: none comes any more, or none in time.
        """
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.popen.kill()

        alarm = threading.Timer(timeout_s, expire)
        alarm.start()
        try:
            head = self._read(5)
            payload = self._read(struct.unpack("<I", head[1:])[0])
        except EOFError as error:
            status = self.popen.wait()
            if expired.is_set():
                raise explain_stall(timeout_s) from error
            raise _DiedError(f"the file is damaged (exit status {status})") from error
        finally:
            alarm.cancel()
        return bytes(head[:1]), payload

    def _read(self, n_bytes: int) -> bytearray:
        assert self.popen.stdout is not None
        data = bytearray(n_bytes)
        view = memoryview(data)
        try:
            while view:
                n_read = self.popen.stdout.readinto(view)  # type: ignore[attr-defined]  # it is not buffered
                if not n_read:
                    raise EOFError
                view = view[n_read:]
        except OSError as error:
            raise explain_os_error(error) from error
        return data

    def end(self) -> None:
        """Kill the process."""
        self.popen.kill()
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()


class _Pool:
    """Idle decoder processes: starting one takes longer than decoding a short recording."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        atexit.register(self.clear)

    def take(self) -> _Process:
        """Return an idle process, or else a new one."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.owner == os.getpid():  # otherwise this process is a fork of the owner
                    return process
        return _Process()

    def put(self, process: _Process) -> None:
        """Keep a process that has finished a recording, unless enough are idle."""
        process.is_used = True
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(process)
                return
        process.end()

    def clear(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            if process.owner == os.getpid():
                process.end()


pool = _Pool()


class DecoderReader:
    """What PyAV reads.

    Args:
        path: a file of the operating system.
        options: which track, and how long to wait for the decoder.
        remarks: gets notes and warnings on the recording.
        length: what is known of its length.
        inherited: a descriptor that the path names.

    Raises:
        AudioError: it cannot be read, or PyAV is not there.
    """

    def __init__(
        self,
        path: Path,
        options: ReadOptions,
        remarks: Remarks,
        length: FileLength = WHOLE,
        inherited: int | None = None,
    ) -> None:
        self._timeout_s = options.timeout_s
        self._remarks = remarks
        self._length = length
        self._has_ended = self._has_closed = self._is_reusable = False
        self._frames = np.zeros((0, 1), np.float32)
        self._n_read = 0
        self.info = AudioInfo(0, 0)
        self._process = pool.take() if inherited is None else _Process(inherited)
        self._is_shared = inherited is None
        try:
            # Not tidied: `..` behind a link leads elsewhere than it looks.
            header = self._open(os.path.join(os.getcwd(), path), options.track or 0)
        except BaseException:
            self.close()
            raise
        self.info = AudioInfo(header["rate"], header["channels"])
        self._is_planar: bool = header["is_planar"]
        self.duration_s: float | None = header["duration_s"]

    def _open(self, path: str, track: int) -> dict[str, Any]:
        self._process.request(path, track)
        try:
            kind, payload = self._receive()
        except _DiedError:
            if not self._process.is_used:
                raise
            # It was idle for too long, or the recording before has damaged it.
            self._process.end()
            self._process = _Process()
            return self._open(path, track)
        if kind != b"H":
            self._finish(json.loads(payload))
            raise AudioError(NO_AUDIO)
        header: dict[str, Any] = json.loads(payload)
        return header

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        while not len(self._frames) and not self._has_ended:
            kind, payload = self._receive()
            if kind != b"A":
                self._finish(json.loads(payload))
                continue
            samples = np.frombuffer(payload, np.float32)
            if self._is_planar:
                self._frames = np.ascontiguousarray(samples.reshape(self.info.channels, -1).T)
            else:
                self._frames = samples.reshape(-1, self.info.channels)
        chunk, self._frames = self._frames[:n_frames], self._frames[n_frames:]
        self._n_read += len(chunk)
        return chunk

    def _receive(self) -> tuple[bytes, bytearray]:
        try:
            return self._process.receive(self._timeout_s)
        except _DiedError as error:
            raise _DiedError(f"its decoder died{self._where()}: {error}") from error

    def _where(self) -> str:
        return f" after {self._n_read / self.info.sample_rate:.2f} s" if self._n_read else ""

    def _finish(self, end: dict[str, Any]) -> None:
        """Process the program's last message.

        Raises:
            AudioError: it could not read the recording.
        """
        self._has_ended = True
        if "missing" in end:
            raise DecoderMissingError(
                "not audio that libsndfile can read; m4a, mp4, webm and all other kinds need PyAV, which does not load "
                f"({one_line(end['missing'])}): pip install av"
            )
        if "error" in end:
            raise AudioError(f"{one_line(end['error'])}{self._where()}")
        # The program ends itself after a damaged recording.
        self._is_reusable = self._is_shared and not end["cut"] and not end["n_damaged"]
        if end["note"]:
            self._remarks.notes.append(one_line(end["note"]))
        is_cut = end["cut"] or self._length.is_cut
        remark_end(self._remarks, end["end_s"], end["promised_s"] or self._length.promised_s, is_cut)
        if end["n_damaged"] and not self._remarks.truncated:
            many = end["n_damaged"] > 1
            packets = f"{end['n_damaged']} damaged packets, the first" if many else "a damaged packet"
            were = "were" if many else "was"
            self._remarks.warnings.append(f"{packets} at {end['damaged_s']:.1f} s, {were} skipped")
        if end["jumps_s"]:
            at = ", ".join(f"{second:.1f} s" for second in end["jumps_s"])
            self._remarks.warnings.append(f"its times jump at {at}: what follows may be heard at another time")
        remark_damage(self._remarks, self._length)

    def close(self) -> None:
        """See Reader."""
        if self._has_closed:
            return
        self._has_closed = True
        if self._is_reusable:
            pool.put(self._process)
        else:
            self._process.end()
