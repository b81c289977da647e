"""Runs of the command: in this process, in one of its own, and in a terminal."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import framecls

ROOT = Path(framecls.__file__).parent.parent
COMMAND = [sys.executable, "-m", "framecls"]
Word = str | bytes | os.PathLike[str]


class Answer(NamedTuple):
    """What one command line gave."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr."""
        return self.err.splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of stdout, as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Answer]


def environment(**changes: str) -> dict[str, str]:
    """Return the variables of a process that finds this framecls and computes on one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def start_command(*arguments: Word, code: str | None = None, **options: Any) -> subprocess.Popen[Any]:
    """Start a command line in a process of its own, with pipes; code: a program that runs in its place."""
    program = COMMAND if code is None else [sys.executable, "-c", code]
    options = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*program, *map(os.fsencode, arguments)], **options)


def run_command(
    *arguments: Word,
    code: str | None = None,
    env: Mapping[str, str] | None = None,
    memory_bytes: int | None = None,
    timeout_s: float = 300.0,
    **options: Any,
) -> Answer:
    """Run a command line in a process of its own to its end.

    Args:
        arguments: words after `framecls`, or after `python -c CODE`.
        code: a program that runs in the command's place.
        env: the variables of the process, in place of those of `environment`.
        memory_bytes: what its address space may grow to.
        timeout_s: of a run that hangs; no test takes it for a measure of speed.
    """

    def limit() -> None:
        assert memory_bytes is not None
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

    program = COMMAND if code is None else [sys.executable, "-c", code]
    done = subprocess.run(
        [*program, *map(os.fsencode, arguments)],
        env=environment() if env is None else env,
        preexec_fn=None if memory_bytes is None else limit,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        **options,
    )
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_in_terminal(
    *arguments: Word, code: str | None = None, columns: int = 80, cwd: Path | None = None
) -> tuple[int, bytes, list[str]]:
    """Run a command line in a terminal; return its exit status, all it wrote, and the lines left on the screen."""
    import fcntl
    import pty
    import termios

    import pyte

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    variables = environment(TERM="xterm-256color")
    kept = {name: value for name, value in variables.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = start_command(*arguments, code=code, cwd=cwd, env=kept, **ends)
    os.close(theirs)
    screen = pyte.Screen(columns, 60)
    stream = pyte.ByteStream(screen)
    written = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        written += part
        stream.feed(part)
    os.close(ours)
    return process.wait(), written, [line.rstrip() for line in screen.display if line.strip()]
