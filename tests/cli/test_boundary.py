"""What goes wrong around the command: each line says what it is about, and what belongs to stdout comes from there."""

from __future__ import annotations

import csv
import errno
import gc
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import soundfile
import torch

import framecls
from framecls.errors import AudioError, is_out_of_memory
from framecls.training import loop
from framecls.training.metrics.report import DevReport
from support.commands import COMMAND, HANG_S, ROOT, Cli, environment, run_command, start_command
from support.models import save_tiny_model
from support.signals import RATE, make_tone, write_wav
from support.training import RECIPE, write_corpus

LONG = "x" * 300
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="descriptors and /proc as Linux has them")
on_posix = pytest.mark.skipif(os.name != "posix", reason="descriptors and signals as POSIX has them")


@pytest.fixture(autouse=True)
def here(here: Path) -> Path:
    """Work in a folder with a recording and a model, `tiny-sound.safetensors`."""
    save_tiny_model(here, "frame")
    write_wav(here / "a.wav")
    return here


TAG = ("tag", "a.wav", "-m", "tiny-sound.safetensors", "--device", "cpu")
TRAIN = ("train", "identify", "manifest.jsonl", "--recipe", "toy.toml", "--device", "cpu", "--threads", "1")


@pytest.fixture
def corpus(here: Path) -> Path:
    """A manifest and a recipe, for TRAIN."""
    (here / "toy.toml").write_text(RECIPE.replace("steps = 30", "steps = 4").replace("dev_every = 5", "dev_every = 2"))
    return write_corpus(here)


# --- paths that cannot be


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("speakers", "list", "--gallery", LONG), 1, "this gallery cannot be opened: File name too long"),
        (("identify", "a.wav", "-m", "speaker", "--gallery", LONG), 1, "this gallery cannot be opened"),
        (("speakers", "export", "--gallery", LONG), 1, "this gallery cannot be opened"),
        (("speakers", "import", LONG), 1, "cannot be read: File name too long"),
        (("evaluate", "tiny-sound.safetensors", LONG), 1, "cannot be read: File name too long"),
        (("evaluate", LONG, "a.csv"), 1, "cannot be read: File name too long"),
        (("train", "tag", LONG, "-o", "m.safetensors"), 1, "cannot be read: File name too long"),
        (("train", "tag", "a.csv", "-o", LONG), 2, "cannot be written: File name too long"),
        (("train", "tag", "a.csv", "-o", "m", "--recipe", LONG), 2, "no recipe is called"),
        (("train", "tag", "a.csv", "-o", "m", "--init", LONG), 1, "cannot be read: File name too long"),
        (("compare", "--saw", "--cache", LONG), 1, "the clips cannot be written here: File name too long"),
        (("models", LONG), 1, "cannot be read: File name too long"),
        (("bench", LONG, "-m", "tiny-sound.safetensors"), 1, "it cannot be read: File name too long"),
        (("tag", "a.wav", "-m", LONG), 1, "cannot be read: File name too long"),
        (("tag", f"@{LONG}"), 1, "it cannot be read: File name too long"),
        ((*TAG, "--errors", LONG), 2, "cannot be written: File name too long"),
        ((*TAG, "-o", f"{LONG}.csv"), 1, "File name too long"),
        ((*TAG, "b.wav", "-o", f"{LONG}.csv"), 1, "File name too long"),
        ((*TAG, "-f", "csv", "-o", f"{LONG}/"), 1, "the folder cannot be made: File name too long"),
    ],
    ids=lambda value: " ".join(value).replace(LONG, "LONG")[:60] if isinstance(value, tuple) else "",
)
def test_a_name_that_is_too_long_is_named(
    arguments: tuple[str, ...], status: int, said: str, cli: Cli, here: Path
) -> None:
    answer = cli(*arguments)
    lines = [line for line in answer.err.splitlines() if line.startswith("framecls: error: ")]
    assert (answer.status, answer.out) == (status, "")
    assert said in lines[-1]
    assert LONG in lines[-1] or "cannot write in ." in lines[-1]  # of a journal the folder is named
    assert "unexpected" not in answer.err
    assert "cannot write the results" not in answer.err


