"""A head on a frozen encoder, from recordings to a model that works alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from framecls.checkpoints.file import read_config
from framecls.checkpoints.network import load_network, save_model
from framecls.cli.messages import Messages
from framecls.cli.progress import ProgressBar
from framecls.cli.quick import train_quickly
from framecls.config import EncoderConfig
from framecls.errors import ConfigError, ManifestError
from framecls.inference.engine import load_engine
from framecls.inference.identify import pool_windows
from framecls.model import load
from framecls.nn.network import Network
from framecls.report import load_report, report_path
from framecls.training.head import run
from framecls.training.head.fit import fit_head, head_config
from framecls.training.head.run import Listener, train_head
from framecls.training.job import Job
from framecls.training.recipe import HeadConfig, Recipe, change_recipe, find_recipe, read_recipe
from support.models import tiny_config

RATE = 16000
PITCHES = {"low": 300.0, "mid": 1000.0, "high": 3000.0}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source of a small untrained encoder, as a recipe names it."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("encoder") / "tiny.safetensors"
    small = EncoderConfig(dim=16, n_layers=2, n_heads=2, ff_dim=32, subsampling=4, position="none", dropout=0.0)
    save_model(Network(replace(tiny_config("frame"), encoder=small)), path)
    return f"framecls:{path}"


def quick(task: str, encoder: str, *changes: str) -> Recipe:
    """Return the recipe of the quick way, on a small encoder."""
    small = ("encoder.dim=16", "encoder.ff_dim=16", "encoder.n_heads=2", "head.epochs=2", "head.folds=3")
    layer = ("window.length_s=2.0", "window.overlap_s=0.0", "optim.batch_s=20.0")
    recipe = read_recipe(find_recipe(f"quick_{task}"))
    return change_recipe(recipe, [*small, *layer, f"features.pretrained.source={encoder}", *changes])


def tone(pitch_hz: float, duration_s: float, rng: np.random.Generator) -> np.ndarray:
    times_s = np.arange(int(duration_s * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * pitch_hz * rng.uniform(0.9, 1.1) * times_s) + 0.003 * rng.standard_normal(
        len(times_s)
    )


def write_clips(folder: Path, n_speakers: int = 4) -> Path:
    """Write clips of three pitches by some speakers, and a manifest of them."""
    rng, rows = np.random.default_rng(0), []
    for speaker in range(n_speakers):
        for label, pitch_hz in PITCHES.items():
            name = f"{label}{speaker}.wav"
            soundfile.write(folder / name, tone(pitch_hz, rng.uniform(0.8, 3.0), rng), RATE)
            rows.append({"file": name, "label": label, "speaker": f"s{speaker}"})
    manifest = folder / "clips.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    return manifest


def write_sparse(folder: Path, n_files: int = 6) -> Path:
    """Write recordings with tones here and there and soft noise between, and Audacity label tracks of the tones."""
    rng = np.random.default_rng(1)
    for number in range(n_files):
        sound = 0.003 * rng.standard_normal(6 * RATE)
        lines = []
        for label, at_s in zip(("low", "high"), rng.permutation([1.0, 3.5]), strict=True):
            piece, first = tone(PITCHES[label], 1.2, rng), int(at_s * RATE)
            sound[first : first + len(piece)] += piece
            lines.append(f"{at_s}\t{at_s + 1.2}\t{label}\n")
        soundfile.write(folder / f"{number}.wav", sound, RATE)
        (folder / f"{number}.txt").write_text("".join(lines))
    return folder


def test_clips_become_a_model_that_works_alone(tmp_path: Path, encoder: str) -> None:
    manifest, notes, shown = write_clips(tmp_path), [], set()
    job = Job(manifest, tmp_path / "pitch.safetensors", quick("identify", encoder))
    report = train_head(job, Listener(lambda what, done, total: shown.add(what), notes.append))
    assert report.score.mean > 0.9  # by chance a third
    assert (report.task, report.labels, len(report.folds)) == ("pooled", ("high", "low", "mid"), 3)
    assert len(report.held_out) == 12
    assert {clip.file for clip in report.held_out} == {str(tmp_path / f"{n}{s}.wav") for n in PITCHES for s in range(4)}
    assert report.confusion.sum() == 12
    assert {"decoding", "hearing", "learning"} <= shown
    assert "12 recordings" in notes[0]
    assert "3 folds by speaker" in notes[0]
    again = load_report(report_path(job.output))
    assert again.verdict == report.verdict
    assert again.label_figures == report.label_figures
    # Nothing beside the file is needed.
    Path(encoder.removeprefix("framecls:")).rename(tmp_path / "away.safetensors")
    try:
        model = load(job.output, device="cpu")
        answers = [model.identify(tmp_path / f"{label}{s}.wav") for label in PITCHES for s in range(4)]
        assert [a.top[0].label for a in answers] == [label for label in PITCHES for _ in range(4)]
    finally:
        (tmp_path / "away.safetensors").rename(encoder.removeprefix("framecls:"))
    assert read_config(job.output).name == "pitch"


def test_what_is_saved_answers_as_what_was_measured(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file joins vectors, holds the encoder, and is rounded: its logits are those of the head all the same."""
    kept = {}
    save = run._save
    monkeypatch.setattr(
        run, "_save", lambda course, head, config: (kept.update(c=course, h=head), save(course, head, config))
    )
    job = Job(write_clips(tmp_path), tmp_path / "pitch.safetensors", quick("identify", encoder))
    train_head(job)
    course, head = kept["c"], kept["h"]
    wanted = course.answer(head, np.arange(12))
    engine = load_engine(job.output, device="cpu")
    files = [recording.file for recording in course.recordings]
    for logits, request in zip(wanted, engine.run(files), strict=True):
        np.testing.assert_allclose(pool_windows(request)[0], logits, atol=0.1)


