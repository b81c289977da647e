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
from hypothesis import given, settings
from hypothesis import strategies as st

import framecls
from framecls.config import (
    NOT_NAMED,
    NOT_TRUSTED,
    UNSURE,
    DecisionConfig,
    EncoderConfig,
    ModelConfig,
    ReadOptions,
    WindowConfig,
)
from framecls.errors import AudioError, ConfigError, UsageError
from framecls.inference.engine import Engine
from framecls.inference.gate import Gate
from framecls.inference.identify import NOT_NAMED_ODDS, Choice, choose_candidates, find_rejection, pool_windows, rank
from framecls.inference.windows import Window, WindowOutput, cut_windows, plan_windows
from framecls.model import Model
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
    encoder = other._engine.network.features.encoder
    assert encoder is not None
    encoder.inner(torch.device("meta"))
    np.testing.assert_array_equal(one.tag(samples, sample_rate=RATE).scores, before)


def make_model(config: ModelConfig, batch_size: int | None = None) -> Model:
    torch.manual_seed(3)
    return Model(Engine(Network(config).eval(), CPU, batch_size))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40000), st.lists(st.integers(1, 9000), min_size=1, max_size=8))
def test_windows_are_those_of_the_plan_however_the_stream_is_cut(n_samples: int, sizes: list[int]) -> None:
    config = replace(tiny_config("frame"), window=WindowConfig(length_s=0.4, overlap_s=0.1))
    samples = np.arange(1, n_samples + 1, dtype=np.float32)
    blocks, at, turn = [], 0, 0
    while at < n_samples:
        blocks.append(samples[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    got = list(cut_windows(blocks, config))
    hop, margin = config.hop_samples, config.features.margin_samples
    assert [w for w, _ in got] == plan_windows(-(-n_samples // hop), config.window_frames, config.overlap_frames)
    padded = np.concatenate([np.zeros(margin, np.float32), samples, np.zeros(30000, np.float32)])
    for window, held in got:
        wanted = padded[window.first * hop :][: window.n_frames * hop + 2 * margin]
        filled = np.concatenate([held, np.zeros(30000, np.float32)])[: len(wanted)]
        np.testing.assert_array_equal(filled, wanted)


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


def language_config(**decision: Any) -> ModelConfig:
    return replace(tiny_config("pooled"), decision=DecisionConfig(**decision))


def logits_of(**probabilities: float) -> np.ndarray:
    """Return (label,) what a network of the tiny model's three languages says for these probabilities."""
    return np.log([probabilities[label] for label in ("de", "en", "fr")]).astype(np.float32)


@pytest.mark.parametrize(
    ("heard", "among", "answer"),
    [
        ({"de": 0.6, "en": 0.3, "fr": 0.1}, ["de", "fr"], "de"),
        ({"de": 0.3, "en": 0.6, "fr": 0.1}, ["de", "fr"], "de"),  # its relative is likelier, and it was named
        ({"de": 0.01, "en": 0.98, "fr": 0.01}, ["de", "fr"], NOT_NAMED),
        ({"de": 0.01, "en": 0.98, "fr": 0.01}, ["fr"], NOT_NAMED),
        ({"de": 0.5, "en": 0.01, "fr": 0.49}, ["fr"], "fr"),
        ({"de": 0.35, "en": 0.33, "fr": 0.32}, ["de", "en", "fr"], UNSURE),
    ],
)
def test_labels_that_are_not_named_keep_their_share(heard: dict[str, float], among: list[str], answer: str) -> None:
    config = language_config(thresholds={"unknown": 0.4})
    ranking = rank(logits_of(**heard), config, choose_candidates(config, among), 5)
    assert (find_rejection(ranking, 5.0, config) or ranking.top[0].label) == answer
    assert sum(c.score for c in ranking.top) + ranking.rest == pytest.approx(1)


def test_a_label_that_is_not_trusted_can_win_against_those_that_are() -> None:
    logits = logits_of(de=0.6, en=0.2, fr=0.2)
    plain = language_config(candidates=("en", "fr"))
    careful = replace(plain, decision=replace(plain.decision, other_odds=4.0))
    choice = choose_candidates(plain, None)
    assert choice == Choice((1, 2), 1.0, NOT_TRUSTED)
    ranking = rank(logits, plain, choice, 5)
    assert ranking.rest == pytest.approx(0.6)
    assert find_rejection(ranking, 5.0, plain) == NOT_TRUSTED
    assert find_rejection(rank(logits_of(de=0.4, en=0.3, fr=0.3), plain, choice, 5), 5.0, plain) == UNSURE
    assert rank(logits, careful, choice, 5).rest == pytest.approx(2.4 / 2.8)
    assert find_rejection(rank(logits_of(de=0.1, en=0.8, fr=0.1), careful, choice, 5), 5.0, careful) is None


def test_a_threshold_is_that_of_its_label_or_else_of_unknown() -> None:
    config = language_config(thresholds={"unknown": 0.5, "de": 0.9, "fr": 0.1})
    everything = choose_candidates(config, None)

    def doubt(config: ModelConfig, **heard: float) -> str | None:
        return find_rejection(rank(logits_of(**heard), config, everything, 5), 5.0, config)

    assert doubt(config, de=0.8, en=0.1, fr=0.1) == UNSURE
    assert doubt(config, de=0.1, en=0.8, fr=0.1) is None
    assert doubt(config, de=0.3, en=0.3, fr=0.4) is None
    asked = config.with_decision(thresholds={"unknown": 0.7})  # for all labels, whatever the model's own are
    assert doubt(asked, de=0.8, en=0.1, fr=0.1) is None
    assert doubt(asked, de=0.2, en=0.2, fr=0.6) == UNSURE
    assert doubt(config.with_decision(thresholds={"unknown": 0.0, "de": 0.9}), de=0.8, en=0.1, fr=0.1) == UNSURE


def test_candidates_of_the_model_are_the_default() -> None:
    config = tiny_config("pooled")
    config = replace(config, decision=replace(config.decision, candidates=("en", "fr")))
    model = make_model(config)
    assert {c.label for c in model.identify(make_swell(2.0), sample_rate=RATE).top} == {"en", "fr"}
    assert len(model.identify(make_swell(2.0), sample_rate=RATE, among=model.labels).top) == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, p, x: p.tag(x, sample_rate=RATE), UsageError, "use identify"),
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


def gated_model(speech_bias: float) -> Model:
    """Return an identifier that listens where a tiny tagger, made to hear speech or not, hears it."""
    torch.manual_seed(3)
    gate = Network(tiny_config("frame")).eval()
    torch.nn.init.zeros_(gate.head.weight)
    with torch.no_grad():
        gate.head.bias[0] = speech_bias
    listener = Network(replace(tiny_config("pooled"), gate="speech")).eval()
    return Model(Engine(listener, CPU, gate=gate))


def test_a_gated_model_answers_only_where_its_gate_opens() -> None:
    heard = gated_model(+1.0).identify(make_swell(5.0), sample_rate=RATE)
    deaf = gated_model(-1.0).identify(make_swell(5.0), sample_rate=RATE)
    assert heard.label == heard.top[0].label
    assert (deaf.label, deaf.score, deaf.reason) == ("unknown", None, "no speech")
    assert [c.label for c in deaf.top] == [c.label for c in heard.top]


@pytest.mark.parametrize(
    ("subsampling", "n_fft", "overlap_s"), [(2, 512, 0.5), (1, 400, 0.0), (4, 512, 1.0), (1, 400, 1.0)]
)
def test_a_gate_fits_other_frames_and_margins(subsampling: int, n_fft: int, overlap_s: float) -> None:
    """The gate hears everything as speech: so the seconds heard are those of the recording, whatever overlaps."""
    torch.manual_seed(3)
    gate = Network(tiny_config("frame")).eval()
    torch.nn.init.zeros_(gate.head.weight)
    with torch.no_grad():
        gate.head.bias[0] = 1.0
    config = tiny_config("pooled")
    listener = replace(
        config,
        gate="speech",
        features=replace(config.features, n_fft=n_fft),
        encoder=replace(config.encoder, subsampling=subsampling),
        window=replace(config.window, overlap_s=overlap_s),
    )
    for network_gate in (gate, None):
        engine = Engine(Network(listener).eval(), CPU, gate=network_gate)
        running = engine.run([make_swell(5.03)], ReadOptions(sample_rate=RATE))
        outputs = [output for recording in running for output in recording]
        assert [output.weight_s for output in outputs[:2]] == pytest.approx([2.0, 2.0])
        assert pool_windows(outputs)[1] == pytest.approx(5.03, abs=0.04)


def test_a_gate_hears_the_same_through_other_margins() -> None:
    """A spectrum window of 400 samples in a transform of 512 reads no more than one in a transform of 400."""
    config = tiny_config("frame")
    torch.manual_seed(3)
    gate = Network(config).eval()
    samples = torch.from_numpy(make_swell(3.0))[None, : 100 * 320 + 2 * 176]
    n_frames = torch.tensor([100])
    pooled = replace(tiny_config("pooled"), gate="speech")
    near = replace(pooled, features=replace(pooled.features, n_fft=400))
    wide, narrow = (Gate(gate, listener) for listener in (pooled, near))
    wanted = wide.weigh(samples, n_frames, n_frames // 2)
    got = narrow.weigh(samples[:, 176 - 120 : 120 - 176], n_frames, n_frames // 2)
    assert [part.tolist() for part in got] == [part.tolist() for part in wanted]


def test_windows_count_for_what_is_heard_in_them() -> None:
    near, far = np.array([5.0, 0.0], np.float32), np.array([0.0, 5.0], np.float32)
    outputs = [WindowOutput(Window(0, 10), near, 3.0), WindowOutput(Window(10, 10), far, 1.0)]
    logits, heard_s = pool_windows(outputs)
    np.testing.assert_allclose(logits, [3.75, 1.25])
    assert heard_s == 4.0
    whole = [*outputs, WindowOutput(Window(15, 5), far, 1.5, shared_s=0.5)]
    np.testing.assert_allclose(pool_windows(whole, 1.5)[0], [10 / 3, 5 / 3], rtol=1e-6)
    assert pool_windows(whole, 1.5)[1] == pool_windows(whole)[1] == 5.0
    silent = [WindowOutput(Window(0, 10), near, 0.0), WindowOutput(Window(10, 10), far, 0.0)]
    np.testing.assert_allclose(pool_windows(silent)[0], [2.5, 2.5])
    with pytest.raises(AudioError, match="no audio in it"):
        pool_windows([])


def test_a_gate_that_does_not_fit_is_refused() -> None:
    config = tiny_config("frame")
    gate = Network(replace(config, features=replace(config.features, sample_rate=8000, f_max_hz=3900.0)))
    with pytest.raises(framecls.ModelError, match="cannot tell it where 'speech' is heard"):
        Engine(Network(replace(tiny_config("pooled"), gate="speech")), CPU, gate=gate)


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


@pytest.mark.parametrize("when", ["before", "between"])
def test_torchs_defaults_change_nothing(when: str) -> None:
    """Each model in a process of its own: the defaults are of a whole process."""
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
    run = [run_command(name, code=script) for name in (when, "never")]
    assert run[0].out == run[1].out != "", run[0].err


def test_the_shapes_that_the_readme_and_the_guide_state() -> None:
    speech = "samples/speech_flite.flac"
    readme, guide = (Path(p).read_text(encoding="utf-8") for p in ("README.md", "framecls/guides/python.md"))
    [size] = set(re.findall(r"framecls.embed\(.*\)  # \((\d+),\)", readme + guide))
    assert framecls.embed(speech, device="cpu").shape == (int(size),)
    assert "# (frame,) seconds, (frame, label) probabilities" in guide
    result = framecls.tag(speech, device="cpu")
    assert result.times.shape == (len(result.scores),)
    assert result.scores.shape == (len(result.times), len(result.labels))
