"""Inputs that cannot be read: one line each, and the others are still done."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from framecls.inference.batching import Request
from framecls.inference.tag import tag_recording
from framecls.results import TagResult
from support.commands import Cli, environment, run_command, start_command
from support.signals import RATE, make_tone, write_wav


def test_missing_inputs_are_reported_without_torch(tag_model: str) -> None:
    code = (
        "import sys\n"
        "from framecls.cli.boundary import run\n"
        f"status = run(['tag', '-m', {tag_model!r}, 'missing.wav'])\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 100 + status)"
    )
    answer = run_command(code=code)
    assert answer.status == 101, answer.err
    assert answer.err.startswith("framecls: error: missing.wav: ")


def make_missing(folder: Path) -> Path:
    return folder / "missing.wav"


def make_empty_folder(folder: Path) -> Path:
    path = folder / "folder"
    path.mkdir()
    (path / "notes.txt").write_text("no audio here")
    return path


def make_empty_file(folder: Path) -> Path:
    path = folder / "empty.wav"
    path.touch()
    return path


def make_text_file(folder: Path) -> Path:
    path = folder / "text.wav"
    path.write_text("This is a text.\n" * 100)
    return path


def make_nan(folder: Path) -> Path:
    path = folder / "nan.wav"
    samples = make_tone(1.0)
    samples[5000] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path


BAD_INPUTS = [make_missing, make_empty_folder, make_empty_file, make_text_file, make_nan]


@pytest.mark.parametrize("make", BAD_INPUTS)
@pytest.mark.parametrize("command", ["tag", "identify"])
def test_bad_input_is_one_line_and_the_others_are_done(
    make: Callable[[Path], Path], command: str, request: pytest.FixtureRequest, here: Path
) -> None:
    bad = make(here)
    good = write_wav(here / "good.wav")
    last = write_wav(here / "last.wav")
    answer = request.getfixturevalue(command)(good, bad, last, "-f", "jsonl", "-q")
    assert answer.status == 1
    assert [record["file"] for record in answer.records] == [str(good), str(last)]
    assert len(answer.errors) == 1
    assert answer.err.startswith(f"framecls: error: {bad}: ")
    assert len(answer.err) > len(f"framecls: error: {bad}: ") + 10
    assert "unexpected" not in answer.err
    assert "Traceback" not in answer.err


AS_NOBODY = """
import os, sys
from framecls.cli.boundary import run
command, bad, good = sys.argv[1:-2], *sys.argv[-2:]
if os.geteuid() == 0:  # reads everything
    run([*command, good, "-o", os.devnull])  # all is imported while it can be
    os.setgid(65534)
    os.setuid(65534)
sys.exit(run([*command, bad, good]))
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_unreadable_input(tag_model: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's, which is closed to others
        os.chmod(folder, 0o755)
        bad, good = write_wav(Path(folder, "secret.wav")), write_wav(Path(folder, "good.wav"))
        bad.chmod(0)
        model = shutil.copy(tag_model, folder)
        command = ("tag", "-m", model, "--device", "cpu", "-f", "jsonl", "-q")
        answer = run_command(*command, bad, good, code=AS_NOBODY)
    assert (answer.status, answer.err) == (1, f"framecls: error: {bad}: no permission to read it\n")
    assert [record["file"] for record in answer.records] == [str(good)]


def test_no_input_could_be_done(tag: Cli, here: Path) -> None:
    assert tag("missing.wav", "-f", "json").out == "[\n]\n" or json.loads(tag("missing.wav", "-f", "json").out) == []
    assert tag("missing.wav").status == 1


def test_an_unexpected_error_is_one_failure(tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_on_bad(request: Request, **settings: Any) -> TagResult:
        if "bad" in request.name:
            raise TypeError("two\nlines")
        return tag_recording(request, **settings)

    monkeypatch.setattr("framecls.model.tag_recording", fail_on_bad)
    bad, good = write_wav(here / "bad.wav"), write_wav(here / "good.wav")
    answer = tag(bad, good, "-f", "jsonl", "-q")
    assert answer.status == 1
    assert answer.err == f"framecls: error: {bad}: unexpected TypeError: two lines; run again with --debug\n"
    assert len(answer.records) == 1
    debugged = tag(bad, good, "-f", "jsonl", "-q", "--debug")
    assert "Traceback" in debugged.err
    assert len(debugged.records) == 1


@pytest.mark.parametrize("name", ["a\nb.wav", "tab\tbell\a.wav", "\x1b[31mred.wav", "line\u2028end.wav"])
def test_strange_names_stay_on_one_line(name: str, tag: Cli, here: Path) -> None:
    answer = tag(name)
    assert len(answer.errors) == 1
    assert answer.err.rstrip("\n").isprintable()
    write_wav(here / name)
    assert tag(name, "-f", "jsonl").records[0]["file"] == name
    assert tag(name).status == 0


def test_lists_and_folders(tag: Cli, here: Path) -> None:
    write_wav(here / "in" / "b.wav")
    write_wav(here / "in" / "a.wav")
    assert [record["file"] for record in tag("in", "-f", "jsonl").records] == ["in/a.wav", "in/b.wav"]
    (here / "list.txt").write_text("in/b.wav\nin/gone.wav\n")
    answer = tag("@list.txt", "-f", "jsonl", "-q")
    assert [record["file"] for record in answer.records] == ["in/b.wav"]
    assert answer.err.startswith("framecls: error: in/gone.wav: ")


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_that_are_no_text(locale: str, tag_model: str, here: Path) -> None:
    name = b"caf\xe9-\xff.wav"
    write_wav(here / "a.wav")
    (here / "a.wav").rename(os.fsdecode(os.fsencode(here) + b"/" + name))
    settings = environment(LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    arguments = ("tag", "-m", tag_model, "--device", "cpu", os.fsdecode(name), os.fsdecode(b"gone-" + name))
    with start_command(*arguments, env=settings) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"speech" in out
    assert err.splitlines()[0].startswith(rb"framecls: error: gone-caf\xe9-\xff.wav: ")
    assert b"Traceback" not in err
