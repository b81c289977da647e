"""The streams that the command writes to: what goes wrong with stdout is told apart from all else, by its own type."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import select
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from framecls.cli.console import PROGRAM
from framecls.errors import StdoutError

# What stands for the characters of our own texts where a stream has ASCII only.
_PLAIN = {"×": "x", "–": "-", "…": "...", "·": "-", "→": "->"}
_WAIT_S = 0.01  # between two tries where the system cannot say when a stream can be written again


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Have `sys.stdout` raise `StdoutError`, and `sys.stderr` nothing at all, where they cannot be written.

    Both wait where they are in non-blocking mode and full, and show any text: what their encoding does not have is made
    plain, or escaped, so that no file name can break a message.
    """
    codecs.register_error(PROGRAM, _make_plain)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _guard(sys.stdout, _Stdout), _guard(sys.stderr, _Stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(StdoutError, ValueError):
                stream.flush()
        raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
        if isinstance(raw, _Patient):
            raw.discards = True  # what could not be written has been told, and is not tried again
        sys.stdout, sys.stderr = before


def open_stdout(*, for_people: bool = False) -> TextIO:
    """Return stdout, ready for results; for programs these are the same bytes whatever the locale or the system.

    Raises:
        StdoutError: it is closed: nobody could get the results.
    """
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Patient):
        raw.check()
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if not for_people and reconfigure is not None:
        reconfigure(encoding="utf-8", newline="\n")
    return sys.stdout


class _Patient(io.RawIOBase):
    """A raw stream that writes all it is given, however long that takes; closing it leaves the inner one open."""

    def __init__(self, inner: io.RawIOBase | None) -> None:
        self._inner = inner  # None: the stream was closed before this process began
        self.discards = False  # what is written from now on

    @property
    def name(self) -> object:
        """Of the inner stream."""
        return getattr(self._inner, "name", None)

    def fileno(self) -> int:
        """See RawIOBase."""
        return self._open_inner().fileno()

    def isatty(self) -> bool:
        """See RawIOBase."""
        return self._inner is not None and self._inner.isatty()

    def writable(self) -> bool:
        """See RawIOBase."""
        return True

    def write(self, data: object, /) -> int:
        """See RawIOBase; never writes a part only."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        done = 0
        while done < len(view) and not self.discards:
            try:
                n_bytes = self._open_inner().write(view[done:])
            except OSError as error:
                self._fail(error)
            else:
                if n_bytes is None:
                    self._wait()
                else:
                    done += n_bytes
        return len(view)

    def check(self) -> None:
        """Fail if the stream was closed before this process began."""
        try:
            self._open_inner()
        except OSError as error:
            self._fail(error)

    def _open_inner(self) -> io.RawIOBase:
        if self._inner is None:
            raise OSError(errno.EBADF, "stdout is closed")
        return self._inner

    def _wait(self) -> None:
        """Wait until a stream in non-blocking mode takes more; that mode is shared with others, who may need it."""
        try:
            select.select([], [self.fileno()], [])
        except (OSError, ValueError):  # select knows only sockets here, or no such high number
            time.sleep(_WAIT_S)

    def _fail(self, error: OSError) -> None:
        raise NotImplementedError


class _Stdout(_Patient):
    def _fail(self, error: OSError) -> None:
        raise StdoutError(error) from error


class _Stderr(_Patient):
    """What is said on it is for whoever listens; with nobody there the work goes on."""

    def _fail(self, error: OSError) -> None:
        self.discards = True


def _guard(stream: TextIO | None, kind: type[_Patient]) -> TextIO:
    if stream is None:  # closed by the caller
        return _wrap(kind(None), "utf-8", line_buffering=False)
    if type(stream) is not io.TextIOWrapper:  # not one of the process: somebody collects what is written
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=PROGRAM)
        return stream
    stream.flush()
    inner = getattr(stream.buffer, "raw", stream.buffer)  # with python -u there is no buffer
    return _wrap(kind(inner), stream.encoding, line_buffering=stream.line_buffering or stream.write_through)


def _wrap(raw: _Patient, encoding: str, *, line_buffering: bool) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors=PROGRAM, line_buffering=line_buffering)


def _make_plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = _PLAIN.get(error.object[error.start])
    if plain is not None:
        return plain, error.start + 1
    error.end = error.start + 1  # what follows may be ours again
    return codecs.backslashreplace_errors(error)
