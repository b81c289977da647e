"""Runs over folders: what --resume skips, how far they are, and how they end before their time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from framecls.audio import Input, find_inputs, open_audio
from framecls.cli import classify, operations, progress
from framecls.cli.progress import Throughput, line_interval_s
from framecls.config import ReadOptions
from framecls.output import destination
from framecls.output.destination import FolderDestination, JournalDestination
from support.commands import Answer, Cli, run_command
from support.media import Track, write_media
from support.models import save_tiny_model
from support.signals import write_wav


@pytest.fixture
def here(here: Path) -> Path:
    """Work in a folder with a model and three recordings."""
    save_tiny_model(here, "frame")
    for number, name in enumerate(("a.wav", "b.wav", "deep/c.wav")):
        write_wav(here / "in" / name, 0.5, 300 + 100 * number)
    return here


@pytest.fixture
def tag(cli: Cli, here: Path) -> Cli:
    """Run `framecls tag` with the model of `here`."""
    return lambda *arguments: cli("tag", "-m", "tiny-sound.safetensors", "--device", "cpu", *arguments)


def shown(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder that are not hidden, with their content."""
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "/." not in f"/{name}"}


def counts(answer: Answer) -> list[int]:
    """Return what the summary says: how many were done, skipped, failed."""
    line = answer.err.splitlines()[-1].removeprefix("framecls: ")
    words = dict(reversed(part.split()) for part in line.split(", ")[:3] if len(part.split()) == 2)
    return [int(words.get(kind, 0)) for kind in ("done", "skipped", "failed")]


TO_FOLDER = ("in", "-f", "jsonl", "-o", "out/")
TO_FILE = ("in", "-o", "out/all.jsonl")


@pytest.fixture(params=[TO_FOLDER, TO_FILE], ids=["folder", "file"])
def to(request: pytest.FixtureRequest) -> tuple[str, ...]:
    arguments: tuple[str, ...] = request.param
    return arguments


# --- what is skipped


def test_what_is_done_is_skipped(to: tuple[str, ...], tag: Cli, here: Path) -> None:
    first = tag(*to)
    assert (first.status, counts(first)) == (0, [3, 0, 0])
    before = shown(here / "out")
    again = tag(*to, "--resume")
    assert (again.status, counts(again)) == (0, [0, 3, 0])
    assert again.err == "framecls: 0 done, 3 skipped\n"
    assert shown(here / "out") == before
    assert counts(tag(*to)) == [3, 0, 0]  # without --resume all is done anew
    assert shown(here / "out") == before


def test_new_and_changed_recordings_are_done(to: tuple[str, ...], tag: Cli, here: Path) -> None:
    tag(*to)
    write_wav(here / "in" / "aa.wav", 0.7)
    assert counts(tag(*to, "--resume")) == [1, 3, 0]
    write_wav(here / "in" / "b.wav", 0.9)
    assert counts(tag(*to, "--resume")) == [1, 3, 0]
    os.utime(here / "in" / "a.wav", ns=(1, 1))
    assert counts(tag(*to, "--resume")) == [1, 3, 0]
    (here / "in" / "deep" / "c.wav").unlink()
    assert counts(tag(*to, "--resume")) == [0, 3, 0]
    resumed = shown(here / "out")
    tag(*to)
    assert shown(here / "out") == resumed
    if to is TO_FILE:
        files = [json.loads(line)["file"] for line in resumed["all.jsonl"].splitlines()]
        assert files == ["in/a.wav", "in/aa.wav", "in/b.wav"]  # in order, whichever run did them


@pytest.mark.parametrize("changed", [["--threshold", "music=0.1"], ["--min-gap", "1"], ["--frames"]])
def test_other_options_are_another_run(changed: list[str], to: tuple[str, ...], tag: Cli, here: Path) -> None:
    tag(*to)
    assert counts(tag(*to, *changed, "--resume")) == [3, 0, 0]
    assert counts(tag(*to, *changed, "--resume", "--batch-size", "2", "--threads", "1", "-v")) == [0, 3, 0]
    assert counts(tag(*to, "--resume")) == [3, 0, 0]  # the files there are those of the other options


