"""Codecs, and examples to be listened to; windows around rare labels, and batches of one length."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from framecls.errors import ConfigError
from framecls.nn.network import Network, Output
from framecls.training.choices import CODECS
from framecls.training.data.clips import open_clips
from framecls.training.data.manifest import read_manifest
from framecls.training.data.phones import index_phones
from framecls.training.examples.augment import (
    augment_batch,
    change_speed,
    extend_with_crossfades,
    perturb,
    shift_pitch,
    stretch_time,
)
from framecls.training.examples.batch import IGNORED
from framecls.training.examples.codecs import apply_codec
from framecls.training.examples.frames import FrameExamples
from framecls.training.examples.preview import write_preview
from framecls.training.job import Job, prepare
from framecls.training.losses import batch_loss, take_shard
from framecls.training.recipe import SHIPPED, AugmentConfig, MixConfig, Recipe, change_recipe, read_recipe
from support.signals import RATE
from support.training import FRAME_RECIPE, GENTLE, POOLED_RECIPE


def chirp(rate: int = RATE) -> np.ndarray:
    times = np.arange(rate) / rate
    return (0.4 * np.sin(2 * np.pi * (300 + 500 * times) * times) * (times > 0.3)).astype(np.float32)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("rate", [16000, 22050])
def test_codecs_keep_length_and_time(name: str, rate: int) -> None:
    sound = chirp(rate)
    passed = apply_codec(sound, rate, name, 0.3)
    assert passed.shape == sound.shape
    assert 0.001 < float(np.abs(passed - sound).max()) < 1
    lags = np.correlate(passed[rate // 4 : rate], sound[rate // 2 : 3 * rate // 4], "valid")
    assert abs(int(lags.argmax()) - rate // 4) <= 2
    assert float(np.corrcoef(passed, sound)[0, 1]) > 0.9


@pytest.mark.parametrize("name", ["mulaw", "gsm"])
def test_telephone_codecs_have_no_treble(name: str) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    power = np.abs(np.fft.rfft(apply_codec(noise, RATE, name))) ** 2
    assert power[5000:].mean() < 0.01 * power[500:3000].mean()


def test_codecs_are_drawn_by_seed_and_noted() -> None:
    config = replace(GENTLE, noise_chance=0, codec_chance=0.5, gain_db=(-3.0, -3.0))
    sounds = torch.from_numpy(np.stack([chirp()] * 12))
    notes: list[list[dict[str, object]]] = [[{} for _ in sounds] for _ in range(2)]
    one, two = (augment_batch(sounds, np.random.default_rng(5), config, RATE, notes=note) for note in notes)
    assert torch.equal(one, two)
    assert notes[0] == notes[1]
    without = augment_batch(sounds, np.random.default_rng(5), replace(config, codec_chance=0.0), RATE)
    for note, row, plain in zip(notes[0], one, without, strict=True):
        assert ("codec" in note) != torch.equal(row, plain)
    assert 2 <= sum("codec" in note for note in notes[0]) <= 10


def test_notes_change_nothing() -> None:
    config = AugmentConfig(codec_chance=0.3)
    sounds = torch.from_numpy(np.stack([chirp()] * 8))
    notes: list[dict[str, object]] = [{} for _ in sounds]
    noted = augment_batch(sounds, np.random.default_rng(1), config, RATE, notes=notes)
    assert torch.equal(noted, augment_batch(sounds, np.random.default_rng(1), config, RATE))
    assert {key for note in notes for key in note} >= {"equalized", "noise", "peak_db", "reverb_s"}


def bursts(times_s: list[float], length_s: float) -> np.ndarray:
    """Return bursts of a tone of 500 Hz, 0.3 s each, that begin at some times."""
    times = np.arange(round(length_s * RATE)) / RATE
    held = sum(((times >= t) & (times < t + 0.3)).astype(float) for t in times_s)
    return (0.4 * np.sin(2 * np.pi * 500 * times) * held).astype(np.float32)


def loudest_hz(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


def test_a_stretched_recording_is_shorter_at_the_same_pitch() -> None:
    stretched = stretch_time(bursts([0.5, 1.5], 2.0), 1.25)
    assert (len(stretched), stretched.dtype) == (round(2 * RATE / 1.25), np.float32)
    assert loudest_hz(stretched) == pytest.approx(500, abs=6)
    level = np.square(stretched).reshape(-1, RATE // 50).mean(axis=1)  # every 20 ms
    heard_s = np.flatnonzero(level > 0.1 * level.max()) / 50
    assert heard_s.min() == pytest.approx(0.5 / 1.25, abs=0.05)  # spans are moved by the same factor
    assert heard_s.max() == pytest.approx(1.8 / 1.25, abs=0.05)


@pytest.mark.parametrize("semitones", [-12.0, -3.0, 4.0])
def test_a_shifted_recording_is_as_long_at_another_pitch(semitones: float) -> None:
    shifted = shift_pitch(bursts([0.2, 0.6], 1.0), semitones, RATE)
    assert (len(shifted), shifted.dtype) == (RATE, np.float32)
    assert loudest_hz(shifted) == pytest.approx(500 * 2 ** (semitones / 12), rel=0.02)


def test_tempo_and_pitch_change_where_a_recipe_says_so() -> None:
    sound = chirp()
    only_tempo = AugmentConfig(speed_chance=0, stretch=(1.25, 1.25), stretch_chance=1)
    changed, factor = perturb(sound, np.random.default_rng(0), only_tempo, RATE)
    assert (len(changed), factor) == (round(RATE / 1.25), 1.25)
    only_pitch = AugmentConfig(speed_chance=0, shift_chance=1)
    one, factor = perturb(sound, np.random.default_rng(1), only_pitch, RATE)
    other, _ = perturb(sound, np.random.default_rng(1), only_pitch, RATE)
    assert (len(one), factor) == (RATE, 1.0)
    assert np.array_equal(one, other)
    assert not np.array_equal(one, sound)
    short = sound[:1000]  # less than a window of the vocoder
    assert perturb(short, np.random.default_rng(0), only_tempo, RATE) == (pytest.approx(short), 1.0)


def test_recipes_that_leave_tempo_and_pitch_alone_draw_what_they_drew_before() -> None:
    drawn, kept = np.random.default_rng(3), np.random.default_rng(3)
    plain, factor = perturb(chirp(), drawn, AugmentConfig(), RATE)
    by_chance = kept.random() < AugmentConfig().speed_chance
    expected = round(float(kept.uniform(*AugmentConfig().speed)), 3) if by_chance else 1.0
    assert factor == expected
    assert np.array_equal(plain, change_speed(chirp(), expected))
    assert drawn.random() == kept.random()
    for path in SHIPPED.glob("*.toml"):
        augment = read_recipe(path).augment
        assert augment.stretch_chance == augment.shift_chance == 0, path.name


@pytest.mark.parametrize("settings", [{"stretch": (2.0, 1.0)}, {"shift_chance": 1.5}, {"stretch": (0.0, 1.0)}])
def test_tempo_and_pitch_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AugmentConfig(**settings)


def test_a_codec_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="'realaudio' is none of mulaw"):
        AugmentConfig(codecs=("realaudio",))


@pytest.mark.parametrize("recipe", [FRAME_RECIPE, POOLED_RECIPE], ids=["frame", "pooled"])
def test_previews_are_what_a_run_learns_from(corpus: Path, tmp_path: Path, recipe: Recipe) -> None:
    job = Job(corpus, tmp_path / "m", replace(recipe, augment=AugmentConfig(codec_chance=0.5)))
    data = prepare(job)
    write_preview(data, job.recipe, tmp_path / "heard", 5)
    lines = [json.loads(line) for line in (tmp_path / "heard" / "preview.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"000{n}.wav" for n in range(1, 6)]
    assert sorted(p.name for p in (tmp_path / "heard").glob("*.wav")) == [line["file"] for line in lines]
    from framecls.training.examples.loader import make_examples

    batch = make_examples(data, job.recipe, dev=False).make_batch(0)
    margin = data.config.features.margin_samples
    samples, rate = soundfile.read(tmp_path / "heard" / "0001.wav", dtype="float32")
    assert (rate, len(samples)) == (RATE, round(lines[0]["duration"] * RATE))
    np.testing.assert_allclose(samples, batch.waveform[0, margin : margin + len(samples)].numpy(), atol=1e-4)
    assert lines[0]["step"] == 1
    assert all(clip["file"].endswith(".wav") for line in lines for clip in line["clips"])
    assert all("peak_db" in line for line in lines)
    if recipe.task == "pooled":
        assert all({clip["label"] for clip in line["clips"]} == {line["label"]} for line in lines)
    else:
        assert all({s["label"] for s in line["segments"]} <= {c["label"] for c in line["clips"]} for line in lines)


def test_a_preview_takes_the_place_of_nothing_else(corpus: Path, tmp_path: Path) -> None:
    job = Job(corpus, tmp_path / "m", POOLED_RECIPE)
    data = prepare(job)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "0001.wav").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="something else here"):
        write_preview(data, job.recipe, tmp_path / "mine", 2)
    assert (tmp_path / "mine" / "0001.wav").read_bytes() == b"mine"


# --- windows of annotated recordings


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest of recordings of many lengths with one short rare sound in the longest."""
    folder = tmp_path_factory.mktemp("annotated")
    rows = []
    for number, length_s in enumerate(np.linspace(0.4, 6.0, 24).round(2).tolist()):
        sound = 0.1 * np.random.default_rng(number).standard_normal(round(length_s * RATE))
        soundfile.write(folder / f"{number}.wav", sound, RATE)
        rows.append({"file": f"{number}.wav", "label": "often"})
    rows.append({"file": "23.wav", "label": "rare", "start": 5.0, "end": 5.2})
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "m.jsonl"


