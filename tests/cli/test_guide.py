"""`framecls guide`: the list, a guide for a pipe and for a terminal, and names that are not there."""

from __future__ import annotations

import io
import sys

import pytest

from framecls.cli import guide
from framecls.cli.boundary import run
from support.commands import Cli, environment, run_command


class Terminal(io.StringIO):
    """Text that a terminal would get."""

    def isatty(self) -> bool:
        return True


def test_the_list_names_every_guide_and_its_subject(cli: Cli) -> None:
    answer = cli("guide")
    assert answer.status == 0
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines] == guide.names()
    for line in lines:
        name, subject = line.split(maxsplit=1)
        assert guide.read_guide(name).splitlines()[0].endswith(f": {subject}")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", guide.names())
def test_a_pipe_gets_the_text_itself(name: str, cli: Cli) -> None:
    assert cli("guide", name) == (0, guide.read_guide(name), "")


@pytest.mark.parametrize("name", guide.names())
def test_a_terminal_gets_it_laid_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert run(["guide", name]) == 0
    shown = screen.getvalue()
    assert guide.read_guide(name).splitlines()[0][2:] in " ".join(shown.split())
    assert "```" not in shown
    assert "## " not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_name_that_is_not_there(cli: Cli) -> None:
    assert cli("guide", "vioces") == (2, "", "framecls: error: no guide is called 'vioces': did you mean voices?\n")
    answer = cli("guide", "../../README")
    assert answer.status == 2
    assert "; choose cluster, figures, files" in answer.err


def test_it_needs_no_torch_and_no_utf8() -> None:
    code = (
        "import sys\n"
        "from framecls.cli.boundary import run\n"
        "status = run(['guide', 'speed'])\n"
        "sys.exit('too much was imported' if {'torch', 'numpy'} & sys.modules.keys() else status)"
    )
    answer = run_command(code=code, env=environment(PYTHONIOENCODING="ascii"))
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("# Speed")
