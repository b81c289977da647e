"""Training by several processes: what two learn together is what one learns alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from framecls.errors import UsageError
from framecls.training.examples.batch import IGNORED, Batch
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.losses import take_shard
from framecls.training.recipe import read_recipe
from framecls.training.team import ALONE, join_team
from support.commands import HANG_S, environment
from support.training import weights, write_corpus

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


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run two processes on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(GLOO_SOCKET_IFNAME="lo"), timeout=HANG_S
    )
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path, n_speakers=6)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.toml")
    alone = Job(manifest, tmp_path / "alone.safetensors", recipe)
    train(alone, prepare(alone))
    command = ["train", "identify", str(manifest), "-o", str(tmp_path / "two.safetensors"), "--device", "cpu"]
    done = torchrun("-m", "framecls", *command, "--recipe", str(tmp_path / "recipe.toml"))
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


SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.recipe import read_recipe
from framecls.training.team import join_team

team, device = join_team("cpu")
manifest = Path(sys.argv[1])
job = Job(
    manifest, manifest.with_name("two.safetensors"), read_recipe(manifest.with_name("recipe.toml")),
    team=team, resume=True, stop_after=4,
)
parts = []
for part in (job, replace(job, stop_after=None)):
    parts.append([])
    train(part, prepare(part), lambda progress: parts[-1].append(progress.loss))
if team.is_first:
    print(json.dumps(parts))
team.close()
"""


def test_the_losses_of_two_processes_that_stop_and_resume_are_those_of_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    manifest = write_corpus(tmp_path, n_speakers=6)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "script.py").write_text(SCRIPT)
    alone = Job(manifest, tmp_path / "alone.safetensors", read_recipe(tmp_path / "recipe.toml"))
    expected: list[float] = []
    train(alone, prepare(alone), lambda progress: expected.append(progress.loss))
    losses = json.loads(torchrun(str(tmp_path / "script.py"), str(manifest)).stdout)
    assert [len(part) for part in losses] == [4, 4]
    assert losses[0] + losses[1] == pytest.approx(expected, abs=1e-4)
    assert len(set(np.round(expected, 3))) > 4  # a curve, not a constant


def make_batch(n_rows: int) -> Batch:
    return Batch(
        torch.arange(n_rows * 4.0).view(n_rows, 4),
        torch.full((n_rows,), 3),
        torch.tensor([[0, 1, IGNORED]] * n_rows),
        torch.tensor([[1, 2], [0, 0], [3, 0]][:n_rows]),
        torch.tensor([[IGNORED] * 3, [IGNORED] * 3, [1, 0, IGNORED]][:n_rows]),
        tuple("xyz"[:n_rows]),
    )


def test_examples_are_shared_out_once_each() -> None:
    shards = [take_shard(make_batch(3), rank, 2) for rank in range(2)]
    assert [shard.rows for shard in shards] == [[0, 2], [1]]
    assert [shard.n_rows for shard in shards] == [3, 3]
    assert shards[0].batch.waveform[1].tolist() == [8, 9, 10, 11]
    # Of 6 labels the first process has 4, of 2 timed phones both, of 1 string too.
    assert shards[0].weights == {"labels": pytest.approx(4 / 3), "timed phones": 2, "phone strings": 2}
    assert shards[1].weights == {"labels": pytest.approx(2 / 3), "timed phones": 0, "phone strings": 0}


def test_a_process_without_examples_has_no_weight() -> None:
    shards = [take_shard(make_batch(1), rank, 3) for rank in range(3)]
    assert [shard.weights["labels"] for shard in shards if shard.weights] == [3, 0, 0]
    assert all(len(shard.batch.n_frames) == 1 for shard in shards)
    assert take_shard(make_batch(1), 0, 1).weights is None


def test_alone_unless_torchrun_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_team("auto") == (ALONE, "auto")
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "99")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="start fewer with torchrun"):
        join_team("cuda")
