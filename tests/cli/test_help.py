"""How the command starts: help, completion, and no import that is not needed."""

from __future__ import annotations

import importlib
import re
import typing

import pytest

from framecls import __main__ as entry
from framecls._version import __version__
from framecls.cli.app import COMMANDS, Spec
from support.commands import Answer, Cli, environment, run_command

CHEAP = {
    "--version": 0,
    "--help": 0,
    "tag --help": 0,
    "": 2,
    "tag x.wav -f nope": 2,
    "tag x.wav --threshold speech=2": 2,
    "tag x.wav -m nope": 2,
    "evaluate speaker x.csv --collar 1": 2,
    "train tag x.csv": 2,
    "explain x.wav": 2,
    "compare x.csv --rungs nope": 2,
    "bench --against nope": 2,
}


def test_cheap_answers_import_nothing_heavy() -> None:
    code = f"""
import sys
from framecls.cli.boundary import run
for line, status in {CHEAP!r}.items():
    assert run(line.split()) == status, line
    heavy = {{'torch', 'torchaudio', 'librosa', 'scipy', 'sklearn', 'soundfile'}} & sys.modules.keys()
    assert not heavy, (line, heavy)
"""
    answer = run_command(code=code)
    assert answer.status == 0, answer.err


@pytest.mark.parametrize("spec", COMMANDS.values(), ids=list(COMMANDS))
def test_what_a_command_calls_takes_its_options(spec: Spec) -> None:
    module, function = spec.calls.split(":")
    hints = typing.get_type_hints(getattr(importlib.import_module(f"framecls.cli.{module}"), function))
    assert hints == {"options": spec.takes, "return": int}


def test_version(cli: Cli) -> None:
    assert cli("--version") == Answer(0, f"framecls {__version__}\n", "")


def test_help_names_every_option(cli: Cli) -> None:
    for command, own in (("tag", {"--frames", "--min-duration", "--min-gap"}), ("identify", {"--top-k", "--among"})):
        shown = set(re.findall(r"--[a-z][a-z-]*", cli(command, "--help").out))
        common = {"--model", "--format", "--output", "--device", "--threads", "--batch-size", "--threshold", "--errors"}
        common |= {"--resume"}
        assert common | own | {"--no-progress", "--quiet", "--verbose", "--debug"} <= shown


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("tag", "[OPTIONS] INPUT..."),
        ("train", "[OPTIONS] tag|identify MANIFEST"),
        ("compare", "[OPTIONS] [MANIFEST]"),
        ("models", "[OPTIONS] [NAME|PATH]"),
        ("speakers export", "[OPTIONS] [NAME...]"),
        ("speakers rename", "[OPTIONS] OLD NEW"),
    ],
)
def test_help_reads_as_one_would_type(command: str, usage: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli(*command.split(), "--help").out
    assert f"Usage: framecls {command} {usage}\n" in re.sub(r" +\n", "\n", shown)
    assert not re.search(r"<(bool|int|str|path|list)", shown)  # Typer's names of types: --quiet <bool> takes no value
    assert max(map(len, shown.splitlines())) <= 80


def test_both_entry_points_are_one() -> None:
    assert run_command("--version") == (0, f"framecls {__version__}\n", "")
    assert entry.main.__module__ == "framecls.cli.boundary"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("framecls ta", ["tag"]),
        ("framecls tag -m s", ["sound", "speaker"]),
        ("framecls tag -f js", ["json", "jsonl"]),
        ("framecls tag --engine l", ["local"]),
        ("framecls tag --device c", ["cpu", "cuda"]),
        ("framecls models ph", ["phones"]),
        ("framecls train i", ["identify"]),
        ("framecls train tag --recipe ladder_t", ["ladder_tag"]),
        ("framecls train tag --init ph", ["phones"]),
        ("framecls evaluate sound x.csv --codec g", ["gsm"]),
    ],
)
def test_completion_is_offered(words: str, offered: list[str]) -> None:
    place = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    settings = environment(_FRAMECLS_COMPLETE="complete_bash", **place)
    answer = run_command(code="from framecls.cli import main; main()", env=settings)
    assert (answer.out.split(), answer.err) == (offered, "")
