"""Training by several processes: what two learn together is what one learns alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framecls.errors import UsageError
from framecls.training.examples.mixtures import IGNORED, Batch
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.recipe import read_recipe
from framecls.training.team import ALONE, Counts, Team, cut, join_team
from support.commands import HANG_S, environment
from support.training import weights, write_corpus

RATE = 16000
RECIPE = """
name = "shared"
task = "pooled"
hear_phones = true
phone_layer = 1
[features]
n_mels = 16
[encoder]
dim = 16
n_layers = 2
n_heads = 2
ff_dim = 32
subsampling = 2
kernel = 3
dropout = 0.0
[window]
length_s = 1.0
overlap_s = 0.0
[sample]
length_s = [0.5, 0.6]
[optim]
steps = 8
batch_s = 3.9
learning_rate = 1e-3
warmup_steps = 0
dev_every = 4
workers = 0
"""


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return how far apart two networks are, as a share of the weights' size."""
    gap = sum(float((one[key] - other[key]).square().sum()) for key in one)
    return (gap / sum(float(value.square().sum()) for value in one.values())) ** 0.5


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path, n_speakers=6)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.toml")
    alone = Job(manifest, tmp_path / "alone.safetensors", recipe)
    train(alone, prepare(alone))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "framecls"]
    command += ["train", "identify", str(manifest), "-o", str(tmp_path / "two.safetensors"), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *command, "--recipe", str(tmp_path / "recipe.toml")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(GLOO_SOCKET_IFNAME="lo"),
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line.startswith("framecls:")]
    assert sum("8 recordings to train on" in line and "2 processes" in line for line in said) == 1
    assert sum("step 4 of 8" in line for line in said) == 1
    together = weights(tmp_path / "two.safetensors")
    assert distance(weights(alone.output), together) < 1e-3
    # What is compared does depend on what was learnt from.
    other = replace(
        alone, output=tmp_path / "o.safetensors", recipe=replace(recipe, optim=replace(recipe.optim, seed=0))
    )
    halved = replace(other, recipe=replace(recipe, optim=replace(recipe.optim, batch_s=2.0)))
    train(halved, prepare(halved))
    assert distance(weights(alone.output), weights(halved.output)) > 5e-3


def make_batch(n_rows: int) -> Batch:
    return Batch(
        torch.arange(n_rows * 4.0).view(n_rows, 4),
        torch.full((n_rows,), 3),
        torch.tensor([[0, 1, IGNORED]] * n_rows),
        torch.tensor([[1, 2], [0, 0], [3, 0]][:n_rows]),
        torch.tensor([[IGNORED] * 3, [IGNORED] * 3, [1, 0, IGNORED]][:n_rows]),
        tuple("xyz"[:n_rows]),
    )


def test_examples_are_dealt_out_once_each() -> None:
    parts = cut(make_batch(3), 2)
    assert [part.rows for part in parts] == [(0, 2), (1,)]
    assert parts[0].batch.sources == ("x", "z")
    assert parts[0].batch.waveform[1].tolist() == [8, 9, 10, 11]
    assert parts[0].whole == Counts(labels=6, timed_phones=2, strings=1)
    assert parts[1].own == Counts(labels=2, timed_phones=0, strings=0)
    assert sum(part.weigh("labels") for part in parts) == pytest.approx(2)
    assert [part.weigh("strings") for part in parts] == [2, 0]


def test_whoever_gets_no_example_counts_for_nothing() -> None:
    parts = cut(make_batch(1), 3)
    assert [part.weigh("labels") for part in parts] == [3, 0, 0]
    assert all(len(part.batch.n_frames) == 1 for part in parts)
    assert cut(make_batch(1), 1)[0].weigh("labels") == 1.0


def test_batches_are_made_in_turn() -> None:
    made = [list(Team(rank, 3).own_numbers(4, 12)) for rank in range(3)]
    assert made == [[6, 9], [4, 7, 10], [5, 8, 11]]
    assert list(ALONE.own_numbers(4, 7)) == [4, 5, 6]


def test_alone_unless_torchrun_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_team("auto") == (ALONE, "auto")
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "99")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="start fewer with torchrun"):
        join_team("cuda")
