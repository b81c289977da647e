"""What the README, the guides and the examples of --help show is there: commands, options, formats, files, output."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from framecls.cli import guide
from framecls.cli.app import app
from framecls.cli.boundary import run
from framecls.cli.interrupts import Terminated
from framecls.cli.messages import BROKEN_PIPE, DONE, FAILED, INCOMPLETE, INTERRUPTED, USAGE
from framecls.output.formats import WRITERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = {name: guide.read_guide(name) for name in guide.names()}
TEXTS = {"README": README, **GUIDES}


@cache
def commands() -> dict[tuple[str, ...], Any]:
    """Return every command by its words."""
    found: dict[tuple[str, ...], Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        found[words] = command
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def split_commands(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each `framecls` command in a line of a shell."""
    words: list[str] = []
    for word in (*shlex.split(line, comments=True), "&&"):
        if word not in ("&&", "|", ">"):
            words.append(word)
            continue
        if "framecls" in words:
            yield words[words.index("framecls") + 1 :]
        words = []


def shown_commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every `framecls` command in a shell block or behind a prompt."""
    for language, block in blocks(text):
        for line in block.splitlines():
            if language == "sh" or line.startswith("$ "):
                yield from split_commands(line.removeprefix("$ "))


EXAMPLES = {
    " ".join(("framecls", *words)): [
        arguments
        for line in (command.epilog or "").partition("\n\n")[0].splitlines()
        for arguments in split_commands(line)
    ]
    for words, command in commands().items()
}
SHOWN = [
    *(
        pytest.param(words, id=f"{name}: {' '.join(words)}")
        for name, text in TEXTS.items()
        for words in shown_commands(text)
    ),
    *(pytest.param(words, id=f"help: {' '.join(words)}") for lines in EXAMPLES.values() for words in lines),
]


@pytest.mark.parametrize("words", SHOWN)
def test_each_command_and_option_exists(words: list[str]) -> None:
    n_names = next(n for n in (2, 1, 0) if tuple(words[:n]) in commands())
    command = commands()[tuple(words[:n_names])]
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    assert n_names or words[0] in known
    for option in (word for word in words[n_names:] if re.match(r"--?[a-z]", word)):
        assert option.partition("=")[0] in known
    if "-f" in words:
        assert words[words.index("-f") + 1] in WRITERS
    if words[:1] == ["guide"] and words[1:]:
        assert words[1] in GUIDES


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_command_has_examples_of_itself(name: str) -> None:
    words = name.split()[1:]
    assert all(example[: len(words)] == words for example in EXAMPLES[name])
    assert len(EXAMPLES[name]) >= 2


def test_exit_statuses_are_told_once_and_all() -> None:
    told = re.findall(r"^ +(\d+)  \w", commands()[()].epilog, flags=re.MULTILINE)
    console_statuses = (DONE, FAILED, USAGE, INCOMPLETE, INTERRUPTED, BROKEN_PIPE)
    assert [int(status) for status in told] == [*console_statuses, Terminated(signal.SIGTERM).status]
    assert not any("141" in text for text in TEXTS.values())


# Of a few seconds each, over the clips of samples/.
QUICK = sorted(
    {
        tuple(words)
        for text in TEXTS.values()
        for words in shown_commands(text)
        if any(word.startswith("samples/") for word in words) and words[0] in ("tag", "identify", "enroll")
        if all((ROOT / word).is_file() for word in words if "/" in word)
    },
    # `identify -m speaker` is for those who are enrolled before.
    key=lambda words: (words[0] != "enroll", words),
)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("gallery") / "speakers.sqlite")


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_quick_commands_run(
    words: tuple[str, ...], gallery: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("COLUMNS", raising=False)
    extra = ["--gallery", gallery] if {"enroll", "speaker"} & {*words} else []
    assert run([*words, *extra, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    [shown] = {output for text in TEXTS.values() for output in shown_output(text, words)} or {None}
    if shown is not None and words[0] != "enroll":
        assert names_in(said) == names_in(shown)


def shown_output(text: str, words: tuple[str, ...]) -> Iterator[str]:
    """Yield what a console block shows under a command."""
    for language, block in blocks(text):
        parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
        for line, output in zip(parts[1::2], parts[2::2], strict=True):
            if language == "console" and [list(words)] == list(split_commands(line)):
                yield output


def names_in(text: str) -> list[str]:
    """Return the words of an output that are the same on every machine: no numbers, and no codes of runners-up."""
    return sorted(re.findall(r"[A-Za-z/_.]{3,}", re.sub(r"\S*\.(?=\d)|\d\S*", " ", text)))


def test_the_list_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    said = capsys.readouterr().out
    [shown] = shown_output(README, ("models",))
    assert [line.split()[:2] for line in said.splitlines()] == [line.split()[:2] for line in shown.splitlines()]


def test_the_readme_is_short_and_names_what_there_is() -> None:
    assert len(README.splitlines()) <= 250
    for name in (*WRITERS, *GUIDES):
        assert f"`{name}`" in README
    shown = {words[0] for text in (README, *GUIDES.values()) for words in shown_commands(text)}
    assert shown >= {words[0] for words in commands() if words} - {"guide"}


@pytest.mark.parametrize("name", TEXTS)
def test_python_examples_compile(name: str) -> None:
    for language, block in blocks(TEXTS[name]):
        if language == "python":
            compile(block, name, "exec")


@pytest.mark.parametrize(
    ("name", "target"),
    [(name, target) for name, text in TEXTS.items() for target in re.findall(r"\]\((?!http)([^)]+)\)", text)],
)
def test_files_that_are_linked_are_there(name: str, target: str) -> None:
    assert ((ROOT if name == "README" else guide.FOLDER) / target).exists()


@pytest.mark.parametrize(
    ("name", "named"), [(n, m) for n, t in TEXTS.items() for m in re.findall(r"framecls guide ([a-z]+)", t)]
)
def test_guides_that_are_named_are_there(name: str, named: str) -> None:
    assert named in GUIDES, name


@pytest.mark.parametrize("name", TEXTS)
def test_settings_that_are_named_exist(name: str) -> None:
    from framecls.config import to_dict
    from framecls.training.recipe import Recipe

    tables: dict[str, Any] = to_dict(Recipe(name="any", task="frame"))
    settings = r"\b(?:optim|mix|augment|sample|encoder|features)(?:\.(?!py\b)[a-z_]+)+(?=[=`\s])"
    for setting in re.findall(settings, TEXTS[name]):
        table: Any = tables
        for part in setting.split("."):
            assert part in table, setting
            table = table[part]
