"""Handle SIGTERM in a program that uses Ray, which replaces the program's handler."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(BaseException):
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
        raise Terminated

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if asked:  # whatever became of the exception
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def hold_sigterm(ray: Any) -> Iterator[None]:
    """Let SIGTERM wait while Ray starts or ends, as half of a Ray cannot be ended; a second one does not wait.

    Then whatever was there handles it. Ray's own handler exits with status 15, which is no sign of a signal; the one
    that it puts beneath Python's prints a stack first, aborts what takes 3 s from then on, and leaves the system's
    default behind, so that a handler of this program would never be called again.

    Args:
        ray: the module.
    """
    before = signal.getsignal(signal.SIGTERM)
    changes = _is_main() and before is not None  # None: not of Python, which cannot put it back
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        asked = True

    if changes and before is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, note)
    try:
        with (
            changed(ray, "utils", "set_sigterm_handler", lambda handler: None),
            changed(ray, "ray_constants", "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True),
        ):
            yield
    finally:
        if changes:  # also because a Ray without these two switches has set its own handlers
            signal.signal(signal.SIGTERM, before)
        if asked:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def changed(ray: Any, module: str, name: str, value: object) -> Iterator[None]:
    """Set something inside Ray for which it has no public switch; where this Ray has no such thing, nothing changes."""
    place = getattr(getattr(ray, "_private", None), module, None)
    if not hasattr(place, name):
        yield
        return
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def _is_main() -> bool:
    """Whether this thread may set handlers."""
    return threading.current_thread() is threading.main_thread()
