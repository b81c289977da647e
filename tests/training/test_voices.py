"""Training of an embedding: examples, a teacher's vectors, the loss, the loop, and measuring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from framecls.checkpoints.file import read_config
from framecls.checkpoints.network import load_network, save_model
from framecls.config import UNKNOWN, EncoderConfig, FeatureConfig, ModelConfig, WindowConfig
from framecls.errors import ConfigError, ManifestError
from framecls.inference.engine import load_engine
from framecls.nn.network import Network
from framecls.recipes import finish
from framecls.recipes.embed_corpus import ENOUGH_S, group_clips
from framecls.recipes.prepare_speaker import MOST_OF_VOICE_S, SPLIT_SOURCES, choose
from framecls.training.data.survey import survey
from framecls.training.examples.batch import IGNORED
from framecls.training.examples.loader import make_examples
from framecls.training.examples.preview import write_preview
from framecls.training.examples.teachers import read_voice_teacher
from framecls.training.examples.voices import VoiceExamples
from framecls.training.job import Data, Job, prepare
from framecls.training.loop import train
from framecls.training.losses import VoiceLoss
from framecls.training.metrics.evaluate import Test as Measurement
from framecls.training.metrics.evaluate import evaluate
from framecls.training.recipe import (
    AugmentConfig,
    OptimConfig,
    Recipe,
    SampleConfig,
    VoiceConfig,
    find_recipe,
    read_recipe,
)

RATE = 16000
SIZE = 12
RECIPE = Recipe(
    "toy-voices",
    "pooled",
    embedding=SIZE,
    features=FeatureConfig(n_mels=24),
    encoder=EncoderConfig(dim=24, n_layers=1, n_heads=2, ff_dim=48, subsampling=4, kernel=3, dropout=0.0),
    window=WindowConfig(2.0, 0.0),
    sample=SampleConfig(length_s=(0.6, 1.0)),
    voices=VoiceConfig(speeds=(1.0,), dev_length_s=1.0, scale=20.0),
    augment=AugmentConfig(
        speed_chance=0, reverb_chance=0, equalize_chance=0, low_pass_chance=0, telephone_chance=0, noise_chance=0.2,
        frequency_masks=0, time_masks=0,
    ),
    optim=OptimConfig(
        steps=60, batch_s=10.0, learning_rate=3e-3, warmup_steps=5, dev_every=20, ema_decay=0.9, workers=0
    ),
)  # fmt: skip


def say(rng: np.random.Generator, pitch_hz: float, seconds: float) -> np.ndarray:
    """Return (sample,) a buzz: a voice is its pitch."""
    times = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * pitch_hz * k * times + rng.uniform(0, 6)) / k for k in range(1, 6))
    return (0.2 * wave + rng.normal(0, 0.005, len(times))).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest of 12 voices to learn and 6 to measure, three clips each, and two of nobody knows whom."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for voice, pitch_hz in enumerate(np.geomspace(90, 420, 18)):
        for clip in range(3):
            rows.append({"file": f"v{voice}-{clip}.wav", "label": f"v{voice}", "speaker": f"v{voice}", "source": "a"})
            rows[-1]["split"] = "dev" if voice % 3 == 1 else "train"
            soundfile.write(folder / rows[-1]["file"], say(rng, pitch_hz * rng.uniform(0.99, 1.01), 1.3), RATE)
    for clip in range(2):
        rows.append({"file": f"u{clip}.wav", "label": UNKNOWN, "source": "b", "split": "train"})
        soundfile.write(folder / rows[-1]["file"], say(rng, 200 + 70 * clip, 1.2), RATE)
    manifest = folder / "voices.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def write_teacher(manifest: Path, path: Path, speeds: Sequence[float] = (0.8, 1.0), size: int = SIZE) -> Path:
    """Write vectors that tell the training voices by name."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    names = sorted({(row["speaker"] if "speaker" in row else row["file"], speed) for row in rows for speed in speeds})
    vectors = np.random.default_rng(1).standard_normal((len(names), size)) + 1.0
    table = [
        (row["file"], speed, names.index((row.get("speaker", row["file"]), speed))) for row in rows for speed in speeds
    ]
    np.savez(
        path,
        files=np.array([file for file, _, _ in table]),
        speeds=np.array([speed for _, speed, _ in table], np.float32),
        group=np.array([group for _, _, group in table]),
        vectors=vectors.astype(np.float16),
    )
    return path


