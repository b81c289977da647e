"""What is on the screen of a terminal when a command has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import run_in_terminal
from support.models import save_tiny_model
from support.signals import write_wav

pytest.importorskip("pyte")
pytest.importorskip("pty", reason="a terminal of POSIX")

# The bar is shown from the beginning, however short the run.
RUN = """
import sys
from framecls.cli import progress
from framecls.cli.boundary import run
progress._SHOW_AFTER_S = 0.0
sys.exit(run(sys.argv[1:]))
"""
INTERRUPTED = RUN.replace(
    "progress._SHOW_AFTER_S = 0.0",
    """
progress._SHOW_AFTER_S = 0.0
finish_input = progress.InputProgress.finish_input
def interrupt(self, audio_s):
    finish_input(self, audio_s)
    if self._throughput.n_done == 2:
        raise KeyboardInterrupt
progress.InputProgress.finish_input = interrupt
""",
)


def show(code: str, arguments: list[str], folder: Path, columns: int) -> tuple[int, list[str]]:
    """Run a command line that draws a bar; return its exit status, and the lines that are left on the screen."""
    status, written, lines = run_in_terminal(*arguments, code=code, columns=columns, cwd=folder)
    assert "━".encode() in written
    return status, lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("terminal")
    for number in range(3):
        write_wav(made / "in" / f"{number}.wav", 1.0 + number)
    save_tiny_model(made, "frame")
    save_tiny_model(made, "pooled")
    return made


@pytest.mark.parametrize(
    ("command", "model", "columns"),
    [("tag", "tiny-sound", 80), ("identify", "tiny-language", 100)],  # as it goes, and all at the end
)
def test_no_bar_is_left(command: str, model: str, columns: int, folder: Path) -> None:
    arguments = [command, "in", "-m", f"{model}.safetensors", "--device", "cpu"]
    status, lines = show(RUN, arguments, folder, columns)
    assert status == 0
    assert lines[-1].startswith("framecls: 3 done")
    assert not [line for line in lines[:-1] if "━" in line or "times real time" in line or "/3" in line]
    if command == "identify":
        assert lines[0].split() == ["File", "Language", "Score", "Runners-up", "Length"]


def test_no_bar_is_left_of_an_interrupted_run(folder: Path) -> None:
    arguments = ["identify", "in", "-m", "tiny-language.safetensors", "--device", "cpu"]
    status, lines = show(INTERRUPTED, arguments, folder, 80)
    assert status == 130
    assert lines[0].split() == ["File", "Language", "Score", "Runners-up", "Length"]
    assert not [line for line in lines if "━" in line or "times real time" in line]