def test_another_model_or_version_is_another_run(
    to: tuple[str, ...], tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag(*to)
    model = here / "tiny-sound.safetensors"
    os.utime(model, ns=(1, 1))
    assert counts(tag(*to, "--resume")) == [0, 3, 0]
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    assert counts(tag(*to, "--resume")) == [3, 0, 0]
    monkeypatch.setattr("framecls.cli.fingerprint.__version__", "0.0.0")
    assert counts(tag(*to, "--resume")) == [3, 0, 0]


def test_other_names_of_the_recordings_are_another_run(tag: Cli, here: Path) -> None:
    tag(*TO_FILE)
    assert counts(tag("./in/../in", *TO_FILE[1:], "--resume")) == [3, 0, 0]
    (here / "elsewhere").mkdir()
    (here / "in").rename(here / "elsewhere" / "in")
    os.chdir(here / "elsewhere")
    (here / "elsewhere" / "tiny-sound.safetensors").symlink_to(here / "tiny-sound.safetensors")
    assert counts(tag("in", "-o", here / "out" / "all.jsonl", "--resume")) == [3, 0, 0]


def test_results_that_were_changed_or_lost_are_made_again(tag: Cli, here: Path) -> None:
    tag(*TO_FOLDER)
    before = shown(here / "out")
    (here / "out" / "a.wav.jsonl").unlink()
    (here / "out" / "b.wav.jsonl").write_text("edited")
    assert counts(tag(*TO_FOLDER, "--resume")) == [2, 1, 0]
    assert shown(here / "out") == before
    tag(*TO_FILE)
    before = shown(here / "out")
    (here / "out" / "all.jsonl").unlink()
    assert counts(tag(*TO_FILE, "--resume")) == [0, 3, 0]
    assert shown(here / "out") == before


def stale(folder: Path) -> list[str]:
    """Return the results that were moved away."""
    place = folder / ".framecls-stale"
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def test_a_result_that_was_lost_while_it_was_written_is_not_done(
    tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = destination._size_and_mtime
    monkeypatch.setattr(
        destination, "_size_and_mtime", lambda path: path.unlink() if path.name == "b.wav.jsonl" else really(path)
    )
    assert counts(tag(*TO_FOLDER)) == [3, 0, 0]
    monkeypatch.undo()
    os.chdir(here)
    assert counts(tag(*TO_FOLDER, "--resume")) == [1, 2, 0]


@pytest.mark.parametrize("hidden", [True, False])
def test_a_change_whose_time_is_set_back_is_seen(hidden: bool, to: tuple[str, ...], tag: Cli, here: Path) -> None:
    tag(*to)
    path = here / "in" / "b.wav"
    before = path.stat()
    if hidden:  # in place, and the time of it hidden
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:  # another file of the same size and time
        shutil.copy2(path, here / "copy.wav")
        os.replace(here / "copy.wav", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert counts(tag(*to, "--resume")) == [1, 2, 0]


@pytest.mark.parametrize("resume", [["--resume"], []])
def test_the_old_result_of_an_input_that_fails_now_does_not_stand(resume: list[str], tag: Cli, here: Path) -> None:
    tag(*TO_FOLDER)
    old = (here / "out" / "deep" / "c.wav.jsonl").read_bytes()
    (here / "in" / "deep" / "c.wav").write_text("no audio any more")
    answer = tag(*TO_FOLDER, *resume)
    assert answer.status == 1
    assert sorted(shown(here / "out")) == ["a.wav.jsonl", "b.wav.jsonl"]
    assert stale(here / "out") == ["deep/c.wav.jsonl"]
    assert (here / "out" / ".framecls-stale" / "deep" / "c.wav.jsonl").read_bytes() == old
    assert "out: 1 old results" in answer.err
    assert "moved to .framecls-stale: deep/c.wav.jsonl" in answer.err
    assert "moved" not in tag(*TO_FOLDER, *resume).err


def test_a_result_that_the_user_changed_is_the_users(tag: Cli, here: Path) -> None:
    tag(*TO_FOLDER)
    (here / "out" / "b.wav.jsonl").write_text("edited")
    (here / "in" / "b.wav").write_text("no audio any more")
    (here / "in" / "a.wav").unlink()
    (here / "out" / "a.wav.jsonl").write_text("edited")
    assert tag(*TO_FOLDER, "--resume").status == 1
    assert stale(here / "out") == []
    assert sorted(shown(here / "out")) == ["a.wav.jsonl", "b.wav.jsonl", "deep/c.wav.jsonl"]


def test_an_input_that_fails_only_this_time_keeps_its_result(
    tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is true of the recording as it is: a disk that fails for a moment does not cost it."""
    tag(*TO_FOLDER)
    before = shown(here / "out")

    def fail(self: Any, *arguments: Any, **options: Any) -> Any:
        return (OSError(5, "Input/output error") for _ in range(3))

    monkeypatch.setattr(operations.TagOperation, "run", fail)
    assert counts(tag(*TO_FOLDER)) == [0, 0, 3]
    assert shown(here / "out") == before
    assert stale(here / "out") == []


def test_results_of_recordings_that_are_gone_do_not_stand(tag: Cli, here: Path) -> None:
    write_wav(here / "elsewhere" / "d.wav")
    tag("in", "elsewhere/d.wav", *TO_FOLDER[1:])
    (here / "in" / "deep" / "c.wav").unlink()
    (here / "elsewhere" / "d.wav").unlink()
    answer = tag(*TO_FOLDER, "--resume")
    assert counts(answer) == [0, 2, 0]
    assert stale(here / "out") == ["deep/c.wav.jsonl"]
    assert "elsewhere/d.wav.jsonl" in shown(here / "out")  # of another argument: this run says nothing of it
    (here / "list.txt").write_text("in/a.wav\nelsewhere/d.wav\n")
    assert tag("@list.txt", *TO_FOLDER[1:], "--resume").status == 1
    assert "elsewhere/d.wav.jsonl" not in shown(here / "out")


def test_a_folder_that_is_empty_all_at_once_costs_no_results(tag: Cli, here: Path) -> None:
    """As a disk that is not mounted."""
    tag(*TO_FOLDER)
    before = shown(here / "out")
    (here / "in").rename(here / "moved")
    (here / "in").mkdir()
    assert tag(*TO_FOLDER, "--resume").status == 1
    assert shown(here / "out") == before


def test_the_summary_counts_as_the_progress_does(tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "in" / "bad.wav").write_text("no audio")
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "line_interval_s", lambda elapsed_s: 0.0)
    answer = tag("in", "gone.wav", "nor-this", *TO_FOLDER[1:])
    last = [line for line in answer.err.splitlines() if " files, " in line][-1]
    assert last.startswith("framecls: 6 of 6 files")
    assert counts(answer) == [3, 0, 3]


def test_several_formats_in_one_folder(tag: Cli, here: Path) -> None:
    for format in ("jsonl", "textgrid", "npz"):
        assert counts(tag("in", "-f", format, "-o", "out/", "--resume")) == [3, 0, 0]
    for format in ("jsonl", "textgrid", "npz"):
        assert counts(tag("in", "-f", format, "-o", "out/", "--resume")) == [0, 3, 0]


def test_failures_are_tried_again(to: tuple[str, ...], tag: Cli, here: Path) -> None:
    (here / "in" / "bad.wav").write_text("no audio")
    arguments = (*to, "--errors", "errors.jsonl", "--resume")
    for n_done, n_skipped in ((3, 0), (0, 3)):
        answer = tag(*arguments)
        assert (answer.status, counts(answer)) == (1, [n_done, n_skipped, 1])
        [row] = [json.loads(line) for line in (here / "errors.jsonl").read_text().splitlines()]
        assert row["file"] == "in/bad.wav"
    write_wav(here / "in" / "bad.wav")
    assert counts(tag(*arguments)) == [1, 3, 0]
    assert (here / "errors.jsonl").read_text() == ""


def test_a_single_recording_leaves_nothing_but_its_result(tag: Cli, here: Path) -> None:
    tag("in/a.wav", "-o", "out/a.csv")
    tag("in/a.wav", "-f", "csv", "-o", "out/")
    assert sorted(os.listdir(here / "out")) == ["a.csv", "in"]
    assert os.listdir(here / "out" / "in") == ["a.wav.csv"]
    plain, resumed = here / "plain.npz", here / "resumed.npz"
    tag("in/a.wav", "-o", plain)
    for _ in range(2):  # the second time from the journal
        tag("in/a.wav", "-o", resumed, "--resume")
    assert plain.read_bytes() == resumed.read_bytes()


def test_names_that_fill_their_place(tag: Cli, here: Path) -> None:
    name = "n" * 240 + ".jsonl"
    tag("in", "-o", name)
    assert counts(tag("in", "-o", name, "--resume")) == [0, 3, 0]


def test_nothing_to_do_needs_no_torch(to: tuple[str, ...], tag: Cli, here: Path) -> None:
    tag(*to)
    arguments = ["tag", "-m", "tiny-sound.safetensors", "--device", "cpu", *to, "--resume"]
    code = (
        "import sys\n"
        "from framecls.cli.boundary import run\n"
        f"status = run({arguments!r})\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 100 + status)"
    )
    answer = run_command(code=code)
    assert answer.status == 100, answer.err


# --- where results may go


def test_a_folder_with_one_recording_gives_a_folder(tag: Cli, here: Path) -> None:
    tag("in/deep", "-f", "textgrid", "-o", "tiers")
    assert sorted(shown(here / "tiers")) == ["c.wav.TextGrid"]
    tag("in/deep", "-f", "textgrid", "-o", "one.TextGrid")
    assert (here / "one.TextGrid").is_file()


@pytest.mark.parametrize("place", [[], ["-o", "/dev/null"]])
def test_resume_needs_results_that_stay(place: list[str], tag: Cli, here: Path) -> None:
    answer = tag("in", "-f", "jsonl", *place, "--resume")
    assert (answer.status, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert "--resume needs a file or a folder named with -o" in answer.err


@pytest.mark.parametrize("option", ["-o", "--errors"])
def test_no_recording_is_written_over(option: str, tag: Cli, here: Path) -> None:
    before = (here / "in" / "a.wav").read_bytes()
    answer = tag("in", "-f", "jsonl", option, "in/a.wav")
    assert (answer.status, len(answer.err.splitlines())) == (2, 1)
    assert "one of the inputs" in answer.err
    assert (here / "in" / "a.wav").read_bytes() == before


def test_a_mistyped_name_costs_no_results(tag: Cli, here: Path) -> None:
    tag(*TO_FILE)
    before = shown(here / "out")
    assert tag("inn", *TO_FILE[1:], "--resume").status == 1
    assert shown(here / "out") == before
    assert counts(tag(*TO_FILE, "--resume")) == [0, 3, 0]


def one_line(answer: Answer) -> str:
    """Return what is on stderr, which is one line of an error with status 1."""
    assert (answer.status, answer.out, len(answer.err.splitlines())) == (1, "", 1), answer.err
    assert answer.err.startswith("framecls: error: ")
    return answer.err.removeprefix("framecls: error: ").rstrip("\n")


def test_an_unwritable_place_is_one_line(to: tuple[str, ...], tag: Cli, here: Path) -> None:
    (here / "out").write_text("in the way")
    one_line(tag(*to, "-q"))


def test_a_folder_without_permission_is_one_line(
    to: tuple[str, ...], tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "out").mkdir()
    really_open = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT and "out/" in str(path):  # a mode would not stop the superuser
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert one_line(tag(*to, "-q")) == "cannot write in out: Permission denied"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_device_is_one_line(tag: Cli, here: Path) -> None:
    assert one_line(tag("in", "-f", "jsonl", "-o", "/dev/full", "-q")) == (
        "cannot write /dev/full: No space left on device"
    )
    (here / "in" / "bad.wav").write_text("no audio")
    answer = tag("in", "-f", "jsonl", "-o", "out.jsonl", "-q", "--errors", "/dev/full")
    assert answer.status == 1
    assert answer.err.splitlines()[-1].startswith("framecls: error: cannot write /dev/full: No space left on device")


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """Return a folder on a disk of its own, which holds 160 kB: SQLite takes 50 of them before the first record."""
    place = here / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("a disk of its own needs the superuser and mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("output", ["small/out/", "small/all.jsonl"])
def test_a_full_disk_is_one_line_and_resume_goes_on(output: str, tag: Cli, here: Path, small_disk: Path) -> None:
    arguments = ("in", "-f", "jsonl", "--frames", "-o", output, "-q")
    for number in range(40):
        write_wav(here / "in" / f"{number:02d}.wav", 1.0)
    said = one_line(tag(*arguments))
    assert "No space left on device" in said
    assert "of 43 inputs done" in said
    assert said.endswith("--resume goes on from there")
    assert not [path for path in small_disk.rglob("*.tmp")]
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    done = tag(*arguments[:-1], "--resume")
    assert (done.status, sum(counts(done)), counts(done)[2]) == (0, 43, 0)
    assert counts(done)[1] > 0
    resumed = shown(small_disk)
    tag(*arguments)
    assert shown(small_disk) == resumed


# --- Ctrl-C


@pytest.fixture
def interrupt_at_write(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Return a function that makes Ctrl-C come so many times during the n-th write of a result."""

    def arm(n_write: int, times: int) -> None:
        left = [n_write]
        for kind in (FolderDestination, JournalDestination):

            def write(self: Any, *arguments: Any, really: Any = kind.write) -> None:
                left[0] -= 1
                for _ in range(times if not left[0] else 0):
                    os.kill(os.getpid(), signal.SIGINT)
                really(self, *arguments)

            monkeypatch.setattr(kind, "write", write)

    return arm


def test_ctrl_c_finishes_the_one_under_way(
    to: tuple[str, ...], tag: Cli, here: Path, interrupt_at_write: Callable[[int, int], None]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupt_at_write(2, 1)
    answer = tag(*to, "--no-progress")
    assert answer.status == 130
    lines = answer.err.splitlines()
    assert lines[-1].startswith("framecls: error: interrupted: 2 of 3 inputs done, 1 left, from in/deep/c.wav on")
    assert lines[-1].endswith("--resume goes on from there")
    assert "framecls: finishing the recording under way; Ctrl-C again stops at once" in lines
    assert signal.getsignal(signal.SIGINT) is handler
    assert counts(tag(*to, "--resume")) == [1, 2, 0]


def test_a_second_ctrl_c_stops_at_once(
    to: tuple[str, ...], tag: Cli, interrupt_at_write: Callable[[int, int], None]
) -> None:
    interrupt_at_write(2, 2)
    answer = tag(*to, "-q")
    assert answer.status == 130
    [line] = answer.err.splitlines()
    assert line.startswith("framecls: error: interrupted: 1 of 3 inputs done, 2 left, from in/b.wav on")
    assert counts(tag(*to, "--resume")) == [2, 1, 0]


def test_ctrl_c_during_the_last_one_is_too_late(
    to: tuple[str, ...], tag: Cli, interrupt_at_write: Callable[[int, int], None]
) -> None:
    interrupt_at_write(3, 1)
    assert tag(*to, "-q").status == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks in /proc")
def test_ctrl_c_is_not_for_the_decoder(here: Path) -> None:
    write_media(here / "a.m4a", Track(*soundfile.read("in/a.wav"), "aac"))
    with open_audio(here / "a.m4a"):
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
        decoders = [int(c) for c in children if "decoder_program.py" in Path(f"/proc/{c}/cmdline").read_text()]
        assert decoders
        assert os.getpgrp() not in map(os.getpgid, decoders)


# --- progress


def test_throughput() -> None:
    throughput = Throughput([1000, 3000, 2000, 2000])
    assert throughput.summary(1.0, 5.0) == "0 of 4 files, 0:00:05 of audio, 5 times real time"
    throughput.finish(10.0)  # a second of audio is 100 bytes
    assert throughput.left_s(2.0) == pytest.approx(70 * 2 / 10)
    throughput.finish(0.0)  # it failed
    assert throughput.left_s(2.0) == pytest.approx(40 * 2 / 10)
    assert throughput.left_s(3.0, 5.0) == pytest.approx(35 * 3 / 15)
    assert throughput.summary(3.0, 5.0) == "2 of 4 files, 0:00:15 of audio, 5 times real time, 0:00:07 left"
    throughput.finish(20.0)
    throughput.finish(20.0)
    assert throughput.left_s(10.0) == 0


def test_nothing_is_said_of_a_rest_of_unknown_size() -> None:
    throughput = Throughput([1000, 0, 1000])
    throughput.finish(10.0)
    assert throughput.left_s(1.0) is None
    throughput.finish(500.0)
    assert throughput.left_s(51.0) is not None


def test_a_single_recording_fills_the_bar_by_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SHOW_AFTER_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown: list[tuple[float, float | None, str, str]] = []
    monkeypatch.setattr(
        progress.ProgressBar,
        "show",
        lambda self, title, done, total, text, count: shown.append((done, total, count, text)),
    )
    progress.InputProgress([1000], enabled=True, find_length_s=lambda: 600.0).advance(150.0)
    progress.InputProgress([0], enabled=True).advance(150.0)
    known, unknown = shown
    assert known[:3] == (150.0, 600.0, "0:02:30 of 0:10:00")
    assert known[3].endswith(" left")
    assert unknown[:3] == (150.0, None, "0:02:30 of audio")
    assert not unknown[3].endswith(" left")


def test_the_length_of_a_recording_is_looked_up(here: Path) -> None:
    (item,) = (item for item in find_inputs(["in/a.wav"]) if isinstance(item, Input))
    length_s = classify._expect_length_s(item, ReadOptions())
    assert length_s is not None
    assert length_s > 0
    (here / "bad.wav").write_bytes(b"no audio")
    (bad,) = (item for item in find_inputs(["bad.wav"]) if isinstance(item, Input))
    assert classify._expect_length_s(bad, ReadOptions()) is None


def test_lines_come_ever_more_rarely() -> None:
    assert [line_interval_s(elapsed_s) for elapsed_s in (0, 100, 200, 1000, 100_000)] == [10, 10, 10, 50, 300]


def test_plain_lines_where_there_is_no_terminal(tag: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "_LINE_SHARE", 0.0)
    err = tag("in", "-f", "jsonl").err.splitlines()
    assert any(line.startswith("framecls: 1 of 3 files, 0:00:0") for line in err)
    assert any(line.endswith(" left") for line in err)
    assert all("\r" not in line and "\x1b" not in line for line in err)
    assert len(tag("in", "-f", "jsonl", "--no-progress").err.splitlines()) == 1
    assert tag("in", "-f", "jsonl", "-q").err == ""
    assert tag("in/a.wav", "-f", "jsonl").err == ""  # a single recording is not worth a line
