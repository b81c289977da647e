"""SIGTERM and Ctrl-C while Ray runs: a program ends as it would without Ray, and so do the processes of Ray."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framecls.cluster.signals import SigtermReceived, end_in_order, hold_sigterm
from support.commands import environment
from support.models import save_tiny_model
from support.signals import write_wav

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an optional extra")
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find processes")

N_INPUTS = 120
PATIENCE_S = 240.0  # Ray alone takes half a minute to start where other work is done
TELL = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))
from framecls.cluster.session import open_session
with open_session(None, 1):
    os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print("ended", flush=True)
"""
# The command, with a signal at the moment when Ray starts or ends.
AT = """
import os, signal, sys, ray
from framecls.cli.boundary import run
really, moment = getattr(ray, sys.argv[1]), sys.argv[1]
def stand_in(*given, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    return really(*given, **named)
setattr(ray, moment, stand_in)
sys.exit(run(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, recordings, and what they give without Ray."""
    folder = tmp_path_factory.mktemp("signals")
    save_tiny_model(folder, "frame")
    for number in range(N_INPUTS):
        write_wav(folder / "in" / f"{number:02d}.wav", 20.0, 200 + 20 * number)
    (folder / "home").mkdir()
    return folder


def start(work: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Python in `work`; what it starts has the name of `work` in its environment."""
    variables = environment(HOME=str(work / "home"), FRAMECLS_TEST=str(work))
    variables.pop("RAY_ADDRESS", None)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=work, env=variables, start_new_session=True, **pipes)


def tag(output: str, *more: str) -> tuple[str, ...]:
    """Return the arguments of a run that writes a file."""
    return ("tag", "in", "-m", "tiny-sound.safetensors", "--device", "cpu", "--threads", "1", "-o", output, *more)


ON_RAY = ("--engine", "ray", "--workers", "2", "--batch-size", "1", "--no-progress")


def left(work: Path, patience_s: float = 8) -> list[str]:
    """Return the processes that a program started in `work` has left, after a few seconds if need be."""
    mark = f"FRAMECLS_TEST={work}".encode()
    end = time.monotonic() + patience_s
    while True:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " ").strip())
            except OSError:
                continue  # it ended meanwhile, or belongs to somebody else
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.2)


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait while a process runs and something is not so yet."""
    end = time.monotonic() + PATIENCE_S
    while process.poll() is None and not there() and time.monotonic() < end:
        time.sleep(0.01)


@needs_ray
@needs_proc
def test_terminated_in_the_middle_and_resumed(work: Path) -> None:
    changes = work / ".all.jsonl.framecls-journal-wal"  # SQLite appends a page or more for each record
    with start(work, "-m", "framecls", *tag("all.jsonl", *ON_RAY)) as process:
        wait_until(lambda: changes.exists() and changes.stat().st_size > 8 * 4096, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (143, "", "framecls: error: terminated\n")
    assert not (work / "all.jsonl").exists()
    assert left(work) == []
    for arguments in (tag("all.jsonl", "--resume"), tag("local.jsonl")):
        with start(work, "-m", "framecls", *arguments) as process:
            _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert ("skipped" in err) == ("--resume" in arguments)
    assert (work / "all.jsonl").read_bytes() == (work / "local.jsonl").read_bytes()


@needs_ray
@needs_proc
@pytest.mark.parametrize("moment", ["init", "shutdown"])
def test_terminated_while_ray_starts_or_ends(moment: str, work: Path) -> None:
    with start(work, "-c", AT, moment, *tag(f"{moment}.jsonl", *ON_RAY, "-q")) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (-signal.SIGTERM, "", "")
    assert left(work) == []


@needs_ray
@needs_proc
def test_terminated_while_ray_has_its_own_handler(work: Path) -> None:
    """It has taken the place of the one before when its first process is there."""
    with start(work, "-m", "framecls", *tag("early.jsonl", *ON_RAY, "-q")) as process:
        wait_until(lambda: any("gcs_server" in command for command in left(work, 0)), process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (143, "", "framecls: error: terminated\n")
    assert left(work) == []


@needs_ray
def test_the_handler_of_a_program_stays_its_own(work: Path) -> None:
    with start(work, "-c", TELL) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out.split(), err) == (0, ["mine", "mine", "ended"], "")


# --- what needs no Ray


def test_sigterm_waits_until_ray_is_there() -> None:
    heard: list[str] = []

    def mine(*_: object) -> None:
        heard.append("mine")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with hold_sigterm():
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
            signal.signal(signal.SIGTERM, lambda *_: heard.append("Ray's"))
        assert heard == ["mine"]
        assert signal.getsignal(signal.SIGTERM) is mine
        with hold_sigterm():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # does not wait
            assert heard[1:] == ["mine"]
        with end_in_order():  # is for programs without a handler
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_block_is_left_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    raise_signal = signal.raise_signal
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    left_by = None
    try:
        with end_in_order():
            monkeypatch.setattr(signal, "raise_signal", raised.append)
            raise_signal(signal.SIGTERM)
    except SigtermReceived as error:
        left_by = error
    finally:
        after = signal.signal(signal.SIGTERM, before)
    assert left_by is not None
    assert raised == [signal.SIGTERM]
    assert after is signal.SIG_DFL
