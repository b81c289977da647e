"""Training: manifests, examples, augmentation and the loop; runs resume to the same weights, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from framecls.checkpoints.network import load_network, save_model
from framecls.config import WindowConfig
from framecls.errors import ConfigError, ManifestError, ModelError, OutputError
from framecls.inference.engine import load_engine
from framecls.nn.network import Network
from framecls.training.data import clips
from framecls.training.data.clips import open_clips
from framecls.training.data.manifest import read_manifest
from framecls.training.data.splits import split_recordings
from framecls.training.examples.augment import (
    augment_batch,
    coloured_noise,
    mask_features,
    perturb,
    room_response,
    sample_masks,
)
from framecls.training.examples.batch import IGNORED
from framecls.training.examples.frames import FrameExamples, hard_targets
from framecls.training.examples.loader import make_examples
from framecls.training.examples.mixtures import MixtureExamples, active_share
from framecls.training.examples.pooled import PooledExamples
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.metrics.evaluate import Test as Measurement
from framecls.training.metrics.evaluate import evaluate
from framecls.training.optimizer import initialise
from framecls.training.recipe import AugmentConfig, MixConfig, Recipe, SampleConfig
from support.signals import RATE
from support.training import FRAME_RECIPE, GENTLE, POOLED_RECIPE, weights, write_corpus


def test_manifest_as_json_lines_and_csv_agree(corpus: Path) -> None:
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    table = corpus.with_suffix(".csv")
    names = ["file", "label", "speaker", "source", "split", "phones"]
    table.write_text("\n".join([",".join(names), *(",".join(str(r.get(n, "")) for n in names) for r in rows)]))
    assert read_manifest(table) == read_manifest(corpus)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "low"}, "line 2: no file"),
        ({"file": "low0.wav"}, "line 2: no label"),
        ({"file": "low0.wav", "label": "low", "start": 2, "end": 1}, "end 1.0 is not after start 2.0"),
        ({"file": "low0.wav", "label": "low", "start": "x"}, "start 'x' is not a time"),
        ({"file": "low0.wav", "label": "low", "split": "test"}, "split 'test' is neither"),
        ({"file": "nothing.wav", "label": "low"}, "nothing.wav: there is no such file"),
    ],
)
def test_manifest_rows_that_cannot_be_used_are_listed(corpus: Path, row: dict[str, object], message: str) -> None:
    bad = corpus.with_name("bad.jsonl")
    bad.write_text(json.dumps({"file": "low0.wav", "label": "low"}) + "\n" + json.dumps(row))
    with pytest.raises(ManifestError, match=message):
        read_manifest(bad)


@pytest.mark.parametrize(("text", "message"), [("", "no row"), ("junk", "line 1: no file"), ("[1]", "line 1: no file")])
def test_manifests_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "m.jsonl")


def test_a_span_past_the_end_is_refused(corpus: Path, tmp_path: Path) -> None:
    late = corpus.with_name("late.jsonl")
    late.write_text(json.dumps({"file": "low0.wav", "label": "low", "start": 0.5, "end": 9}))
    with pytest.raises(ManifestError, match=r"low ends at 9.00 s, the file at 1.30 s"):
        open_clips(read_manifest(late), RATE, tmp_path)


def test_no_speaker_is_on_both_sides(tmp_path: Path) -> None:
    for name in "abcdefghijklmnopqrstuvwxyz":
        (tmp_path / name).touch()
    rows = [
        {"file": name, "label": "x", "speaker": f"s{i % 13}"} for i, name in enumerate("abcdefghijklmnopqrstuvwxyz")
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parts = split_recordings(read_manifest(tmp_path / "m.jsonl"))
    train_part, dev_part = parts.train, parts.dev
    assert {r.speaker for r in train_part}.isdisjoint({r.speaker for r in dev_part})
    assert len(train_part) + len(dev_part) == 26
    assert dev_part


def test_clips_are_decoded_once_and_read_in_place(corpus: Path, tmp_path: Path) -> None:
    recordings = read_manifest(corpus)
    store = open_clips(recordings, RATE, tmp_path)
    wanted, _ = soundfile.read(recordings[3].file, dtype="float32")
    np.testing.assert_allclose(store.read(recordings[3].file), wanted, atol=1e-4)
    np.testing.assert_allclose(store.read(recordings[3].file, 100, 200), wanted[100:200], atol=1e-4)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    open_clips(recordings, RATE, tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_what_a_run_that_was_killed_left_in_the_cache_goes(corpus: Path, tmp_path: Path) -> None:
    recordings = read_manifest(corpus)
    open_clips(recordings, RATE, tmp_path)
    (index,) = tmp_path.glob("*.json")
    index.unlink()  # it was killed while it decoded
    left = tmp_path / f".{index.stem}.pcm.1234.tmp"
    left.touch()
    open_clips(recordings, RATE, tmp_path)
    assert index.exists()
    assert not left.exists()


def test_a_cache_without_room_says_so_and_leaves_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(file: Path, sample_rate: int, write: Callable[[bytes], object]) -> int:
        write(b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(clips, "_decode", fill_up)
    with pytest.raises(OutputError, match=r"cache: decoded recordings cannot be kept here: No space left"):
        open_clips(read_manifest(corpus), RATE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_mixtures_say_where_each_label_is(corpus: Path, tmp_path: Path) -> None:
    """In a mixture without augmentation, a frame is loud just where some label holds."""
    recordings = read_manifest(corpus)
    quiet = replace(
        FRAME_RECIPE,
        augment=replace(GENTLE, noise_chance=0.0),
        mix=replace(FRAME_RECIPE.mix, floor_db=(-120.0, -119.0)),
    )
    config = quiet.model_config(("high", "low"), ())
    examples = MixtureExamples(recordings, config, quiet, open_clips(recordings, RATE, tmp_path))
    seen = set()
    for number in range(6):
        batch = examples.make_batch(number)
        n_frames = int(batch.n_frames[0])
        inside = batch.waveform[:, config.features.margin_samples :][:, : n_frames * config.hop_samples]
        loud = inside.unflatten(1, (n_frames, config.hop_samples)).square().mean(2) > 1e-5
        holds = batch.targets.amax(2) > 0.5
        assert float((loud == holds).float().mean()) > 0.95  # pieces fade in and out within a frame
        seen |= {tuple(row) for row in batch.targets.flatten(0, 1).int().tolist()}
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_sources_are_drawn_by_how_much_there_is_of_them(tmp_path: Path) -> None:
    """Training draws the source of nine clips more often than that of one, as the recipe says; dev draws alike."""
    rows = [{"file": f"{n}.wav", "label": "low", "source": "much" if n else "little"} for n in range(10)]
    for row in rows:
        soundfile.write(tmp_path / row["file"], np.full(RATE, 0.1), RATE)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    recordings = read_manifest(manifest)
    store = open_clips(recordings, RATE, tmp_path / "cache")

    def share(power: float, number_from: int = 0) -> float:
        recipe = replace(FRAME_RECIPE, mix=replace(FRAME_RECIPE.mix, source_power=power))
        examples = MixtureExamples(recordings, recipe.model_config(("low",), ()), recipe, store, (), number_from)
        rng = np.random.default_rng(1)
        return sum(examples._sample_clip(rng, "low").source == "much" for _ in range(2000)) / 2000

    assert share(0.0) == pytest.approx(0.5, abs=0.05)
    assert share(0.5) == pytest.approx(0.75, abs=0.05)
    assert share(1.0) == pytest.approx(0.9, abs=0.05)
    assert share(1.0, number_from=10**9) == share(0.0)


def test_batches_are_the_same_whenever_they_are_made(corpus: Path, tmp_path: Path) -> None:
    recordings = read_manifest(corpus)
    store = open_clips(recordings, RATE, tmp_path)
    for recipe, kind in ((FRAME_RECIPE, MixtureExamples), (POOLED_RECIPE, PooledExamples)):
        config = recipe.model_config(("high", "low"), ())
        one, two = (kind(recordings, config, recipe, store).make_batch(7) for _ in range(2))
        other = kind(recordings, config, recipe, store).make_batch(8)
        torch.testing.assert_close(one.waveform, two.waveform, rtol=0, atol=0)
        assert torch.equal(one.targets, two.targets)
        assert one.waveform.shape != other.waveform.shape or not torch.equal(one.waveform, other.waveform)


def test_annotations_fall_on_the_right_frames(corpus: Path, tmp_path: Path) -> None:
    rows = [
        {"file": "low0.wav", "label": "low", "start": 0.1, "end": 0.5},
        {"file": "low0.wav", "label": "high", "start": 0.4},
    ]
    path = corpus.with_name("spans.jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    recordings = read_manifest(path)
    recipe = replace(FRAME_RECIPE, mix=MixConfig())
    examples = FrameExamples(
        recordings, recipe.model_config(("high", "low"), ()), recipe, open_clips(recordings, RATE, tmp_path)
    )
    targets = examples.annotate(recordings[0], 0, 65)
    assert np.flatnonzero(targets[:, 1]).tolist() == list(range(5, 25))
    assert np.flatnonzero(targets[:, 0]).tolist() == list(range(20, 65))
    hard = hard_targets(torch.from_numpy(targets)[None])[0]
    assert hard[0] == IGNORED
    assert hard[10] == 1


def test_active_share() -> None:
    np.testing.assert_allclose(active_share(np.array([1, 1, 0, 1, 0, 0], bool), 2), [1, 0.5, 0])


def test_augmentation_is_seeded_and_stays_in_range() -> None:
    config = AugmentConfig(reverb_chance=1, telephone_chance=0.5, noise_chance=1, clip_chance=0.5, gain_db=(-10, 0))
    waveforms = torch.from_numpy(np.stack([coloured_noise(np.random.default_rng(i), RATE) for i in range(6)])) * 0.1
    one, two = (augment_batch(waveforms, np.random.default_rng(4), config, RATE) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == waveforms.shape
    assert float(one.abs().max()) <= 1
    assert bool(torch.isfinite(one).all())
    assert not torch.allclose(one, waveforms, atol=0.05)


def test_silence_stays_silence() -> None:
    quiet = augment_batch(torch.zeros(2, RATE), np.random.default_rng(0), AugmentConfig(), RATE)
    assert float(quiet.abs().max()) < 1e-3


def test_a_telephone_has_no_bass_and_no_treble() -> None:
    config = replace(GENTLE, telephone_chance=1.0, noise_chance=0.0)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, RATE)).astype(np.float32)) * 0.1
    power = torch.fft.rfft(augment_batch(noise, np.random.default_rng(1), config, RATE)[0]).abs().square()
    hertz = torch.fft.rfftfreq(RATE, 1 / RATE)
    middle = power[(hertz > 600) & (hertz < 2800)].mean()
    assert power[hertz < 120].mean() < middle / 100
    assert power[hertz > 4500].mean() < middle / 100


def test_a_room_echoes_for_as_long_as_it_should() -> None:
    response = room_response(np.random.default_rng(0), 0.5, RATE)
    early, late = (np.square(response[int(t * RATE) : int((t + 0.05) * RATE)]).mean() for t in (0.05, 0.30))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=4)  # 60 dB in 0.5 s is 30 dB in 0.25 s


def test_speed_changes_length_and_pitch() -> None:
    tone = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE).astype(np.float32)
    faster, factor = perturb(tone, np.random.default_rng(0), AugmentConfig(speed=(1.2, 1.2), speed_chance=1), RATE)
    assert factor == 1.2
    assert len(faster) == pytest.approx(RATE / 1.2, abs=2)
    assert np.abs(np.fft.rfft(faster)).argmax() * RATE / len(faster) == pytest.approx(480, abs=3)


def test_masks_cover_no_more_than_asked() -> None:
    vectors = torch.randn(4, 300, 40) + 7
    config = AugmentConfig(frequency_masks=1, frequency_mask_width=8, time_masks=1, time_mask_s=0.5)
    masked = mask_features(vectors, sample_masks(vectors.shape, np.random.default_rng(0), config, 100))
    changed = (masked != vectors).float().mean(dim=(1, 2))
    assert float(changed.max()) <= 8 / 40 + 50 / 300
    assert float(changed.max()) > 0


@pytest.mark.parametrize("recipe", [FRAME_RECIPE, POOLED_RECIPE], ids=["frame", "pooled"])
def test_a_resumed_run_ends_with_the_same_weights(corpus: Path, tmp_path: Path, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    recipe = replace(recipe, optim=replace(recipe.optim, steps=12, dev_every=4))
    unbroken = Job(corpus, tmp_path / "a.safetensors", recipe)
    train(unbroken, prepare(unbroken))
    broken = Job(corpus, tmp_path / "b.safetensors", recipe, resume=True, stop_after=6)  # two steps past a saved state
    train(broken, prepare(broken))
    rest = replace(broken, stop_after=None)
    steps: list[int] = []
    train(rest, prepare(rest), lambda progress: steps.append(progress.step))
    assert steps[0] == 5
    for key, value in weights(tmp_path / "a.safetensors").items():
        assert torch.equal(value, weights(tmp_path / "b.safetensors")[key]), key


def test_resuming_with_another_recipe_is_refused(corpus: Path, tmp_path: Path) -> None:
    recipe = replace(POOLED_RECIPE, optim=replace(POOLED_RECIPE.optim, steps=4, dev_every=2))
    job = Job(corpus, tmp_path / "a.safetensors", recipe, resume=True)
    train(job, prepare(job))
    other = replace(job, recipe=replace(recipe, optim=replace(recipe.optim, learning_rate=1e-4)))
    with pytest.raises(ModelError, match=r"optim\.learning_rate was 0\.003, is 0\.0001"):
        train(other, prepare(other))


@pytest.mark.parametrize("recipe", [FRAME_RECIPE, POOLED_RECIPE], ids=["frame", "pooled"])
def test_a_small_network_learns_what_is_easy(corpus: Path, tmp_path: Path, recipe: Recipe) -> None:
    job = Job(corpus, tmp_path / "a.safetensors", recipe)
    data = prepare(job)
    report = train(job, data)
    assert report.score > 0.9
    engine = load_engine(job.output)
    assert engine.config.card["dev"]["labels"].keys() == {"high", "low"}
    measured = evaluate(engine, Measurement(corpus, tmp_path / "cache", recipe=recipe, length_s=1.0))
    assert measured.score > 0.9


def test_a_sound_that_lasts_does_not_pause(corpus: Path) -> None:
    mix = MixConfig(enabled=True, presence={"low": 1.0, "high": 1.0}, lasting={"low": 1.0}, audible_db=60.0)
    recipe = replace(FRAME_RECIPE, mix=mix, window=WindowConfig(4.0, 0.2))
    data = prepare(Job(corpus, corpus.with_name("lasting.safetensors"), recipe))
    examples = MixtureExamples(data.train, data.config, recipe, data.store)
    targets = torch.cat([examples.make_batch(number).targets.flatten(0, 1) for number in range(8)])
    high, low = (targets[:, data.config.labels.index(label)].mean() for label in ("high", "low"))
    assert low > 0.7 > high  # clips are of 1.3 s, with pauses of up to 4 s
    starts = [(batch.targets.diff(dim=1) > 0).sum(dim=1) for batch in map(examples.make_batch, range(8))]
    assert torch.cat(starts)[:, data.config.labels.index("low")].max() <= 1


def test_a_cache_is_made_by_one_of_those_that_want_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []

    def decode_slowly(files: Any, sample_rate: int, data: Path, progress: Any) -> list[int]:
        begun.append(data)
        time.sleep(0.3)
        return really(files, sample_rate, data, progress)

    really = clips._decode_all
    monkeypatch.setattr(clips, "_decode_all", decode_slowly)
    recordings = read_manifest(corpus)
    with ThreadPoolExecutor(3) as pool:
        stores = [pool.submit(open_clips, recordings, RATE, tmp_path) for _ in range(3)]
    lengths = {store.result().n_samples(recordings[0].file) for store in stores}
    assert (len(begun), lengths) == (1, {round(1.3 * RATE)})


@pytest.mark.parametrize("alone", [0.0, 1.0])
def test_labels_alone(corpus: Path, alone: float) -> None:
    mix = MixConfig(enabled=True, presence={"low": 1.0, "high": 1.0}, alone=alone)
    recipe = replace(FRAME_RECIPE, mix=mix)
    data = prepare(Job(corpus, corpus.with_name("alone.safetensors"), recipe))
    examples = MixtureExamples(data.train, data.config, recipe, data.store)
    heard = torch.cat([examples.make_batch(number).targets.amax(dim=1) for number in range(8)])
    assert heard.amax(dim=0).tolist() == [1, 1]
    assert (heard.sum(dim=1) > 1).any() == (alone == 0)


def test_phones_that_nobody_asked_for_do_not_matter(corpus: Path) -> None:
    recipe = replace(POOLED_RECIPE, sample=SampleConfig(length_s=(3.0, 4.0)))  # clips fit in whole
    data = prepare(Job(corpus, corpus.with_name("unused.safetensors"), recipe))
    batch = PooledExamples(data.train, data.config, recipe, data.store).make_batch(0)
    assert batch.phones.shape[1] == 0


def test_phones_are_learnt_beside_labels(corpus: Path, tmp_path: Path) -> None:
    recipe = replace(
        POOLED_RECIPE, hear_phones=True, phone_layer=1, optim=replace(POOLED_RECIPE.optim, steps=4, dev_every=4)
    )
    job = Job(corpus, tmp_path / "a.safetensors", recipe)
    losses: list[float] = []
    train(job, prepare(job), lambda progress: losses.append(progress.loss))
    assert load_network(job.output).config.phones == ("l", "o", "u")
    assert all(np.isfinite(losses))


def test_a_teachers_word_can_outweigh_the_label(tmp_path: Path) -> None:
    """A teacher who swaps the labels, and alone is believed, makes a network that is always wrong on dev."""
    manifest = write_corpus(tmp_path)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        if row["split"] == "train":
            row["soft"] = {"low": 0.1, "high": 0.9} if row["label"] == "low" else {"low": 1.0}
    manifest.write_text("\n".join(map(json.dumps, rows)))
    taught = replace(POOLED_RECIPE, optim=replace(POOLED_RECIPE.optim, soft_weight=1.0))
    job = Job(manifest, tmp_path / "a.safetensors", taught)
    assert train(job, prepare(job)).figures["accuracy"] < 0.1
    deaf = replace(taught, optim=replace(taught.optim, soft_weight=0.0))
    job = Job(manifest, tmp_path / "b.safetensors", deaf)
    assert train(job, prepare(job)).figures["accuracy"] > 0.9


@pytest.mark.parametrize("soft", ["low", {"low": "much"}, {"low": 0.2}, {"low": 1.5, "high": -0.5}])
def test_probabilities_that_are_none_are_refused(corpus: Path, soft: object) -> None:
    manifest = corpus.with_name("soft.jsonl")
    row = json.loads(corpus.read_text().splitlines()[0]) | {"soft": soft}
    manifest.write_text(json.dumps(row))
    with pytest.raises(ManifestError, match="soft"):
        read_manifest(manifest)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_weights_that_were_brought_move_at_their_own_rate(corpus: Path, tmp_path: Path, rate: float) -> None:
    recipe = replace(POOLED_RECIPE, optim=replace(POOLED_RECIPE.optim, steps=4, dev_every=4, weight_decay=0.0))
    begun = Job(corpus, tmp_path / "a.safetensors", recipe)
    train(begun, prepare(begun))
    third = corpus.with_name("third.jsonl")
    other = corpus.read_text().replace('"label": "low", "speaker": "s3"', '"label": "middle", "speaker": "s3"')
    third.write_text(other)
    job = Job(third, tmp_path / "b.safetensors", replace(recipe, optim=replace(recipe.optim, init_rate=rate)))
    job = replace(job, init=begun.output)
    train(job, prepare(job))
    before, after = weights(begun.output), weights(job.output)
    assert after["head.weight"].shape[0] == 3
    moved = not torch.equal(before["encoder.input.weight"], after["encoder.input.weight"])
    assert moved == (rate > 0)


@pytest.mark.parametrize(
    ("kind", "score"), [("fc", "dot"), ("window", "dot"), ("attention", "dot"), ("attention", "additive")]
)
def test_a_deeper_network_begins_where_a_shallower_one_stopped(tmp_path: Path, kind: str, score: str) -> None:
    encoder = replace(FRAME_RECIPE.encoder, kind=kind, score=score)  # type: ignore[arg-type]
    config = replace(FRAME_RECIPE, encoder=encoder).model_config(("a", "b"), ())
    shallow = Network(config).eval()
    save_model(shallow, tmp_path / "shallow.safetensors", precision="float32")
    deep = Network(replace(config, encoder=replace(encoder, n_layers=3))).eval()
    initialise(deep, tmp_path / "shallow.safetensors")
    waveform = torch.randn(2, 8000 + 2 * config.features.margin_samples)
    n_frames = torch.tensor([25, 20])
    expected = shallow(waveform, n_frames).logits
    torch.testing.assert_close(deep(waveform, n_frames).logits, expected)
    deep(waveform, n_frames).logits.sum().backward()
    last = deep.encoder.layers[2].feed_forward.layers[3].weight
    assert last.grad is not None
    assert last.grad.abs().max() > 0, "what begins as nothing can learn"


def test_a_network_that_hardly_fits_says_so(corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun = Job(corpus, tmp_path / "a.safetensors", replace(POOLED_RECIPE, optim=replace(POOLED_RECIPE.optim, steps=1)))
    train(begun, prepare(begun))
    wide = Network(replace(POOLED_RECIPE, encoder=replace(POOLED_RECIPE.encoder, dim=32)).model_config(("a", "b"), ()))
    taken = initialise(wide, begun.output)
    assert "head.bias" in taken
    assert "head.weight" not in taken
    assert "only 1 % of this recipe's network fits" in caplog.text
    caplog.clear()
    initialise(Network(POOLED_RECIPE.model_config(("a", "b"), ())), begun.output)
    assert not caplog.text


def test_frozen_layers_stay_as_they_were(corpus: Path, tmp_path: Path) -> None:
    optim = replace(POOLED_RECIPE.optim, steps=4, dev_every=4)
    recipe = replace(POOLED_RECIPE, optim=optim, encoder=replace(POOLED_RECIPE.encoder, n_layers=2))
    begun = Job(corpus, tmp_path / "a.safetensors", recipe)
    train(begun, prepare(begun))
    frozen = replace(recipe, optim=replace(optim, frozen_layers=1))
    job = Job(corpus, tmp_path / "b.safetensors", frozen, init=begun.output)
    train(job, prepare(job))
    before, after = weights(begun.output), weights(job.output)
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert not {key for key in moved if key.startswith(("encoder.input.", "encoder.layers.0."))}
    assert {"encoder.layers.1.attention.to_output.weight", "head.weight"} <= moved
    with pytest.raises(ConfigError, match="must learn"):
        train(replace(job, init=None), prepare(job))
    with pytest.raises(ConfigError, match="at most"):
        replace(frozen, optim=replace(optim, frozen_layers=3))


def test_one_label_is_not_enough(corpus: Path, tmp_path: Path) -> None:
    lonely = corpus.with_name("lonely.jsonl")
    lonely.write_text("\n".join(line for line in corpus.read_text().splitlines() if '"low"' in line))
    job = Job(lonely, tmp_path / "a.safetensors", POOLED_RECIPE)
    with pytest.raises(ManifestError, match="at least two"):
        prepare(job)


def test_an_empty_dev_split_is_refused(corpus: Path, tmp_path: Path) -> None:
    only = corpus.with_name("only.jsonl")
    only.write_text("\n".join(line for line in corpus.read_text().splitlines() if '"train"' in line))
    job = Job(only, tmp_path / "a.safetensors", POOLED_RECIPE)
    with pytest.raises(ManifestError, match="the dev split is empty"):
        prepare(job)


def write_frames(path: Path, heard: dict[str, Any]) -> Path:
    """Write what a teacher hears in every frame of some recordings."""
    scores = {file: np.array(rows, np.float16).reshape(-1, 2) for file, rows in heard.items()}
    ends = np.cumsum([len(rows) for rows in scores.values()])
    joined, labels = np.concatenate(list(scores.values())), np.array(["high", "low"])
    np.savez(path, files=np.array(list(scores)), ends=ends, scores=joined, labels=labels, hop=np.array(0.1))
    return path


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_teacher_moves_the_targets_of_whole_recordings(corpus: Path, tmp_path: Path, weight: float) -> None:
    """Between the teacher's frames along a line; a label that nobody was asked about stays as the manifest says."""
    recipe = replace(FRAME_RECIPE, mix=MixConfig(), optim=replace(FRAME_RECIPE.optim, soft_weight=weight))
    teacher = write_frames(corpus.with_name("ramp.npz"), {"high3.wav": [[np.nan, n / 13] for n in range(13)]})
    data = prepare(Job(corpus, tmp_path / "m.safetensors", recipe, teacher=teacher))
    examples, dev = (make_examples(data, recipe, dev=dev) for dev in (False, True))
    assert isinstance(examples, FrameExamples)
    assert isinstance(dev, FrameExamples)
    told, untold = (next(r for r in data.train if r.file.name == f"high{n}.wav") for n in (3, 4))
    high, low = (data.config.labels.index(label) for label in ("high", "low"))
    targets = examples.annotate(told, 0, 64)
    assert np.all(targets[:, high] == 1)
    times_s = (np.arange(64) + 0.5) * data.config.hop_s
    expected = np.interp(times_s, (np.arange(13) + 0.5) * 0.1, np.arange(13) / 13)
    assert targets[:, low] == pytest.approx(weight * expected, abs=2e-3)
    assert examples.annotate(untold, 0, 64)[:, low].max() == 0
    assert dev.annotate(told, 0, 64)[:, low].max() == 0  # figures are of what the manifest says


