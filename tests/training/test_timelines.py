"""`framecls evaluate --timeline`: error rates whose parts are known, of timelines that an untrained model finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from framecls.checkpoints.network import save_model
from framecls.config import DiarizationConfig
from framecls.nn.network import Network
from support.commands import Cli
from support.models import save_tiny_model, tiny_voice_config
from support.signals import RATE, make_tone

TURNS_S = (0.0, 4.0, 8.0, 12.0, 16.0)  # where a low tone and a high one begin and end


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    settings = DiarizationConfig(same_speaker=0.95, surely_same=0.995, unknown=-1.0)
    path = tmp_path_factory.mktemp("models") / "tiny-speaker.safetensors"
    save_model(Network(replace(tiny_voice_config(), diarization=settings)), path)
    return path


@pytest.fixture
def meetings(tmp_path: Path) -> Path:
    """Return a folder with a recording of 16 s, without a reference."""
    sound = np.concatenate([make_tone(4.0, pitch) for pitch in (200.0, 2500.0, 200.0, 2500.0)])
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    return tmp_path


def write_rttm(folder: Path, turns: list[tuple[float, float, str]]) -> None:
    lines = [f"SPEAKER a 1 {start} {end - start} <NA> <NA> {who} <NA> <NA>\n" for start, end, who in turns]
    (folder / "a.rttm").write_text("".join(lines))


def figures(cli: Cli, *arguments: object) -> dict[str, float]:
    answer = cli("evaluate", *arguments, "--timeline", "-f", "json")
    assert answer.status == 0, answer.err
    return dict(json.loads(answer.out))


def test_a_timeline_that_is_right_but_for_the_edges(model: Path, meetings: Path, cli: Cli) -> None:
    write_rttm(meetings, [(start, start + 4, "xy"[number % 2]) for number, start in enumerate(TURNS_S[:-1])])
    found = figures(cli, model, meetings)
    assert (found["recordings"], found["seconds"]) == (1, 16.0)
    assert found["error_rate"] < 0.06
    assert found["jaccard_error_rate"] < 0.12
    assert found["right"] == pytest.approx(1 - found["missed"] - found["confusion"])
    assert figures(cli, model, meetings, "--collar", "0.5")["error_rate"] == 0


def test_the_parts_of_what_is_wrong(model: Path, meetings: Path, cli: Cli) -> None:
    # Nobody in the first 4 s, a third voice in the last 4, and both at once in 2 s.
    write_rttm(meetings, [(4, 8, "y"), (8, 12, "x"), (12, 16, "z"), (10, 12, "y")])
    found = figures(cli, model, meetings, "--collar", "0.0")
    assert found["seconds"] == 14.0
    assert found["false_alarm"] == pytest.approx(4 / 14, abs=0.03)
    assert found["missed"] == pytest.approx(2 / 14, abs=0.03)
    assert found["confusion"] == pytest.approx(4 / 14, abs=0.03)
    assert found["error_rate"] == pytest.approx(10 / 14, abs=0.05)
    alone = figures(cli, model, meetings, "--skip-overlap")
    assert alone["seconds"] == 10.0
    assert alone["missed"] == pytest.approx(0, abs=0.03)
    table = cli("evaluate", model, meetings, "--timeline")
    assert table.status == 0, table.err
    assert f"{found['confusion']:.4f}" in table.out


def test_languages_have_their_names(meetings: Path, tmp_path: Path, cli: Cli) -> None:
    model = save_tiny_model(tmp_path, "pooled")
    found = json.loads(cli("tag", "-m", str(model), meetings / "a.wav", "-f", "jsonl").out)["segments"]
    truth = [{"file": "a.wav", **{key: s[key] for key in ("start", "end")}, "label": s["label"]} for s in found]
    truth = [row for row in truth if row["label"] != "unknown"] or [
        {"file": "a.wav", "start": 0, "end": 16, "label": "de"}
    ]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    rates = figures(cli, model, tmp_path / "truth.jsonl")
    others = {"de": "en", "en": "fr", "fr": "de"}
    for row in truth:
        row["label"] = others[str(row["label"])]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    wrong = figures(cli, model, tmp_path / "truth.jsonl")
    assert wrong["right"] == 0
    assert wrong["confusion"] == pytest.approx(rates["right"])
    assert "jaccard_error_rate" not in wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--collar", "0.5"], "go with --timeline"),
        (["--skip-overlap"], "go with --timeline"),
        (["--timeline", "--collar", "-1"], "--collar"),
        (["--timeline", "--length", "3"], "do not go with --timeline"),
    ],
)
def test_what_cannot_be_measured(arguments: list[str], said: str, model: Path, meetings: Path, cli: Cli) -> None:
    write_rttm(meetings, [(0, 4, "x")])
    answer = cli("evaluate", model, meetings, *arguments)
    assert (answer.status, answer.out) == (2, "")
    assert said in answer.err


def test_a_model_of_frames_has_no_such_timeline(meetings: Path, cli: Cli) -> None:
    answer = cli("evaluate", "sound", meetings, "--timeline")
    assert answer.status == 2
    assert "gives labels to frames already" in answer.err
