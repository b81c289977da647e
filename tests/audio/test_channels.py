"""`--channel`, and inputs whose channels cancel, through the command; and the command where the process has little."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.commands import ROOT, Cli, run_command
from support.signals import RATE


@pytest.fixture
def stereo(here: Path) -> str:
    """Return the name of a file with noise on the left and nothing on the right."""
    left = np.random.default_rng(1).standard_normal(2 * RATE) / 10
    soundfile.write(here / "a.wav", np.stack([left, 0 * left], axis=1), RATE)
    return "a.wav"


@pytest.mark.parametrize("command", ["tag", "identify"])
def test_each_channel_has_results_of_its_own(cli: Cli, stereo: str, command: str) -> None:
    done = cli(command, stereo, "--channel", "each", "-f", "jsonl")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert (done.status, [(record["file"], record["channel"]) for record in records]) == (
        0,
        [("a.wav", 1), ("a.wav", 2)],
    )
    assert list(records[0])[:3] == ["file", "channel", "model"]
    if command == "tag":
        assert records[0]["segments"]
        assert not records[1]["segments"]
        assert "channel" not in json.loads(cli(command, stereo, "-f", "jsonl").out)


def test_one_channel_is_named_in_every_format(cli: Cli, tag_model: str, stereo: str) -> None:
    line = ("tag", "-m", tag_model, stereo, "--channel", "right")
    rows = list(csv.DictReader(cli(*line, "-f", "csv").out.splitlines()))
    assert rows
    assert {row["channel"] for row in rows} == {"2"}
    frames = list(csv.DictReader(cli(*line, "-f", "tsv", "--frames").out.splitlines(), delimiter="\t"))
    assert {row["channel"] for row in frames} == {"2"}
    assert {row.split()[2] for row in cli(*line, "-f", "rttm").out.splitlines()} == {"2"}
    streamed = cli(*line, "-f", "jsonl", "--stream").out.splitlines()
    assert {json.loads(row)["channel"] for row in streamed} == {2}
    assert "channel 2" in cli(*line).out.splitlines()[0]


def test_each_channel_has_a_file_of_its_own_and_can_be_resumed(
    cli: Cli, tag_model: str, stereo: str, tmp_path: Path
) -> None:
    line = ("tag", "-m", tag_model, stereo, "--channel", "each")
    assert cli(*line, "-f", "textgrid", "-o", "out/").status == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("a*")) == ["a.wav.1.TextGrid", "a.wav.2.TextGrid"]
    again = cli(*line, "-f", "textgrid", "-o", "out/", "--resume")
    assert "2 skipped" in again.err
    assert cli(*line, "-o", "x.csv").status == 0
    table = (tmp_path / "x.csv").read_bytes()
    resumed = cli(*line, "-o", "x.csv", "--resume")
    assert "2 skipped" in resumed.err
    assert (tmp_path / "x.csv").read_bytes() == table == cli(*line, "-f", "csv").out.encode()
    refused = cli(*line, "-f", "textgrid")
    assert (refused.status, "name a folder with -o" in refused.err) == (2, True)


def test_a_channel_that_cannot_be_is_one_line(cli: Cli, tag_model: str, stereo: str) -> None:
    line = ("tag", "-m", tag_model, "--channel")
    absent = cli(*line, "3", stereo)
    assert absent.status == 1
    assert absent.err.splitlines() == ["framecls: error: a.wav: there is no channel 3 in it: it has 2 channels"]
    wrong = cli(*line, "middle", stereo)
    assert wrong.status == 2
    assert "choose left, right, each, mix or a number from 1" in wrong.err
    piped = cli(*line, "each", "-")
    assert (piped.status, "needs a file or an array" in piped.err) == (1, True)
    enrolled = cli("enroll", "Ada", stereo, "--channel", "each", "--gallery", "g")
    assert (enrolled.status, "choose one channel" in enrolled.err) == (2, True)


def test_what_was_guessed_of_a_recording_is_a_line(cli: Cli, here: Path) -> None:
    speech, rate = soundfile.read(ROOT / "samples" / "speech_flite.flac")
    soundfile.write(here / "phase.flac", np.stack([speech, -speech], axis=1), rate)
    soundfile.write(here / "scale.wav", speech * 2**15, rate, subtype="FLOAT")
    done = cli("tag", "phase.flac", "scale.wav", "-f", "csv")
    assert done.status == 0
    assert {row["label"] for row in csv.DictReader(done.out.splitlines())} == {"speech"}
    lines = done.err.splitlines()
    assert any(line.startswith("framecls: phase.flac: its channels cancel each other") for line in lines)
    assert any("scale.wav: its samples reach" in line for line in lines)
    assert cli("tag", "phase.flac", "-f", "csv", "-q").err == ""


# As in a container with a user that no line of passwd knows, and nothing that can be written.
_BARE = """
import pwd, sys, tempfile
def nobody(*_): raise KeyError("getpwuid(): uid not found: 23456")
def nowhere(): raise FileNotFoundError(2, "No usable temporary directory found")
pwd.getpwuid, tempfile._get_default_tempdir = nobody, nowhere
from framecls.cli.boundary import run
for command in ("tag", "identify"):
    assert run([command, *sys.argv[1:]]) == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="users are in no passwd there")
def test_no_home_no_user_and_no_temporary_folder(cli: Cli) -> None:
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": "/nonexistent"}
    files = [str(ROOT / "samples" / name) for name in ("speech_flite.flac", "speech_tr.mp3")]
    done = run_command("-f", "csv", *files, "-q", code=_BARE, env=bare)
    assert (done.status, done.err) == (0, "")
    assert done.out == "".join(cli(command, "-f", "csv", *files, "-q").out for command in ("tag", "identify")) != ""