@pytest.fixture(scope="module")
def teacher(corpus: Path) -> Path:
    return write_teacher(corpus, corpus.parent / "teacher.npz")


def test_voices_that_are_labels_stay_on_one_side(corpus: Path, tmp_path: Path) -> None:
    """Elsewhere recordings of labels that are speakers are split by file; here a voice must be unheard."""
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    free = [{k: v for k, v in row.items() if k != "split"} for row in rows if row["label"] != UNKNOWN]
    manifest = corpus.with_name("free.jsonl")
    manifest.write_text("".join(json.dumps(row) + "\n" for row in free))
    job = Job(manifest, tmp_path / "m.safetensors", RECIPE)
    data = prepare(job)
    sides = [{recording.label for recording in side} for side in (data.train, data.dev)]
    assert not sides[0] & sides[1]
    assert data.shared_speakers == ()
    found = survey(job)
    assert found.problems == []
    assert found.figures["splits"]["dev"]["recordings"] == len(data.dev)


def test_a_preview_of_voices(corpus: Path, tmp_path: Path) -> None:
    job = Job(corpus, tmp_path / "m.safetensors", RECIPE)
    data = prepare(job)
    write_preview(data, RECIPE, tmp_path / "heard", 4)
    lines = [json.loads(line) for line in (tmp_path / "heard" / "preview.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"000{n}.wav" for n in range(1, 5)]
    assert all({clip["label"] for clip in line["clips"]} == {line["label"]} for line in lines)
    with pytest.raises(ManifestError, match="no voices to tell apart"):
        write_preview(replace(data, train=data.train[:1]), RECIPE, tmp_path / "none", 1)


def test_vectors_computed_elsewhere_are_no_voices(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "1.npy", np.zeros((50, 5), np.float32))
    with pytest.raises(ConfigError, match="embedding"):
        prepare(Job(tmp_path, tmp_path / "m.safetensors", RECIPE))


def prepared(corpus: Path, recipe: Recipe = RECIPE, teacher: Path | None = None) -> tuple[Job, Data]:
    job = Job(corpus, corpus.parent / "m.safetensors", recipe, teacher=teacher)
    return job, prepare(job)


def examples_of(data: Data, recipe: Recipe = RECIPE) -> VoiceExamples:
    found = make_examples(data, recipe, dev=False)
    assert isinstance(found, VoiceExamples)
    return found


def test_a_voice_at_another_speed_is_another_one(corpus: Path) -> None:
    _, data = prepared(corpus)
    assert examples_of(data).n_voices == 12  # those of nobody knows whom are not told apart
    recipe = replace(RECIPE, voices=replace(RECIPE.voices, speeds=(0.8, 1.0, 1.2)))
    assert examples_of(data, recipe).n_voices == 36


def test_batches_are_the_same_whenever_they_are_made(corpus: Path, teacher: Path) -> None:
    _, data = prepared(corpus, teacher=teacher)
    first, again = examples_of(data).make_batch(5), examples_of(data).make_batch(5)
    assert torch.equal(first.waveform, again.waveform)
    assert torch.equal(first.targets, again.targets)
    assert first.teacher_vectors is not None
    assert again.teacher_vectors is not None
    assert torch.equal(first.teacher_vectors, again.teacher_vectors)
    assert not torch.equal(first.targets, examples_of(data).make_batch(6).targets)


def test_the_teacher_speaks_of_the_voice_that_is_heard(corpus: Path, teacher: Path) -> None:
    _, data = prepared(corpus, teacher=teacher)
    examples = examples_of(data)
    assert examples.n_voices == 24
    centres = torch.nn.functional.normalize(examples.initial_centres(), dim=1)
    seen_unknown = False
    for number in range(6):
        batch = examples.make_batch(number)
        assert batch.teacher_vectors is not None
        known = batch.targets != IGNORED
        seen_unknown |= bool((~known).any())
        # A voice's own vector begins where the teacher has it, and its vector is that of all its clips here.
        torch.testing.assert_close(batch.teacher_vectors[known], centres[batch.targets[known]])
        torch.testing.assert_close(batch.teacher_vectors.norm(dim=1), torch.ones(len(batch.teacher_vectors)))
    assert seen_unknown


def test_what_teachers_have_in_common_is_taken_away(teacher: Path) -> None:
    vectors = read_voice_teacher(teacher).vectors
    assert float((vectors @ vectors.T).mean()) < 0.1
    with np.load(teacher) as arrays:
        raw = arrays["vectors"].astype(np.float32)
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    assert float((raw @ raw.T).mean()) > 0.3


@pytest.mark.parametrize("damage", ["text", "other arrays", "short", "index", "nan", "missing"])
def test_files_that_no_teacher_wrote(damage: str, teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with np.load(teacher) as arrays:
        whole = dict(arrays)
    if damage == "text":
        path.write_text("vectors")
    elif damage == "other arrays":
        np.savez(path, a=np.zeros(3))
    elif damage == "short":
        np.savez(path, **{**whole, "speeds": whole["speeds"][:-1]})
    elif damage == "index":
        np.savez(path, **{**whole, "group": whole["group"] + 1000})
    elif damage == "nan":
        np.savez(path, **{**whole, "vectors": whole["vectors"] * np.nan})
    with pytest.raises(ManifestError, match=r"not a teacher's file|cannot be read"):
        read_voice_teacher(path)


def test_the_teachers_size_must_be_the_models(corpus: Path) -> None:
    other = write_teacher(corpus, corpus.parent / "other.npz", size=5)
    job, data = prepared(corpus, teacher=other)
    with pytest.raises(ManifestError, match="5 numbers, the model's 12: set embedding"):
        train(job, data)
    with pytest.raises(ConfigError, match="--teacher is for a recipe with an embedding"):
        prepare(Job(corpus, job.output, replace(RECIPE, embedding=0), teacher=other))


def test_the_loss_wants_the_right_voice_by_a_margin() -> None:
    config = VoiceConfig(margin=0.3, scale=10.0, teacher_weight=0.0)
    loss = VoiceLoss(torch.eye(4), None, config)
    batch = examples_batch(torch.tensor([0, IGNORED]))
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, 0, 0], [0, 0, 1, 0]]), dim=1)
    cosines = vectors[0] - torch.tensor([0.3, 0, 0, 0])
    expected = -(10 * cosines).log_softmax(dim=0)[0]
    torch.testing.assert_close(loss(vectors, batch), expected)
    assert loss(vectors, examples_batch(torch.tensor([IGNORED, IGNORED]))) == 0


