"""Bounds of time and memory for what might hang or grow."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CPU_S = 20.0  # of what takes well under one on an idle machine; computing, so that a busy machine changes nothing
WALL_S = 180.0  # of what waits for ever


@contextlib.contextmanager
def ends_in_time(cpu_s: float = CPU_S, wall_s: float = WALL_S) -> Iterator[None]:
    """Stop what runs inside with an AssertionError after seconds of this process's computing, or of waiting."""

    def stop(number: int, _: Any) -> None:
        took = f"{cpu_s:g} s of computing" if number == signal.SIGPROF else f"{wall_s:g} s"
        raise AssertionError(f"still busy after {took}")

    clocks = ((signal.ITIMER_REAL, signal.SIGALRM, wall_s), (signal.ITIMER_PROF, signal.SIGPROF, cpu_s))
    handlers = [signal.signal(number, stop) for _, number, _ in clocks]
    for clock, _, seconds in clocks:
        signal.setitimer(clock, seconds, 1.0)  # again and again, lest something catches it and goes on
    try:
        yield
    finally:
        for (clock, number, _), handler in zip(clocks, handlers, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


@contextlib.contextmanager
def bounded(memory_bytes: int = 1 << 30, cpu_s: float = CPU_S, wall_s: float = WALL_S) -> Iterator[None]:
    """Bound the time of what runs inside, and what it may add to this process's address space, stacks included."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory_bytes, before[1]))
    try:
        with ends_in_time(cpu_s, wall_s):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
