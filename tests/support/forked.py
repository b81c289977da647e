"""Runs of the command in forked processes of a server that has torch already, so that one costs milliseconds.

The server, this module as a program, reads a JSON object a line from stdin, the arguments of `run_forked`, and answers
each with one, the fields of `Forked`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Forked:
    """What one command line gave; its stdout is nobody's."""

    status: int | None  # None: it was killed
    err: str
    seconds: float
    cpu_s: float
    grown_bytes: int  # by which it was at most larger than the server


Runner = Callable[..., Forked]


@contextlib.contextmanager
def forked_runner() -> Iterator[Runner]:
    """Give a function that runs a command line: `run(arguments, folder, kill_after_s=None)`."""
    from support.commands import ROOT, environment

    variables = environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(Path(__file__).parents[1])]))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, __file__], text=True, env=variables, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def call(arguments: list[str], folder: Path, kill_after_s: float | None = None) -> Forked:
            command = {"arguments": arguments, "folder": str(folder), "kill_after_s": kill_after_s}
            stdin.write(json.dumps(command) + "\n")
            stdin.flush()
            return Forked(**json.loads(stdout.readline()))

        yield call
        stdin.close()


def run_forked(arguments: list[str], folder: str, kill_after_s: float | None) -> Forked:
    """Run one command line in a child, killed with SIGKILL after a time."""
    from framecls.cli.boundary import run

    own_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    with tempfile.TemporaryFile() as err:
        start = time.monotonic()
        child = os.fork()
        if not child:
            os.chdir(folder)
            os.dup2(err.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(run(arguments))
        finished = 0
        while kill_after_s is not None and not finished and time.monotonic() - start < kill_after_s:
            time.sleep(0.0005)
            finished, status, usage = os.wait4(child, os.WNOHANG)
        if not finished:
            if kill_after_s is not None:
                os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        err.seek(0)
        return Forked(
            status=None if code == -signal.SIGKILL else code,
            err=err.read().decode(),
            seconds=time.monotonic() - start,
            cpu_s=usage.ru_utime + usage.ru_stime,
            grown_bytes=usage.ru_maxrss * 1024 - own_bytes,
        )


def main() -> None:
    """Answer until stdin ends."""
    import torch

    from framecls.cli.boundary import run

    torch.set_num_threads(1)
    with contextlib.redirect_stderr(io.StringIO()):
        run(["tag", "x.wav", "-f", "nope"])  # Typer imports most of what it needs when it first reads arguments
    for line in sys.stdin:
        print(json.dumps(asdict(run_forked(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
