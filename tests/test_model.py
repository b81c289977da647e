"""Tagging and identifying: seams that cannot be seen, and answers that do not depend on how a run was cut."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import framecls
from framecls.config import (
    EncoderConfig,
    ModelConfig,
    WindowConfig,
)
from framecls.errors import AudioError, ConfigError, UsageError
from framecls.inference.engine import Engine
from framecls.inference.identify import NOT_NAMED_ODDS
from framecls.inference.windows import plan_windows
from framecls.model import Model
from framecls.nn.frontend import PretrainedFrontend
from framecls.nn.network import Network
from support.commands import run_command
from support.models import save_tiny_model, tiny_config
from support.signals import RATE, make_swell, make_tone

CPU = torch.device("cpu")


def test_phones_loaded_twice_are_two_models() -> None:
    """It hears through the lower layers of another shipped model, which its file only names."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    one, other = (framecls.load("phones", device="cpu") for _ in range(2))
    before = one.tag(samples, sample_rate=RATE).scores
    frontend = other._engine.network.features
    assert isinstance(frontend, PretrainedFrontend)
    frontend._unregistered[0].to("meta")  # as a batch on another device does
    np.testing.assert_array_equal(one.tag(samples, sample_rate=RATE).scores, before)


def make_model(config: ModelConfig, batch_size: int | None = None) -> Model:
    torch.manual_seed(3)
    return Model(Engine(Network(config).eval(), CPU, batch_size))


def test_a_long_clip_in_windows_is_the_clip_whole_but_for_the_far_context() -> None:
    """With context shorter than half an overlap the middle of each fade must agree with no window at all."""
    local = EncoderConfig(kind="window", context=3, dim=16, n_layers=1, n_heads=2, ff_dim=32, subsampling=2)
    config = replace(tiny_config("frame"), encoder=local, window=WindowConfig(1.0, 0.5))
    whole = replace(config, window=WindowConfig(60.0, 0.5))
    samples = make_swell(7.3)
    cut = make_model(config).tag(samples, sample_rate=RATE).scores
    uncut = make_model(whole).tag(samples, sample_rate=RATE).scores
    np.testing.assert_allclose(cut, uncut, atol=0.02)
    far_from_edges = np.ones(len(cut), bool)
    for window in plan_windows(len(cut), config.window_frames, config.overlap_frames):
        for edge in (window.first, window.first + window.n_frames):
            if 0 < edge < len(cut):
                far_from_edges[max(0, edge - 4) : edge + 4] = False
    np.testing.assert_allclose(cut[far_from_edges], uncut[far_from_edges], atol=1e-5)


