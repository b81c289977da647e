"""The README's commands exist as they stand there, and every command and format of the real thing is in it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from framecls.output.formats import WRITERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    "tag",
    "identify",
    "enroll",
    "speakers",
    "train",
    "evaluate",
    "compare",
    "models",
    "export",
    "bench",
    "check",
}
GROUPS = {"speakers"}  # whose commands have a second word
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def framecls_commands() -> list[list[str]]:
    """Return the arguments of every `framecls` command in a shell block or behind a prompt."""
    found = []
    for language, block in BLOCKS:
        for line in block.splitlines():
            text = line.removeprefix("$ ")
            if language != "sh" and text == line:
                continue
            for part in re.split(r"&&|\|", text.split(" # ")[0]):
                words = shlex.split(part.split(">")[0])
                if words[:1] == ["framecls"]:
                    found.append(words[1:])
    return found


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "framecls", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "", "NO_COLOR": "1", "TERM": "dumb"},
        cwd=ROOT,
    )
    return done.stdout


def commands() -> set[str]:
    return set(re.findall(rf"^[│ ]*({'|'.join(COMMANDS)})\b", help_of(), flags=re.MULTILINE))


@pytest.mark.parametrize("words", framecls_commands(), ids=" ".join)
def test_each_command_of_the_readme_exists(words: list[str]) -> None:
    if words[0].startswith("-"):
        assert words[0] in help_of()
        return
    assert words[0] in commands()
    for option in (word for word in words[1:] if re.match(r"--?[a-z]", word)):
        command = words[: 2 if words[0] in GROUPS else 1]
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of(*command)), option
    if words[0] in GROUPS:
        assert re.search(rf"^[│ ]*{words[1]}\b", help_of(words[0]), flags=re.MULTILINE)


def test_the_readme_shows_every_command() -> None:
    assert commands() == COMMANDS
    assert {words[0] for words in framecls_commands()} >= commands()


def test_the_readme_names_every_format() -> None:
    for name in WRITERS:
        assert f"`{name}`" in README


def test_python_examples_compile() -> None:
    examples = [block for language, block in BLOCKS if language == "python"]
    assert examples
    for example in examples:
        compile(example, "README.md", "exec")


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_files_that_the_readme_shows_are_there(target: str) -> None:
    assert (ROOT / target).exists()


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"^(LADDER|FIGURES|LIMITS|LANGUAGES|<!-- output)", README, flags=re.MULTILINE)