def make_frames(manifest: Path, cache: Path, **sample: object) -> FrameExamples:
    recipe = replace(FRAME_RECIPE, mix=MixConfig(), sample=replace(FRAME_RECIPE.sample, **sample))  # type: ignore[arg-type]
    recordings = read_manifest(manifest)
    return FrameExamples(
        recordings, recipe.model_config(("often", "rare"), ()), recipe, open_clips(recordings, RATE, cache)
    )


def test_rare_labels_are_heard_as_often_as_asked(annotated: Path, tmp_path: Path) -> None:
    share = {}
    for chance in (0.0, 1.0):
        examples = make_frames(annotated, tmp_path, balance_chance=chance)
        batches = [examples.make_batch(number) for number in range(12)]
        has_rare = torch.cat([batch.targets[:, :, 1].amax(dim=1) for batch in batches])
        share[chance] = float(has_rare.mean())
    assert share[0.0] < 0.1
    assert share[1.0] == pytest.approx(0.5, abs=0.15)


def test_buckets_hold_recordings_of_about_one_length(annotated: Path, tmp_path: Path) -> None:
    examples = make_frames(annotated, tmp_path, bucketed=True)
    padded = 0
    for number in range(20):
        batch = examples.make_batch(number)
        most = int(batch.n_frames.max())
        assert batch.targets.shape[1] == most
        assert int(batch.n_frames.min()) >= 0.6 * most
        real = torch.arange(most) < batch.n_frames.unsqueeze(1)
        assert bool((batch.targets[real] >= 0).all())
        assert bool((batch.targets[~real] == -1).all())
        padded += int((~real).sum())
        again = make_frames(annotated, tmp_path, bucketed=True).make_batch(number)
        assert torch.equal(again.waveform, batch.waveform)
    assert padded > 0


