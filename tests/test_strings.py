"""`tag --string`: phones of whole recordings, whatever windows they were heard in."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import save_tiny_model, tiny_config, tone, write_wav

from framecls.checkpoint import save_model
from framecls.cli.boundary import run
from framecls.ctc import decode_beam, decode_greedy
from framecls.engine import WindowOutput, load_engine
from framecls.errors import ConfigError, UsageError
from framecls.nn.model import Network
from framecls.results import Segment, StringResult
from framecls.runtime import Model, load
from framecls.strings import find_seam, phone_engine, stitch_phones
from framecls.timeline import plan_windows

PHONES = ("a", "b", "c")


def save_hearing_model(folder: Path, task: str, seed: int = 7) -> Path:
    """Write an untrained model that hears three phones, often enough to be of use."""
    torch.manual_seed(seed)
    config = replace(tiny_config(task), name="tiny-phones", phones=PHONES)  # type: ignore[arg-type]
    network = Network(config)
    assert network.phones is not None
    with torch.no_grad():
        network.phones.to_logits.weight.mul_(8)
    save_model(network, folder / "hears.safetensors", config=config)
    return folder / "hears.safetensors"


def jittered_windows(says: np.ndarray, length: int, overlap: int, seed: int) -> list[WindowOutput]:
    """Say a string of frames, each phone in one frame, which a window may shift by one."""
    rng = np.random.default_rng(seed)
    outputs = []
    for window in plan_windows(len(says), length, overlap):
        heard = np.zeros(window.n_frames, int)
        for frame in np.flatnonzero(says[window.first : window.first + window.n_frames]):
            shifted = int(np.clip(frame + rng.integers(-1, 2), 0, window.n_frames - 1))
            heard[shifted] = says[window.first + frame]
        likely = np.where(np.arange(4)[None] == heard[:, None], 0.94, 0.02)
        outputs.append(WindowOutput(window, np.log(likely).astype(np.float32), 0.0))
    return outputs


@pytest.mark.parametrize("seed", range(20))
def test_seams_neither_lose_nor_double_a_phone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    says = np.zeros(400, int)
    says[5:395:7] = rng.integers(1, 4, len(says[5:395:7]))  # far enough apart for a shift by one to keep the order
    log_probs = stitch_phones(jittered_windows(says, 100, 40, seed), 40)
    assert len(log_probs) == len(says)
    wanted = says[says > 0].tolist()
    for heard in (decode_greedy(log_probs), decode_beam(log_probs, 8)):
        assert [spoken.symbol for spoken in heard] == wanted
        assert np.abs(np.array([spoken.first for spoken in heard]) - np.flatnonzero(says)).max() <= 1


def test_a_seam_in_the_middle_of_the_overlap_would_lose_phones() -> None:
    """What the search for a seam is for: without it the same windows give wrong strings."""
    wrong = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        says = np.zeros(400, int)
        says[5:395:7] = rng.integers(1, 4, len(says[5:395:7]))
        parts, outputs = [], jittered_windows(says, 100, 40, seed)
        for number, output in enumerate(outputs):
            last = len(output.logits) if number == len(outputs) - 1 else 80
            parts.append(output.logits[20 if number else 0 : last])
        heard = decode_greedy(np.concatenate(parts))
        wrong += [spoken.symbol for spoken in heard] != says[says > 0].tolist()
    assert wrong > 0


def test_windows_that_agree_meet_in_the_middle() -> None:
    same = np.log(np.full((40, 4), 0.25, np.float32))
    assert find_seam(same, same) == 20
    assert find_seam(same[:0], same[:0]) == 0


@pytest.mark.parametrize("task", ["frame", "pooled"])
def test_a_recording_of_many_windows(tmp_path: Path, task: str) -> None:
    engine = load_engine(save_hearing_model(tmp_path, task), device="cpu")
    model = Model(engine)
    sounds = np.concatenate([tone(0.7, 200 * (1 + n % 7)) for n in range(12)])
    result = model.tag_string(sounds, sample_rate=16000)
    assert isinstance(result, StringResult)
    assert result.scores.shape == (420, 3)
    assert len(result.times) == 420
    assert len(result.phones) > 3
    assert result.string == " ".join(segment.label for segment in result.segments)
    ends = [0.0, *(segment.end for segment in result.segments)]
    assert all(segment.start >= end for segment, end in zip(result.segments, ends, strict=False))
    assert result.segments[-1].end <= result.duration == 8.4
    small = Model(load_engine(save_hearing_model(tmp_path, task), device="cpu", batch_size=1))
    assert small.tag_string(sounds, sample_rate=16000).phones == result.phones


def test_the_windows_of_a_pooled_model_overlap_for_strings(tmp_path: Path) -> None:
    engine = load_engine(save_hearing_model(tmp_path, "pooled"), device="cpu")
    engine.network.config = engine.config = replace(engine.config, window=replace(engine.config.window, overlap_s=0.0))
    assert phone_engine(engine).config.window.overlap_s == 1.0


def test_models_without_phones_are_refused(tmp_path: Path) -> None:
    model = load(save_tiny_model(tmp_path, "frame"), device="cpu")
    with pytest.raises(UsageError, match="hears no phones"):
        model.tag_string(tone(1.0), sample_rate=16000)
    hearing = load(save_hearing_model(tmp_path, "frame"), device="cpu")
    with pytest.raises(ConfigError, match="beam 0"):
        hearing.tag_string(tone(1.0), sample_rate=16000, beam=0)


@pytest.fixture
def spoken(tmp_path: Path) -> tuple[Path, str, tuple[Segment, ...]]:
    """A model that hears phones, a recording, and what it hears there."""
    path = save_hearing_model(tmp_path, "frame")
    recording = write_wav(tmp_path / "a.wav", 2.0)
    result = load(path, device="cpu").tag_string(recording)
    assert result.segments
    return path, str(recording), result.segments


def test_the_command(spoken: tuple[Path, str, tuple[Segment, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    model, recording, segments = spoken
    string = " ".join(segment.label for segment in segments)

    def tag(*options: str) -> str:
        assert run(["tag", recording, "-m", str(model), "--device", "cpu", "--string", *options]) == 0
        return capsys.readouterr().out

    assert tag("-f", "text") == f"{recording}\t{string}\n"
    record = json.loads(tag("-f", "jsonl"))
    assert record["string"] == string
    assert record["labels"] == list(PHONES)
    assert [s["label"] for s in record["segments"]] == string.split()
    assert json.loads(tag("-f", "json"))[0] == record
    rows = list(csv.DictReader(io.StringIO(tag("-f", "csv"))))
    assert [(float(r["start"]), r["label"]) for r in rows] == [(s.start, s.label) for s in segments]
    assert 'text = "' + segments[0].label in tag("-f", "textgrid")
    assert string[:20] in tag()
    assert "Start" not in tag()
    assert "Start" in tag("--times")
    assert len(json.loads(tag("-f", "jsonl", "--frames"))["scores"]) == 100
    assert tag("--beam", "1", "-f", "text").startswith(f"{recording}\t")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", "sound", "--string"], "--string wants a model that hears phones, such as language"),
        (["-m", "language", "--string", "--beam", "0"], "--beam 0: at least 1"),
        (["-m", "language", "--string", "--threshold", "de=0.5"], "--threshold is about labels"),
        (["-m", "language", "--string", "--min-gap", "1"], "--min-gap is about labels"),
        (["-m", "sound", "-f", "text"], "add --string"),
        (["-m", "language"], "is for framecls identify"),
    ],
)
def test_wrong_usage(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tag", str(write_wav(tmp_path / "a.wav")), *options]) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert message in said.err
