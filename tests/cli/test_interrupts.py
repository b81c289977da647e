"""How a run ends before its time: Ctrl-C, a reader that goes away, the end of the process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import typer

from framecls.cli.boundary import run
from support.commands import Cli, run_command, start_command
from support.signals import RATE, make_tone, write_wav


def test_nothing_is_said_of_a_decoder_that_is_cut_off() -> None:
    code = (
        "import atexit, threading, soxr\n"
        "from framecls.cli import boundary\n"
        "def decode():\n"
        "    resampler = soxr.ResampleStream(44100, 16000, 1)\n"
        "    begun.set()\n"
        "    threading.Event().wait()\n"
        "    del resampler\n"
        "def run(arguments):\n"
        "    threading.Thread(target=decode, name='framecls-decode', daemon=True).start()\n"
        "    begun.wait()\n"
        "    print('result')\n"
        "    return 141\n"
        "begun = threading.Event()\n"
        "boundary.run = run\n"
        "atexit.register(print, 'temporary files removed')\n"
        "boundary.main()"
    )
    answer = run_command(code=code)
    assert (answer.status, answer.err) == (141, "")
    assert answer.out == "result\ntemporary files removed\n"


def test_interrupt_while_arguments_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typer makes an exit status of it, and no words."""
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("framecls.cli.app.app", app)
    assert run([]) == 130
    assert capsys.readouterr().err == "framecls: error: interrupted\n"


def test_the_end_of_a_process_waits_for_nothing(here: Path) -> None:
    """What is written arrives, what was to be done at exit is, and nothing is taken apart."""
    script = (
        "import atexit, sys\n"
        "from framecls.cli import boundary\n"
        "class Slow:\n"
        "    def __del__(self): print('taken apart')\n"
        "sys.slow = Slow()\n"
        "atexit.register(print, 'at exit')\n"
        "boundary.run = lambda arguments: print('written') or 3\n"
        "boundary.main()"
    )
    assert run_command(code=script) == (3, "written\nat exit\n", "")


def test_interrupt_leaves_no_half_file(tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from framecls.inference.tag import tag_recording

    def interrupt_on_b(recording: Any, **options: Any) -> Any:
        if "b.wav" in recording.name:
            raise KeyboardInterrupt
        return tag_recording(recording, **options)

    monkeypatch.setattr("framecls.model.tag_recording", interrupt_on_b)
    for name in ("a.wav", "b.wav", "c.wav"):
        write_wav(here / name)
    (here / "all.json").write_text("what was there")
    answer = tag("a.wav", "b.wav", "c.wav", "-o", "all.json")
    assert answer.status == 130
    assert answer.err == (
        "framecls: error: interrupted: 1 of 3 inputs done, 2 left, from b.wav on; all.json was left alone; "
        "--resume goes on from there\n"
    )
    assert (here / "all.json").read_text() == "what was there"
    names = sorted(path.name for path in here.iterdir())
    assert names == [".all.json.framecls-journal", "a.wav", "all.json", "b.wav", "c.wav"]
    assert [record["file"] for record in json.loads(tag("a.wav", "b.wav", "-f", "json").out)] == ["a.wav"]


@pytest.fixture
def waiting(tag_model: str, here: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has done the first of three inputs and waits for the second one, which is standard input."""
    write_wav(here / "a.wav")
    write_wav(here / "c.wav")
    arguments = ("tag", "-m", tag_model, "--device", "cpu", "-f", "jsonl", "a.wav", "-", "c.wav")
    with start_command(*arguments, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["file"] == "a.wav"  # each result comes as soon as it is there
        yield process
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX has them")
def test_ctrl_c(waiting: subprocess.Popen[bytes]) -> None:
    assert waiting.stdin is not None
    soundfile.write(wav := io.BytesIO(), make_tone(60.0), RATE, format="WAV")
    waiting.stdin.write(wav.getvalue()[:500_000])  # more than a pipe holds: once it is through, the input is being read
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert (out, err.decode()) == (b"", "framecls: error: interrupted: 1 of 3 inputs done, 2 left, from - on\n")


def test_a_reader_that_goes_away(waiting: subprocess.Popen[bytes]) -> None:
    assert waiting.stdin is not None
    assert waiting.stdout is not None
    assert waiting.stderr is not None
    waiting.stdout.close()
    soundfile.write(wav := io.BytesIO(), make_tone(1.0), RATE, format="WAV")
    waiting.stdin.write(wav.getvalue())
    waiting.stdin.close()
    assert waiting.stderr.read() == b""
    assert waiting.wait(timeout=30) == 141
