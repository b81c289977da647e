"""Change state files at random and use them through the commands: each case ends in time and in words, harming nothing.

    python tests/fuzz_state.py --seconds 60 [--seed 1] [--only journal,gallery]

A case that fails is printed with its seed; `--seed N --cases 1` does it again. To fuzz another kind of file, add a
function to TARGETS that is given a `Case` and does one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import framecls
from framecls.cli.boundary import run
from support.hostile_state import (
    BESIDE,
    CONTENTS,
    FOLDER_RECORDS,
    OF_GALLERIES,
    OF_JOURNALS,
    PLACES,
    RECORDS,
    Spoil,
    edit_records,
)
from support.limits import ends_in_time
from support.models import save_tiny_model, save_tiny_voice_model
from support.signals import make_tone, write_wav

MOST_S = 30.0  # of computing, of a case; most take a few milliseconds
VICTIM = "of somebody else\n"
RECORDINGS = (("a.wav", 300.0), ("b.wav", 700.0))


class CaseError(Exception):
    """A case did what none may do."""


@dataclass(frozen=True)
class Case:
    """One attempt: a folder of its own, and chance that its number decides."""

    number: int
    made: Path  # recordings, models and whole state files, which no case changes
    place: Path  # for this case alone
    chance: random.Random

    @property
    def victim(self) -> Path:
        """A file that stays as it is."""
        return self.place / "victim"

    def attempt(self, *arguments: str) -> tuple[int, str, str]:
        """Run one command line, and return its exit status, stdout and stderr.

        Raises:
            CaseError: it hangs, or ends in an error of our own.
        """

        out, err = io.StringIO(), io.StringIO()
        try:
            with ends_in_time(MOST_S), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = run(list(arguments))
        except AssertionError as error:
            raise CaseError(f"{arguments}: {error}") from None
        said = err.getvalue()
        if status not in (0, 1, 2, 3) or "unexpected" in said or "Traceback" in said:
            raise CaseError(f"{arguments}: status {status}: {said}")
        return status, out.getvalue(), said


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change, cut, repeat or swap some bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        at = chance.randrange(min(len(changed), chance.choice((100, 1000, 10**9))))
        length = chance.choice((1, 2, 4, 8, 64, 4096))
        kind = chance.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            changed[at : at + length] = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF))]) * length
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length]
        elif kind == 5:
            other = chance.randrange(len(changed))
            changed[at : at + length] = changed[other : other + length]
        else:
            del changed[at:]
    return bytes(changed)


NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "a" * 10_000, "../victim",
    [], [[]], {}, {"": []}, [0.0, 1e9, "speech", 0.5], "speech", 0.5, ["speech"] * 3,
)  # fmt: skip


def mutate_json(value: Any, chance: random.Random) -> Any:
    """Put something else in one place of plain data."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return {**value, key: mutate_json(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], mutate_json(value[at], chance), *value[at + 1 :]]
    return chance.choice(NASTY)


def spoil_bytes(path: Path, victim: Path, chance: random.Random) -> None:
    """Change a file, or put changed bytes beside it where SQLite would read them."""
    name = chance.choice(("", "", "", "-wal", "-journal", "-shm"))
    path.with_name(path.name + name).write_bytes(mutate(path.read_bytes(), chance))


def spoil_cells(path: Path, victim: Path, chance: random.Random) -> None:
    """Change what a table holds, without regard for types."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = {
            str(table): [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        for _ in range(chance.choice((1, 2, 5))):
            table = chance.choice(list(tables))
            column = chance.choice(tables[table])
            value = chance.choice((None, 7, -(2**63), 1e308, "text", "\0", b"", b"\xff" * 32, chance.randbytes(32)))
            with contextlib.suppress(sqlite3.Error):
                some = f"SELECT rowid FROM {table} LIMIT {chance.choice((1, 2, 100))}"
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid IN ({some})", (value,))
        connection.commit()


def spoil_records(path: Path, victim: Path, chance: random.Random) -> None:
    """Change the values or arrays of a journal's records, with digests that are right."""

    def edit(values: dict[str, Any], arrays: bytes) -> tuple[Any, bytes]:
        if chance.random() < 0.2:
            return values, mutate(arrays or b"\0", chance)
        changed = mutate_json(values, chance)
        return (changed if isinstance(changed, dict) else json.dumps(changed).encode()), arrays

    edit_records(path, edit)


def spoil_as_known(known: dict[str, Spoil]) -> Callable[[Path, Path, random.Random], None]:
    """Return what does one of the named things."""
    return lambda path, victim, chance: known[chance.choice(sorted(known))](path, victim)


def fuzz_journal(case: Case) -> None:
    """Resume from a spoilt journal; where that is done, and the bytes alone were changed, the results are right."""
    kind = case.chance.choice(("file", "folder"))
    name = {"file": ".all.csv.framecls-journal", "folder": ".framecls-journal"}[kind]
    place = case.place / kind
    shutil.copytree(case.made / "whole" / kind, place)
    known = PLACES | CONTENTS | BESIDE | OF_JOURNALS | (RECORDS if kind == "file" else FOLDER_RECORDS)
    spoil = case.chance.choice((spoil_bytes, spoil_bytes, spoil_cells, spoil_records, spoil_as_known(known)))
    spoil(place / name, case.victim, case.chance)
    output = str(place / "all.csv") if kind == "file" else f"{place}/"
    status, _, err = case.attempt(*tag_command(case.made), "-o", output)
    if status == 0 and spoil is not spoil_records:
        for whole in (case.made / "whole" / kind).glob("*.csv"):
            if (place / whole.name).read_bytes() != whole.read_bytes():
                raise CaseError(f"other results: {err}")
    if status == 1 and str(place) not in err:
        raise CaseError(f"a line without the file's name: {err}")
    case.attempt("check", str(place / name))