def test_no_jump_at_a_seam() -> None:
    """A window's last frames fade out, so scores move no faster at a seam than elsewhere."""
    config = tiny_config("frame")
    scores = make_model(config).tag(make_swell(12.0), sample_rate=RATE).scores
    jumps = np.abs(np.diff(scores, axis=0)).max(axis=1)
    seams = [w.first for w in plan_windows(len(scores), config.window_frames, config.overlap_frames)][1:]
    at_seams = np.concatenate([jumps[s - 2 : s + config.overlap_frames + 2] for s in seams])
    assert at_seams.max() <= 1.5 * np.quantile(jumps, 0.999)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_and_block_size_do_not_matter(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("frame")
    wanted = make_model(config).tag(make_swell(9.7), sample_rate=RATE)
    monkeypatch.setattr("framecls.inference.engine._BLOCK_S", 0.37 * batch_size)
    got = make_model(config, batch_size).tag(make_swell(9.7), sample_rate=RATE)
    np.testing.assert_allclose(got.scores, wanted.scores, atol=1e-5)
    assert [(s.start, s.end, s.label) for s in got.segments] == [(s.start, s.end, s.label) for s in wanted.segments]


@pytest.mark.parametrize("n_samples", [1, 100, 319, 320, 321, 2 * RATE, 2 * RATE + 1])
def test_any_length_has_its_frames(n_samples: int) -> None:
    model = make_model(tiny_config("frame"))
    result = model.tag(np.full(n_samples, 0.1, np.float32), sample_rate=RATE)
    assert len(result.times) == len(result.scores) == -(-n_samples // 320)
    assert result.duration == pytest.approx(n_samples / RATE, abs=1e-6)
    assert all(0 <= s.start < s.end <= result.duration for s in result.segments)
    assert make_model(tiny_config("pooled")).identify(np.full(n_samples, 0.1, np.float32), sample_rate=RATE).label


def test_no_samples_is_no_audio() -> None:
    with pytest.raises(AudioError, match="no audio in it"):
        make_model(tiny_config("frame")).tag(np.zeros(0, np.float32), sample_rate=RATE)


def test_a_file_an_open_file_and_an_array_agree(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, make_tone(3.0), RATE, subtype="FLOAT")
    model = make_model(tiny_config("frame"))
    wanted = model.tag(path)
    with path.open("rb") as file:
        np.testing.assert_array_equal(model.tag(file).scores, wanted.scores)
    np.testing.assert_array_equal(model.tag(make_tone(3.0), sample_rate=RATE).scores, wanted.scores)
    assert wanted.file == str(path)
    assert wanted.audio == framecls.AudioInfo(RATE, 1)


def test_stereo_at_44100_gives_what_mono_at_16000_gives(tmp_path: Path) -> None:
    librosa = pytest.importorskip("librosa")
    samples = make_swell(4.0)
    high = librosa.resample(samples, orig_sr=RATE, target_sr=44100, res_type="soxr_hq")
    soundfile.write(tmp_path / "a.wav", np.stack([high, high], 1), 44100, subtype="FLOAT")
    model = make_model(tiny_config("frame"))
    np.testing.assert_allclose(
        model.tag(tmp_path / "a.wav").scores[3:-3], model.tag(samples, sample_rate=RATE).scores[3:-3], atol=0.02
    )


def test_progress_counts_up_to_the_end() -> None:
    told: list[float] = []
    make_model(tiny_config("frame"), 2).tag(make_swell(9.0), sample_rate=RATE, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(9.0, abs=0.03)


def test_identify_ranks_calibrates_and_restricts() -> None:
    model = make_model(tiny_config("pooled"))
    samples = make_swell(5.0)
    full = model.identify(samples, sample_rate=RATE, top_k=9)
    assert {c.label for c in full.top} == set(model.labels)
    assert sum(c.score for c in full.top) == pytest.approx(1, abs=1e-5)
    assert [c.score for c in full.top] == sorted((c.score for c in full.top), reverse=True)
    assert (full.label, full.score) == (full.top[0].label, full.top[0].score)
    two = model.identify(samples, sample_rate=RATE, among=["fr", "de"])
    assert {c.label for c in two.top} == {"fr", "de"}
    whole = {c.label: c.score for c in full.top}
    shares = whole["fr"] + whole["de"] + NOT_NAMED_ODDS * whole["en"]
    assert {c.label: c.score for c in two.top} == pytest.approx({k: whole[k] / shares for k in ("fr", "de")}, abs=1e-5)
    unsure = model.with_decision(thresholds={"unknown": 1.0}).identify(samples, sample_rate=RATE)
    assert (unsure.label, unsure.score, unsure.reason) == ("unknown", None, "unsure")
    assert unsure.top[0].label == full.label


def test_candidates_of_the_model_are_the_default() -> None:
    config = tiny_config("pooled")
    config = replace(config, decision=replace(config.decision, candidates=("en", "fr")))
    model = make_model(config)
    assert {c.label for c in model.identify(make_swell(2.0), sample_rate=RATE).top} == {"en", "fr"}
    assert len(model.identify(make_swell(2.0), sample_rate=RATE, among=model.labels).top) == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, p, x: p.stream(x, sample_rate=RATE), UsageError, "use tag or identify"),
        (lambda f, p, x: f.tag(x, sample_rate=RATE, among=["speech"]), UsageError, "among goes with"),
        (lambda f, p, x: f.identify(x, sample_rate=RATE), UsageError, "use tag"),
        (lambda f, p, x: p.identify(x, sample_rate=RATE, among=["xx"]), ConfigError, "'xx' is no label"),
        (lambda f, p, x: p.identify(x, sample_rate=RATE, among=[]), ConfigError, "no label is left"),
        (lambda f, p, x: p.identify(x, sample_rate=RATE, top_k=0), ConfigError, "at least 1"),
        (lambda f, p, x: f.with_decision(thresholds={"speech": 2}), ConfigError, "not in 0..1"),
        (lambda f, p, x: f.with_decision(thresholds={"song": 0.5}), ConfigError, "no label of this model"),
        (lambda f, p, x: f.with_decision(min_duration_s=-1), ConfigError, "not a length of time"),
        (lambda f, p, x: framecls.load("nosuch"), UsageError, "no model is called 'nosuch'"),
        (lambda f, p, x: framecls.load("no/such.safetensors"), framecls.ModelError, "no such model file"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, error, message) -> None:  # type: ignore[no-untyped-def]
    frame, pooled = make_model(tiny_config("frame")), make_model(tiny_config("pooled"))
    with pytest.raises(error, match=message):
        call(frame, pooled, make_swell(0.5))


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "choose auto, cpu"), ("cpu:1", "choose auto"), ("cuda:99", "no device")]
)
def test_wrong_devices(tmp_path: Path, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        framecls.load(save_tiny_model(tmp_path, "frame"), device=device)


def test_thresholds_change_segments_and_not_scores(tmp_path: Path) -> None:
    model = framecls.load(save_tiny_model(tmp_path, "frame"))
    samples = make_swell(3.0)
    everything = model.with_decision(thresholds={"music": 0.0}).tag(samples, sample_rate=RATE)
    nothing = model.with_decision(thresholds=dict.fromkeys(model.labels, 1.0)).tag(samples, sample_rate=RATE)
    assert [(s.start, s.end) for s in everything.segments if s.label == "music"] == [(0.0, 3.0)]
    assert nothing.segments == ()
    np.testing.assert_array_equal(everything.scores, nothing.scores)


def test_what_is_wrong_with_arguments_is_said_in_their_own_names(tmp_path: Path) -> None:
    model = make_model(tiny_config("frame"))
    path = tmp_path / "a.wav"
    soundfile.write(path, make_swell(1), RATE)
    with pytest.raises(ConfigError, match="an array needs its sample_rate"):
        model.tag(make_swell(1))
    with pytest.raises(ConfigError, match="an array needs its sample_rate"):
        list(model.stream(iter([make_swell(1)])))
    with pytest.raises(ConfigError, match="sample_rate is for arrays"):
        model.tag(path, sample_rate=16000)


def test_one_path_or_label_is_no_list_of_them(tmp_path: Path) -> None:
    for one in ("all.wav", tmp_path / "all.wav"):
        with pytest.raises(UsageError, match="put it in a list"):
            make_model(tiny_config("frame")).tag_many(one)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="put it in a list"):
            make_model(tiny_config("pooled")).identify_many(one)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"among is a list, such as \['de'\]"):
        make_model(tiny_config("pooled")).identify(make_swell(1), sample_rate=RATE, among="de")


