"""The command line as its users meet it: exit status, what is on stdout, what is on stderr."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer

from framecls import __main__ as entry
from framecls._version import __version__
from framecls.checkpoints.file import read_config
from framecls.cli import formats
from framecls.cli.boundary import run
from framecls.cli.console import Console, escape, one_line
from framecls.errors import AudioError
from framecls.output.formats import WRITERS
from framecls.output.frames import FRAME_WRITERS
from support.commands import Answer, Cli, environment, run_command, start_command
from support.models import LANGUAGES, TAG_LABELS, save_tiny_model
from support.signals import RATE, make_tone, write_wav

# --- starting up


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["tag", "--help"], 0),
        ([], 2),
        (["tag", "x.wav", "-f", "nope"], 2),
        (["tag", "x.wav", "--threshold", "speech=2"], 2),
        (["tag", "x.wav", "-m", "nope"], 2),
    ],
)
def test_cheap_answers_import_nothing_heavy(arguments: list[str], status: int) -> None:
    code = (
        "import sys\n"
        "from framecls.cli.boundary import run\n"
        f"status = run({arguments!r})\n"
        "heavy = {'torch', 'torchaudio', 'librosa', 'scipy', 'sklearn', 'soundfile'} & sys.modules.keys()\n"
        "sys.exit(f'{heavy} was imported' if heavy else 100 + status)"
    )
    answer = run_command(code=code)
    assert answer.status == 100 + status, answer.err


def test_missing_inputs_are_reported_without_torch(tag_model: str) -> None:
    code = (
        "import sys\n"
        "from framecls.cli.boundary import run\n"
        f"status = run(['tag', '-m', {tag_model!r}, 'missing.wav'])\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 100 + status)"
    )
    answer = run_command(code=code)
    assert answer.status == 101, answer.err
    assert answer.err.startswith("framecls: error: missing.wav: ")


def test_version(cli: Cli) -> None:
    assert cli("--version") == Answer(0, f"framecls {__version__}\n", "")


def test_help_names_every_option(cli: Cli) -> None:
    for command, own in (("tag", {"--frames", "--min-duration", "--min-gap"}), ("identify", {"--top-k", "--among"})):
        shown = set(re.findall(r"--[a-z][a-z-]*", cli(command, "--help").out))
        common = {"--model", "--format", "--output", "--device", "--threads", "--batch-size", "--threshold", "--errors"}
        common |= {"--resume"}
        assert common | own | {"--no-progress", "--quiet", "--verbose", "--debug"} <= shown


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("tag", "[OPTIONS] INPUT..."),
        ("train", "[OPTIONS] tag|identify MANIFEST"),
        ("compare", "[OPTIONS] [MANIFEST]"),
        ("models", "[OPTIONS] [NAME|PATH]"),
        ("speakers export", "[OPTIONS] [NAME...]"),
        ("speakers rename", "[OPTIONS] OLD NEW"),
    ],
)
def test_help_reads_as_one_would_type(command: str, usage: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli(*command.split(), "--help").out
    assert f"Usage: framecls {command} {usage}\n" in re.sub(r" +\n", "\n", shown)
    assert not re.search(r"<(bool|int|str|path|list)", shown)  # Typer's names of types: --quiet <bool> takes no value
    assert max(map(len, shown.splitlines())) <= 80


def test_nothing_is_said_of_a_decoder_that_is_cut_off() -> None:
    code = (
        "import atexit, threading, soxr\n"
        "from framecls.cli import boundary\n"
        "def decode():\n"
        "    resampler = soxr.ResampleStream(44100, 16000, 1)\n"
        "    begun.set()\n"
        "    threading.Event().wait()\n"
        "    del resampler\n"
        "def run(arguments):\n"
        "    threading.Thread(target=decode, name='framecls-decode', daemon=True).start()\n"
        "    begun.wait()\n"
        "    print('result')\n"
        "    return 141\n"
        "begun = threading.Event()\n"
        "boundary.run = run\n"
        "atexit.register(print, 'temporary files removed')\n"
        "boundary.main()"
    )
    answer = run_command(code=code)
    assert (answer.status, answer.err) == (141, "")
    assert answer.out == "result\ntemporary files removed\n"


def test_both_entry_points_are_one() -> None:
    assert run_command("--version") == (0, f"framecls {__version__}\n", "")
    assert entry.main.__module__ == "framecls.cli.boundary"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("framecls ta", ["tag"]),
        ("framecls tag -m s", ["sound", "speaker"]),
        ("framecls tag -f js", ["json", "jsonl"]),
        ("framecls tag --engine l", ["local"]),
        ("framecls tag --device c", ["cpu", "cuda"]),
        ("framecls models ph", ["phones"]),
        ("framecls train i", ["identify"]),
        ("framecls train tag --recipe ladder_t", ["ladder_tag"]),
        ("framecls train tag --init ph", ["phones"]),
        ("framecls evaluate sound x.csv --codec g", ["gsm"]),
    ],
)
def test_completion_is_offered(words: str, offered: list[str]) -> None:
    place = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    settings = environment(_FRAMECLS_COMPLETE="complete_bash", **place)
    answer = run_command(code="from framecls.cli import main; main()", env=settings)
    assert (answer.out.split(), answer.err) == (offered, "")


def test_formats_are_those_of_the_writers() -> None:
    assert {name: suffix for name, suffix in formats.SUFFIXES.items() if name not in formats.FOR_EYES} == {
        name: writer.suffix for name, writer in WRITERS.items()
    }
    assert {name for name, writer in WRITERS.items() if writer.binary} == set(formats.NEED_FILE)
    assert {*formats.FOR_EYES, *FRAME_WRITERS} == set(formats.WITH_FRAMES)


@pytest.mark.parametrize("arguments", [["models"], ["--help"], ["bench", "--length", "1", "--repeats", "1", "-q"]])
def test_nothing_of_ours_is_escaped_where_a_terminal_has_ascii_only(arguments: list[str], tmp_path: Path) -> None:
    if arguments[0] == "bench":
        arguments = [*arguments, "-m", str(save_tiny_model(tmp_path, "frame"))]
    answer = run_command(*arguments, env=environment(PYTHONIOENCODING="ascii"))
    assert answer.status == 0
    assert "\\" not in answer.out
    assert answer.out.isascii()


def test_file_names_are_escaped_where_a_terminal_has_ascii_only() -> None:
    answer = run_command("tag", "ü…ö.wav", env=environment(PYTHONIOENCODING="ascii"))
    assert "\\xfc...\\xf6.wav" in answer.err


# --- wrong usage


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "nope"),
        (["tag"], "INPUT"),
        (["tag", "a.wav", "--bogus"], "--bogus"),
        (["tag", "a.wav", "-f"], "-f"),
        (["tag", "a.wav", "-f", "nope"], "choose table, svg, json, jsonl"),
        (["tag", "a.wav", "--device", "gpu"], "auto, cpu, cuda"),
        (["tag", "a.wav", "--device", "cuda:99"], "cuda:99"),
        (["tag", "a.wav", "--threshold", "speech=1.5"], "speech=1.5: the probability must be in 0..1"),
        (["tag", "a.wav", "--threshold", "speech=nan"], "0..1"),
        (["tag", "a.wav", "--threshold", "speech"], "LABEL=P"),
        (["tag", "a.wav", "--threshold", "song=0.5"], "speech, music, noise"),
        (["tag", "a.wav", "--min-duration", "-1"], "--min-duration"),
        (["tag", "a.wav", "--min-gap", "inf"], "--min-gap"),
        (["tag", "a.wav", "--threads", "0"], "--threads"),
        (["tag", "a.wav", "--batch-size", "0"], "--batch-size"),
        (["tag", "a.wav", "--batch-size", "many"], "--batch-size"),
        (["tag", "a.wav", "-f", "npz"], "-o"),
        (["tag", "a.wav", "-o", "out.xyz"], "-f"),
        (["tag", "a.wav", "-o", "out/"], "-f"),
        (["tag", "a.wav", "-f", "rttm", "--frames"], "--frames"),
        (["tag", "a.wav", "b.wav", "-f", "textgrid"], "-o"),
        (["tag", "a.wav", "b.wav", "-o", "all.TextGrid"], "name a folder"),
        (["tag", "a.wav", "--errors", "no/such/folder/e.jsonl"], "--errors"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], said: str, cli: Cli, tag_model: str, here: Path
) -> None:
    write_wav(here / "a.wav")
    write_wav(here / "b.wav")
    model = ["-m", tag_model] if len(arguments) > 1 else []
    answer = cli(*arguments[:1], *model, *arguments[1:])
    assert (answer.status, answer.out) == (2, "")
    assert len(answer.errors) == 1
    assert answer.err.startswith("framecls: error: ")
    assert said in answer.err
    assert sorted(path.name for path in here.iterdir()) == ["a.wav", "b.wav"]


def test_unknown_model_is_wrong_usage(cli: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    for command in (["tag", "a.wav", "-m", "nope"], ["identify", "a.wav", "-m", "nope"], ["models", "nope"]):
        answer = cli(*command)
        assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
        assert "'nope'" in answer.err


def test_a_model_for_the_other_command(cli: Cli, tag_model: str, identify_model: str, here: Path) -> None:
    write_wav(here / "a.wav")
    answer = cli("tag", "a.wav", "-m", identify_model)
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert "framecls identify" in answer.err
    assert cli("identify", "a.wav", "-m", tag_model).status == 2


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--among", "de,xx", "de, en, fr"),
        ("--among", " , ", "--among"),
        ("--top-k", "0", "--top-k"),
        ("--threshold", "xx=0.5", "'xx', which is no label of this model; it has de, en, fr, or unknown for all"),
        ("--among", "German", "'German' is no label of this model: did you mean de?"),
        ("--among", "fr,deu", "'deu' is no label of this model: did you mean de?"),
        ("--among", "Deutsch", "did you mean de?"),
        ("--among", "fre", "did you mean fr?"),
        ("--among", "Swahili", "it has de, en, fr"),
        ("-f", "npz", "-o"),
    ],
)
def test_wrong_usage_of_identify(option: str, value: str, said: str, identify: Cli, here: Path) -> None:
    answer = identify(write_wav(here / "a.wav"), option, value)
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert said in answer.err


def test_a_file_where_a_folder_would_have_to_be(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    for output in ("a.wav/x.csv", "a.wav/deep/x.csv"):
        answer = tag("a.wav", "-o", output)
        said = f"framecls: error: cannot write {output}: a file is in the way where a folder would have to be"
        assert (answer.status, answer.errors) == (1, [said])


def test_identify_has_no_frames_to_write(identify: Cli, here: Path) -> None:
    answer = identify(write_wav(here / "a.wav"), "-o", "a.npz")
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert not (here / "a.npz").exists()


# --- broken models


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_broken_model_is_one_line(content: bytes | None, cli: Cli, tag_model: str, here: Path) -> None:
    whole = Path(tag_model).read_bytes()
    (here / "m.safetensors").write_bytes(whole[: len(whole) - 100] if content is None else content)
    answer = cli("tag", write_wav(here / "a.wav"), "-m", "m.safetensors", "--device", "cpu")
    assert (answer.status, answer.out, len(answer.errors)) == (1, "", 1)
    assert "m.safetensors" in answer.err


def test_missing_model_file(cli: Cli, here: Path) -> None:
    answer = cli("tag", write_wav(here / "a.wav"), "-m", "no/such.safetensors")
    assert (answer.status, len(answer.errors)) == (1, 1)
    assert "no/such.safetensors" in answer.err


# --- bad inputs: each is one line that names the file, and the other inputs are still done


def make_missing(folder: Path) -> Path:
    return folder / "missing.wav"


def make_empty_folder(folder: Path) -> Path:
    path = folder / "folder"
    path.mkdir()
    (path / "notes.txt").write_text("no audio here")
    return path


def make_empty_file(folder: Path) -> Path:
    path = folder / "empty.wav"
    path.touch()
    return path


def make_text_file(folder: Path) -> Path:
    path = folder / "text.wav"
    path.write_text("This is a text.\n" * 100)
    return path


def make_nan(folder: Path) -> Path:
    path = folder / "nan.wav"
    samples = make_tone(1.0)
    samples[5000] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path


BAD_INPUTS = [make_missing, make_empty_folder, make_empty_file, make_text_file, make_nan]


@pytest.mark.parametrize("make", BAD_INPUTS)
@pytest.mark.parametrize("command", ["tag", "identify"])
def test_bad_input_is_one_line_and_the_others_are_done(
    make: Callable[[Path], Path], command: str, request: pytest.FixtureRequest, here: Path
) -> None:
    bad = make(here)
    good = write_wav(here / "good.wav")
    last = write_wav(here / "last.wav")
    answer = request.getfixturevalue(command)(good, bad, last, "-f", "jsonl", "-q")
    assert answer.status == 1
    assert [record["file"] for record in answer.records] == [str(good), str(last)]
    assert len(answer.errors) == 1
    assert answer.err.startswith(f"framecls: error: {bad}: ")
    assert len(answer.err) > len(f"framecls: error: {bad}: ") + 10
    assert "unexpected" not in answer.err
    assert "Traceback" not in answer.err


AS_NOBODY = """
import os, sys
from framecls.cli.boundary import run
command, bad, good = sys.argv[1:-2], *sys.argv[-2:]
if os.geteuid() == 0:  # reads everything
    run([*command, good, "-o", os.devnull])  # all is imported while it can be
    os.setgid(65534)
    os.setuid(65534)
