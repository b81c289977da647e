"""Signals: the first Ctrl-C lets the present recording finish, the second stops at once; SIGTERM cleans up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from framecls.cli.messages import SIGNALLED

_ANNOUNCE_S = 1.0  # how long a terminal may take to show a line


class Interrupts:
    """A context in which the first Ctrl-C only sets `asked`, and `check` raises KeyboardInterrupt once it is set.

    Nothing changes where Ctrl-C is ignored already, as in a background job, or outside the main thread.
    """

    def __init__(self, announce: Callable[[], None], *, finish_current: bool) -> None:
        """Prepare the context.

        Args:
            announce: confirms the request to the user; called in a thread of its own, because a signal may come in the
                middle of a write.
            finish_current: let the present recording finish; else the first Ctrl-C stops at once.
        """
        self._announce = announce
        self._finish_current = finish_current
        self._asked = False
        self._before: Any = None
        self._announcing: threading.Thread | None = None

    def __enter__(self) -> Interrupts:
        if self._finish_current and threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._announcing is not None:
            self._announcing.join(_ANNOUNCE_S)  # before other messages
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)

    @property
    def asked(self) -> bool:
        """Whether the user wants to stop."""
        return self._asked

    def check(self) -> None:
        """Stop between two recordings if the user asked for it.

        Raises:
            KeyboardInterrupt: the user did.
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
    """A signal asked this process to end. A SystemExit, so that a forked process ends silently."""

    def __init__(self, number: int) -> None:
        self.status = SIGNALLED + number
        super().__init__(self.status)


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP raise `Terminated`, so that temporary files are removed; ignored signals stay ignored.

    Only the first one counts: it is often sent again, to the whole process group, and must not interrupt the cleanup.
    """
    is_ending = False

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            raise Terminated(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)
