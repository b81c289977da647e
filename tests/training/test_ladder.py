"""The ladder: equal data, near-equal size, and the lecture's argument, visible."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import soundfile
import torch

import framecls
from framecls.cli.boundary import run
from framecls.training import ladder, saw
from framecls.training.choices import LADDER, RUNGS
from framecls.training.data.manifest import read_manifest
from framecls.training.job import Job, prepare
from framecls.training.recipe import Recipe, find_recipe, read_recipe
from support.commands import Cli
from support.training import FRAME_RECIPE, POOLED_RECIPE, write_corpus


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def saws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saw.write_saw(tmp_path_factory.mktemp("saw"), n_train=30, n_dev=16)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the rungs' models, which `climbed` writes."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def climbed(saws: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ladder.Rung]:
    """Train all rungs on the saw, for half the steps of its recipe."""
    recipe = read_recipe(find_recipe("saw"))
    recipe = replace(recipe, optim=replace(recipe.optim, steps=150))
    folder = tmp_path_factory.mktemp("cache")
    job = Job(saws, folder / "none", recipe, cache=folder)
    plan = ladder.Plan(save=kept)
    return {rung.name: rung for rung in ladder.compare(job, prepare(job), tuple(RUNGS), plan).rungs}


NEAR, MIDDLE, FAR = (f"{first}-{last} frames" for first, last in saw.DISTANCES)


def test_one_frame_at_a_time_is_chance(climbed: dict[str, ladder.Rung]) -> None:
    assert climbed["fc"].by_source == {NEAR: 0.5, MIDDLE: 0.5, FAR: 0.5}  # not about: the frames are the same
    assert climbed["fc"].score == 0.5


def test_neighbours_help_as_far_as_they_reach(climbed: dict[str, ladder.Rung]) -> None:
    window = climbed["window"]
    assert window.encoder.context == saw.DISTANCES[0][1]
    assert window.by_source[NEAR] > 0.85
    assert window.by_source[MIDDLE] == pytest.approx(0.5, abs=0.05)
    assert window.by_source[FAR] == pytest.approx(0.5, abs=0.05)
    assert 0.6 < window.score < 0.7


def test_an_lstm_hears_further_than_a_window(climbed: dict[str, ladder.Rung]) -> None:
    assert climbed["lstm"].by_source[NEAR] > 0.95
    assert climbed["lstm"].score > climbed["window"].score + 0.1


def test_the_ladder_has_four_rungs() -> None:
    assert LADDER == ("fc", "window", "dot", "additive")
    assert set(RUNGS) == {*LADDER, "lstm"}


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_attention_solves_it(score: str, climbed: dict[str, ladder.Rung]) -> None:
    assert climbed[score].score > 0.95
    assert min(climbed[score].by_source.values()) > 0.95


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_attention_points_at_the_word_that_decides(
    score: str, climbed: dict[str, ladder.Rung], kept: Path, saws: Path
) -> None:
    """The rollout and occlusion agree on it, and hiding it costs what hiding others does not."""
    model = framecls.load(kept / f"{score}.safetensors", device="cpu")
    verbs = [recording for recording in read_manifest(saws) if recording.label == "verb" and recording.split == "dev"]
    falls, others = [], []
    for recording in verbs[::6]:
        files = [recording.file, Path(str(recording.file).replace("verb", "noun"))]
        words = [soundfile.read(file)[0].reshape(saw.N_FRAMES, saw.FRAME_SAMPLES) for file in files]
        [decisive] = np.flatnonzero((words[0] != words[1]).any(axis=1))
        for file, label in zip(files, ("verb", "noun"), strict=True):
            found = model.explain(file, recording.spans[-1].start_s + 0.02, label=label)
            assert found.pointed[0] == decisive
            apart = np.delete(np.arange(saw.N_FRAMES), found.first)
            assert apart[found.occlusion[apart].argmax()] == decisive
            assert found.score_without is not None
            assert found.score_without_others is not None
            falls.append(found.score - found.score_without)
            others.append(found.score - found.score_without_others)
    assert np.mean(falls) > 0.4  # of a half: without the word either label is as good
    assert np.abs(others).max() < 0.1


def test_what_is_kept_is_what_was_measured(climbed: dict[str, ladder.Rung], kept: Path) -> None:
    assert {path.stem for path in kept.iterdir()} == set(RUNGS)
    model = framecls.load(kept / "dot.safetensors", device="cpu")
    assert model.card["dev"]["accuracy"] == climbed["dot"].figures["accuracy"]
    assert model.config.encoder == climbed["dot"].encoder
    curve = climbed["dot"].curve
    assert [point.step for point in curve] == list(range(7, 150, 7))
    assert curve[0].loss > 0.5 > curve[-1].loss
    assert curve[0].score is None


def test_seeds_give_mean_and_spread(saws: Path, tmp_path: Path) -> None:
    recipe = read_recipe(find_recipe("saw"))
    recipe = replace(recipe, optim=replace(recipe.optim, steps=4))
    job = Job(saws, tmp_path / "none", recipe, cache=tmp_path / "cache")
    data = prepare(job)
    steps: list[tuple[int, int]] = []
    plan = ladder.Plan(seeds=3, save=tmp_path / "kept", curves=True)
    [both] = ladder.compare(job, data, ("window",), plan, lambda *at: steps.append(at)).rungs
    assert (steps[0], steps[-1], len(steps)) == ((1, 12), (12, 12), 12)
    other = replace(job, recipe=replace(recipe, optim=replace(recipe.optim, seed=1)))
    [alone] = ladder.compare(other, data, ("window",)).rungs
    assert alone.score == both.scores[1] != both.scores[0]
    assert (both.score, both.spread) == (np.mean(both.scores), np.std(both.scores, ddof=1))
    assert both.curve[-1].score == pytest.approx(both.score)
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["window-0.safetensors", "window-1.safetensors", "window-2.safetensors"]


def test_rungs_say_what_they_cost(climbed: dict[str, ladder.Rung]) -> None:
    sizes = [rung.parameters for rung in climbed.values()]
    assert max(sizes) < 1.04 * min(sizes)
    for rung in climbed.values():
        assert 0 < rung.step_s < rung.epoch_s
        assert rung.frames_per_s > 1000
    assert climbed["fc"].frames_per_s > climbed["additive"].frames_per_s


def test_only_the_first_word_tells_the_saws_apart(saws: Path) -> None:
    recordings = {recording.file.name: recording for recording in read_manifest(saws)}
    frames = {
        name: soundfile.read(recording.file)[0].reshape(saw.N_FRAMES, saw.FRAME_SAMPLES)
        for name, recording in recordings.items()
    }
    heard = []
    for name, recording in recordings.items():
        at = [round(span.start_s * saw.SAMPLE_RATE / saw.FRAME_SAMPLES) for span in recording.spans]
        heard += [frames[name][frame] for frame in at]
        if recording.label == "verb":
            twin = name.replace("verb", "noun")
            assert recordings[twin].label == "noun"
            [differs] = np.flatnonzero((frames[name] != frames[twin]).any(axis=1))
            nearest, farthest = map(int, recording.source.split()[0].split("-"))
            assert all(nearest <= frame - differs <= farthest for frame in at)
    assert len(heard) == 3 * len(recordings)
    assert all(np.array_equal(frame, heard[0]) for frame in heard)


@pytest.mark.parametrize("name", ["tag", "identify", "saw"])
@pytest.mark.parametrize("rung", RUNGS)
def test_sizes_come_near(name: str, rung: str) -> None:
    config = read_recipe(find_recipe(name)).model_config(("a", "b", "c"), ())
    target = ladder.count_parameters(ladder.on_rung(config, "dot"))
    fitted = ladder.fit_size(config, rung, target)
    assert ladder.count_parameters(fitted) == pytest.approx(target, rel=0.04 if rung == "lstm" else 0.02)
    assert {key: getattr(fitted.encoder, key) for key in RUNGS[rung]} == RUNGS[rung]
    kept = {f.name for f in dataclasses.fields(fitted.encoder)} - {"kind", "score", "dim", "ff_dim"}
    assert all(getattr(fitted.encoder, key) == getattr(config.encoder, key) for key in kept)


def test_a_network_without_layers_has_a_size_too() -> None:
    config = read_recipe(find_recipe("tag")).model_config(("a", "b"), ())
    config = replace(config, encoder=replace(config.encoder, n_layers=0))
    target = ladder.count_parameters(config)
    assert ladder.count_parameters(ladder.fit_size(config, "window", target)) < target


@pytest.mark.parametrize(
    ("recipe", "figure", "sources"),
    [(FRAME_RECIPE, "mean F1", set()), (POOLED_RECIPE, "balanced accuracy", {"mic0", "mic1"})],
    ids=["mixed", "pooled"],
)
def test_other_tasks(recipe: Recipe, figure: str, sources: set[str], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    recipe = replace(recipe, optim=replace(recipe.optim, steps=3))
    job = Job(write_corpus(corpus), tmp_path / "none", recipe, cache=tmp_path / "cache")
    data = prepare(job)
    steps: list[tuple[int, int]] = []
    both = ladder.compare(job, data, ("fc", "dot"), progress=lambda *at: steps.append(at))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert (both.figure, both.labels, both.train_recordings) == (figure, ("high", "low"), 12)
    assert [set(rung.by_source) for rung in both.rungs] == [sources, sources]
    # What a rung learns does not depend on who climbs beside it.
    [alone] = ladder.compare(job, data, ("dot",)).rungs
    assert (alone.score, alone.figures) == (both.rungs[1].score, both.rungs[1].figures)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "cache"}


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["compare", "--set", "optim.steps=1", "--rungs", "fc,dot", "--device", "cpu", "--cache", str(tmp_path)]
    assert run([*common, "--saw", "-q", "-f", "json"]) == 0
    captured = capsys.readouterr()
    figures = json.loads(captured.out)
    assert captured.err == ""
    assert [rung["name"] for rung in figures["rungs"]] == ["fc", "dot"]
    assert (figures["figure"], figures["steps"], figures["labels"]) == ("accuracy", 1, ["noun", "verb"])
    assert figures["rungs"][0]["by_source"] == {NEAR: 0.5, MIDDLE: 0.5, FAR: 0.5}
    # The clips are a corpus like any other.
    assert run([*common, str(tmp_path / "saw" / "manifest.jsonl"), "--recipe", "saw", "--set", "optim.seed=3"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["Rung", "Accuracy", "Parameters", "Epoch", "Frames/s"]
    assert [line.split()[0] for line in lines[1:3]] == ["fc", "attention/dot"]
    assert f"{figures['rungs'][1]['parameters']:,}" in lines[2]
    assert [line.split() for line in lines[4:6]] == [["Source", "fc", "dot"], [*NEAR.split(), "0.500", ANY]]
    assert "1 steps of the same batches, seed 3, cpu" in captured.out
    assert "360 recordings to train on, 240 to measure on" in captured.err


def test_figure(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("matplotlib")
    picture, kept = tmp_path / "ladder.svg", tmp_path / "rungs"
    options = ["--set", "optim.steps=2", "--rungs", "fc,dot", "--seeds", "2", "--device", "cpu", "--save", kept]
    answer = cli("compare", "--saw", *options, "-o", picture)
    assert answer.status == 0, answer.err
    assert "0.500 ± 0.000" in answer.out
    assert "mean and standard deviation of seeds 0 to 1" in answer.out
    assert len(list(kept.iterdir())) == 4
    drawn = picture.read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    assert all(word in drawn for word in ("loss in training", "accuracy on dev", "0.500 ± 0.000"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--saw", "-o", "x.pdf"], ".png or .svg"),
        (["--saw", "--seeds", "0"], "--seeds 0: at least 1"),
        (["--saw", "--save", "README.md"], "--save README.md"),
        ([], "name a manifest or give --saw"),
        (["m.jsonl", "--saw"], "one of the two"),
        (["m.jsonl", "--rungs", "fc,stairs"], "choose among fc, window, dot, additive"),
        (["m.jsonl", "--rungs", ","], "--rungs"),
        (["m.jsonl", "--recipe", "nope"], "nope"),
        (["--saw", "--recipe", "sound"], "--saw wants one label a frame"),
        (["--saw", "--recipe", "identify"], "--saw wants one label a frame"),
        (["--saw", "--set", "optim.steps=0"], "--set: steps"),
        (["--saw", "--set", "optim.seed=-1"], "--set: seed"),
        (["--saw", "--threads", "0"], "--threads"),
        (["--saw", "-f", "csv"], "table or json"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert captured.err.startswith("framecls: error: ")
    assert said in captured.err