def test_padding_teaches_nothing(annotated: Path, tmp_path: Path) -> None:
    """The loss of a bucket is that of its real frames, whatever the network says of the others."""
    examples = make_frames(annotated, tmp_path, bucketed=True)
    torch.manual_seed(0)
    network = Network(examples.config).eval()
    batch = next(b for b in map(examples.make_batch, range(20)) if int(b.n_frames.min()) < int(b.n_frames.max()))
    output = network(batch.waveform, batch.n_frames)
    loss = batch_loss(output, batch, examples.config, examples.recipe)
    real = torch.arange(batch.targets.shape[1]) < batch.n_frames.unsqueeze(1)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(output.logits[real], batch.targets[real])
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    # Nor does it where two processes share the bucket: the mean of their losses is that of the whole.
    shards = [take_shard(batch, rank, 2) for rank in range(2)]
    outputs = [Output(output.logits[shard.rows]) for shard in shards]
    losses = [
        float(batch_loss(o, shard.batch, examples.config, examples.recipe, shard.weights).detach())
        for o, shard in zip(outputs, shards, strict=True)
    ]
    assert sum(losses) / 2 == pytest.approx(float(wanted.detach()), rel=1e-6)
    hard = replace(examples.recipe, overlapping=False).model_config(("often", "rare"), ())
    one = FrameExamples(examples._recordings, hard, examples.recipe, examples.store).make_batch(1)
    beyond = torch.arange(one.targets.shape[1]) >= one.n_frames.unsqueeze(1)
    assert bool((one.targets[beyond] == IGNORED).all())