def test_the_loss_is_least_at_the_teachers_vector() -> None:
    anchors = torch.nn.functional.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    loss = VoiceLoss(torch.eye(4, 6), anchors, VoiceConfig(margin_weight=0.0))
    batch = replace(examples_batch(torch.tensor([0, 1])), teacher_vectors=anchors[:2])
    assert loss(anchors[:2], batch) == pytest.approx(0, abs=1e-5)
    assert loss(anchors[2:4], batch) > 1
    assert not list(loss.parameters())


def examples_batch(targets: torch.Tensor):  # type: ignore[no-untyped-def]
    from framecls.training.examples.batch import Batch

    return Batch(torch.zeros(2, 1), torch.ones(2), targets, torch.zeros(2, 0), torch.zeros(2, 1))


@pytest.mark.parametrize("taught", [False, True])
def test_voices_are_learnt(taught: bool, corpus: Path, teacher: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optim=replace(RECIPE.optim, steps=90, dev_every=90))
    job = Job(corpus, tmp_path / "m.safetensors", recipe, teacher=teacher if taught else None)
    report = train(job, prepare(job))
    assert report.figures["equal_error_rate"] < 0.2  # of voices that training did not hear; by chance it is 0.5
    config = read_config(job.output)
    assert (config.embedding, config.labels) == (SIZE, ())
    assert config.decision.same_voice == report.decision.same_voice
    assert set(config.decision.thresholds) == {UNKNOWN}
    engine = load_engine(job.output, device="cpu")
    for length_s in (None, 1.0):
        measured = evaluate(engine, Measurement(corpus, corpus.parent, length_s=length_s))
        assert measured.figures["voices"] == 6
        assert measured.figures["equal_error_rate"] < 0.25


