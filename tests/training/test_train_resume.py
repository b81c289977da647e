"""A run that is killed at any moment goes on, and ends with the weights of one that never was."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from framecls.errors import ConfigError, ModelError, OutputError
from framecls.training import loop
from framecls.training.examples.loader import training_batches
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.recipe import Recipe, read_recipe
from framecls.training.state import Identity, explain_mismatch
from support.commands import run_command, start_command
from support.training import POOLED_RECIPE, RECIPE, weights, write_corpus


def command(folder: Path) -> list[str]:
    options = [
        "--recipe",
        str(folder / "toy.toml"),
        "--device",
        "cpu",
        "--threads",
        "1",
        "--save-every",
        "0",
        "--resume",
    ]
    where = [str(folder / "manifest.jsonl"), "-o", str(folder / "killed.safetensors")]
    return ["train", "identify", *where, *options]


def read_step(state: Path) -> int:
    from safetensors import safe_open

    if not state.exists():
        return 0
    with safe_open(state, "pt") as file:
        return int(file.metadata()["step"])


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a thing of POSIX")
def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path)
    (tmp_path / "toy.toml").write_text(RECIPE)
    state = tmp_path / "killed.safetensors.training" / "state.safetensors"
    killed_at = []
    for at_least in (2, 7):  # before the first dev measurement, and after it
        process = start_command(*command(tmp_path))
        give_up_s = time.monotonic() + 300
        while read_step(state) < at_least and process.poll() is None and time.monotonic() < give_up_s:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        killed_at.append(read_step(state))
    assert 2 <= killed_at[0] < killed_at[1] < 30
    assert run_command(*command(tmp_path)).status == 0
    torch.set_num_threads(1)
    unbroken = Job(manifest, tmp_path / "unbroken.safetensors", read_recipe(tmp_path / "toy.toml"))
    train(unbroken, prepare(unbroken))
    one, other = weights(tmp_path / "unbroken.safetensors"), weights(tmp_path / "killed.safetensors")
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def short(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, optim=replace(recipe.optim, **changes))  # type: ignore[arg-type]


def test_a_run_that_is_killed_while_it_saves_keeps_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path)
    job = Job(manifest, tmp_path / "m.safetensors", short(POOLED_RECIPE, steps=6, dev_every=2), resume=True)
    train(replace(job, stop_after=2), prepare(job))
    state = job.folder / "state.safetensors"
    before = state.read_bytes()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    run = loop.Run(job, prepare(job))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            run.save()
    assert state.read_bytes() == before
    steps: list[int] = []
    begun: list[int] = []
    train(job, prepare(job), lambda progress: steps.append(progress.step), begun.append)
    assert (begun, steps) == ([2], [3, 4, 5, 6])


def test_the_state_is_saved_as_often_as_asked(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path)
    job = Job(manifest, tmp_path / "m.safetensors", short(POOLED_RECIPE, steps=5, dev_every=4))
    saved: list[int] = []
    train(replace(job, save_every_s=0), prepare(job), lambda progress: saved.append(progress.saved_step))
    assert saved == [1, 2, 3, 4, 5]
    saved.clear()
    train(replace(job, save_every_s=1e6), prepare(job), lambda progress: saved.append(progress.saved_step))
    assert saved == [0, 0, 0, 4, 5]


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path)
    recipe = short(POOLED_RECIPE, steps=40, dev_every=1, patience=2, learning_rate=1e-9)
    job = Job(manifest, tmp_path / "m.safetensors", recipe, resume=True)
    steps: list[int] = []
    train(job, prepare(job), lambda progress: steps.append(progress.step))
    assert steps == [1, 2, 3]
    before = job.output.read_bytes()
    train(job, prepare(job), lambda progress: steps.append(progress.step))
    assert steps == [1, 2, 3]
    assert job.output.read_bytes() == before


def test_other_recordings_cannot_be_resumed_on(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path)
    job = Job(manifest, tmp_path / "m.safetensors", short(POOLED_RECIPE, steps=2, dev_every=2), resume=True)
    train(job, prepare(job))
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-2]))
    with pytest.raises(ModelError, match="other train recordings"):
        train(job, prepare(job))


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    job = Job(write_corpus(tmp_path), tmp_path / "m.safetensors", POOLED_RECIPE, resume=True)
    data = prepare(job)
    (job.folder / "state.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelError, match="this state of a run is damaged"):
        train(job, data)


def test_a_setting_of_a_later_version_had_its_default(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    job = Job(write_corpus(tmp_path), tmp_path / "m.safetensors", short(POOLED_RECIPE, steps=2, dev_every=2))
    now = Identity(job, prepare(job)).facts
    then = {name: value for name, value in now.items() if name != "augment.codec_chance"}
    assert explain_mismatch(then, now) == ""
    assert "augment.codec_chance was 0.0, is 0.5;" in explain_mismatch(then, {**now, "augment.codec_chance": "0.5"})


def test_what_differs_is_said(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path)
    job = Job(manifest, tmp_path / "m.safetensors", short(POOLED_RECIPE, steps=2, dev_every=2), resume=True)
    train(job, prepare(job))
    longer = replace(job, recipe=short(job.recipe, steps=3))
    with pytest.raises(ModelError, match=r"optim.steps was 2, is 3; .* --init goes on from a finished model"):
        train(longer, prepare(longer))
    slower = replace(job, recipe=short(job.recipe, learning_rate=1e-4))
    with pytest.raises(ModelError, match=r"optim.learning_rate was 0.003, is 0.0001; without --resume it begins anew"):
        train(slower, prepare(slower))
    begun = replace(job, init=job.output)
    with pytest.raises(ModelError, match="--init was not given"):
        train(begun, prepare(begun))
    manifest.write_text(manifest.read_text().replace('"low"', '"deep"'))
    with pytest.raises(ModelError, match=r"other labels \(deep added, low gone\); other train recordings; other dev"):
        train(job, prepare(job))
    manifest.write_text("\n".join(manifest.read_text().replace('"deep"', '"low"').splitlines()[:-2]))
    with pytest.raises(ModelError, match=r"otherwise: other train recordings \(12 then, 10 now\); without"):
        train(job, prepare(job))


def test_the_number_of_workers_changes_no_weight(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path)
    recipe = short(POOLED_RECIPE, steps=4, dev_every=2)
    none = Job(manifest, tmp_path / "none.safetensors", short(recipe, workers=0))
    train(none, prepare(none))
    changing = Job(manifest, tmp_path / "changing.safetensors", short(recipe, workers=2), resume=True, stop_after=2)
    train(changing, prepare(changing))
    rest = replace(changing, recipe=short(recipe, workers=1), stop_after=None)
    begun: list[int] = []
    train(rest, prepare(rest), None, begun.append)
    assert begun == [2]
    one, other = weights(none.output), weights(rest.output)
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_a_full_disk_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path)
    job = Job(manifest, tmp_path / "m.safetensors", short(POOLED_RECIPE, steps=2, dev_every=2), resume=True)
    train(job, prepare(job))
    state = job.folder / "state.safetensors"
    before = state.read_bytes()

    def write_half(_: object, path: Path, *__: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    run = loop.Run(job, prepare(job))
    monkeypatch.setattr("safetensors.torch.save_file", write_half)
    with pytest.raises(OutputError, match=r"m.safetensors.training: .* No space left .* then --resume"):
        run.save()
    assert state.read_bytes() == before
    assert sorted(path.suffix for path in job.folder.iterdir()) == [".json", ".pcm", ".safetensors"]
    with pytest.raises(ModelError, match=r"m.safetensors: cannot be written: .* No space left"):
        run.measure()


def test_a_learning_rate_that_is_too_high_is_named(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = short(POOLED_RECIPE, steps=20, dev_every=20, learning_rate=1e9, warmup_steps=1)
    job = Job(write_corpus(tmp_path), tmp_path / "m.safetensors", recipe)
    with pytest.raises(ConfigError, match=r"step \d+: the loss is .* a lower learning rate than 1e\+09"):
        train(job, prepare(job))
    assert not job.output.exists()


@pytest.mark.skipif(os.name != "posix", reason="signals to a group of processes are a thing of POSIX")
def test_workers_leave_signals_to_the_process_that_began_them(tmp_path: Path) -> None:
    """A terminal and `timeout` send theirs to all processes of a group, and the first may want to finish."""
    recipe = short(POOLED_RECIPE, workers=2)
    batches = training_batches(prepare(Job(write_corpus(tmp_path), tmp_path / "m.safetensors", recipe)), recipe, 0, 40)
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, name)
        for _ in range(10):  # more than are made ahead
            next(batches)
    assert all(worker.is_alive() for worker in workers)
    del batches
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0