def test_the_package_and_a_model_say_what_they_are() -> None:
    model = make_model(tiny_config("frame"))
    assert repr(model) == f"<framecls model {model.name} on cpu>"
    assert set(framecls.__all__) <= set(dir(framecls))


def test_sources_may_come_from_what_is_bound_to_a_thread() -> None:
    """A cursor of SQLite raises in any thread but its own."""
    database = sqlite3.connect(":memory:")
    database.execute("create table clips (seconds real)")
    database.executemany("insert into clips values (?)", [(0.3 + 0.01 * number,) for number in range(50)])
    cursor = database.execute("select seconds from clips order by seconds")
    model = make_model(tiny_config("frame"))
    results = model.tag_many((make_swell(seconds) for (seconds,) in cursor), sample_rate=RATE)
    assert [round(result.duration, 2) for result in results] == [round(0.3 + 0.01 * n, 2) for n in range(50)]  # type: ignore[union-attr]


def test_what_an_iterator_of_sources_raises_reaches_the_caller_as_it_is() -> None:
    error = LookupError("the list broke")

    def sources() -> Iterator[np.ndarray]:
        yield make_swell(0.5)
        raise error

    results = make_model(tiny_config("pooled")).identify_many(sources(), sample_rate=RATE)
    assert next(results).duration == 0.5  # type: ignore[union-attr]
    with pytest.raises(LookupError) as caught:
        next(results)
    assert caught.value is error


