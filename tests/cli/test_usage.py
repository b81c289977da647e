"""Wrong usage of every command: one line in plain words, and status 2."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from framecls.cli.app import app
from framecls.cli.numbers import parse_seconds, parse_whole
from framecls.errors import UsageError
from support.commands import Cli
from support.models import save_tiny_model
from support.signals import write_wav

# Words of parsers and of Python that no user has asked for.
FOREIGN = re.compile(
    r"Value error|Input should|unable to parse|not a valid|\bfloat\b|\bint\b|<|Traceback|unexpected|None"
)


def commands(group: typer.Typer = app, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the words of each command, and the function behind it."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield (*before, command.name or command.callback.__name__), command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, (*before, inner.name or ""))


def options() -> Iterator[tuple[list[str], str, bool]]:
    """Yield for each option that is no text a command line up to it, its name, and whether it takes a value."""
    for words, function in commands():
        parameters = inspect.signature(function).parameters.values()
        declared = {p.name: (*typing.get_args(p.annotation)[:2], p) for p in parameters}
        needed: list[str] = []
        for _, info, parameter in declared.values():
            if isinstance(info, typer.models.ArgumentInfo) and parameter.default is parameter.empty:
                needed.append("x")
            elif parameter.default is parameter.empty:
                needed += [info.param_decls[-1], "x"]
        for kind, info, _ in declared.values():
            if isinstance(info, typer.models.ArgumentInfo):
                continue
            kinds = {*typing.get_args(kind), kind}
            name = (info.default, *(info.param_decls or ()))[-1].partition("/")[0]
            if bool in kinds or info.count:
                yield [*words, *needed], name, False
            elif kinds & {int, float}:
                yield [*words, *needed], name, True


def test_a_number_of_too_many_digits(cli: Cli) -> None:
    said = cli("tag", "x.wav", "--threads", "9" * 5000)
    assert said.status == 2
    check_line(said.err)


def check_line(said: str) -> None:
    """One line, in words for a user."""
    assert said.startswith("framecls: error: ")
    assert len(said.splitlines()) == 1, said
    assert not FOREIGN.search(said), said
    assert len(said) < 300


OPTIONS = list(options())


def test_the_walk_finds_the_options() -> None:
    assert len(OPTIONS) > 80
    found = {(words[0], name) for words, name, _ in OPTIONS}
    assert {
        ("tag", "--max-duration"),
        ("train", "--save-every"),
        ("bench", "--length"),
        ("speakers", "--quiet"),
    } <= found


@pytest.mark.parametrize("bad", ["two", ""])
def test_a_value_of_the_wrong_type(bad: str, cli: Cli) -> None:
    for words, name, takes_value in OPTIONS:
        if not takes_value:
            continue
        said = cli(*words, f"{name}={bad}")
        assert (said.status, said.out) == (2, ""), (words, name)
        check_line(said.err)
        assert f"{name} {bad[:40]}" in said.err


def test_a_value_where_none_is_taken(cli: Cli) -> None:
    for words, name, takes_value in OPTIONS:
        if takes_value:
            continue
        said = cli(*words, f"{name}=3")
        assert (said.status, said.out) == (2, ""), (words, name)
        check_line(said.err)
        assert name in said.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tagg x.wav", "no such command 'tagg'. Did you mean 'tag'? See framecls --help"),
        ("nonsense", "no such command 'nonsense'; see framecls --help"),
        ("speakers lst", "no such command 'lst'. Did you mean 'list'? See framecls speakers --help"),
        ("tag", "missing argument 'INPUT...'; see framecls tag --help"),
        ("train", "missing argument 'tag|identify'; see framecls train --help"),
        ("train tag", "missing argument 'MANIFEST'; see framecls train --help"),
        ("speakers rename a", "missing argument 'NEW'; see framecls speakers rename --help"),
        ("speakers remove", "missing argument 'NAME...'; see framecls speakers remove --help"),
        ("export sound", "missing option '-o' / '--output'; see framecls export --help"),
        ("tag x.wav --formatt csv", "no such option: --formatt (Possible options: --format); see framecls tag --help"),
        ("tag x.wav -f", "option '-f' requires an argument; see framecls --help"),
        ("--nope", "no such option: --nope; see framecls --help"),
        ("models a b", "got unexpected extra argument(s) (b); see framecls models --help"),
        ("tag x.wav -f CSVV", "-f csvv: there is no such format, choose table, svg, png"),
    ],
)
def test_wrong_usage_is_one_line(line: str, message: str, cli: Cli) -> None:
    said = cli(*line.split())
    assert (said.status, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert re.sub(r"[‘’]", "'", said.err).startswith(f"framecls: error: {message}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1.0), ("1.5s", 1.5), ("1s", 1.0), (" 2 s ", 2.0), ("500ms", 0.5), ("1:30", 90.0), ("1:00:00.5", 3600.5)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_seconds("--min-gap")(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["s", "ms", "1:2:3:4", "1m", "1:", "half", "1:30s", "1x", "1,5", "--", "0x10", "1 2"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match=f"--min-gap {text}: a length of time in seconds is expected"):
        parse_seconds("--min-gap")(text)


@pytest.mark.parametrize("text", ["1x", "1,5", "--", "0x10", "1 2", "1.5", "1_000"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(UsageError, match=f"--track {text}: a whole number is expected"):
        parse_whole("--track")(text)


@pytest.fixture
def here(here: Path) -> Path:
    save_tiny_model(here, "frame")
    write_wav(here / "a.wav", 2.0)
    return here


@pytest.mark.parametrize("format", ["TextGrid", "JSON", "RTTM", "Csv", "VTT", "TABLE"])
def test_formats_in_any_case(format: str, here: Path, cli: Cli) -> None:
    command = ["tag", "a.wav", "-m", "tiny-sound.safetensors", "--device", "cpu", "-f"]
    said = cli(*command, format)
    assert said.status == 0
    assert said == cli(*command, format.lower())


def test_formats_of_other_commands_in_any_case(home: Path, cli: Cli) -> None:
    assert cli("speakers", "list", "-f", "JSON")[:2] == (0, "[]\n")


@pytest.mark.parametrize("output", ["x.csv", "x.TEXTGRID", "out/"])
def test_what_was_written_where(output: str, here: Path, cli: Cli) -> None:
    command = ["tag", "a.wav", "-m", "tiny-sound.safetensors", "--device", "cpu", "-o", output]
    command += ["-f", "csv"] if output.endswith("/") else []
    said = cli(*command)
    assert (said.status, said.out) == (0, "")
    assert said.err.startswith("framecls: 1 done, 0:00:02 of audio in ")
    assert said.err.endswith(f", results in {output}\n")
    assert len(said.err.splitlines()) == 1
    assert cli(*command, "-q") == (0, "", "")


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_help_reads_in_one_screen(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    answer = cli(*words, "-h")
    assert answer.status == 0
    shown = answer.out.splitlines()
    assert len(shown) <= 72
    assert any(line.startswith(" Examples:") for line in shown)


def test_options_are_few() -> None:
    names = {name for _, function in commands() for name in long_names(function)}
    assert len(names) <= 80, sorted(names)


def long_names(function: Any) -> Iterator[str]:
    """Yield the long names of the options of a command."""
    for parameter in inspect.signature(function).parameters.values():
        info = typing.get_args(parameter.annotation)[1]
        if isinstance(info, typer.models.OptionInfo):
            yield from (name for name in (str(info.default), *(info.param_decls or ())) if name.startswith("--"))
