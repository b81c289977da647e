"""`tag --string`: phones of whole recordings, whatever windows they were heard in."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from framecls.checkpoints.network import save_model
from framecls.cli.boundary import run
from framecls.errors import AudioError, ConfigError, UsageError
from framecls.inference.ctc import decode_beam, decode_greedy
from framecls.inference.engine import load_engine
from framecls.inference.phones import find_seam, phone_engine, stitch_phones
from framecls.inference.windows import WindowOutput, plan_windows
from framecls.model import Model, load
from framecls.nn.network import Network
from framecls.results import Segment, StringResult
from framecls.training.data.manifest import Recording, Span
from framecls.training.data.phones import index_phones, phones_within, with_phones
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.metrics.evaluate import Test as Measurement
from framecls.training.metrics.evaluate import evaluate
from framecls.training.recipe import AugmentConfig, OptimConfig, Recipe
from support.models import save_tiny_model, tiny_config
from support.signals import make_tone, write_wav

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
    sounds = np.concatenate([make_tone(0.7, 200 * (1 + n % 7)) for n in range(12)])
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


@pytest.mark.parametrize("task", ["frame", "pooled"])
def test_many_recordings_have_the_strings_of_each_alone(tmp_path: Path, task: str) -> None:
    model = load(save_hearing_model(tmp_path, task), device="cpu")
    sources = [np.concatenate([make_tone(0.3, 200 * (1 + n % 7)) for n in range(count)]) for count in (2, 12, 5)]
    sources.insert(1, np.zeros(0, np.float32))
    first, empty, *rest = model.tag_string_many(sources, sample_rate=16000)
    assert isinstance(empty, AudioError)
    for source, result in zip((sources[0], *sources[2:]), (first, *rest), strict=True):
        alone = model.tag_string(source, sample_rate=16000)
        assert isinstance(result, StringResult)
        assert (result.segments, result.duration) == (alone.segments, alone.duration)
        np.testing.assert_array_equal(result.scores, alone.scores)


def test_the_windows_of_a_pooled_model_overlap_for_strings(tmp_path: Path) -> None:
    engine = load_engine(save_hearing_model(tmp_path, "pooled"), device="cpu")
    engine.network.config = engine.config = replace(engine.config, window=replace(engine.config.window, overlap_s=0.0))
    assert phone_engine(engine).config.window.overlap_s == 1.0


def test_models_without_phones_are_refused(tmp_path: Path) -> None:
    model = load(save_tiny_model(tmp_path, "frame"), device="cpu")
    with pytest.raises(UsageError, match="hears no phones"):
        model.tag_string(make_tone(1.0), sample_rate=16000)
    hearing = load(save_hearing_model(tmp_path, "frame"), device="cpu")
    with pytest.raises(ConfigError, match="beam 0"):
        hearing.tag_string(make_tone(1.0), sample_rate=16000, beam=0)


def test_phones_of_a_part_are_those_whose_middle_is_in_it() -> None:
    spans = (Span("sil", 0.0, 0.5), Span("a", 0.5, 1.0), Span("b", 1.0, 1.4), Span("a", 2.0, 3.0))
    [recording] = with_phones([Recording(Path("x.wav"), spans, "s")], {"a", "b"})
    assert recording.phones == ("a", "b", "a")
    assert recording.alignment == (("", 0.5), ("a", 1.0), ("b", 1.4), ("", 2.0), ("a", 3.0))
    assert phones_within(recording, 0.0, 3.0, 3.0) == ("a", "b", "a")
    assert phones_within(recording, 0.7, 1.3, 3.0) == ("a", "b")
    assert phones_within(recording, 0.8, 2.5, 3.0) == ("b",)
    untimed = replace(recording, alignment=())
    assert phones_within(untimed, 0.0, 3.5, 3.0) == ("a", "b", "a")
    assert phones_within(untimed, 0.0, 2.5, 3.0) == ()
    assert index_phones([("b", "a"), ("a", "?"), ("a",)], ("a", "b")).tolist() == [[2, 1], [0, 0], [1, 0]]
    assert with_phones([replace(recording, phones=("z",))], {"a"})[0].phones == ("z",)


def write_beeps(folder: Path, n_files: int = 10) -> Path:
    """Write recordings of beeps of three pitches, which stand for three phones, and a manifest of when each sounds."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(n_files):
        samples, at_s = 0.003 * rng.standard_normal(2 * 16000), 0.1
        while at_s < 1.7:
            phone, length_s = int(rng.integers(3)), rng.uniform(0.1, 0.2)
            first, last = round(at_s * 16000), round((at_s + length_s) * 16000)
            samples[first:last] += 0.3 * np.sin(2 * np.pi * (300, 900, 2500)[phone] * np.arange(last - first) / 16000)
            times = {"start": first / 16000, "end": last / 16000}
            row = {"file": f"{number}.wav", "split": "dev" if number < 2 else "train"}
            rows.append({**row, "label": "abc"[phone], **times})
            rows.append({**rows[-1], "label": "sil", "start": last / 16000, "end": last / 16000 + 0.06})
            at_s += length_s + 0.06
        soundfile.write(folder / f"{number}.wav", samples, 16000)
    (folder / "beeps.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "beeps.jsonl"


def test_a_frame_model_learns_to_spell(tmp_path: Path) -> None:
    """Trained with torch's CTC loss beside the frame labels, on nothing but labelled spans."""
    config = tiny_config("frame")
    recipe = Recipe(
        "beeps",
        "frame",
        hear_phones=True,
        features=config.features,
        encoder=replace(config.encoder, dim=24, kernel=5),
        window=config.window,
        augment=AugmentConfig(
            reverb_chance=0, telephone_chance=0, noise_chance=0, low_pass_chance=0, frequency_masks=0, time_masks=0
        ),
        optim=OptimConfig(
            steps=90, batch_s=12.0, learning_rate=8e-3, warmup_steps=10, dev_every=90, phone_weight=2.0, workers=0
        ),
    )
    job = Job(write_beeps(tmp_path), tmp_path / "beeps.safetensors", recipe)
    train(job, prepare(job))
    engine = load_engine(job.output, device="cpu")
    assert engine.config.phones == PHONES
    assert engine.config.labels == (*PHONES, "sil")
    report = evaluate(engine, Measurement(job.manifest, tmp_path / "cache"))
    assert report.figures["phones"]["recordings"] == 2
    assert report.figures["phone_error_rate"] < 0.2
    assert report.figures["accuracy"] > 0.8
    assert report.figures["labels"]["a"]["roc_auc"] > 0.9
    assert report.figures["labels"]["a"]["eer"] < 0.2
    confusion = report.figures["confusion"]
    assert sum(sum(row.values()) for row in confusion.values()) == report.figures["frames"]
    right = sum(confusion[label][label] for label in confusion)
    assert right / report.figures["frames"] == pytest.approx(report.figures["accuracy"], abs=1e-4)


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
    assert len(json.loads(tag("-f", "jsonl", "--frames"))["scores"]) == 100
    assert tag("--beam", "1", "-f", "text").startswith(f"{recording}\t")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", "sound", "--string"], "--string wants a model that hears phones: use -m phones, or train one"),
        (["-m", "language", "--string", "--beam", "0"], "--beam 0: at least 1"),
        (["-m", "language", "--string", "--threshold", "de=0.5"], "--threshold is about labels"),
        (["-m", "language", "--string", "--min-gap", "1"], "--min-gap is about labels"),
        (["-m", "language", "--string", "--stream"], "--stream is about labels"),
        (["-m", "sound", "-f", "text"], "add --string"),
        (["-m", "sound", "--beam", "8"], "--beam goes with --string"),
        (["-m", "phones", "--among", "aa"], "--among goes with a model such as -m language, not with phones"),
        (["-m", "language", "--among", "xx"], "--among: 'xx' is no label of this model"),
        (["-m", "language", "--stream", "-f", "csv"], "--stream wants a model that gives labels to frames"),
    ],
)
def test_wrong_usage(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tag", str(write_wav(tmp_path / "a.wav")), *options]) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert message in said.err
