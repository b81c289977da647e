"""Hostile journals and galleries, through the commands: refused in a line or seen through, at once, nothing harmed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import framecls
from framecls.cli.boundary import run
from framecls.speakers.gallery import open_gallery
from support.commands import COMMAND, Answer, Cli, environment, run_command
from support.hostile_state import BESIDE, CONTENTS, FOLDER_RECORDS, OF_GALLERIES, OF_JOURNALS, PLACES, RECORDS, Spoil
from support.limits import ends_in_time
from support.models import save_tiny_model, save_tiny_voice_model
from support.signals import make_tone, write_wav

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")

FILE, FOLDER = ".all.csv.framecls-journal", ".framecls-journal"


@dataclass(frozen=True)
class Workshop:
    """Recordings, models, and the results and state files that runs over them left."""

    folder: Path
    voices: Path  # a model

    @property
    def common(self) -> list[str]:
        return ["tag", "in", "-m", "tiny-sound.safetensors", "--device", "cpu", "--threads", "1", "--resume"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("hostile")
    save_tiny_model(folder, "frame")
    voices = save_tiny_voice_model(folder)
    for name, pitch in (("a.wav", 300.0), ("b.wav", 700.0)):
        write_wav(folder / "in" / name, 1.2, pitch)
    workshop = Workshop(folder, voices)
    here = os.getcwd()
    os.chdir(folder)
    try:
        assert run([*workshop.common, "-o", "whole/file/all.csv", "-q"]) == 0
        assert run([*workshop.common, "-f", "csv", "-o", "whole/folder/", "-q"]) == 0
    finally:
        os.chdir(here)
    model = framecls.load(voices, device="cpu")
    for name, pitch in (("Ada", 300.0), ("Bob", 700.0), ("Cleo", 2000.0)):
        model.enroll(name, [make_tone(2.0, pitch)], sample_rate=16000, gallery=folder / "whole" / "voices.sqlite")
    return workshop


@pytest.fixture
def attempt(made: Workshop, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command line; whatever it does, a victim stays as it is, and it ends in time and in words."""
    monkeypatch.chdir(made.folder)
    victim = tmp_path / "victim"
    if not victim.exists():
        victim.write_text("of somebody else\n")

    def call(*arguments: str) -> Answer:
        with ends_in_time():
            answer = cli(*arguments)
        assert answer.status in (0, 1, 3), answer.err
        for word in ("unexpected", "Traceback"):
            assert word not in answer.err
        assert victim.read_text() == "of somebody else\n"
        assert not victim.with_name("new").exists()
        return answer

    return call


def state_of(path: Path) -> object:
    """Return what may not change of something that is refused."""
    status = os.lstat(path)
    return path.read_bytes() if stat.S_ISREG(status.st_mode) else stat.S_IFMT(status.st_mode)


def check_journal(spoil: Spoil, name: str, output: str, made: Workshop, tmp_path: Path, attempt: Cli) -> Answer:
    """Run with a spoilt journal: it is refused and left alone, or the results are those of a run without one."""
    kind = "folder" if output.endswith("/") else "file"
    place = tmp_path / kind
    shutil.copytree(made.folder / "whole" / kind, place)
    spoil(place / name, tmp_path / "victim")
    before = state_of(place / name)
    answer = attempt(*made.common, "-f", "csv", "-o", f"{place}/{output.removeprefix('/')}")
    if answer.status == 0:
        for path in (made.folder / "whole" / kind).rglob("[!.]*"):
            assert (place / path.relative_to(made.folder / "whole" / kind)).read_bytes() == path.read_bytes()
    else:
        [line] = answer.err.splitlines()
        assert line.startswith("framecls: error: ")
        assert f"{place}" in line
        assert "cannot write in" in line or state_of(place / name) == before
    checked = attempt("check", str(place / name))
    assert checked.status in (0, 1)
    return answer


REFUSED = PLACES | CONTENTS | BESIDE


