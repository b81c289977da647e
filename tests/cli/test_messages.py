"""Messages on stderr: one line each, of characters that a terminal can show."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from framecls.cli.messages import Messages
from framecls.errors import AudioError
from framecls.text import escape, one_line
from support.commands import Cli, environment, run_command
from support.signals import write_wav


def make_text_file(folder: Path) -> Path:
    path = folder / "text.wav"
    path.write_text("This is a text.\n" * 100)
    return path


# Measures only what is done in the process itself.
BENCH = """
import sys
from framecls import bench
from framecls.cli.boundary import run
bench.measure_memory = lambda *_: None
bench.measure_start_up = lambda *_: {"a clip": bench.Timing(1.0, 0.9, 1.1)}
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", [["models"], ["--help"], ["bench", "--length", "1", "--repeats", "1", "-q"]])
def test_nothing_of_ours_is_escaped_where_a_terminal_has_ascii_only(arguments: list[str], tag_model: str) -> None:
    code = None
    if arguments[0] == "bench":
        arguments, code = [*arguments, "-m", tag_model], BENCH
    answer = run_command(*arguments, code=code, env=environment(PYTHONIOENCODING="ascii"))
    assert answer.status == 0
    assert "\\" not in answer.out
    assert answer.out.isascii()


def test_file_names_are_escaped_where_a_terminal_has_ascii_only() -> None:
    answer = run_command("tag", "ü…ö.wav", env=environment(PYTHONIOENCODING="ascii"))
    assert "\\xfc...\\xf6.wav" in answer.err


def test_errors_file(tag: Cli, here: Path) -> None:
    bad = make_text_file(here)
    write_wav(here / "good.wav")
    assert tag("good.wav", bad, "gone.wav", "-q", "--errors", "errors.jsonl").status == 1
    rows = [json.loads(line) for line in (here / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["file"] for row in rows} == {str(bad), "gone.wav"}
    assert all(set(row) == {"file", "error", "type"} and row["type"] == "AudioError" for row in rows)
    assert tag("good.wav", "-q", "--errors", "errors.jsonl").status == 0
    assert (here / "errors.jsonl").read_text(encoding="utf-8") == ""


def test_summary(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav", 1.0)
    write_wav(here / "b.wav", 2.0)
    pattern = r"framecls: 2 done, 1 failed, 0:00:03 of audio in \d+\.\d s, \d+ times real time"
    assert re.fullmatch(pattern, tag("a.wav", "gone.wav", "b.wav").errors[-1])
    assert "failed" not in tag("a.wav", "b.wav").errors[-1]
    assert tag("a.wav").err == ""
    assert tag("a.wav", "b.wav", "-q").err == ""


def test_verbose_says_more(tag: Cli, here: Path) -> None:
    answer = tag(write_wav(here / "a.wav"), "-v")
    assert "model tiny-sound on cpu" in answer.err
    assert all(line.startswith("framecls: ") for line in answer.errors)


def test_escape() -> None:
    assert escape("a b/ü.wav") == "a b/ü.wav"
    assert escape("a\nb\t\x1b\u202e") == "a\\nb\\t\\x1b\\u202e"
    assert escape(os.fsdecode(b"\xff")) == "\\xff"
    assert one_line("two\n  lines\t") == "two lines"


def test_a_warning_is_a_line_and_status_3_unless_something_failed(capsys: pytest.CaptureFixture[str]) -> None:
    messages = Messages(quiet=True)
    assert messages.status == 0
    messages.warn("a\n.wav", "cut off:\n 5 of 9 s")
    assert messages.status == 3
    messages.input_failed("b.wav", AudioError("there is no audio in it"))
    assert messages.status == 1
    assert capsys.readouterr().err == (
        "framecls: warning: a\\n.wav: cut off: 5 of 9 s\nframecls: error: b.wav: there is no audio in it\n"
    )
