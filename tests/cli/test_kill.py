"""A run that is killed at random moments and resumed each time ends with the bytes of a run that was not."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.forked import Runner, forked_runner
from support.models import save_tiny_model
from support.signals import write_wav

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# In all, shared out among the kinds of output; FRAMECLS_KILLS sets another number.
KILLS = int(os.environ.get("FRAMECLS_KILLS", "10"))
OUTPUTS = {
    "a folder of label files": ["tag", "-f", "audacity", "-o", "out/"],
    "a folder of arrays": ["tag", "-f", "npz", "-o", "out/"],
    "lines with frames": ["tag", "--frames", "-o", "out.jsonl"],
    "one table": ["tag", "-o", "out.csv"],
    "one array": ["identify", "-o", "out.json"],
}
N_INPUTS = 20


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models and recordings, one of which is none."""
    folder = tmp_path_factory.mktemp("killed")
    for task in ("frame", "pooled"):
        save_tiny_model(folder, task)
    for number in range(N_INPUTS):
        write_wav(folder / "in" / f"{number % 3}" / f"{number:02d}.wav", 0.3 + 0.1 * (number % 5), 200 + 50 * number)
    (folder / "in" / "1" / "text.wav").write_text("no audio\n" * 100)
    return folder


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with forked_runner() as run:
        yield run


def results(folder: Path) -> dict[str, bytes]:
    """Return every file that a user sees under a folder, and its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".framecls-journal")
    }


@pytest.mark.parametrize("kind", OUTPUTS)
def test_killed_and_resumed_is_as_if_nothing_had_happened(kind: str, work: Path, runner: Runner) -> None:
    command, *rest = OUTPUTS[kind]
    model = "tiny-sound" if command == "tag" else "tiny-language"

    def arguments(folder: str) -> list[str]:
        target = [f"{folder}/{word}" if word.startswith("out") else word for word in rest]
        common = ["-m", f"{model}.safetensors", "--device", "cpu", "--threads", "1"]
        return [command, "in", *common, *target, "--errors", f"{folder}/errors.jsonl"]

    place = kind.replace(" ", "-")
    (work / place / "whole").mkdir(parents=True)
    whole = runner(arguments(f"{place}/whole"), work)
    assert whole.status == 1, whole.err  # one input is no recording
    expected = results(work / place / "whole")
    assert len(expected) == (N_INPUTS + 1 if rest[-1].endswith("/") else 2)

    chance = random.Random(kind)
    kills = max(1, KILLS // len(OUTPUTS))
    n_killed = n_rounds = 0
    while n_killed < kills:
        folder = f"{place}/{n_rounds}"
        (work / folder).mkdir()
        while True:
            moment_s = chance.uniform(0, whole.seconds) if n_killed < kills else None
            answer = runner([*arguments(folder), "--resume"], work, moment_s)
            if answer.status is not None:
                break
            n_killed += 1
            there = results(work / folder)
            shown = {name: data for name, data in there.items() if "/." not in f"/{name}" and name != "errors.jsonl"}
            assert shown.items() <= expected.items()  # whole or not at all
        assert answer.status == 1, answer.err
        assert results(work / folder) == expected
        again = runner([*arguments(folder), "--resume"], work)
        assert f"0 done, {N_INPUTS} skipped, 1 failed" in again.err
        assert results(work / folder) == expected
        n_rounds += 1
