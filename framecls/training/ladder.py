"""Compare encoders: train each rung of the ladder on the same batches, with about as many parameters.

The rungs are trained in turn on each batch: their data are the same, and other load on the machine affects all alike.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from framecls.checkpoints.network import save_model
from framecls.config import EncoderConfig, ModelConfig
from framecls.inference.engine import Engine
from framecls.inference.windows import Window
from framecls.nn.network import Network
from framecls.report import TrainingPoint
from framecls.training.choices import LADDER, RUNGS
from framecls.training.examples.batch import Batch
from framecls.training.examples.loader import training_batches
from framecls.training.job import Data, Job
from framecls.training.loop import Run, measure_dev
from framecls.training.metrics.report import DevReport
from framecls.training.metrics.review import name_score

_TOLERANCE = 0.02  # relative difference of parameter counts that is as good as none
_SPEED_S = 0.4  # how long a network's speed is measured
_MIN_SPEED_RUNS = 3
_N_POINTS = 20  # of a learning curve


@dataclass(frozen=True)
class Plan:
    """How often the rungs are trained, and what is kept of it."""

    seeds: int = 1  # trainings of each rung, from the recipe's seed on; the data and their split stay
    batch_size: int | None = None  # windows of one forward pass when speed is measured
    save: Path | None = None  # folder for the trained models
    curves: bool = False  # measure on dev along the way, for learning curves


@dataclass(frozen=True)
class Rung:
    """The results of one rung."""

    name: str
    score: float  # the dev figure that `Ladder.figure` names; the mean over the seeds
    by_source: dict[str, float]  # the same for each source of the dev set, if there are several
    figures: dict[str, Any]  # all dev figures
    parameters: int
    encoder: EncoderConfig
    step_s: float  # seconds of a training step, without making its batch
    epoch_s: float  # of as many steps as have the length of the training set
    frames_per_s: float  # classified, features included
    scores: tuple[float, ...] = ()  # of each seed
    spread: float = 0.0  # their standard deviation; 0 of a single one
    curve: tuple[TrainingPoint, ...] = ()  # the mean over the seeds


@dataclass(frozen=True)
class Ladder:
    """The results of all rungs, and what they have in common."""

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
    seeds: int = 1  # trainings of each rung, from `seed` on


def compare(
    job: Job,
    data: Data,
    rungs: Sequence[str] = LADDER,
    plan: Plan | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ladder:
    """Train and measure the rungs of the ladder.

    Args:
        job: manifest, recipe and device; the recipe's network, with dot-product attention, sets the size.
        data: of this job, by `prepare`.
        rungs: keys of `RUNGS`.
        plan: how often, and what is kept; None: once, and no model.
        progress: called with the number of steps done, and of all.

    Raises:
        OutputError: a model cannot be written.
    """
    plan = plan or Plan()
    optim = job.recipe.optim
    train_s = sum(data.store.n_samples(recording.file) for recording in data.train) / data.store.sample_rate
    found: list[list[Rung]] = []
    for number in range(plan.seeds):
        trainees = _train(job, data, rungs, plan, number, progress)
        found.append([trainee.finish(train_s, plan) for trainee in trainees])
    return Ladder(
        task=data.config.task,
        labels=data.config.labels,
        figure=name_score(data.config),
        steps=optim.steps,
        seed=optim.seed,
        train_recordings=len(data.train),
        train_s=train_s,
        dev_recordings=len(data.dev),
        device=job.device,
        rungs=tuple(_average(list(of_seeds)) for of_seeds in zip(*found, strict=True)),
        seeds=plan.seeds,
    )


def _train(
    job: Job, data: Data, rungs: Sequence[str], plan: Plan, number: int, progress: Callable[[int, int], None] | None
) -> list[_Trainee]:
    """Train the rungs from a seed, the number of which says how many came before, all on each batch."""
    optim = job.recipe.optim
    job = replace(job, recipe=replace(job.recipe, optim=replace(optim, seed=optim.seed + number)))
    steps = optim.steps
    target = count_parameters(on_rung(data.config, "dot"))
    trainees = [_Trainee(name, Run(job, replace(data, config=fit_size(data.config, name, target)))) for name in rungs]
    every = max(1, steps // _N_POINTS)
    for step, batch in enumerate(training_batches(data, job.recipe, 0, steps), start=1):
        for trainee in trainees:
            trainee.step(batch)
            if step % every == 0:
                trainee.mark(measured=plan.curves)
        if progress is not None:
            progress(number * steps + step, plan.seeds * steps)
    return trainees


@dataclass
class _Trainee:
    """One rung in training."""

    name: str
    run: Run
    step_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # since the last point of the curve
    curve: list[TrainingPoint] = field(default_factory=list)

    def step(self, batch: Batch) -> None:
        """Take one step."""
        began = time.perf_counter()
        self.losses.append(self.run.train_step(batch))
        self.step_s.append(time.perf_counter() - began)

    def mark(self, *, measured: bool) -> None:
        """Add a point to the learning curve."""
        score = measure_dev(self._engine(None), self.run.data, self.run.recipe)[0].score if measured else None
        self.curve.append(TrainingPoint(self.run.step, float(np.mean(self.losses)), score))
        self.losses = []

    def _engine(self, batch_size: int | None) -> Engine:
        return Engine(self.run.averaged().eval(), torch.device(self.run.job.device), batch_size)

    def finish(self, train_s: float, plan: Plan) -> Rung:
        """Measure the averaged weights after the last step, and write the model if it is to be kept.

        Args:
            train_s: length of the training set.
            plan: what is measured and kept.
        """
        engine = self._engine(plan.batch_size)
        report, by_source = measure_dev(engine, self.run.data, self.run.recipe)
        if plan.save is not None:
            self._save(engine.network, report, plan, plan.save)
        # The first step includes one-time set-up.
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
            scores=(report.score,),
            curve=tuple(self.curve),
        )

    def _save(self, network: Network, report: DevReport, plan: Plan, folder: Path) -> None:
        seed = self.run.recipe.optim.seed
        card = {**network.config.card, "dev": report.figures, "step": self.run.step, "recipe": self.run.recipe.name}
        card["split"] = {"how": self.run.data.split, "seed": seed}
        config = replace(network.config, decision=report.decision, card=card)
        name = f"{self.name}.safetensors" if plan.seeds == 1 else f"{self.name}-{seed}.safetensors"
        save_model(network, folder / name, config=config, precision=self.run.recipe.stored)


def _average(rungs: Sequence[Rung]) -> Rung:
    """Return one rung for those of several seeds: means, and the spread of the score."""
    scores = tuple(rung.score for rung in rungs)
    points = zip(*(rung.curve for rung in rungs), strict=True)
    return replace(
        rungs[0],
        score=float(np.mean(scores)),
        by_source={source: float(np.mean([rung.by_source[source] for rung in rungs])) for source in rungs[0].by_source},
        step_s=float(np.mean([rung.step_s for rung in rungs])),
        epoch_s=float(np.mean([rung.epoch_s for rung in rungs])),
        frames_per_s=float(np.mean([rung.frames_per_s for rung in rungs])),
        scores=scores,
        spread=float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
        curve=tuple(_average_point(list(of_seeds)) for of_seeds in points),
    )


def _average_point(points: Sequence[TrainingPoint]) -> TrainingPoint:
    scores = [point.score for point in points if point.score is not None]
    loss = float(np.mean([point.loss for point in points]))
    return TrainingPoint(points[0].step, loss, float(np.mean(scores)) if scores else None)


def on_rung(config: ModelConfig, name: str) -> ModelConfig:
    """Return the settings with the encoder of a rung, at the same sizes."""
    return replace(config, encoder=replace(config.encoder, **RUNGS[name]))  # type: ignore[arg-type]


def fit_size(config: ModelConfig, name: str, target: int) -> ModelConfig:
    """Return the settings of a rung with about `target` parameters.

    The recipe's sizes stay where they come near. Otherwise `dim` is the greatest that gives no more parameters, with
    `ff_dim` in proportion, and then `ff_dim` grows by what is missing.
    """
    config = on_rung(config, name)
    encoder = config.encoder
    width = encoder.ff_dim / encoder.dim

    def resized(heads: int, more: int = 0) -> ModelConfig:
        dim = heads * encoder.n_heads  # the heads divide it
        return replace(config, encoder=replace(encoder, dim=dim, ff_dim=max(1, round(width * dim)) + more))

    def excess(candidate: ModelConfig) -> int:
        return count_parameters(candidate) - target

    if abs(excess(config)) <= _TOLERANCE * target:
        return config
    sizes = range(1, 4096 // encoder.n_heads + 1)
    heads = max(1, bisect_right(sizes, 0, key=lambda n: excess(resized(n))))
    extra = range(1, 2 * encoder.ff_dim + 1) if encoder.n_layers else ()
    more = bisect_right(extra, 0, key=lambda n: excess(resized(heads, n)))
    return min((resized(heads, n) for n in (more, more + 1)), key=lambda candidate: abs(excess(candidate)))


def count_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of a network of these settings, without those of a pre-trained encoder."""
    with torch.device("meta"):  # without memory for them
        network = Network(config, nn.Identity() if config.features.kind == "pretrained" else None)
    return sum(p.numel() for p in network.parameters())


def measure_speed(engine: Engine) -> float:
    """Measure how many frames a second a network classifies, in batches of whole windows."""
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
    # Other load can only slow it down, so the fastest run counts.
    return engine.batch_size * config.window_frames / min(spent_s)
