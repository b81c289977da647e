"""`framecls tag`: usage, models, formats and files."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from framecls.output.formats import WRITERS
from support.commands import Cli, start_command
from support.models import LANGUAGES, TAG_LABELS
from support.signals import write_wav


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "nope"),
        (["tag"], "INPUT"),
        (["tag", "a.wav", "--bogus"], "--bogus"),
        (["tag", "a.wav", "-f"], "-f"),
        (["tag", "a.wav", "-f", "nope"], "choose table, svg, png, json"),
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


def test_any_model_tags_and_only_some_identify(cli: Cli, tag_model: str, identify_model: str, here: Path) -> None:
    write_wav(here / "a.wav")
    assert cli("tag", "a.wav", "-m", identify_model, "-f", "csv").errors == []
    answer = cli("identify", "a.wav", "-m", tag_model)
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert "is for framecls tag" in answer.err


def test_a_file_where_a_folder_would_have_to_be(tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    for output in ("a.wav/x.csv", "a.wav/deep/x.csv"):
        answer = tag("a.wav", "-o", output)
        said = f"framecls: error: cannot write {output}: a file is in the way where a folder would have to be"
        assert (answer.status, answer.errors) == (1, [said])


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


@pytest.mark.parametrize(
    "name", ["x.json", "x.csv", "x.tsv", "x.TextGrid", "x.rttm", "x.txt", "x.vtt", "x.srt", "x.npz"]
)
def test_format_follows_the_suffix(name: str, tag: Cli, here: Path) -> None:
    write_wav(here / "a.wav")
    assert tag("a.wav", "-o", name).status == 0
    content = (here / name).read_bytes()
    named = {writer.suffix: format for format, writer in WRITERS.items()}[Path(name).suffix]
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


def test_full_disk(tag_model: str, here: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    write_wav(here / "a.wav")
    arguments = ["tag", "-m", tag_model, "--device", "cpu", "-f", "jsonl", "a.wav"]
    with open("/dev/full", "wb") as full, start_command(*arguments, stdout=full) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err == b"framecls: error: cannot write the results: No space left on device\n"


def test_a_figure_by_the_suffix_of_its_file(cli: Cli, tag_model: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    recording, picture = write_wav(tmp_path / "a.wav", 2.0), tmp_path / "a.svg"
    done = cli("tag", str(recording), "-m", tag_model, "-o", str(picture))
    assert (done.status, done.out) == (0, "")
    text = picture.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "a.wav" in text
    assert "speech" in text
