"""Handle SIGTERM in a program that uses Ray, which replaces the program's handler."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from framecls.errors import ClusterError


class SigtermReceived(BaseException):
    """SIGTERM came, which ends this process once Ray has ended."""


@contextmanager
def end_in_order() -> Iterator[None]:
    """Where SIGTERM would end this process at once, have it leave the block first.

    Processes of Ray that lose the one that started them stay on for a minute or more. Where this program has a handler
    of its own, or outside the main thread, nothing changes.
    """
    if not _is_main() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    asked = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SigtermReceived

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if asked:  # whatever became of the exception
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def hold_sigterm() -> Iterator[None]:
    """Let SIGTERM wait while Ray starts or ends, as half of a Ray cannot be ended; a second one does not wait.

    Then whatever was there handles it, and not what Ray has put in its place: that exits with status 15, which is no
    sign of a signal.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not _is_main() or before is None:  # None: not of Python, which cannot put it back
        yield
        return
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        asked = True

    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, note)
    try:
        yield
    except SystemExit as error:  # by Ray's handler
        asked = True
        raise ClusterError("Ray was terminated while it started") from error
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked:
            signal.raise_signal(signal.SIGTERM)


def _is_main() -> bool:
    """Whether this thread may set handlers."""
    return threading.current_thread() is threading.main_thread()
