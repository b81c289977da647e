"""`framecls tag`: the shapes that editors want, and the names of files in a folder."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from framecls.inference import words
from support.commands import ROOT, Cli
from support.signals import RATE, make_noise, write_wav


@pytest.fixture
def here(here: Path) -> Path:
    write_wav(here / "a.wav", 4.0)
    return here


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--labels", "sppech"], "--labels: 'sppech' is no label of this model: did you mean speech?"),
        (["--labels", ","], "--labels: name at least one label, such as speech,music"),
        (
            ["--min-gap", "song=1"],
            "--min-gap: a shortest gap for 'song', which is no label of this model; it has speech",
        ),
        (["--min-duration", "speech=x"], "--min-duration x: a length of time in seconds is expected"),
        (["--min-duration", "=3"], "--min-duration =3: [LABEL=]S is expected, such as speech=0.5"),
        (["-m", "language", "--stream"], "--stream wants a model that gives labels to frames"),
        (["-m", "sound", "--align", "hello"], "the model sound does not hear the phones of English"),
        (["--min-duration", "speech=-1"], "--min-duration -1.0: a length of time in seconds, 0 or more"),
        (["--coarse", "--min-gap", "speech=1"], "--coarse has one --min-gap"),
        (["-m", "speaker", "--coarse"], "--coarse makes blocks of talk and music"),
        (["-m", "speaker", "--labels", "speker 1"], "--labels speker 1: nobody is enrolled as 'speker 1'"),
        (["-m", "speaker", "--min-gap", "Ada=1"], "no label of this model; it has unknown"),
        (["-m", "language", "--labels", "xx"], "--labels: 'xx' is no label of this model; it has af"),
        (["--totals", "-f", "rttm"], "--totals does not go with -f rttm: choose table, json, jsonl, csv, tsv"),
        (["--totals", "--frames", "-f", "csv"], "--frames and --totals do not fit into one table of -f csv"),
        (["--exclusive", "--stream", "-f", "csv"], "--exclusive is about a recording as a whole"),
        (["--totals", "--stream", "-f", "csv"], "--totals is about a recording as a whole"),
        (["--naming", "short"], "--naming short: choose full or stem"),
        (["--naming", "stem", "-f", "textgrid"], "--naming stem names files in a folder: name it with -o"),
        (["--naming", "stem", "-o", "x.csv"], "and -o x.csv is none: write -o x.csv/"),
        (["--ipa"], "--ipa is for phones, and tiny-sound has other labels: use -m phones"),
        (["--align", "hello"], "--align: the model tiny-sound does not hear the phones of English"),
        (["-m", "phones", "--align", "qwxz"], "--align: not in the dictionary: qwxz: write how it is said"),
        (["-m", "phones", "--align", "@no.txt"], "--align: no.txt: cannot be read: No such file"),
        (["-m", "phones", "--align", "hello", "--string"], "leave one of them out"),
        (["-m", "phones", "--align", "hello", "--totals"], "--totals is about labels and does not go with --align"),
        (["-m", "phones", "--align", ".txt", "-"], "beside standard input there is no file"),
        (["-m", "phones", "--string", "--coarse"], "--coarse is about labels and does not go with --string"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], said: str, cli: Cli, tag_model: str, here: Path) -> None:
    answer = cli("tag", "a.wav", *([] if "-m" in arguments else ["-m", tag_model]), *arguments)
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert said in answer.err
    assert os.listdir() == ["a.wav"]


def test_a_language_that_is_not_heard_is_no_failure(cli: Cli, identify_model: str, here: Path) -> None:
    [record] = cli("tag", "-m", identify_model, "a.wav", "-f", "jsonl").records
    [heard] = record["labels"]
    for wanted in ("de", "en", "fr", "unknown"):
        answer = cli("tag", "-m", identify_model, "a.wav", "-f", "jsonl", "--labels", wanted)
        assert answer.status == 0
        assert [s["label"] for s in answer.records[0]["segments"]] == ([heard] if wanted == heard else [])


def segments_of(tag: Cli, *arguments: str) -> list[dict[str, Any]]:
    [record] = tag("a.wav", "-f", "jsonl", *arguments).records
    segments: list[dict[str, Any]] = record["segments"]
    return segments


def test_shapes_reach_what_is_written(tag: Cli, here: Path) -> None:
    everywhere = ("--threshold", "noise=0", "--threshold", "music=1")  # the tiny model hears speech in all frames
    assert {s["label"] for s in segments_of(tag, *everywhere)} == {"speech", "noise"}
    assert [s["label"] for s in segments_of(tag, *everywhere, "--exclusive")] == ["speech"]
    assert [s["label"] for s in segments_of(tag, *everywhere, "--exclusive", "--labels", "noise,speech")] == ["noise"]
    [record] = tag("a.wav", "-f", "jsonl", "--labels", "music", "--threshold", "music=1", "--totals").records
    assert (record["labels"], record["segments"]) == (["music"], [])
    assert record["totals"] == {"music": {"seconds": 0.0, "share": 0.0}}
    [none] = segments_of(tag, "--labels", "music", "--threshold", "music=1", "--exclusive")
    assert none == {"start": 0.0, "end": 4.0, "label": "none", "score": 0.0}
    [block] = segments_of(tag, *everywhere, "--coarse")
    assert (block["start"], block["end"], block["label"]) == (0.0, 4.0, "speech")
    assert segments_of(tag, *everywhere, "--min-duration", "speech=9", "--min-duration", "noise=1") == [
        s for s in segments_of(tag, *everywhere) if s["label"] == "noise"
    ]
    rows = tag("a.wav", *everywhere, "-f", "csv", "--stream", "--labels", "noise").out.splitlines()
    assert [row.split(",")[3] for row in rows] == ["label", "noise"]


def test_words_of_texts_beside_recordings(cli: Cli, here: Path) -> None:
    spoken = ROOT / "samples" / "speech_flite.flac"
    text = "The bakery on the corner opens at seven. If you come early, the rolls are still warm."
    for name, beside in (("a.flac", text), ("b.flac", "qwxz"), ("c.flac", None)):
        shutil.copy(spoken, here / name)
        if beside is not None:
            (here / name).with_suffix(".lab").write_text(beside, encoding="utf-8")
    command = ["tag", "-m", "phones", "--device", "cpu", "--align", ".lab", "--ipa"]
    answer = cli(*command, "a.flac", "b.flac", "c.flac", "-f", "jsonl", "-q")
    assert (answer.status, len(answer.errors)) == (1, 2)
    assert "b.flac: not in the dictionary: qwxz" in answer.err
    assert "c.flac: c.lab: cannot be read" in answer.err
    [record] = answer.records
    assert [word["label"] for word in record["words"]] == re.findall(r"\w+", text)
    assert [s["label"] for s in record["segments"]][:4] == ["ð", "ʌ", "b", "eɪ"]
    resumed = [*command, "a.flac", "-o", "all.csv", "--resume"]
    assert [("1 skipped" in cli(*resumed).err) for _ in range(2)] == [False, True]
    (here / "a.lab").write_text(text + "\n", encoding="utf-8")
    assert "1 skipped" not in cli(*resumed).err
    (here / "a.txt").write_text(text, encoding="utf-8")
    whole = cli(*command[:-2], "@a.txt", "a.flac", "-f", "csv").out
    assert whole == cli(*command[:-2], text, "a.flac", "-f", "csv").out
    doubtful = cli(*command[:-2], "a train has gone", "a.flac", "-f", "csv")
    assert (doubtful.status, len(doubtful.errors)) == (3, 1)
    assert "the text may not be what is said" in doubtful.err


def test_the_dictionary_is_an_extra(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    words._read_dictionary.cache_clear()
    answer = cli("tag", "a.wav", "-m", "phones", "--align", "hello")
    said = "framecls: error: --align needs pocketsphinx, not installed: pip install pocketsphinx"
    assert (answer.status, answer.errors) == (2, [said])


def test_names_without_the_suffix_of_the_recording(tag: Cli, here: Path) -> None:
    write_wav(here / "deep" / "b.wav")
    assert tag(".", "-f", "textgrid", "-o", ".", "--naming", "stem").status == 0
    assert (here / "a.TextGrid").exists()
    assert (here / "deep" / "b.TextGrid").exists()
    assert tag(".", "-f", "textgrid", "-o", ".", "--naming", "stem").status == 0  # what a run wrote, another may
    changed = (here / "a.TextGrid").read_text(encoding="utf-8") + "\n"
    (here / "a.TextGrid").write_text(changed, encoding="utf-8")
    answer = tag(".", "-f", "textgrid", "-o", ".", "--naming", "stem")
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert "a.TextGrid would be overwritten, and framecls did not write what is there" in answer.err
    assert (here / "a.TextGrid").read_text(encoding="utf-8") == changed


def test_names_that_collide(tag: Cli, here: Path) -> None:
    (here / "a.mp3").write_bytes(b"not read")
    answer = tag(".", "-f", "textgrid", "-o", "out", "--naming", "stem")
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert "a.mp3 and a.wav would both become out/a.TextGrid: leave --naming out" in answer.err
    assert not (here / "out").exists()


def test_names_of_channels(tag: Cli, here: Path) -> None:
    soundfile.write(here / "c.wav", make_noise(1.0, channels=2), RATE)
    assert tag("c.wav", "--channel", "each", "-f", "vtt", "-o", "out/", "--naming", "stem").status == 0
    assert sorted(path.name for path in (here / "out").glob("*.vtt")) == ["c.1.vtt", "c.2.vtt"]