@pytest.mark.parametrize(("name", "output"), [(FILE, "all.csv"), (FOLDER, "/")], ids=["file", "folder"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_stands_in_a_journals_place(
    what: str, name: str, output: str, made: Workshop, tmp_path: Path, attempt: Cli
) -> None:
    answer = check_journal(REFUSED[what], name, output, made, tmp_path, attempt)
    if what in PLACES or (what in BESIDE and "nonsense" not in what):
        assert answer.status == 1


@pytest.mark.parametrize(("name", "output"), [(FILE, "all.csv"), (FOLDER, "/")], ids=["file", "folder"])
@pytest.mark.parametrize("what", OF_JOURNALS)
def test_journals_of_other_tables(
    what: str, name: str, output: str, made: Workshop, tmp_path: Path, attempt: Cli
) -> None:
    check_journal(OF_JOURNALS[what], name, output, made, tmp_path, attempt)


@pytest.mark.parametrize("what", RECORDS)
def test_records_that_no_run_writes_are_done_again(what: str, made: Workshop, tmp_path: Path, attempt: Cli) -> None:
    answer = check_journal(RECORDS[what], FILE, "all.csv", made, tmp_path, attempt)
    assert answer.status == 0
    assert "2 results in it are damaged: these recordings are done again" in answer.err
    assert "2 done" in answer.err


@pytest.mark.parametrize("what", FOLDER_RECORDS)
def test_records_of_a_folder_that_no_run_writes(what: str, made: Workshop, tmp_path: Path, attempt: Cli) -> None:
    answer = check_journal(FOLDER_RECORDS[what], FOLDER, "/", made, tmp_path, attempt)
    assert answer.status == 0
    assert "2 done" in answer.err


@pytest.mark.parametrize("what", REFUSED | OF_GALLERIES)
def test_galleries(what: str, made: Workshop, tmp_path: Path, attempt: Cli) -> None:
    whole = made.folder / "whole" / "voices.sqlite"
    spoil = (REFUSED | OF_GALLERIES)[what]
    commands = [
        ["speakers", "list"],
        ["speakers", "export"],
        ["speakers", "rename", "Ada", "Eve"],
        ["speakers", "remove", "Bob"],
        ["identify", "in/a.wav", "-m", str(made.voices), "--device", "cpu"],
        ["enroll", "Dan", "in/b.wav", "-m", str(made.voices), "--device", "cpu"],
    ]
    for number, command in enumerate(commands):
        path = tmp_path / str(number) / "voices.sqlite"
        path.parent.mkdir()
        shutil.copy2(whole, path)
        spoil(path, tmp_path / "victim")
        before = state_of(path)
        answer = attempt(*command, "--gallery", str(path))
        if what in PLACES or (what in BESIDE and "nonsense" not in what):
            assert answer.status == 1
            assert state_of(path) == before
        if answer.status == 1:
            assert len(answer.err.splitlines()) == 1 + answer.err.count("are damaged and left out")
            assert str(path) in answer.err or "Ada" in answer.err or "Bob" in answer.err
        attempt("check", str(path))


def test_check_tells_what_is_whole(made: Workshop, tmp_path: Path, attempt: Cli) -> None:
    whole = made.folder / "whole"
    files = [whole / "file" / FILE, whole / "folder" / FOLDER, whole / "voices.sqlite", made.voices]
    answer = attempt("check", "-f", "json", *map(str, files))
    assert (answer.status, answer.err) == (0, "")
    rows = json.loads(answer.out)
    assert [row["kind"] for row in rows] == ["journal", "journal", "gallery", "model"]
    assert [row["records"] for row in rows[:3]] == [2, 2, 3]
    assert all(row["whole"] and not row["invalid"] and row["version"] for row in rows)
    assert [row["model"].split("-")[0] for row in rows] == ["tiny"] * 4
    copy = tmp_path / "journal"
    shutil.copy2(files[0], copy)
    RECORDS["hop of zero"](copy, tmp_path)
    answer = attempt("check", str(copy), "-f", "json")
    assert answer.status == 1
    assert "2 of 2 records are damaged" in answer.err
    assert [row["invalid"] for row in json.loads(answer.out)] == [2]
    (tmp_path / "empty").touch()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(made.voices.read_bytes()[:-1])
    answer = attempt("check", str(tmp_path / "empty"), str(tmp_path / "none"), str(cut), "-f", "json")
    assert answer.status == 1
    assert [row["whole"] for row in json.loads(answer.out)] == [False] * 3
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_closed_stdin_is_one_line(tmp_path: Path) -> None:
    command = ["sh", "-c", '"$@" <&-', "sh", *COMMAND, "speakers", "import", "-", "--gallery", str(tmp_path / "g")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 1
    assert done.stderr == "framecls: error: standard input is closed: pipe an export into it, or give a file\n"
    assert os.listdir(tmp_path) == []


def test_a_gallery_that_another_thread_uses_keeps_its_lock(made: Workshop, tmp_path: Path) -> None:
    """A look at a file's header by another descriptor would give away the locks that SQLite has on it."""
    path = tmp_path / "g.sqlite"
    shutil.copy2(made.folder / "whole" / "voices.sqlite", path)
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "try: connection.execute('BEGIN IMMEDIATE')\n"
        "except sqlite3.OperationalError: sys.exit(7)"
    )
    with open_gallery(path) as gallery, gallery._writing():
        with open_gallery(path) as other:
            other.models()
        assert run_command(path, code=code).status == 7