sys.exit(run([*command, bad, good]))
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_unreadable_input(tag_model: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's, which is closed to others
        os.chmod(folder, 0o755)
        bad, good = write_wav(Path(folder, "secret.wav")), write_wav(Path(folder, "good.wav"))
        bad.chmod(0)
        model = shutil.copy(tag_model, folder)
        command = ("tag", "-m", model, "--device", "cpu", "-f", "jsonl", "-q")
        answer = run_command(*command, bad, good, code=AS_NOBODY)
    assert (answer.status, answer.err) == (1, f"framecls: error: {bad}: no permission to read it\n")
    assert [record["file"] for record in answer.records] == [str(good)]


def test_no_input_could_be_done(tag: Cli, here: Path) -> None:
    assert tag("missing.wav", "-f", "json").out == "[\n]\n" or json.loads(tag("missing.wav", "-f", "json").out) == []
    assert tag("missing.wav").status == 1


def test_an_unexpected_error_is_one_failure(tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from framecls.model import Model

    really_tag = Model._tag

    def fail_on_bad(self: Model, windows: Any, name: str, keep_scores: bool) -> Any:
        if "bad" in name:
            raise TypeError("two\nlines")
        return really_tag(self, windows, name, keep_scores)

    monkeypatch.setattr(Model, "_tag", fail_on_bad)
    bad, good = write_wav(here / "bad.wav"), write_wav(here / "good.wav")
    answer = tag(bad, good, "-f", "jsonl", "-q")
    assert answer.status == 1
    assert answer.err == f"framecls: error: {bad}: unexpected TypeError: two lines; run again with --debug\n"
    assert len(answer.records) == 1
    debugged = tag(bad, good, "-f", "jsonl", "-q", "--debug")
    assert "Traceback" in debugged.err
    assert len(debugged.records) == 1


def test_errors_file(tag: Cli, here: Path) -> None:
    bad = make_text_file(here)
    write_wav(here / "good.wav")
    assert tag("good.wav", bad, "gone.wav", "-q", "--errors", "errors.jsonl").status == 1
    rows = [json.loads(line) for line in (here / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["file"] for row in rows} == {str(bad), "gone.wav"}
    assert all(set(row) == {"file", "error", "type"} and row["type"] == "AudioError" for row in rows)
    assert tag("good.wav", "-q", "--errors", "errors.jsonl").status == 0
    assert (here / "errors.jsonl").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("name", ["a\nb.wav", "tab\tbell\a.wav", "\x1b[31mred.wav", "line\u2028end.wav"])
def test_strange_names_stay_on_one_line(name: str, tag: Cli, here: Path) -> None:
    answer = tag(name)
    assert len(answer.errors) == 1
    assert answer.err.rstrip("\n").isprintable()
    write_wav(here / name)
    assert tag(name, "-f", "jsonl").records[0]["file"] == name
    assert tag(name).status == 0


# --- results


def test_tag_jsonl_contract(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav", 4.33)
    answer = tag("a.wav", "-f", "jsonl")
    assert (answer.status, answer.err) == (0, "")
    [record] = answer.records
    assert list(record) == ["file", "model", "duration", "hop", "labels", "segments"]
    assert (record["file"], record["model"], record["hop"]) == ("a.wav", "tiny-sound", 0.02)
    assert record["duration"] == pytest.approx(4.33)
    assert record["labels"] == list(TAG_LABELS)
    for segment in record["segments"]:
        assert list(segment) == ["start", "end", "label", "score"]
        assert 0 <= segment["start"] < segment["end"] <= record["duration"]
        assert 0 <= segment["score"] <= 1
    starts = [segment["start"] for segment in record["segments"]]
    assert starts == sorted(starts)
    spoken = [s for s in record["segments"] if s["label"] == "speech"]
    assert [(s["start"], s["end"]) for s in spoken] == [(0.0, record["duration"])]
    assert not [s for s in record["segments"] if s["label"] == "noise"]


def test_identify_jsonl_contract(identify: Cli, here: Path) -> None:
    write_wav(here / "a.wav", 4.33)
    answer = identify("a.wav", "-f", "jsonl")
    assert (answer.status, answer.err) == (0, "")
    [record] = answer.records
    assert list(record) == ["file", "model", "duration", "label", "score", "top"]
    assert (record["file"], record["model"]) == ("a.wav", "tiny-language")
    assert {candidate["label"] for candidate in record["top"]} == set(LANGUAGES)
    scores = [candidate["score"] for candidate in record["top"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-3)
    assert record["top"][0] == {"label": record["label"], "score": record["score"]}


def test_top_k_and_among(identify: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    assert len(identify("a.wav", "-f", "jsonl", "--top-k", "2").records[0]["top"]) == 2
    for language in LANGUAGES:
        [record] = identify("a.wav", "-f", "jsonl", "--among", language).records
        assert record["label"] == language
        assert [candidate["label"] for candidate in record["top"]] == [language]
    [record] = identify("a.wav", "-f", "jsonl", "--among", "fr, de").records
    assert {candidate["label"] for candidate in record["top"]} == {"de", "fr"}


@pytest.mark.parametrize("written", ["DE", "de_AT", "de-DE", "De@formal"])
def test_a_language_code_may_carry_a_region(written: str, identify: Cli, here: Path) -> None:
    [record] = identify(write_wav(here / "a.wav"), "-f", "jsonl", "--among", written).records
    assert [candidate["label"] for candidate in record["top"]] == ["de"]


def test_among_may_be_repeated(identify: Cli, here: Path) -> None:
    [record] = identify(write_wav(here / "a.wav"), "-f", "jsonl", "--among", "fr", "--among", "de,fr").records
    assert {candidate["label"] for candidate in record["top"]} == {"de", "fr"}


def test_thresholds_of_one_label_and_of_all(identify: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    [sure] = identify("a.wav", "-f", "jsonl").records
    assert "reason" not in sure
    for threshold in (f"{sure['label']}=1", "unknown=1"):
        [record] = identify("a.wav", "-f", "jsonl", "--threshold", threshold).records
        assert (record["label"], record["score"], record["reason"]) == ("unknown", None, "unsure")
        assert record["top"] == sure["top"]
    other = next(label for label in LANGUAGES if label != sure["label"])
    assert identify("a.wav", "-f", "jsonl", "--threshold", f"{other}=1").records == [sure]
    table = identify("a.wav", "--threshold", "unknown=1").out
    assert "unknown: unsure" in table
    assert "█" not in table


def test_options_that_would_decide_nothing_are_refused(cli: Cli, tag_model: str, here: Path) -> None:
    write_wav(here / "a.wav")
    for arguments, said in (
        (["-m", "phones", "--threshold", "sil=1"], "sil: phones gives each frame its likeliest label, and none has"),
        (["-m", "phones", "--threshold", "unknown=0.9"], "none has a threshold"),
        (["-m", "phones", "--min-gap", "0.5"], "no gaps to bridge"),
        (["--threshold", "unknown=0.9"], "'unknown', which is no label of this model; it has speech, music, noise"),
        (["-m", tag_model, "--threshold", "unknown=0.9"], "it has speech, music, noise"),
    ):
        answer = cli("tag", "a.wav", *arguments)
        assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1), arguments
        assert said in answer.err


def test_measuring_refuses_what_makes_no_difference(cli: Cli, tag_model: str, here: Path) -> None:
    answer = cli("evaluate", tag_model, str(here / "m.jsonl"), "--length", "3")
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert "--length is for models of framecls identify" in answer.err


def test_decision_options_reach_the_model(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav", 3.0)
    labels = {s["label"] for s in tag("a.wav", "-f", "jsonl", "--threshold", "noise=0").records[0]["segments"]}
    assert {"speech", "noise"} <= labels
    assert tag("a.wav", "-f", "jsonl", "--threshold", "music=1", "--min-duration", "3.5").records[0]["segments"] == []


def test_json_is_one_array(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    write_wav(here / "b.wav")
    assert [record["file"] for record in json.loads(tag("a.wav", "b.wav", "-f", "json").out)] == ["a.wav", "b.wav"]


def test_tables_for_people(tag: Cli, identify: Cli, here: Path) -> None:
    write_wav(here / "a.wav", 2.0)
    tagged = tag("a.wav").out
    assert "a.wav" in tagged
    assert "speech" in tagged
    assert "0:02.00" in tagged
    assert any(language in identify("a.wav").out for language in LANGUAGES)


def test_frames(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav", 1.0)
    [plain] = tag("a.wav", "-f", "jsonl").records
    [record] = tag("a.wav", "-f", "jsonl", "--frames").records
    assert {key: record[key] for key in plain} == plain
    assert list(record) == [*plain, "times", "scores"]
    assert np.shape(record["scores"]) == (50, len(TAG_LABELS))
    np.testing.assert_allclose(record["times"], (np.arange(50) + 0.5) * 0.02, atol=1e-6)
    assert json.loads(tag("a.wav", "-f", "json", "--frames").out) == [record]
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        rows = list(csv.DictReader(io.StringIO(tag("a.wav", "-f", format, "--frames").out), delimiter=delimiter))
        assert list(rows[0]) == ["file", "time", *TAG_LABELS]
        assert [[float(row[label]) for label in TAG_LABELS] for row in rows] == record["scores"]
        assert {row["file"] for row in rows} == {"a.wav"}
    assert tag("a.wav", "--frames").out.count("\n") > 50


def test_one_file_for_all(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    write_wav(here / "b.wav")
    answer = tag("a.wav", "b.wav", "-o", "all.jsonl", "-q")
    assert (answer.status, answer.out, answer.err) == (0, "", "")
    records = [json.loads(line) for line in (here / "all.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["file"] for record in records] == ["a.wav", "b.wav"]


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.tsv", "x.TextGrid", "x.rttm", "x.txt", "x.vtt", "x.npz"])
def test_format_follows_the_suffix(name: str, tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    assert tag("a.wav", "-o", name).status == 0
    content = (here / name).read_bytes()
    named = {suffix: format for format, suffix in formats.SUFFIXES.items()}[Path(name).suffix]
    if name == "x.npz":
        arrays = np.load(here / name)
        assert arrays["scores"].shape == (len(arrays["times"]), len(arrays["labels"]))
    else:
        assert content.decode() == tag("a.wav", "-f", named).out


def test_a_folder_gets_a_file_for_each_input(tag: Cli, here: Path) -> None:
    write_wav(here / "in" / "a.wav")
    write_wav(here / "in" / "deep" / "b.wav")
    assert tag("in", "-f", "textgrid", "-o", "out", "-q").status == 0
    assert sorted(str(path.relative_to(here / "out")) for path in (here / "out").rglob("*.*")) == [
        ".framecls-journal",  # what --resume reads
        "a.wav.TextGrid",
        "deep/b.wav.TextGrid",
    ]
    assert tag("in", "-f", "jsonl", "-o", "lines/", "-q").status == 0
    assert json.loads((here / "lines" / "deep" / "b.wav.jsonl").read_text(encoding="utf-8"))["file"] == "in/deep/b.wav"


def test_output_that_cannot_be_written(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    (here / "file").write_text("in the way")
    answer = tag("a.wav", "-f", "json", "-o", "file/out.json")
    assert (answer.status, len(answer.errors)) == (1, 1)
    assert "file/out.json" in answer.err


def test_lists_and_folders(tag: Cli, here: Path) -> None:
    write_wav(here / "in" / "b.wav")
    write_wav(here / "in" / "a.wav")
    assert [record["file"] for record in tag("in", "-f", "jsonl").records] == ["in/a.wav", "in/b.wav"]
    (here / "list.txt").write_text("in/b.wav\nin/gone.wav\n")
    answer = tag("@list.txt", "-f", "jsonl", "-q")
    assert [record["file"] for record in answer.records] == ["in/b.wav"]
    assert answer.err.startswith("framecls: error: in/gone.wav: ")


def test_summary(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav", 1.0)
    write_wav(here / "b.wav", 2.0)
    pattern = r"framecls: 2 done, 1 failed, 0:00:03 of audio in \d+\.\d s, \d+ times real time"
    assert re.fullmatch(pattern, tag("a.wav", "gone.wav", "b.wav").errors[-1])
    assert "failed" not in tag("a.wav", "b.wav").errors[-1]
    assert tag("a.wav").err == ""
    assert tag("a.wav", "b.wav", "-q").err == ""


def test_verbose_says_more(tag: Cli, here: Path) -> None:
    answer = tag(write_wav(here / "a.wav"), "-v")
    assert "model tiny-sound on cpu" in answer.err
    assert all(line.startswith("framecls: ") for line in answer.errors)


# --- models


def test_models_shows_a_card(cli: Cli, tag_model: str) -> None:
    answer = cli("models", tag_model)
    assert (answer.status, answer.err) == (0, "")
    for shown in ("tiny-sound", "speech, music, noise", "none, it is untrained", "2020-02-02", "framecls tag"):
        assert shown in answer.out


def test_a_card_says_what_the_model_does_before_how_it_was_made(
    cli: Cli, tag_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(Path(tag_model))
    card = {"command": "framecls train tag all.csv", "description": "Hears pitches.", "size": "small"}
    monkeypatch.setattr("framecls.checkpoints.file.read_config", lambda path: dataclasses.replace(config, card=card))
    lines = [line.split(None, 1) for line in map(str.rstrip, cli("models", tag_model).out.splitlines())]
    assert lines[1:3] == [["description", "Hears pitches."], ["command", "framecls tag"]]
    assert ["trained", "with  framecls train tag all.csv"] in lines
    assert [key for key, *_ in lines].count("size") == 2


def test_models_lists_what_is_shipped(
    cli: Cli, tag_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = {"tiny-sound": Path(tag_model), "broken": tmp_path / "broken.safetensors"}
    shipped["broken"].write_bytes(b"")
    monkeypatch.setattr("framecls.checkpoints.registry.names", lambda: sorted(shipped))
    monkeypatch.setattr("framecls.checkpoints.registry.locate", lambda name: shipped[str(name)])
    answer = cli("models")
    assert answer.status == 1
    assert re.search(r"tiny-sound +tag +speech, music, noise +\d+ kB +2020-02-02", answer.out)
    assert len(answer.errors) == 1
    assert answer.err.startswith("framecls: error: broken: ")


# --- train and evaluate

RECIPE = """
name = "pitch"
task = "pooled"
[features]
n_mels = 16
[encoder]
kind = "fc"
dim = 16
n_layers = 1
n_heads = 2
ff_dim = 16
subsampling = 2
[window]
length_s = 2.0
overlap_s = 0.0
[sample]
length_s = [1.0, 2.0]
[augment]
speed_chance = 0.0
[optim]
steps = 4
batch_s = 8.0
warmup_steps = 1
dev_every = 2
workers = 0
"""


@pytest.fixture
def corpus(here: Path) -> Path:
    """Write a recipe and a manifest of low and high voices."""
    rows = []
    for label, frequency_hz in (("low", 200), ("high", 2000)):
        for voice in range(3):
            name = f"{label}{voice}.wav"
            write_wav(here / name, 2.0, frequency_hz + 10 * voice)
            split = "dev" if voice == 2 else "train"
            rows.append({"file": name, "label": label, "speaker": name, "source": "made", "split": split})
    (here / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (here / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return here


def test_train_then_use(cli: Cli, corpus: Path) -> None:
    command = ("train", "identify", "manifest.jsonl", "-o", "pitch.safetensors", "--recipe", "recipe.toml")
    answer = cli(*command, "--device", "cpu")
    assert (answer.status, answer.out) == (0, "")
    assert "4 recordings to train on, 2 to measure on" in answer.err
    assert "step 4 of 4" in answer.err
    assert cli(*command, "--device", "cpu", "--set", "optim.steps=3", "-q").err == ""
    [record] = cli("identify", "low0.wav", "-m", "pitch.safetensors", "-f", "jsonl", "--device", "cpu").records
    assert {candidate["label"] for candidate in record["top"]} == {"low", "high"}
    measured = cli("evaluate", "pitch.safetensors", "manifest.jsonl", "-f", "json", "--device", "cpu", "--split", "all")
    assert (measured.status, measured.err) == (0, "")
    figures = json.loads(measured.out)
    assert (figures["model"], figures["items"]) == ("pitch", 6)
    assert figures["confusion"].keys() == figures["labels"].keys() == {"low", "high"}
    assert {"eer", "calibration_error", "balanced_accuracy"} <= figures.keys()
    assert {"precision", "recall", "f1", "roc_auc", "eer"} <= figures["labels"]["low"].keys()
    coded = cli(
        "evaluate", "pitch.safetensors", "manifest.jsonl", "-f", "json", "--device", "cpu", "--split", "all",
        "--codec", "mulaw",
    )  # fmt: skip
    assert coded.status == 0
    assert json.loads(coded.out)["calibration_error"] != figures["calibration_error"]
    table = cli("evaluate", "pitch.safetensors", "manifest.jsonl", "--device", "cpu", "--split", "all", "-o", "f.json")
    assert json.loads(Path("f.json").read_text(encoding="utf-8")) == figures
    assert f"{figures['accuracy']:.4f}" in table.out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "sing", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml"], 2, "choose tag or identify"),
        (["train", "tag", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml"], 2, "not for framecls tag"),
        (["train", "identify", "manifest.jsonl", "--recipe", "recipe.toml"], 2, "--output"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "nope"], 2, "nope"),
        (
            ["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--set", "optim.steps=0"],
            2,
            "steps",
        ),
        (["train", "identify", "gone.jsonl", "-o", "m", "--recipe", "recipe.toml"], 1, "gone.jsonl"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--set", "x.y=1"], 2, "--set"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--split-by", "me"], 2, "file"),
        (["train", "identify", "manifest.jsonl", "--check", "--preview", "p", "--recipe", "recipe.toml"], 2, "--check"),
        (
            ["train", "identify", "manifest.jsonl", "-o", "m", "--recipe", "recipe.toml", "--save-every", "-1"],
            2,
            "0 or",
        ),
        (["train", "identify", "manifest.jsonl", "-o", ".", "--recipe", "recipe.toml"], 2, "this is a folder"),
        (["train", "identify", "manifest.jsonl", "-o", "low0.wav/m", "--recipe", "recipe.toml"], 2, "is no folder"),
        (["train", "identify", "manifest.jsonl", "-o", "low0.wav", "--recipe", "recipe.toml"], 2, "is no model"),
        (["train", "identify", "manifest.jsonl", "-o", "manifest.jsonl", "--recipe", "recipe.toml"], 2, "is no model"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--init", "nope"], 2, "no model is called 'nope'"),
        (["train", "identify", "manifest.jsonl", "-o", "m", "--init", "no.safetensors"], 1, "no such model file"),
        (["train", "identify", "recipe.toml", "-o", "m", "--recipe", "recipe.toml"], 1, "not a manifest"),
        (["train", "identify", "low0.wav", "-o", "m", "--recipe", "recipe.toml"], 1, "a folder for each label"),
        (["evaluate", "nope", "manifest.jsonl"], 2, "nope"),
        (["evaluate", "gone.safetensors", "manifest.jsonl"], 1, "gone.safetensors"),
        (["evaluate", "nope", "manifest.jsonl", "--split", "test"], 2, "train, dev, all"),
        (["evaluate", "nope", "manifest.jsonl", "-f", "csv"], 2, "table or json"),
        (["evaluate", "nope", "manifest.jsonl", "--codec", "aac"], 2, "mulaw"),
    ],
)
def test_wrong_usage_of_training(arguments: list[str], status: int, said: str, cli: Cli, corpus: Path) -> None:
    answer = cli(*arguments)
    assert (answer.status, answer.out, len(answer.errors)) == (status, "", 1)
    assert answer.err.startswith("framecls: error: ")
    assert said in answer.err


def test_check_says_what_is_there_and_trains_nothing(cli: Cli, corpus: Path) -> None:
    command = ("train", "identify", "manifest.jsonl", "--check", "--recipe", "recipe.toml", "--device", "cpu")
    before = sorted(corpus.iterdir())
    answer = cli(*command)
    assert (answer.status, answer.err) == (0, "")
    assert "as given" in answer.out
    figures = json.loads(cli(*command, "-f", "json").out)
    assert (figures["rows"], figures["files"], figures["problems"]) == (6, 6, [])
    assert figures["labels"]["low"] == {"train rows": 2, "train seconds": 4.0, "dev rows": 1, "dev seconds": 2.0}
    assert sorted(corpus.iterdir()) == before


def test_rows_that_cannot_be_used_are_a_line_each(cli: Cli, corpus: Path) -> None:
    rows = [{"file": f"gone{n}.wav", "label": "low"} for n in range(12)]
    with (corpus / "manifest.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    command = ("train", "identify", "manifest.jsonl", "-o", "m.safetensors", "--recipe", "recipe.toml")
    answer = cli(*command, "--device", "cpu")
    lines = answer.err.splitlines()
    assert (answer.status, answer.out, len(lines)) == (1, "", 12)
    assert lines[0] == "framecls: error: manifest.jsonl: 12 of 18 rows cannot be used"
    assert lines[1] == "  line 7: gone0.wav: there is no such file"
    assert lines[-1] == "  and 2 more"
    checked = cli(*command, "--check", "--device", "cpu")
    assert checked.status == 1
    assert "rows" in checked.out
    assert checked.err.splitlines()[1:] == lines[1:]


def test_folders_are_learnt_from_and_previewed(cli: Cli, corpus: Path) -> None:
    for label, frequency_hz in (("low", 200), ("high", 2000)):
        for voice in range(12):
            write_wav(corpus / "clips" / label / f"{voice}.wav", 1.0, frequency_hz + voice)
    command = ("train", "identify", "clips", "--recipe", "recipe.toml", "--device", "cpu")
    heard = cli(*command, "--preview", "heard", "--set", "augment.codec_chance=1")
    assert (heard.status, heard.out) == (0, "")
    assert heard.err.splitlines()[-1] == "framecls: heard: 20 examples; what was done to each: heard/preview.jsonl"
    lines = [json.loads(line) for line in (corpus / "heard" / "preview.jsonl").read_text().splitlines()]
    assert all("codec" in line and (corpus / "heard" / line["file"]).exists() for line in lines)
    assert len(lines) == 20
    answer = cli(*command, "-o", "m.safetensors", "--set", "optim.seed=3")
    assert answer.status == 0
    assert "split by file, since no speakers are named" in answer.err
    measured = cli("evaluate", "m.safetensors", "clips", "-f", "json", "--device", "cpu", "-q")
    n_dev = int(answer.err.split(" to measure on")[0].split()[-1])
    assert json.loads(measured.out)["items"] == n_dev  # the same ones: the model file knows the seed of the split


def test_a_model_of_features_refuses_sound(cli: Cli, corpus: Path) -> None:
    for label, mean in (("low", -1), ("high", 1)):
        (corpus / "arrays" / label).mkdir(parents=True)
        for number in range(12):
            np.save(corpus / "arrays" / label / f"{number}.npy", np.full((150, 4), mean, np.float32))
    train = cli("train", "identify", "arrays", "-o", "m.safetensors", "--recipe", "recipe.toml", "--device", "cpu")
    assert train.status == 0
    measured = cli("evaluate", "m.safetensors", "arrays", "-f", "json", "--device", "cpu", "--split", "all")
    assert json.loads(measured.out)["items"] == 24
    answer = cli("identify", "low0.wav", "high0.wav", "-m", "m.safetensors", "--device", "cpu")
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert "takes vectors of 4 numbers that were computed elsewhere" in answer.err
    assert "features computed elsewhere" in cli("models", "m.safetensors").out


# --- interruptions


def test_interrupt_while_arguments_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typer makes an exit status of it, and no words."""
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("framecls.cli.app.app", app)
    assert run([]) == 130
    assert capsys.readouterr().err == "framecls: error: interrupted\n"


def test_the_end_of_a_process_waits_for_nothing(here: Path) -> None:
    """What is written arrives, what was to be done at exit is, and nothing is taken apart."""
    script = (
        "import atexit, sys\n"
        "from framecls.cli import boundary\n"
        "class Slow:\n"
        "    def __del__(self): print('taken apart')\n"
        "sys.slow = Slow()\n"
        "atexit.register(print, 'at exit')\n"
        "boundary.run = lambda arguments: print('written') or 3\n"
        "boundary.main()"
    )
    assert run_command(code=script) == (3, "written\nat exit\n", "")


def test_interrupt_leaves_no_half_file(tag: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from framecls.model import Model

    really_tag = Model._tag

    def interrupt_on_b(self: Model, windows: Any, name: str, keep_scores: bool) -> Any:
        if "b.wav" in name:
            raise KeyboardInterrupt
        return really_tag(self, windows, name, keep_scores)

    monkeypatch.setattr(Model, "_tag", interrupt_on_b)
    for name in ("a.wav", "b.wav", "c.wav"):
        write_wav(here / name)
    (here / "all.json").write_text("what was there")
    answer = tag("a.wav", "b.wav", "c.wav", "-o", "all.json")
    assert answer.status == 130
    assert answer.err == (
        "framecls: error: interrupted: 1 of 3 inputs done, 2 left, from b.wav on; all.json was left alone; "
        "--resume goes on from there\n"
    )
    assert (here / "all.json").read_text() == "what was there"
    names = sorted(path.name for path in here.iterdir())
    assert names == [".all.json.framecls-journal", "a.wav", "all.json", "b.wav", "c.wav"]
    assert [record["file"] for record in json.loads(tag("a.wav", "b.wav", "-f", "json").out)] == ["a.wav"]


@pytest.fixture
def waiting(tag_model: str, here: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has done the first of three inputs and waits for the second one, which is standard input."""
    write_wav(here / "a.wav")
    write_wav(here / "c.wav")
    arguments = ("tag", "-m", tag_model, "--device", "cpu", "-f", "jsonl", "a.wav", "-", "c.wav")
    with start_command(*arguments, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["file"] == "a.wav"  # each result comes as soon as it is there
        yield process
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX has them")
def test_ctrl_c(waiting: subprocess.Popen[bytes]) -> None:
    assert waiting.stdin is not None
    soundfile.write(wav := io.BytesIO(), make_tone(60.0), RATE, format="WAV")
    waiting.stdin.write(wav.getvalue()[:500_000])  # more than a pipe holds: once it is through, the input is being read
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert (out, err.decode()) == (b"", "framecls: error: interrupted: 1 of 3 inputs done, 2 left, from - on\n")


def test_a_reader_that_goes_away(waiting: subprocess.Popen[bytes]) -> None:
    assert waiting.stdin is not None
    assert waiting.stdout is not None
    assert waiting.stderr is not None
    waiting.stdout.close()
    soundfile.write(wav := io.BytesIO(), make_tone(1.0), RATE, format="WAV")
    waiting.stdin.write(wav.getvalue())
    waiting.stdin.close()
    assert waiting.stderr.read() == b""
    assert waiting.wait(timeout=30) == 141


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_that_are_no_text(locale: str, tag_model: str, here: Path) -> None:
    name = b"caf\xe9-\xff.wav"
    write_wav(here / "a.wav")
    (here / "a.wav").rename(os.fsdecode(os.fsencode(here) + b"/" + name))
    settings = environment(LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    arguments = ("tag", "-m", tag_model, "--device", "cpu", os.fsdecode(name), os.fsdecode(b"gone-" + name))
    with start_command(*arguments, env=settings) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"speech" in out
    assert err.splitlines()[0].startswith(rb"framecls: error: gone-caf\xe9-\xff.wav: ")
    assert b"Traceback" not in err


def test_full_disk(tag_model: str, here: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    write_wav(here / "a.wav")
    arguments = ["tag", "-m", tag_model, "--device", "cpu", "-f", "jsonl", "a.wav"]
    with open("/dev/full", "wb") as full, start_command(*arguments, stdout=full) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err == b"framecls: error: cannot write the results: No space left on device\n"


# --- text


def test_escape() -> None:
    assert escape("a b/ü.wav") == "a b/ü.wav"
    assert escape("a\nb\t\x1b\u202e") == "a\\nb\\t\\x1b\\u202e"
    assert escape(os.fsdecode(b"\xff")) == "\\xff"
    assert one_line("two\n  lines\t") == "two lines"


def test_a_picture_of_the_table(cli: Cli, tag_model: str, tmp_path: Path) -> None:
    recording, picture = write_wav(tmp_path / "a.wav", 2.0), tmp_path / "a.svg"
    done = cli("tag", str(recording), "-m", tag_model, "-o", str(picture))
    assert (done.status, done.out) == (0, "")
    text = picture.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "a.wav" in text
    assert "speech" in text


def test_a_warning_is_a_line_and_status_3_unless_something_failed(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    assert console.status == 0
    console.warn("a\n.wav", "cut off:\n 5 of 9 s")
    assert console.status == 3
    console.failure("b.wav", AudioError("there is no audio in it"))
    assert console.status == 1
    assert capsys.readouterr().err == (
        "framecls: warning: a\\n.wav: cut off: 5 of 9 s\nframecls: error: b.wav: there is no audio in it\n"
    )
