"""The ladder, climbed: every rung learns from the same batches for as long, with about as many parameters.

The rungs climb side by side. Each batch is made once and each rung takes its step on it, so the data cannot differ, and
whatever else the machine is doing falls on all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from framecls.config import EncoderConfig, ModelConfig
from framecls.inference.engine import Engine
from framecls.inference.windows import Window
from framecls.nn.network import Network
from framecls.training.job import Data, Job
from framecls.training.loop import Run, measure_dev
from framecls.training.names import LADDER, RUNGS
from framecls.training.supply import training_batches
from framecls.training.team import cut

_NEAR = 0.02  # numbers of parameters this share apart are as good as equal
_SPEED_S = 0.4  # how long a network's speed is measured
_MIN_SPEED_RUNS = 3


@dataclass(frozen=True)
class Rung:
    """What became of one rung."""

    name: str
    score: float  # the dev figure that `Ladder.figure` names
    by_source: dict[str, float]  # the same of each source of the dev set, where it has several
    figures: dict[str, Any]  # all dev figures
    parameters: int
    encoder: EncoderConfig
    step_s: float  # one training step, the making of its batch not counted
    epoch_s: float  # as many steps as read the length of the training set
    frames_per_s: float  # of whole windows of sound, features and all


@dataclass(frozen=True)
class Ladder:
    """Rungs that can be compared, and what they have in common."""

    task: str
    labels: tuple[str, ...]
    figure: str
    steps: int
    seed: int
    train_recordings: int
    train_s: float
    dev_recordings: int
    device: str
    rungs: tuple[Rung, ...]


def compare(
    job: Job,
    data: Data,
    rungs: Sequence[str] = LADDER,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ladder:
    """Train and measure the rungs of the ladder. Nothing is written.

    Args:
        job: manifest, recipe and device; the recipe's network, as scaled dot-product attention, sets the size.
        data: what `job.prepare` gave for this job.
        rungs: names from `names.RUNGS`.
        batch_size: windows of one forward pass where speed is measured.
        progress: told the number of steps done, and of all.
    """
    steps = job.recipe.optim.steps
    target = count_parameters(on_rung(data.config, "dot"))
    climbers = [Climber(name, Run(job, replace(data, config=fit_size(data.config, name, target)))) for name in rungs]
    for number, batch in enumerate(training_batches(data, job.recipe, 0, steps), start=1):
        for climber in climbers:
            began = time.perf_counter()
            climber.run.learn(cut(batch, 1)[0])
            climber.step_s.append(time.perf_counter() - began)
        if progress is not None:
            progress(number, steps)
    train_s = sum(data.store.n_samples(recording.file) for recording in data.train) / data.store.sample_rate
    return Ladder(
        task=data.config.task,
        labels=data.config.labels,
        figure=name_figure(data.config),
        steps=steps,
        seed=job.recipe.optim.seed,
        train_recordings=len(data.train),
        train_s=train_s,
        dev_recordings=len(data.dev),
        device=job.device,
        rungs=tuple(climber.finish(train_s, batch_size) for climber in climbers),
    )


@dataclass
class Climber:
    """One rung while it learns."""

    name: str
    run: Run
    step_s: list[float] = field(default_factory=list)

    def finish(self, train_s: float, batch_size: int | None) -> Rung:
        """Measure what was learnt: the moving average of the weights, after the last step.

        Args:
            train_s: length of the training set.
            batch_size: windows of one forward pass where speed is measured.
        """
        engine = Engine(self.run.averaged().eval(), torch.device(self.run.job.device), batch_size)
        report, by_source = measure_dev(engine, self.run.data, self.run.recipe)
        # The first step also pays for what is set up once.
        step_s = float(np.mean(self.step_s[1:] or self.step_s))
        return Rung(
            name=self.name,
            score=report.score,
            by_source=by_source,
            figures=report.figures,
            parameters=sum(p.numel() for p in engine.network.parameters()),
            encoder=engine.config.encoder,
            step_s=step_s,
            epoch_s=step_s * train_s / self.run.recipe.optim.batch_s,
            frames_per_s=measure_speed(engine),
        )


def on_rung(config: ModelConfig, name: str) -> ModelConfig:
    """Return the settings with the encoder of a rung, its sizes as they are."""
    return replace(config, encoder=replace(config.encoder, **RUNGS[name]))  # type: ignore[arg-type]


def fit_size(config: ModelConfig, name: str, target: int) -> ModelConfig:
    """Return the settings of a rung with about `target` parameters.

    The recipe's own sizes stay where they come near. Otherwise the encoder's dim is the greatest that is not too many,
    its fully-connected layers as much wider than that as the recipe has them; what is then still missing, they get.
    """
    config = on_rung(config, name)
    encoder = config.encoder
    width = encoder.ff_dim / encoder.dim

    def sized(heads: int, more: int = 0) -> ModelConfig:
        dim = heads * encoder.n_heads  # the heads divide it
        return replace(config, encoder=replace(encoder, dim=dim, ff_dim=max(1, round(width * dim)) + more))

    def misses(candidate: ModelConfig) -> int:
        return count_parameters(candidate) - target

    if abs(misses(config)) <= _NEAR * target:
        return config
    heads = _greatest(lambda n: misses(sized(n)) <= 0, 1, 4096 // encoder.n_heads)
    more = _greatest(lambda n: misses(sized(heads, n)) <= 0, 0, 2 * encoder.ff_dim) if encoder.n_layers else 0
    return min((sized(heads, n) for n in (more, more + 1)), key=lambda candidate: abs(misses(candidate)))


def _greatest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the greatest number in low..high for which something holds, which holds for all below it; low if none."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def count_parameters(config: ModelConfig) -> int:
    """Return how many numbers a network of these settings learns, but for those of a pre-trained encoder."""
    frontend = nn.Identity() if config.features.kind == "pretrained" else None
    return sum(p.numel() for p in Network(config, frontend).parameters())


def name_figure(config: ModelConfig) -> str:
    """Return what the score of a dev report of this task is."""
    if config.task == "pooled":
        return "balanced accuracy"
    return "mean F1" if config.overlapping else "accuracy"


def measure_speed(engine: Engine) -> float:
    """Return how many frames a second a network classifies, in batches of whole windows."""
    config = engine.config
    n_samples = config.window_frames * config.hop_samples + 2 * config.features.margin_samples
    shape = (n_samples, *config.features.sample_shape)
    noise = 0.1 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    windows = [(Window(0, config.window_frames), noise)] * engine.batch_size
    spent_s: list[float] = []
    while len(spent_s) < _MIN_SPEED_RUNS or sum(spent_s) < _SPEED_S:
        began = time.perf_counter()
        list(engine.forward(windows))
        spent_s.append(time.perf_counter() - began)
    # Whatever else the machine does can only slow it down.
    return engine.batch_size * config.window_frames / min(spent_s)