@pytest.mark.parametrize("lasting", [0.0, 1.0])
def test_a_teacher_is_heard_in_mixtures(corpus: Path, tmp_path: Path, lasting: float) -> None:
    """What it hears in a clip goes where the clip goes, also of labels that the clip does not have."""
    names = [json.loads(line)["file"] for line in corpus.read_text().splitlines()]
    heard = {name: [[1.0, 0.5]] * 13 for name in names if name.startswith("high")}
    teacher = write_frames(corpus.with_name("mixed.npz"), heard)
    mix = replace(FRAME_RECIPE.mix, alone=1.0, lasting={"high": lasting})
    recipe = replace(FRAME_RECIPE, mix=mix, optim=replace(FRAME_RECIPE.optim, soft_weight=1.0))
    data = prepare(Job(corpus, tmp_path / "m.safetensors", recipe, teacher=teacher))
    plain = make_examples(replace(data, frame_teacher=None), recipe, dev=False)
    taught = make_examples(data, recipe, dev=False)
    high, low = (data.config.labels.index(label) for label in ("high", "low"))
    checked = 0
    for number in range(4):
        one, other = plain.make_batch(number), taught.make_batch(number)
        assert torch.equal(one.waveform, other.waveform)  # a teacher changes targets and nothing else
        only_low = one.targets[:, :, high].sum(dim=1) == 0
        assert torch.equal(one.targets[only_low], other.targets[only_low])
        is_high = one.targets[:, :, high] == 1
        checked += int(is_high.sum())
        assert other.targets[:, :, high][is_high].unique().tolist() == [1]
        assert other.targets[:, :, low][is_high].unique().tolist() == pytest.approx([0.5], abs=1e-3)
    assert checked > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros((9, 2))}, "do not fit together"),
        ({"scores": np.full((13, 2), 1.5)}, "0 to 1"),
        ({"labels": np.array(["purr", "hum"])}, "knows purr, hum"),
        ({"files": np.array(["elsewhere.wav"])}, "posteriors of none of the recordings"),
        ({"hop": None}, "arrays files, ends, scores, labels, hop"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    corpus: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    teacher = write_frames(corpus.with_name("odd.npz"), {"low3.wav": [[0.1, 0.9]] * 13})
    with np.load(teacher) as arrays:
        changed = {**arrays} | change
    np.savez(teacher, **{name: value for name, value in changed.items() if value is not None})
    with pytest.raises(ManifestError, match=message):
        prepare(Job(corpus, tmp_path / "m.safetensors", FRAME_RECIPE, teacher=teacher))


def test_a_teacher_of_frames_is_for_labels_that_overlap(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overlapping labels"):
        prepare(Job(corpus, tmp_path / "m.safetensors", POOLED_RECIPE, teacher=corpus))
