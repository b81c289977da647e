"""`tag` with several models: one pass, a tier each."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from praatio import textgrid

from support.commands import Cli
from support.signals import write_wav


@pytest.fixture
def models(tag_model: str, identify_model: str) -> list[str]:
    return ["-m", tag_model, "-m", identify_model]


def test_each_tier_is_what_its_model_gives_alone(cli: Cli, models: list[str], here: Path) -> None:
    write_wav(here / "a.wav")
    [together] = [json.loads(line) for line in cli("tag", "a.wav", *models, "-f", "jsonl").out.splitlines()]
    assert list(together) == ["file", "duration", "tiers"]
    assert list(together["tiers"]) == ["tiny-sound", "tiny-language"]
    for name, model in zip(together["tiers"], (models[1], models[3]), strict=True):
        alone = json.loads(cli("tag", "a.wav", "-m", model, "-f", "jsonl").out)
        wanted = {key: alone[key] for key in ("hop", "labels", "segments")}
        assert (name, together["tiers"][name]) == (alone["model"], wanted)
        assert together["duration"] == alone["duration"]


def test_every_format_tells_the_models_apart(cli: Cli, models: list[str], here: Path) -> None:
    write_wav(here / "a.wav")
    rows = list(csv.DictReader(io.StringIO(cli("tag", "a.wav", *models, "-f", "csv").out)))
    assert list(rows[0]) == ["file", "model", "start", "end", "label", "score"]
    assert {row["model"] for row in rows} == {"tiny-sound", "tiny-language"}
    assert "tiny-sound:speech" in cli("tag", "a.wav", *models, "-f", "rttm").out
    for format in ("audacity", "vtt", "srt"):
        said = cli("tag", "a.wav", *models, "-f", format).out
        assert "tiny-sound: speech" in said
        assert "tiny-language: " in said
    assert cli("tag", "a.wav", *models, "-o", "a.TextGrid").status == 0
    grid = textgrid.openTextgrid("a.TextGrid", includeEmptyIntervals=True)
    assert grid.tierNames == ("speech", "music", "noise", "tiny-language")
    table = cli("tag", "a.wav", *models).out
    assert "tiny-sound, tiny-language" in table.splitlines()[0]
    assert table.splitlines()[1].split() == ["Start", "End", "tiny-sound", "tiny-language", "Score"]


def test_frames_of_several_models(cli: Cli, models: list[str], here: Path) -> None:
    write_wav(here / "a.wav")
    assert cli("tag", "a.wav", *models, "-f", "npz", "-o", "a.npz").status == 0
    arrays = np.load("a.npz")
    for model in ("tiny-sound", "tiny-language"):
        assert arrays[f"{model}.scores"].shape == (len(arrays[f"{model}.times"]), len(arrays[f"{model}.labels"]))
    answer = cli("tag", "a.wav", *models, "-f", "csv", "--frames")
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert "choose json, jsonl, npz" in answer.err


def test_an_option_goes_to_the_model_that_knows_its_label(cli: Cli, models: list[str], here: Path) -> None:
    write_wav(here / "a.wav")
    rules = ["--threshold", "speech=1", "--among", "de", "--labels", "speech,music"]
    found = json.loads(cli("tag", "a.wav", *models, *rules, "-f", "jsonl").out)["tiers"]
    assert found["tiny-sound"]["labels"] == ["speech", "music"]
    assert "speech" not in {s["label"] for s in found["tiny-sound"]["segments"]}
    assert {s["label"] for s in found["tiny-language"]["segments"]} <= {"de", "unknown"}


def test_shapes_of_a_tier(cli: Cli, models: list[str], here: Path) -> None:
    write_wav(here / "a.wav", 4.0)
    command = ["tag", "a.wav", *models, "--coarse", "--totals"]
    tiers = json.loads(cli(*command, "-f", "jsonl").out)["tiers"]
    assert [(s["start"], s["end"], s["label"]) for s in tiers["tiny-sound"]["segments"]] == [(0.0, 4.0, "speech")]
    assert tiers["tiny-sound"]["totals"] == {
        "speech": {"seconds": 4.0, "share": 1.0},
        "music": {"seconds": 0.0, "share": 0.0},
    }
    assert "none" not in tiers["tiny-language"]["totals"]  # languages are no blocks of a programme
    rows = list(csv.DictReader(io.StringIO(cli(*command, "-f", "csv").out)))
    assert list(rows[0]) == ["file", "model", "label", "seconds", "share"]
    assert "tiny-sound: speech" in cli(*command).out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threshold", "song=0.5"], "--threshold song=0.5: this goes with none of tiny-sound, tiny-language"),
        (["--among", "de,xx"], "--among xx: this goes with none of"),
        (["--speakers", "2"], "--speakers goes with a model of voices"),
        (["--string"], "--string takes one model, and -m names 2"),
        (["--stream", "-f", "csv"], "--stream takes one model"),
        (["--ipa"], "--ipa: this goes with none of"),
        (["--engine", "ray"], "--engine ray takes one model"),
        (["-f", "text"], "text holds strings of phones"),
    ],
)
def test_what_does_not_go_with_several_models(
    cli: Cli, models: list[str], here: Path, options: list[str], said: str
) -> None:
    answer = cli("tag", "a.wav", *models, *options)
    assert (answer.status, answer.out, len(answer.errors)) == (2, "", 1)
    assert said in answer.err


def test_a_model_that_cannot_be_used_stops_the_run_before_anything_is_read(
    cli: Cli, models: list[str], here: Path
) -> None:
    (here / "bad.safetensors").write_bytes(b"no model")
    answer = cli("tag", "missing.wav", *models, "-m", "bad.safetensors")
    assert (answer.status, len(answer.errors)) == (1, 1)
    assert "bad.safetensors" in answer.err
    shutil.copy(models[1], here / "copy.safetensors")
    answer = cli("tag", "missing.wav", *models, "-m", "copy.safetensors")
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert "two models that are called tiny-sound" in answer.err


def test_a_run_of_several_models_is_resumed(cli: Cli, models: list[str], here: Path) -> None:
    (here / "in").mkdir()
    for name in ("a.wav", "b.wav"):
        write_wav(here / "in" / name)
    assert cli("tag", "in", *models, "-o", "out.jsonl").status == 0
    before = Path("out.jsonl").read_bytes()
    again = cli("tag", "in", *models, "-o", "out.jsonl", "--resume")
    assert "2 skipped" in again.err
    assert Path("out.jsonl").read_bytes() == before
    other = cli("tag", "in", *models[:2], "-o", "out.jsonl", "--resume")
    assert "skipped" not in other.err
