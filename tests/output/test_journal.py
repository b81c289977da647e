"""The journal and what stands beside it on disk: whatever a kill leaves there, it can be read."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecls import statefile
from framecls.audio import Input
from framecls.errors import FrameclsError, OutputError
from framecls.output import files
from framecls.output.destination import choose_destination
from framecls.output.files import atomic_write, remove_leftovers
from framecls.output.formats import WRITERS, make_writer
from framecls.output.journal import Record, make_key, open_journal
from framecls.output.resume import History, collect_facts, observe
from framecls.output.stored import from_record, to_record
from framecls.results import Outline, TagResult
from support.results import make_identification, make_string, make_tag

A, B, C = (make_key(name) for name in "abc")


def read(path: Path) -> dict[str, Any]:
    with open_journal(path, exclusive=True) as journal:
        found = {key: journal.get(key) for key in (A, B, C)}
    return {key: record.values for key, record in found.items() if record is not None}


def fill(path: Path) -> None:
    with open_journal(path, exclusive=True) as journal:
        journal.add(A, Record({"n": 1, "text": "ü\n\udcff"}, b"1"))
        journal.add(B, Record({"n": 2}, b"22"))
        journal.add(A, Record({"n": 3}, b"333"))


def test_the_last_record_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    fill(path)
    assert read(path) == {A: {"n": 3}, B: {"n": 2}}
    with open_journal(path, exclusive=True) as journal:
        assert len(journal) == 2
        assert journal.get(C) is None
        journal.add(C, Record())
        assert journal.get(C) == Record()
        assert C in journal
        assert journal.get(B) == Record({"n": 2}, b"22")
        assert journal.get(A) == Record({"n": 3}, b"333")
        journal.remove(A)
        assert (journal.get(A), A in journal) == (None, False)
        assert [key for key, _ in journal.records()] == [B, C]


def test_any_byte_that_a_disk_spoils_gives_no_wrong_record(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path)
    whole = path.read_bytes()
    good = {A: {"n": 3}, B: {"n": 2}}
    refusals: list[str] = []
    for position in range(0, len(whole), 29):
        spoilt = bytearray(whole)
        spoilt[position] ^= 1
        path.write_bytes(bytes(spoilt))
        try:
            assert read(path).items() <= good.items()
        except FrameclsError as error:
            refusals.append(str(error))
        for beside in tmp_path.glob("journal-*"):
            beside.unlink()
    assert all(str(tmp_path) in said for said in refusals)
    assert 0 < len(refusals) < len(whole) / 29 / 2


def test_keep_drops_what_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with open_journal(path, exclusive=True) as journal:
        for number in range(10):
            journal.add(A, Record({"n": number}))
        journal.add(B, Record())
        journal.add(C, Record())
        journal.keep([A, B, A])
        assert len(journal) == 2
    assert read(path) == {A: {"n": 9}, B: {}}
    with open_journal(path, exclusive=True) as journal:
        journal.keep([B, C])
    assert read(path) == {B: {}}
    with open_journal(path, exclusive=True) as journal:
        journal.keep([])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("exclusive", [True, False])
def test_an_empty_journal_is_not_left_behind(exclusive: bool, tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal", exclusive=exclusive):
        assert (tmp_path / "journal").exists()
    assert os.listdir(tmp_path) == []


def test_an_empty_journal_that_another_run_has_open_stays(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal", exclusive=False) as journal:
        with open_journal(tmp_path / "journal", exclusive=False):
            pass
        journal.add(A, Record({"n": 1}))
    assert read(tmp_path / "journal") == {A: {"n": 1}}


def test_several_threads_add(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal", exclusive=False) as journal, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: journal.add(make_key(n), Record({"n": n})), range(400)))
        assert {record.values["n"] for _, record in journal.records() if record} == set(range(400))


def in_a_child(action: Callable[[], None]) -> int:
    """Run something in a forked process and return its exit code, negative for the signal that killed it."""
    child = os.fork()
    if not child:
        try:
            action()
            os._exit(0)
        except FrameclsError:
            os._exit(3)
        finally:
            os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_journal_has_one_owner_or_several_that_share(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def take(exclusive: bool) -> None:
        with open_journal(path, exclusive=exclusive) as journal:
            journal.add(C, Record({"of": "the other"}))

    with open_journal(path, exclusive=True) as journal:
        journal.add(A, Record())
        assert in_a_child(lambda: take(True)) == 3
    with open_journal(path, exclusive=False) as journal:
        assert in_a_child(lambda: take(True)) == 3
        assert in_a_child(lambda: take(False)) == 0
        journal.add(B, Record())
    assert set(read(path)) == {A, B, C}


@pytest.mark.skipif(files.fcntl is None, reason="needs POSIX locks")
def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    def die_writing() -> None:
        with atomic_write(tmp_path / "a.txt", binary=False) as stream:
            stream.write("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(die_writing) == -signal.SIGKILL
    (tmp_path / ".framecls-notes.tmp").write_text("of the user")
    assert len(os.listdir(tmp_path)) == 2
    with atomic_write(tmp_path / "b.txt", binary=False) as stream:
        stream.write("under way")
        assert in_a_child(lambda: os._exit(remove_leftovers([tmp_path, tmp_path / "none"]))) == 1
    assert sorted(os.listdir(tmp_path)) == [".framecls-notes.tmp", "b.txt"]


# --- results


@pytest.mark.parametrize("format", [name for name in WRITERS if name != "parquet"])
def test_a_stored_result_is_written_as_the_result_itself(format: str, tmp_path: Path) -> None:
    writer = make_writer(format)
    tags = (make_tag("ü\udcff.wav"), make_tag(empty=True), make_tag(overlapping=False), make_string())
    for result in (*tags, make_identification()):
        if not isinstance(result, writer.accepts):
            continue
        written = []
        if writer.for_people and isinstance(result, TagResult):
            none = (np.zeros(0), np.zeros((0, len(result.labels)), np.float32))
            outline = Outline(result.times, result.scores, result.scores)
            result = replace(result, times=none[0], scores=none[1], outline=outline)
        stored = to_record(result, frames=writer.frames, outline=writer.for_people)
        for version in (result, from_record(stored)):
            with atomic_write(tmp_path / "out", binary=writer.binary) as stream:
                writer.begin(stream)
                writer.write(version, stream)
                writer.end(stream)
            written.append((tmp_path / "out").read_bytes())
        assert written[0] == written[1]


def test_frames_are_stored_bit_for_bit_and_only_when_asked_for() -> None:
    result = make_tag()
    again = from_record(to_record(result, frames=True, outline=False))
    assert isinstance(again, TagResult)
    np.testing.assert_array_equal(again.scores, result.scores)
    np.testing.assert_array_equal(again.times, result.times)
    assert (again.scores.dtype, again.times.dtype) == (result.scores.dtype, result.times.dtype)
    bare = from_record(to_record(result, frames=False, outline=False))
    assert isinstance(bare, TagResult)
    assert bare.scores.shape == (0, len(result.labels))
    assert to_record(result, frames=False, outline=False).arrays == b""


def test_an_outline_is_stored_in_place_of_the_frames() -> None:
    result = make_tag()
    outlined = replace(result, outline=Outline(result.times[:4], result.scores[:4] / 2, result.scores[:4]))
    again = from_record(to_record(outlined, frames=False, outline=True))
    assert isinstance(again, TagResult)
    assert again.outline is not None
    for name in ("times", "means", "peaks"):
        np.testing.assert_array_equal(getattr(again.outline, name), getattr(outlined.outline, name))
    assert to_record(outlined, frames=False, outline=False).arrays == b""  # only formats for people show one


# --- a kill at every step


def make_inputs(folder: Path) -> list[Input]:
    folder.mkdir()
    for name in ("a.wav", "b.wav", "c.wav"):
        (folder / name).write_text(name)
    return [Input(folder / name, f"in/{name}", Path(name)) for name in sorted(os.listdir(folder))]


def classify(format: str, output: str, inputs: list[Input]) -> int:
    """Do what a run does, without a model; return the number of inputs that were skipped."""
    history = History(collect_facts(inputs, observe(inputs), "the same options"), resume=True)
    destination = choose_destination(make_writer(format), output, len(inputs), keep_journal=True)
    with destination.open(inputs, history):
        for item in destination.pending:
            destination.write(make_tag(item.name), item.relative)
            assert not destination.failures
    return len(inputs) - len(destination.pending)


def die_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the n-th call that changes something on disk the last thing that this process does; a write is half done."""
    left = iter(range(step))

    def wrap(name: str) -> None:
        really = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                if name == "write":
                    really(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return really(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
        wrap(name)

    def execute(self: statefile.Connection, *arguments: Any, really: Any = statefile.Connection.execute) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return really(self, *arguments)

    monkeypatch.setattr(statefile.Connection, "execute", execute)


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one step follow the other: a single thread writes, and the journal goes to the disk at once."""
    monkeypatch.setattr("framecls.output.destination._WRITING_THREADS", 1)
    monkeypatch.setattr("framecls.output.destination._MOST_WAITING", 1)
    monkeypatch.setattr("framecls.output.journal._SYNC_S", 0.0)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(("format", "output"), [("audacity", "out/"), ("csv", "out.csv")])
def test_a_kill_at_every_step(format: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(tmp_path / "in")

    def shown(place: Path) -> dict[str, bytes]:
        return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("[!.]*") if path.is_file()}

    def run_in(place: Path) -> int:
        place.mkdir(exist_ok=True)
        return classify(format, str(place / output) + ("/" if output.endswith("/") else ""), inputs)

    run_in(tmp_path / "whole")
    expected = shown(tmp_path / "whole")
    n_skipped = []
    for step in range(1000):
        place = tmp_path / str(step)

        def go(place: Path = place, step: int = step) -> None:
            with monkeypatch.context() as patch:
                die_at(step, patch)
                run_in(place)

        code = in_a_child(go)
        assert shown(place).items() <= expected.items()
        n_skipped.append(run_in(place))
        assert shown(place) == expected
        names = [path.name for path in place.rglob(".*")]
        assert [name for name in names if name.endswith(".tmp")] == []
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert len(n_skipped) > 12  # there were so many steps
    assert n_skipped == sorted(n_skipped)  # the later the kill, the more is done
    assert {0, 1, 2, 3} == set(n_skipped)


# --- what can be wrong with the place


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write in"), open_journal(tmp_path / "file" / "j", exclusive=True):
        pass
    with open_journal(tmp_path / "journal", exclusive=True) as journal:
        journal.add(A, Record({"n": 1}))
        journal._connection.execute("PRAGMA max_page_count = 20")
        with pytest.raises(OutputError, match=f"cannot write in {tmp_path}: No space left on device"):
            journal.add(B, Record({"n": 2}, bytes(10**6)))
    assert read(tmp_path / "journal") == {A: {"n": 1}}


@pytest.mark.skipif(sys.platform != "linux", reason="errno of Linux")
@pytest.mark.parametrize(("number", "kind"), [(28, OutputError), (30, OutputError), (13, FrameclsError)])
def test_what_stops_one_file_and_what_stops_all(
    number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FrameclsError) as caught, atomic_write(tmp_path / "a", binary=True) as stream:
        stream.write(b"x")
    assert type(caught.value) is kind
    assert str(caught.value) == f"cannot write {tmp_path / 'a'}: {os.strerror(number)}"
    assert os.listdir(tmp_path) == []


def test_a_key_depends_on_each_fact() -> None:
    keys = {make_key(*facts) for facts in (("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", "1"), ("\udcff", 1))}
    assert len(keys) == 6
