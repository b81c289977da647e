"""Stdout and stderr as the command writes to them: errors of stdout have a type of their own."""

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

from framecls.cli.messages import PROGRAM
from framecls.errors import StdoutError

# Characters of our own messages, and what replaces them where a stream has ASCII only.
_REPLACEMENTS = {"×": "x", "–": "-", "…": "...", "·": "-", "→": "->"}
_RETRY_S = 0.01  # between two attempts, where select does not work


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Have `sys.stdout` raise `StdoutError`, and `sys.stderr` nothing at all, where they cannot be written.

    Both wait where they are in non-blocking mode and full, and take any text: characters that their encoding lacks are
    replaced or escaped.
    """
    codecs.register_error(PROGRAM, _replace_unencodable)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _guard(sys.stdout, _Stdout), _guard(sys.stderr, _Stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(StdoutError, ValueError):
                stream.flush()
        raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
        if isinstance(raw, _BlockingStream):
            raw.discards = True  # the failure was reported, and is not met again
        sys.stdout, sys.stderr = before


def open_stdout(*, for_people: bool = False) -> TextIO:
    """Return stdout, ready for results; for programs these are the same bytes whatever the locale or the system.

    Raises:
        StdoutError: it is closed: nobody could get the results.
    """
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _BlockingStream):
        raw.check()
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if not for_people and reconfigure is not None:
        reconfigure(encoding="utf-8", newline="\n")
    return sys.stdout


class _BlockingStream(io.RawIOBase):
    """A raw stream that writes everything, in non-blocking mode too; closing it leaves the inner one open."""

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
        """Wait until a stream in non-blocking mode takes more; the mode is left, since other processes share it."""
        try:
            select.select([], [self.fileno()], [])
        except (OSError, ValueError):  # select knows only sockets here, or no such high number
            time.sleep(_RETRY_S)

    def _fail(self, error: OSError) -> None:
        raise NotImplementedError


class _Stdout(_BlockingStream):
    def _fail(self, error: OSError) -> None:
        raise StdoutError(error) from error


class _Stderr(_BlockingStream):
    """Messages that nobody can read are dropped; the work goes on."""

    def _fail(self, error: OSError) -> None:
        self.discards = True


def _guard(stream: TextIO | None, kind: type[_BlockingStream]) -> TextIO:
    if stream is None:  # closed by the caller
        return _wrap(kind(None), "utf-8", line_buffering=False)
    if type(stream) is not io.TextIOWrapper:  # not a stream of the process: a test captures what is written
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=PROGRAM)
        return stream
    stream.flush()
    inner = getattr(stream.buffer, "raw", stream.buffer)  # with python -u there is no buffer
    return _wrap(kind(inner), stream.encoding, line_buffering=stream.line_buffering or stream.write_through)


def _wrap(raw: _BlockingStream, encoding: str, *, line_buffering: bool) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors=PROGRAM, line_buffering=line_buffering)


def _replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = _REPLACEMENTS.get(error.object[error.start])
    if plain is not None:
        return plain, error.start + 1
    error.end = error.start + 1  # what follows may be ours again
    return codecs.backslashreplace_errors(error)