def test_results_that_are_closed_early_close_a_generator_of_sources() -> None:
    closed: list[int] = []

    def sources() -> Iterator[np.ndarray]:
        try:
            while True:
                yield make_swell(0.5)
        finally:
            closed.append(threading.get_ident())

    with closing(make_model(tiny_config("frame")).tag_many(sources(), sample_rate=RATE)) as results:
        assert isinstance(next(results), framecls.TagResult)
    assert closed == [threading.get_ident()]


def test_torchs_defaults_change_nothing() -> None:
    """Each time in a process of its own: the defaults are of a whole process."""
    script = """
import sys
import framecls, numpy as np, torch

def disturb():
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")

if sys.argv[1] == "before":
    disturb()
models = {name: framecls.load(name, device="cpu") for name in framecls.models()}
if sys.argv[1] == "between":
    disturb()
file = "samples/speech_flite.flac"
tags = [models[name].tag(file).scores for name in ("sound", "phones")]
vector, language = models["speaker"].embed(file), models["language"].identify(file)
assert vector.dtype == np.float32 and all(scores.dtype == np.float32 for scores in tags)
print(*(float(scores.sum()) for scores in tags), vector[:3].tolist(), language.top)
"""
    before, between, never = (run_command(when, code=script) for when in ("before", "between", "never"))
    assert before.out == between.out == never.out != "", before.err + between.err


def test_the_shapes_that_the_readme_and_the_guide_state() -> None:
    speech = "samples/speech_flite.flac"
    readme, guide = (Path(p).read_text(encoding="utf-8") for p in ("README.md", "framecls/guides/python.md"))
    [size] = set(re.findall(r"framecls.embed\(.*\)  # \((\d+),\)", readme + guide))
    assert framecls.embed(speech, device="cpu").shape == (int(size),)
    assert "# (frame,) seconds, (frame, label) probabilities" in guide
    result = framecls.tag(speech, device="cpu")
    assert result.times.shape == (len(result.scores),)
    assert result.scores.shape == (len(result.times), len(result.labels))


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        (b"RIFF", {}, "not bytes"),
        ({"a.wav"}, {}, "not set"),
        (["a.wav", Path("b.wav")], {}, "a list of recordings, where one is wanted: tag_many"),
        ((Path("a.wav"),), {"sample_rate": 16000}, "a list of recordings"),
        (np.zeros(100), {"sample_rate": float("nan")}, "nan Hz: a sample rate is a whole number"),
        (np.zeros(100), {"sample_rate": float("inf")}, "inf Hz"),
        ("a.wav", {"chanel": 1}, "there is no option 'chanel': did you mean channel"),
        ("a.wav", {"min_gap": 1}, "there is no option 'min_gap'.*with_decision"),
        ("gs://bucket/a.wav", {}, "this is an address, and only files are read"),
        (Path("http://example.org/a.mp3"), {}, "this is an address"),
    ],
)
def test_what_cannot_be_heard_is_one_kind_of_error(source: Any, options: dict[str, Any], said: str) -> None:
    model = make_model(tiny_config("frame"))
    with pytest.raises(framecls.FrameclsError, match=said):
        model.tag(source, **options)


def test_nobody_is_enrolled_by_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no recording to know Ada by"):
        framecls.enroll("Ada", [], gallery=tmp_path / "voices.sqlite")