def fuzz_gallery(case: Case) -> None:
    """Use a spoilt gallery."""
    path = case.place / "voices.sqlite"
    shutil.copy2(case.made / "whole" / "voices.sqlite", path)
    known = spoil_as_known(PLACES | CONTENTS | BESIDE | OF_GALLERIES)
    case.chance.choice((spoil_bytes, spoil_bytes, spoil_cells, known))(path, case.victim, case.chance)
    voices = ["-m", str(next(case.made.glob("tiny-speaker*"))), "--device", "cpu", "--threads", "1"]
    commands = (
        ["speakers", "list"],
        ["speakers", "export"],
        ["speakers", "export", "-o", str(case.place / "export.jsonl")],
        ["speakers", "rename", "Ada", "Eve"],
        ["speakers", "remove", "Bob"],
        ["speakers", "import", str(case.made / "whole" / "voices.jsonl")],
        ["identify", str(case.made / "in" / "a.wav"), *voices],
        ["enroll", "Dan", str(case.made / "in" / "b.wav"), *voices],
    )
    case.attempt(*case.chance.choice(commands), "--gallery", str(path))
    case.attempt("check", str(path))


def fuzz_export(case: Case) -> None:
    """Import a spoilt export of voices."""
    text = (case.made / "whole" / "voices.jsonl").read_text()
    if case.chance.random() < 0.5:
        data = mutate(text.encode(), case.chance)
    else:
        rows = [mutate_json(json.loads(line), case.chance) for line in text.splitlines()]
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (case.place / "voices.jsonl").write_bytes(data)
    gallery = str(case.place / "new.sqlite")
    case.attempt("speakers", "import", str(case.place / "voices.jsonl"), "--gallery", gallery)
    if os.path.exists(gallery):
        status, _, err = case.attempt("check", gallery)
        if status:
            raise CaseError(f"an import made a gallery that is not whole: {err}")


TARGETS: dict[str, Callable[[Case], None]] = {
    "journal": fuzz_journal,
    "gallery": fuzz_gallery,
    "export": fuzz_export,
}


def tag_command(made: Path) -> list[str]:
    """Return the beginning of a command that resumes."""
    model = str(made / "tiny-sound.safetensors")
    return ["tag", str(made / "in"), "-m", model, "--device", "cpu", "--threads", "1", "--resume", "-f", "csv"]


def make(folder: Path) -> None:
    """Make recordings, models and whole state files."""
    save_tiny_model(folder, "frame")
    voices = save_tiny_voice_model(folder)
    for name, pitch in RECORDINGS:
        write_wav(folder / "in" / name, 1.2, pitch)
    model = framecls.load(voices, device="cpu")
    gallery = folder / "whole" / "voices.sqlite"
    for name, pitch in (("Ada", 300.0), ("Bob", 700.0), ("Cleo", 2000.0)):
        model.enroll(name, [make_tone(length, pitch) for length in (1.5, 2.0)], sample_rate=16000, gallery=gallery)
    for output in ("file/all.csv", "folder/"):
        assert run([*tag_command(folder), "-q", "-o", f"{folder}/whole/{output}"]) == 0
    export = ["speakers", "export", "-q", "--gallery", str(gallery), "-o", str(folder / "whole" / "voices.jsonl")]
    assert run(export) == 0


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """Give a folder with all that cases begin with."""
    with tempfile.TemporaryDirectory(prefix="framecls-fuzz-") as folder:
        made = Path(folder) / "made"
        made.mkdir()
        make(made)
        yield made


def do_case(target: str, number: int, made: Path) -> None:
    """Do one case.

    Raises:
        CaseError: it did what none may do.
    """
    with tempfile.TemporaryDirectory(prefix="case-", dir=made.parent) as folder:
        case = Case(number, made, Path(folder), random.Random(f"{target} {number}"))
        case.victim.write_text(VICTIM)
        TARGETS[target](case)
        if case.victim.read_text() != VICTIM or case.victim.with_name("new").exists():
            raise CaseError("somebody else's file was changed")


def main(arguments: list[str]) -> int:
    """Fuzz for a time or a number of cases, and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=10**12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(TARGETS), help="targets, by commas")
    options = parser.parse_args(arguments)
    targets = options.only.split(",")
    began, n_failed, n_done, slowest_s = time.monotonic(), 0, 0, 0.0
    with workshop() as made:
        number = options.seed
        while n_done < options.cases and time.monotonic() - began < options.seconds:
            for target in targets:
                case_began = time.monotonic()
                try:
                    do_case(target, number, made)
                except Exception as error:
                    n_failed += 1
                    print(f"--only {target} --seed {number} --cases 1: {type(error).__name__}: {error}", flush=True)
                slowest_s = max(slowest_s, time.monotonic() - case_began)
            number += 1
            n_done += 1
    elapsed_s = time.monotonic() - began
    print(f"{n_done * len(targets)} cases in {elapsed_s:.0f} s, {n_failed} failed, the slowest took {slowest_s:.1f} s")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