def test_a_bucket_says_what_is_said(tmp_path: Path) -> None:
    """Phones of the windows come along, as they do where windows are not in buckets."""
    rows = []
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", np.full(RATE, 0.01 * (number + 1)), RATE)
        said = {"phones": "a b", "alignment": [["a", 0.5], ["b", 1.0]]} if number % 2 else {"phones": "b"}
        rows.append({"file": f"{number}.wav", "label": "x" if number % 2 else "y", **said})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sample = replace(FRAME_RECIPE.sample, bucketed=True)
    recipe = replace(FRAME_RECIPE, mix=MixConfig(), sample=sample, augment=AugmentConfig(), hear_phones=True)
    recordings = read_manifest(tmp_path / "m.jsonl")
    config = recipe.model_config(("x", "y"), ("a", "b"))
    examples = FrameExamples(recordings, config, recipe, open_clips(recordings, RATE, tmp_path / "cache"))
    known = {}
    for batch in map(examples.make_batch, range(20)):
        for row in range(len(batch.n_frames)):
            if int(batch.n_frames[row]) * config.hop_s >= 1.0:
                label = config.labels[int(batch.targets[row, 0].argmax())]
                known.setdefault(label, set()).add(tuple(filter(None, batch.phones[row].tolist())))
    assert known == {"x": {(1, 2)}, "y": {(2,)}}
    assert index_phones([("a", "b")], config.phones).tolist() == [[1, 2]]


# --- settings over a recipe


def test_settings_over_a_recipe() -> None:
    changes = ["optim.patience=3", "augment.codecs=['mp3']", "encoder.kind=fc", "mix.presence.speech = 0.5", "name=a b"]
    changed = change_recipe(FRAME_RECIPE, changes)
    assert (changed.optim.patience, changed.augment.codecs, changed.encoder.kind) == (3, ("mp3",), "fc")
    assert (changed.mix.presence, changed.name) == ({"speech": 0.5}, "a b")
    assert changed.optim.steps == FRAME_RECIPE.optim.steps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("patience", "NAME=VALUE is expected"),
        ("optim.patients=3", "optim.patients: there is no such setting"),
        ("optimum.patience=3", "there is no such setting"),
        ("optim.steps.x=3", "there is no such setting"),
        ("optim.steps=many", "'many' is not of type int"),
    ],
)
def test_settings_that_cannot_be_made(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change_recipe(FRAME_RECIPE, [change])


def test_what_is_made_longer_goes_on_without_a_seam() -> None:
    rng = np.random.default_rng(0)
    rain = rng.standard_normal(RATE).astype(np.float32)
    longer = extend_with_crossfades(rain, 10 * RATE, RATE // 10, rng)
    assert len(longer) == 10 * RATE
    level_db = 10 * np.log10(np.square(longer.reshape(-1, RATE // 20)).mean(axis=1))
    assert np.abs(level_db).max() < 2.0
    assert len(extend_with_crossfades(rain, 100, RATE // 10, rng)) == 100
