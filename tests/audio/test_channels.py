"""`--channel`, and inputs whose channels cancel, through the command; and the command where the process has little."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

import framecls
from framecls.cli.boundary import run
from support.models import save_tiny_model
from support.signals import RATE

ROOT = Path(framecls.__file__).parent.parent
Command = Callable[..., "Done"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("models"), "frame"))


@dataclass(frozen=True)
class Done:
    """What one command line gave."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def framecls_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        status = run([*arguments])
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return call


@pytest.fixture
def stereo(tmp_path: Path) -> str:
    """Return the name of a file with noise on the left and nothing on the right."""
    left = np.random.default_rng(1).standard_normal(2 * RATE) / 10
    soundfile.write(tmp_path / "a.wav", np.stack([left, 0 * left], axis=1), RATE)
    return "a.wav"


@pytest.mark.parametrize("command", ["tag", "identify"])
def test_each_channel_has_results_of_its_own(framecls_: Command, stereo: str, command: str) -> None:
    done = framecls_(command, stereo, "--channel", "each", "-f", "jsonl")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [(record["file"], record["channel"]) for record in records]) == (
        0,
        [("a.wav", 1), ("a.wav", 2)],
    )
    assert list(records[0])[:3] == ["file", "channel", "model"]
    if command == "tag":
        assert records[0]["segments"]
        assert not records[1]["segments"]
        assert "channel" not in json.loads(framecls_(command, stereo, "-f", "jsonl").stdout)


def test_one_channel_is_named_in_every_format(framecls_: Command, model: str, stereo: str) -> None:
    line = ("tag", "-m", model, stereo, "--channel", "right")
    rows = list(csv.DictReader(framecls_(*line, "-f", "csv").stdout.splitlines()))
    assert rows
    assert {row["channel"] for row in rows} == {"2"}
    frames = list(csv.DictReader(framecls_(*line, "-f", "tsv", "--frames").stdout.splitlines(), delimiter="\t"))
    assert {row["channel"] for row in frames} == {"2"}
    assert {row.split()[2] for row in framecls_(*line, "-f", "rttm").stdout.splitlines()} == {"2"}
    streamed = framecls_(*line, "-f", "jsonl", "--stream").stdout.splitlines()
    assert {json.loads(row)["channel"] for row in streamed} == {2}
    assert "channel 2" in framecls_(*line).stdout.splitlines()[0]


def test_each_channel_has_a_file_of_its_own_and_can_be_resumed(
    framecls_: Command, model: str, stereo: str, tmp_path: Path
) -> None:
    line = ("tag", "-m", model, stereo, "--channel", "each")
    assert framecls_(*line, "-f", "textgrid", "-o", "out/").returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("a*")) == ["a.wav.1.TextGrid", "a.wav.2.TextGrid"]
    again = framecls_(*line, "-f", "textgrid", "-o", "out/", "--resume")
    assert "2 skipped" in again.stderr
    assert framecls_(*line, "-o", "x.csv").returncode == 0
    table = (tmp_path / "x.csv").read_bytes()
    resumed = framecls_(*line, "-o", "x.csv", "--resume")
    assert "2 skipped" in resumed.stderr
    assert (tmp_path / "x.csv").read_bytes() == table == framecls_(*line, "-f", "csv").stdout.encode()
    refused = framecls_(*line, "-f", "textgrid")
    assert (refused.returncode, "name a folder with -o" in refused.stderr) == (2, True)


def test_a_channel_that_cannot_be_is_one_line(framecls_: Command, model: str, stereo: str) -> None:
    line = ("tag", "-m", model, "--channel")
    absent = framecls_(*line, "3", stereo)
    assert absent.returncode == 1
    assert absent.stderr.splitlines() == ["framecls: error: a.wav: there is no channel 3 in it: it has 2 channels"]
    wrong = framecls_(*line, "middle", stereo)
    assert wrong.returncode == 2
    assert "choose left, right, each, mix or a number from 1" in wrong.stderr
    piped = framecls_(*line, "each", "-")
    assert (piped.returncode, "needs a file or an array" in piped.stderr) == (1, True)
    enrolled = framecls_("enroll", "Ada", stereo, "--channel", "each", "--gallery", "g")
    assert (enrolled.returncode, "choose one channel" in enrolled.stderr) == (2, True)


def test_what_was_guessed_of_a_recording_is_a_line(framecls_: Command, tmp_path: Path) -> None:
    speech, rate = soundfile.read(ROOT / "samples" / "speech_flite.flac")
    soundfile.write(tmp_path / "phase.flac", np.stack([speech, -speech], axis=1), rate)
    soundfile.write(tmp_path / "scale.wav", speech * 2**15, rate, subtype="FLOAT")
    done = framecls_("tag", "phase.flac", "scale.wav", "-f", "csv")
    assert done.returncode == 0
    assert {row["label"] for row in csv.DictReader(done.stdout.splitlines())} == {"speech"}
    lines = done.stderr.splitlines()
    assert any(line.startswith("framecls: phase.flac: its channels cancel each other") for line in lines)
    assert any("scale.wav: its samples reach" in line for line in lines)
    assert framecls_("tag", "phase.flac", "-f", "csv", "-q").stderr == ""


# As in a container with a user that no line of passwd knows, and nothing that can be written.
_BARE = """
import pwd, sys, tempfile
def nobody(*_): raise KeyError("getpwuid(): uid not found: 23456")
def nowhere(): raise FileNotFoundError(2, "No usable temporary directory found")
pwd.getpwuid, tempfile._get_default_tempdir = nobody, nowhere
from framecls.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="users are in no passwd there")
def test_no_home_no_user_and_no_temporary_folder(framecls_: Command) -> None:
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": "/nonexistent"}
    files = [str(ROOT / "samples" / name) for name in ("speech_flite.flac", "speech_tr.mp3")]
    for arguments in (("tag", "-f", "csv"), ("identify", "-f", "csv")):
        command = [sys.executable, "-c", _BARE, *arguments, *files, "-q"]
        done = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == framecls_(*arguments, *files, "-q").stdout != ""