@pytest.mark.parametrize("task", ["identify", "tag"])
def test_a_page_lies_beside_the_model(
    task: str, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_clips(tmp_path) if task == "identify" else write_sparse(tmp_path)
    job = Job(manifest, tmp_path / "pitch.safetensors", quick(task, encoder))
    assert train_quickly(job, Messages(), ProgressBar(enabled=False)) == 0
    assert f"look at and listen to: {tmp_path / 'pitch.report.html'}" in capsys.readouterr().err
    page = (tmp_path / "pitch.report.html").read_text(encoding="utf-8")
    report = load_report(report_path(job.output))
    shown = ("epoch", "fold 3", "What is taken for what", f"{report.score.mean:.3f}", "high", "low")
    for words in (*shown, "Precision by recall", "The worst mistakes"):
        assert words in page


def test_sparse_labels_leave_the_rest_to_nothing(tmp_path: Path, encoder: str) -> None:
    job = Job(write_sparse(tmp_path), tmp_path / "m.safetensors", quick("tag", encoder, "head.epochs=4"))
    report = train_head(job)
    assert report.overlapping
    assert report.score.mean > 0.8
    model = load(job.output, device="cpu")
    result = model.tag(tmp_path / "0.wav")
    marked = sum(s.end - s.start for s in result.segments)
    assert 1.5 < marked < 3.6  # 2.4 s of 6 are marked
    decision = read_config(job.output).decision
    assert set(decision.thresholds) == {"low", "high"}
    assert len(result.segments) <= 4  # it does not flicker


def test_exclusive_labels(tmp_path: Path, encoder: str) -> None:
    job = Job(write_sparse(tmp_path), tmp_path / "m.safetensors", quick("tag", encoder, "head.unmarked=ignored"))
    report = train_head(job)
    assert not report.overlapping
    result = load(job.output, device="cpu").tag(tmp_path / "0.wav")
    assert sum(s.end - s.start for s in result.segments) == pytest.approx(6.0)


def test_vectors_are_kept_for_the_next_run(tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_clips(tmp_path)
    job = Job(manifest, tmp_path / "m.safetensors", quick("identify", encoder, "features.pretrained.layer=1"))
    heard: list[float] = []
    first = train_head(job, Listener(lambda what, done, total: heard.append(done) if what == "hearing" else None))
    assert len(heard) == 12
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*rows, rows[0].replace("s0", "s9").replace("low0", "new")]))
    soundfile.write(tmp_path / "new.wav", tone(300, 1.0, np.random.default_rng(5)), RATE)
    heard.clear()
    second = train_head(job, Listener(lambda what, done, total: heard.append(done) if what == "hearing" else None))
    assert len(heard) == 1
    assert len(second.held_out) == len(first.held_out) + 1


