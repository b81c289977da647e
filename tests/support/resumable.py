"""Runs command lines in forked processes and kills them: imports once, so that a run costs milliseconds.

Reads a JSON object a line from stdin, {"arguments": [...], "kill_after_s": seconds or null}, and answers each with
{"status": exit status or null if it was killed, "seconds": ..., "err": what was on its stderr}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time

import torch

from framecls.cli.boundary import run


def run_forked(arguments: list[str], kill_after_s: float | None) -> dict[str, object]:
    """Run one command line in a child, killed with SIGKILL after a time."""
    with tempfile.TemporaryFile() as err:
        start = time.monotonic()
        child = os.fork()
        if not child:
            os.dup2(err.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(run(arguments))
        finished = 0
        while kill_after_s is not None and not finished and time.monotonic() - start < kill_after_s:
            time.sleep(0.0005)
            finished, status = os.waitpid(child, os.WNOHANG)
        if not finished:
            if kill_after_s is not None:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        err.seek(0)
        text = err.read().decode()
        return {"status": None if code == -9 else code, "seconds": time.monotonic() - start, "err": text}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with contextlib.redirect_stderr(io.StringIO()):
        run(["tag", "x.wav", "-f", "nope"])  # Typer imports most of what it needs when it first reads arguments
    for line in sys.stdin:
        print(json.dumps(run_forked(**json.loads(line))), flush=True)
