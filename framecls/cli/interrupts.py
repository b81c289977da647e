"""Signals: the first Ctrl-C lets the recording under way finish, the second stops at once; SIGTERM ends in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from framecls.cli.console import SIGNALLED

_ANNOUNCE_S = 1.0  # how long a terminal may take to show a line


class Interrupts:
    """A context in which the first Ctrl-C only sets `asked`, and `check` raises KeyboardInterrupt once it is set.

    Where Ctrl-C is ignored already, as in a background job, or outside the main thread, nothing changes.
    """

    def __init__(self, announce: Callable[[], None], *, patient: bool) -> None:
        """Prepare the context.

        Args:
            announce: tells the user that the request was heard; called in a thread of its own, because a signal may
                come in the middle of a write.
            patient: wait for the recording under way; else the first Ctrl-C stops at once.
        """
        self._announce = announce
        self._patient = patient
        self._asked = False
        self._before: Any = None
        self._announcing: threading.Thread | None = None

    def __enter__(self) -> Interrupts:
        if self._patient and threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._announcing is not None:
            self._announcing.join(_ANNOUNCE_S)  # before anything else is said
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)

    @property
    def asked(self) -> bool:
        """Whether the user wants to stop."""
        return self._asked

    def check(self) -> None:
        """Stop, between two recordings, if the user wants to.

        Raises:
            KeyboardInterrupt: the user does.
        """
        if self._asked:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self._announcing = threading.Thread(target=self._announce, name="framecls-interrupt", daemon=True)
        self._announcing.start()


class Terminated(SystemExit):
    """A signal asked this process to end. A SystemExit, so that a forked process that gets one ends without a word."""

    def __init__(self, number: int) -> None:
        self.status = SIGNALLED + number
        super().__init__(self.status)


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP raise `Terminated`, so that temporary files are removed; what is ignored stays ignored.

    Only the first one is heard: whoever sends it often sends it again, to the whole group of processes, and what it
    began must not be cut off.
    """
    heard = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if not heard:
            heard = True
            raise Terminated(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)