@on_linux
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*TRAIN, "-o", "/proc/nope/m"), "/proc/nope/m.training: decoded recordings cannot be kept here"),
        ((*TRAIN, "--preview", "/proc/nope/p"), "/proc/nope/p: the preview cannot be written here"),
        (("compare", *TRAIN[2:], "--cache", "/proc/nope"), "/proc/nope: decoded recordings cannot be kept here"),
        ((*TAG, "-o", "/proc/nope/a.csv"), "cannot write /proc/nope/a.csv"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named(arguments: tuple[str, ...], said: str, cli: Cli, corpus: Path) -> None:
    answer = cli(*arguments)
    assert answer.status == 1
    assert answer.err.splitlines()[-1] == f"framecls: error: {said}: No such file or directory"


@pytest.mark.parametrize("arguments", [TAG, (*TAG, "--stream", "-f", "csv"), (*TRAIN, "--check")])
def test_a_library_that_does_not_load_is_no_matter_of_the_output(arguments: tuple[str, ...], corpus: Path) -> None:
    (corpus.parent / "broken").mkdir()
    (corpus.parent / "broken/soundfile.py").write_text("raise OSError('Could not load this library: libx.so')")
    settings = environment(PYTHONPATH=f"{corpus.parent / 'broken'}{os.pathsep}{ROOT}")
    answer = run_command(*arguments, env=settings)
    said = "framecls: error: unexpected OSError: Could not load this library: libx.so; run again with --debug\n"
    assert answer == (1, "", said)


def test_what_a_decoder_raises_in_a_stream_is_of_that_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **settings: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield

    monkeypatch.setattr("framecls.model.Model.stream", fail)
    answer = cli(*TAG, "--stream", "-f", "csv")
    assert answer.status == 1
    assert answer.err.startswith("framecls: error: a.wav: unexpected OSError: ")


# --- a state or a model that cannot be read as things are

NOT_OF_THE_FILE = {
    "EIO": (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    "EACCES": (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    "EMFILE": (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    "ENOMEM": (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
    "as safetensors says it": (safetensors.SafetensorError("Input/output error (os error 5)"), "Input/output error"),
    "out of memory": (MemoryError(), "not enough memory"),
    "out of memory in torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
}


def test_a_state_that_cannot_be_read_now_is_kept(cli: Cli, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = corpus.parent / "m.safetensors.training/state.safetensors"
    assert cli(*TRAIN, "-o", "m.safetensors", "-q").status == 0
    before = state.read_bytes()
    for error, said in NOT_OF_THE_FILE.values():

        def fail(path: Path, *arguments: Any, error: Exception = error, **settings: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(safetensors, "safe_open", fail)
            answer = cli(*TRAIN, "-o", "m.safetensors", "-q", "--resume")
        assert answer.status == 1
        assert "state.safetensors: the state of the run cannot be read: " in answer.err
        assert said in answer.err
        assert "damaged" not in answer.err
        assert "leave out" not in answer.err
        assert state.read_bytes() == before
    answer = cli(*TRAIN, "-o", "m.safetensors", "--resume")
    assert (answer.status, "all 4 steps were done before" in answer.err) == (0, True)


@on_linux
def test_too_few_descriptors_do_not_damage_a_model(here: Path) -> None:
    """safetensors says then that the file is not there."""
    script = (
        "import os, resource, torch, framecls.checkpoints.file as m\n"
        "from pathlib import Path\n"
        "from safetensors.torch import load_file\n"
        "taken = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "try:\n"
        "    while True: taken.append(os.open(os.devnull, os.O_RDONLY))\n"
        "except OSError: pass\n"
        "try:\n"
        "    m.read_stored(Path('tiny-sound.safetensors'))\n"
        "except Exception as error:\n"
        "    print(error)"
    )
    answer = run_command(code=script)
    assert answer.out == "tiny-sound.safetensors: cannot be read: Too many open files\n"


@pytest.mark.parametrize("name", NOT_OF_THE_FILE)
def test_a_model_that_cannot_be_read_now_is_not_called_damaged(
    name: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, said = NOT_OF_THE_FILE[name]

    def fail(path: Path) -> Any:
        raise error

    monkeypatch.setattr(safetensors.torch, "load_file", fail)
    answer = cli(*TAG)
    assert answer.status == 1
    assert answer.err.startswith("framecls: error: tiny-sound.safetensors: cannot be read: ")
    assert said in answer.err


def test_running_out_of_memory_is_known_however_it_is_said() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2**55, dtype=torch.float64)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"))
    assert not is_out_of_memory(RuntimeError("the size of tensor a must match"))
    assert not is_out_of_memory(OSError(errno.EIO, "Input/output error"))


# --- stdout and stderr


def shell(line: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `framecls` is this package's."""
    program = f'framecls() {{ {" ".join(COMMAND)} "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=False, env=environment(), **settings
    )


@on_posix
@pytest.mark.parametrize("arguments", [("models",), ("--version",), TAG, (*TAG, "--stream", "-f", "csv")])
def test_results_for_a_closed_stdout_are_a_failure(arguments: tuple[str, ...], here: Path) -> None:
    answer = shell(f"framecls {' '.join(arguments)} >&-")
    said = "framecls: error: cannot write the results: stdout is closed\n"
    assert (answer.returncode, answer.stderr) == (1, said)


@on_posix
def test_a_closed_stdout_does_not_matter_where_results_go_elsewhere(here: Path) -> None:
    answer = shell(f"framecls {' '.join(TAG)} -o a.csv >&- 2>&-")
    assert answer.returncode == 0
    assert (here / "a.csv").read_text().startswith("file,start")


@on_posix
def test_a_full_pipe_in_non_blocking_mode_loses_nothing(here: Path) -> None:
    soundfile.write(here / "long.wav", make_tone(60.0), RATE)
    arguments = ["tag", "long.wav", *TAG[2:], "--frames", "-f", "jsonl"]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with start_command(*arguments, stdout=writer) as process, open(reader, "rb") as pipe:
        assert process.stderr is not None
        os.close(writer)
        parts = []
        while part := pipe.read1(4096):
            parts.append(part)
            time.sleep(0.002)  # slower than it writes
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")
    whole = b"".join(parts)
    assert len(whole) > 65536  # more than a pipe holds
    assert whole.count(b"\n") == 1
    assert len(json.loads(whole)["times"]) == 3000


@on_posix
def test_a_reader_of_stderr_that_goes_away_stops_nothing(here: Path) -> None:
    """Notes of a run over several inputs, and a failure, have nobody to read them."""
    write_wav(here / "b.wav")
    line = f"(framecls {' '.join(TAG)} b.wav gone.wav -v -o x.csv; echo $? >status) 2>&1 >/dev/null | true"
    assert shell(line).returncode == 0
    assert (here / "status").read_text() == "1\n"
    assert {row["file"] for row in csv.DictReader((here / "x.csv").open())} == {"a.wav", "b.wav"}


@on_posix
def test_a_reader_of_stdout_that_goes_away_ends_the_run(here: Path) -> None:
    line = f"(framecls {' '.join(TAG)} -f jsonl; echo $? >status) | true"
    assert shell(line).stderr == ""
    assert (here / "status").read_text() == "141\n"


@on_posix
def test_a_reader_of_a_named_pipe_that_goes_away_is_told_with_its_name(here: Path) -> None:
    soundfile.write(here / "long.wav", make_tone(60.0), RATE)
    os.mkfifo(here / "out.jsonl")
    arguments = ["tag", "long.wav", *TAG[2:], "--frames", "-o", "out.jsonl"]
    with start_command(*arguments) as process:
        (here / "out.jsonl").open("rb").close()
        _, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, err) == (1, b"framecls: error: cannot write out.jsonl: Broken pipe\n")


# --- one file for two things


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*TAG, "-o", "x.csv", "--errors", "x.csv"), "-o and --errors x.csv: these are one file"),
        ((*TAG, "-o", "x.csv", "--errors", "./sub/../x.csv"), "these are one file"),
        ((*TAG, "-o", "x.csv", "--errors", "link.csv"), "these are one file"),
        (("tag", "@list.txt", *TAG[2:], "-o", "list.txt", "-f", "csv"), "this is the list @list.txt"),
        (("tag", "@list.txt", *TAG[2:], "--errors", "list.txt"), "this is the list @list.txt"),
        (("tag", "@list.txt", *TAG[2:], "-o", "list-link.csv"), "this is the list @list.txt"),
        ((*TAG, "-o", "wav-link.csv"), "this is one of the inputs"),
        ((*TAG, "-f", "csv", "-o", "tiny-sound.safetensors"), "this is the model"),
        ((*TAG, "--errors", "tiny-sound.safetensors"), "this is the model"),
        (("identify", "a.wav", "-m", "speaker", "--gallery", "g", "-f", "csv", "-o", "g"), "this is the gallery"),
        (("speakers", "export", "--gallery", "g", "-o", "./g"), "this is the gallery"),
        ((*TRAIN, "-o", "manifest.jsonl"), "would be overwritten, and is no model of framecls"),
        ((*TRAIN, "-o", "toy.toml"), "would be overwritten, and is no model of framecls"),
        ((*TRAIN, "--noise", "list.txt", "-o", "list.txt"), "would be overwritten, and is no model of framecls"),
        (("evaluate", "tiny-sound.safetensors", "list.txt", "-o", "list.txt"), "this is the manifest"),
        (("evaluate", "tiny-sound.safetensors", "m.csv", "-o", "tiny-sound.safetensors"), "this is the model"),
        (("export", "tiny-sound.safetensors", "-o", "tiny-sound.safetensors"), "this is the model"),
    ],
)
def test_an_output_is_nothing_else(arguments: tuple[str, ...], said: str, cli: Cli, corpus: Path) -> None:
    (corpus.parent / "list.txt").write_text("a.wav\n")
    (corpus.parent / "g").write_bytes(b"")
    for link, target in (("link.csv", "x.csv"), ("list-link.csv", "list.txt"), ("wav-link.csv", "a.wav")):
        (corpus.parent / link).symlink_to(target)
    before = {path.name: path.read_bytes() for path in corpus.parent.iterdir() if path.is_file()}
    answer = cli(*arguments)
    assert (answer.status, answer.out) == (2, "")
    assert said in answer.err
    assert {path.name: path.read_bytes() for path in corpus.parent.iterdir() if path.is_file()} == before


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="there is no /dev/null")
def test_a_device_may_be_both(cli: Cli) -> None:
    assert cli(*TAG, "-f", "csv", "-o", "/dev/null", "--errors", "/dev/null").status == 0


# --- what is written is safe to open


@on_posix
def test_names_of_files_are_no_formulas_and_steer_no_terminal(cli: Cli, here: Path) -> None:
    names = ["=1+1.wav", "+a.wav", "@b.wav", "\tc.wav", "red\x1b[31m.wav", "bell\x07\x9b.wav", "plain-=.wav"]
    for name in names:
        write_wav(here / name)
    inputs = [f"./{name}" if name.startswith("@") else name for name in names]
    (here / "list").write_text("\n".join(names))
    shown = ["'=1+1.wav", "'+a.wav", "./@b.wav", "'\tc.wav", "red\\x1b[31m.wav", "bell\\x07\\x9b.wav", "plain-=.wav"]
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        for more in ((), ("--frames",)):
            text = cli("tag", *inputs, *TAG[2:], "-f", format, *more, "-q").out
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
            assert list(dict.fromkeys(row["file"] for row in rows)) == shown
            assert all(0 <= float(value) <= 1 for row in rows for key, value in row.items() if key == "score")
            assert "\x1b" not in text
    for format in ("rttm", "csv", "tsv"):
        text = cli("tag", "red\x1b[31m.wav", *TAG[2:], "-f", format).out
        assert "\x1b" not in text
        assert "red\\x1b[31m" in text
    assert json.loads(cli("tag", "red\x1b[31m.wav", *TAG[2:], "-f", "jsonl").out)["file"] == "red\x1b[31m.wav"


# --- signals


def hear_signals() -> None:
    """Undo what nohup does to the processes that it starts."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@on_posix
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_leaves_no_copy_of_a_pipe(name: str, status: int, here: Path) -> None:
    temporary = here / "temporary"
    temporary.mkdir()
    made_ns = temporary.stat().st_mtime_ns
    soundfile.write(sound := io.BytesIO(), make_tone(60.0), RATE, format="FLAC")
    arguments = ["tag", "-", *TAG[2:], "-o", "x.csv"]
    settings = environment(TMPDIR=str(temporary))
    with start_command(*arguments, env=settings, stdin=subprocess.PIPE, preexec_fn=hear_signals) as process:
        assert process.stdin is not None
        process.stdin.write(sound.getvalue()[:400_000])
        process.stdin.flush()
        # The copy loses its name at once where the system allows that; what shows then is that the folder was changed.
        while temporary.stat().st_mtime_ns == made_ns and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(getattr(signal, name))
        process.send_signal(getattr(signal, name))  # a second one does not cut off what the first one began
        out, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, out, err) == (status, b"", b"framecls: error: terminated\n")
    assert list(temporary.iterdir()) == []
    assert not [path for path in here.iterdir() if "x.csv" in path.name or path.name.endswith(".tmp")]


@on_posix
def test_a_signal_that_is_ignored_stays_ignored(here: Path) -> None:
    script = (
        "import signal\n"
        "from framecls.cli.interrupts import end_on_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "end_on_signals()\n"
        "signal.raise_signal(signal.SIGHUP)\n"
        "print('goes on')"
    )
    answer = run_command(code=script)
    assert (answer.status, answer.out) == (0, "goes on\n")


# --- a dev score that is no number


def test_one_voice_to_measure_on_is_refused_before_training(cli: Cli, corpus: Path) -> None:
    recipe = corpus.parent / "toy.toml"
    recipe.write_text(recipe.read_text().replace('task = "pooled"', 'task = "pooled"\nembedding = 8'))
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    rows = [{**row, "label": row["speaker"], "split": "dev" if row["speaker"] == "s0" else "train"} for row in rows]
    corpus.write_text("\n".join(map(json.dumps, rows)))
    answer = cli(*TRAIN, "-o", "m.safetensors")
    assert answer.status == 1
    assert "manifest.jsonl: voices cannot be told apart on this dev split: it needs two" in answer.err
    assert not (corpus.parent / "m.safetensors").exists()
    checked = cli(*TRAIN, "--check")
    assert (checked.status, "voices cannot be told apart" in checked.err) == (1, True)


def test_without_a_score_that_is_a_number_the_last_weights_are_kept(
    cli: Cli, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_measure = loop.measure_dev

    def measure(*arguments: Any) -> tuple[DevReport, dict[str, float]]:
        report, by_source = really_measure(*arguments)
        return DevReport(float("nan"), report.decision, report.figures, report.outputs), by_source

    monkeypatch.setattr(loop, "measure_dev", measure)
    answer = cli(*TRAIN, "-o", "m.safetensors")
    assert answer.status == 0
    assert "framecls: m.safetensors: the last dev score is no number" in answer.err
    assert framecls.load(str(corpus.parent / "m.safetensors"), device="cpu").card["step"] == 4


# --- many failures


def test_failures_do_not_pile_up(here: Path) -> None:
    """With the garbage collector off, what an error holds goes when nobody holds the error any more."""
    for number in range(1500):
        (here / f"{number}.wav").touch()
    model = framecls.load("tiny-sound.safetensors", device="cpu")
    gc.collect()
    gc.disable()
    try:
        n_alive = 0
        for number, result in enumerate(model.tag_many(here / f"{number}.wav" for number in range(1500))):
            assert isinstance(result, AudioError)
            if number == 1400:
                n_alive = sum(issubclass(type(thing), AudioError) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert 0 < n_alive < 700  # those that are decoded ahead


def test_an_output_is_not_blamed_for_what_the_block_raises(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error", "elsewhere")

    monkeypatch.setattr("framecls.model.tag_recording", fail)
    answer = cli(*TAG, "-f", "csv", "-o", "x.csv")
    assert answer.status == 1
    assert "a.wav: unexpected OSError: [Errno 5] Input/output error: 'elsewhere'" in answer.err
    assert "cannot write" not in answer.err