def test_a_resumed_run_ends_with_the_same_weights(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optim=replace(RECIPE.optim, steps=8, dev_every=4))
    whole = Job(corpus, tmp_path / "whole.safetensors", recipe, teacher=teacher)
    train(whole, prepare(whole))
    part = replace(whole, output=tmp_path / "part.safetensors", stop_after=4)
    train(part, prepare(part))
    rest = replace(part, stop_after=None, resume=True)
    train(rest, prepare(rest))
    expected = dict(load_network(whole.output).named_parameters())
    for key, value in load_network(rest.output).named_parameters():
        assert torch.equal(value, expected[key]), key


def test_a_frame_model_has_no_embedding() -> None:
    wrong = ({"task": "frame"}, {"labels": ("a",)}, {"embedding": 0}, {"embedding": -1}, {"embedding_hidden": -1})
    for changes in (*wrong, {"embedding": 0, "labels": ("a",), "embedding_hidden": 8}):
        settings = {"name": "m", "task": "pooled", "labels": (), "embedding": 8, **changes}
        with pytest.raises(ConfigError):
            ModelConfig(**settings)


@pytest.mark.parametrize("name", ["speaker", "voices"])
def test_the_recipes_make_small_models(name: str) -> None:
    recipe = read_recipe(find_recipe(name))
    network = Network(recipe.model_config(("a", "b"), ()))
    assert network.config.gate == "speech"
    assert sum(parameter.numel() for parameter in network.parameters()) < 7e6


def test_short_clips_of_one_voice_are_joined_for_the_teacher() -> None:
    rows = [{"file": f"{v}{i}", "speaker": v, "source": "s"} for i in range(7) for v in "ab"] + [{"file": "c"}]
    seconds = {row["file"]: 2.0 for row in rows} | {"c": 0.4}
    groups = group_clips(rows, seconds)
    assert sorted(name for group in groups for name in group) == sorted(seconds)
    assert all(len({name[0] for name in group}) == 1 for group in groups)
    assert [len(group) for group in groups if group[0][0] == "a"] == [3, 3, 1]
    assert ENOUGH_S <= 3 * 2.0


def test_chances_are_fitted_on_the_voices_of_a_manifest(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "_FIT_LENGTH_S", 1.0)  # no voice of this corpus talks for longer
    torch.manual_seed(0)
    save_model(Network(RECIPE.model_config((), ())), tmp_path / "m.safetensors")
    found = finish.fit_voices(tmp_path / "m.safetensors", corpus, None, None)
    assert found.figures["voices"] == 18
    assert found.figures["items"] > 36
    slope, offset = found.decision.same_voice
    assert slope > 0 > offset


def test_the_manifest_keeps_dev_voices_apart() -> None:
    source = next(iter(SPLIT_SOURCES))
    rows = [
        {
            "file": f"{v}-{i}",
            "path": f"/c/{v}-{i}",
            "kind": "speech",
            "seconds": 20.0,
            "speaker": f"s{v}",
            "source": source,
        }
        for v in range(120)
        for i in range(6)
    ]
    rows += [{"file": "e", "path": "/c/e", "seconds": 2.0, "speaker": "e1", "source": "emodb"}]
    rows += [{"file": "w", "path": "/c/w", "seconds": 2.0, "source": "precise-community"}]
    rows += [{"file": "n", "path": "/c/n", "kind": "noise", "seconds": 2.0, "source": "nonspeech100"}]
    chosen = choose(rows)
    dev = {row["label"] for row in chosen if row["split"] == "dev"}
    train_voices = {row["label"] for row in chosen if row["split"] == "train"}
    assert len(dev) == SPLIT_SOURCES[source] + 1
    assert not dev & train_voices
    assert UNKNOWN in train_voices
    assert all(row["file"] != "/c/n" for row in chosen)
    of_one = [row for row in chosen if row["label"] == next(iter(train_voices - {UNKNOWN}))]
    assert len(of_one) * 20.0 <= MOST_OF_VOICE_S
    assert choose(rows) == chosen