def test_the_same_seed_gives_the_same_model(tmp_path: Path, encoder: str) -> None:
    manifest = write_clips(tmp_path)
    for name in "ab":
        train_head(Job(manifest, tmp_path / f"{name}.safetensors", quick("identify", encoder)))
    first, second = (dict(load_network(tmp_path / f"{name}.safetensors").named_parameters()) for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_cannot_be_split_is_refused_before_anything_is_read(tmp_path: Path, encoder: str) -> None:
    manifest = write_clips(tmp_path)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = [row | ({"speaker": "s0"} if row["label"] == "mid" else {}) for row in rows]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    shown: list[str] = []
    job = Job(manifest, tmp_path / "m.safetensors", quick("identify", encoder))
    with pytest.raises(ManifestError, match="mid: all 4 clips are from s0") as refused:
        train_head(job, Listener(lambda what, done, total: shown.append(what)))
    assert "--split-by file" in str(refused.value)
    assert shown == []
    train_head(replace(job, split_by="file"))


def test_a_split_that_is_given_is_kept(tmp_path: Path, encoder: str) -> None:
    manifest = write_clips(tmp_path)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = [row | {"split": "dev" if row["speaker"] == "s1" else "train"} for row in rows]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    report = train_head(Job(manifest, tmp_path / "m.safetensors", quick("identify", encoder)))
    assert {Path(clip.file).stem[-1] for clip in report.held_out} == {"1"}
    assert report.split == "as given"


@pytest.mark.parametrize(
    ("scores", "best", "n_fitted"),  # (fold, epoch), the best epoch, the last of each fold
    [
        ([[0.9, 0.5, 0.5], [0.9, 0.5, 0.5], [0.9], [0.9]], 0, [2, 2, 0, 0]),
        ([[0.5, 0.9, 0.5], [0.5, 0.4, 0.5], [0.5], [0.5]], 0, [2, 2, 0, 0]),  # two folds do not agree
        ([[0.0, 0.071, 0.0], [0.0] * 3, [0.0], [0.0]], 0, [2, 2, 0, 0]),  # by rounding all four would
        ([[0.5, 0.9, 0.7]] * 4, 1, [2, 2, 2, 2]),
        ([[0.5, 0.7, 0.6], [0.5, 0.7, 0.6], [0.5, 0.5, 0.9], [0.5, 0.5, 0.9]], 2, [2, 2, 2, 2]),
        ([[0.5, 0.7, 0.6], [0.5, 0.7, 0.6], [0.9, 0.1, 0.1], [0.9, 0.1, 0.1]], 0, [2, 2, 2, 2]),
    ],
)
def test_where_two_folds_show_the_linear_probe_to_be_best_the_others_fit_it_alone(
    scores: list[list[float]],
    best: int,
    n_fitted: list[int],
    tmp_path: Path,
    encoder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = quick("identify", encoder, "head.folds=4", "features.pretrained.layer=1")
    course = run.prepare_course(Job(write_clips(tmp_path), tmp_path / "m.safetensors", recipe), Listener())
    run._hear(course, 0.0)
    said = iter([score for fold in scores for score in fold])
    monkeypatch.setattr(run, "score_fold", lambda *_: next(said))
    answers, chosen = run._hold_out(course)
    assert next(said, None) is None
    assert chosen == best
    assert [(entry.fold, entry.epoch) for entry in course.epochs] == [
        (fold, epoch) for fold, last in enumerate(n_fitted, 1) for epoch in range(last + 1)
    ]
    assert sorted(answer.row for answer in answers) == list(range(12))
    for fold in range(4):
        known, held_out = course.plan.train(fold), course.plan.held_out(fold)
        head = fit_head(head_config(course.config), course.recipe, course.examples.of(known), best, lambda *_: None)
        found = {answer.row: answer for answer in answers if answer.fold == fold}
        for row, logits in zip(held_out, course.answer(head, held_out), strict=True):
            np.testing.assert_allclose(found[row].logits, logits, atol=1e-5)
            assert course.config.labels[int(found[row].truth.argmax())] == course.recordings[row].label


def test_features_computed_elsewhere_need_a_recipe(tmp_path: Path, encoder: str) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for n in range(2):
            np.save(tmp_path / label / f"{n}.npy", np.zeros((9, 4), np.float32))
    with pytest.raises(ConfigError, match="--recipe identify"):
        train_head(Job(tmp_path, tmp_path / "m.safetensors", quick("identify", encoder)))


def test_settings_out_of_range() -> None:
    for change in ({"folds": 1}, {"precision": 1.5}, {"epochs": -1}, {"layers": ()}, {"dropout": 1.0}):
        with pytest.raises(ConfigError):
            HeadConfig(**change)  # type: ignore[arg-type]


def test_training_from_python(tmp_path: Path, encoder: str) -> None:
    import framecls

    manifest = write_clips(tmp_path)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    settings = ["encoder.dim=16", "encoder.ff_dim=16", "encoder.n_heads=2", "head.epochs=1", "head.layers=[1, 2]"]
    settings += ["window.length_s=2.0", f"features.pretrained.source={encoder}", "optim.batch_s=20.0"]
    pairs = [(tmp_path / row["file"], row["label"]) for row in rows]
    model = framecls.train(pairs, "identify", settings=settings, device="cpu")
    assert model.report is not None
    assert model.report.split.startswith("5 folds by file")
    assert model.identify(tmp_path / "low0.wav").top[0].label == "low"
    pandas = pytest.importorskip("pandas", reason="an extra")
    frame = pandas.DataFrame([row | {"file": tmp_path / row["file"], "end": float("nan")} for row in rows])
    output = tmp_path / "m.safetensors"
    again = framecls.train(frame, "identify", output, settings=settings, device="cpu", precision=0.9)
    assert again.report is not None
    assert again.report.split.startswith("4 folds by speaker")
    assert (tmp_path / "m.report.json").exists()
    for data, task, said in (
        (3, "identify", "a path"),
        ([3], "identify", "a pair"),
        (pairs, "sing", "tag or identify"),
    ):
        with pytest.raises(framecls.UsageError, match=said):
            framecls.train(data, task)
    with pytest.raises(framecls.UsageError, match="presett"):
        framecls.train(pairs, presett="speech")
    with pytest.raises(framecls.ConfigError, match="precision is for a head"):
        framecls.train(pairs, recipe="identify", precision=0.9)
    with pytest.raises(framecls.ConfigError, match=r"optim\.steps: a head .* has no such setting"):
        framecls.train(pairs, settings=["optim.steps=3"])


def test_what_is_checked_is_what_a_run_would_die_of(tmp_path: Path, encoder: str) -> None:
    from framecls.training.data.survey import survey

    manifest = write_clips(tmp_path)
    job = Job(manifest, tmp_path / "m.safetensors", quick("identify", encoder))
    found = survey(job)
    assert (found.problems, found.figures["split"]) == ([], "3 folds by speaker")
    manifest.write_text("\n".join(line.replace("s1", "s0") for line in manifest.read_text().splitlines()[:4]))
    [problem] = survey(job).problems
    assert "high: its only clip is s0" in problem or "high: all" in problem
