"""The training loop: step, measure on dev, keep the best weights, save the state of the run."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from framecls.checkpoints.network import fill, new_network, save_model
from framecls.errors import ConfigError, ModelError
from framecls.inference.engine import Engine
from framecls.nn.network import Network, Output
from framecls.training.examples.augment import mask_features, sample_masks
from framecls.training.examples.batch import Batch
from framecls.training.examples.loader import dev_batches, make_examples, training_batches
from framecls.training.examples.pooled import PooledExamples
from framecls.training.examples.voices import VoiceExamples
from framecls.training.job import Data, Job
from framecls.training.losses import Shard, VoiceLoss, batch_loss, take_shard
from framecls.training.metrics.frames import collect_frames, report_frames
from framecls.training.metrics.measure import measure
from framecls.training.metrics.report import DevReport
from framecls.training.optimizer import freeze, initialise, learning_rate, make_optimizer
from framecls.training.recipe import Recipe
from framecls.training.state import Identity, State, StateFile

_RANK_STRIDE = 998_244_353  # between the seeds of the processes of a run


@dataclass(frozen=True)
class Progress:
    """The progress of a run, reported after each step and each dev measurement."""

    step: int
    steps: int
    loss: float
    seconds_left: float
    dev: DevReport | None = None
    saved_step: int = 0  # from which the run could be resumed; 0: from none


def measure_dev(engine: Engine, data: Data, recipe: Recipe) -> tuple[DevReport, dict[str, float]]:
    """Measure a network on the dev set: on whole recordings, or on examples where the task mixes or cuts them.

    Returns:
        the report, and the score of each source where there are several.
    """
    examples = make_examples(data, recipe, dev=True)
    if isinstance(examples, VoiceExamples):
        report = measure(engine.network, dev_batches(data, recipe))
        return report, {source: 1 - row["equal_error_rate"] for source, row in report.figures["sources"].items()}
    if isinstance(examples, PooledExamples) or recipe.mix.enabled:
        report = measure(engine.network, dev_batches(data, recipe))
        by_source = {source: row["balanced_accuracy"] for source, row in report.figures.get("sources", {}).items()}
        return report, by_source if len(by_source) > 1 else {}
    logits, truth = collect_frames(engine, data.dev, data.store, examples)
    groups: dict[str, list[int]] = {}
    for index, recording in enumerate(data.dev):
        groups.setdefault(recording.source, []).append(index)
    by_source = {
        source: report_frames(engine.config, [logits[i] for i in group], [truth[i] for i in group]).score
        for source, group in groups.items()
    }
    return report_frames(engine.config, logits, truth), by_source if len(by_source) > 1 else {}


class _Classifier(nn.Module):
    """The network after its features, as the one module whose gradients are averaged over processes."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, vectors: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self.network.classify(vectors, n_frames)
        return output.logits, output.phone_logits


class Run:
    """The network, its moving average, the optimizer and the counters of a training run."""

    def __init__(self, job: Job, data: Data) -> None:
        self.job, self.data, self.recipe = job, data, job.recipe
        torch.manual_seed(job.recipe.optim.seed)
        self.network = new_network(data.config, job.recipe.features.pretrained.source).to(job.device)
        initialised = initialise(self.network, job.init) if job.init else set()
        if job.recipe.optim.frozen_layers:
            freeze(self.network.encoder, job.recipe.optim.frozen_layers, initialised)
        self.average = {key: value.detach().clone() for key, value in self.network.named_parameters()}
        self.trained = {key: value for key, value in self.network.named_parameters() if value.requires_grad}
        self.voice_loss: VoiceLoss | None = None
        examples = make_examples(data, job.recipe, dev=False) if data.config.embedding else None
        if isinstance(examples, VoiceExamples):
            anchors = data.teacher.vectors if data.teacher else None
            self.voice_loss = VoiceLoss(examples.initial_centres(), anchors, job.recipe.voices).to(job.device)
            # Parameters of the run and its state, not of the model.
            self.trained |= {f"voices.{key}": value for key, value in self.voice_loss.named_parameters()}
        self.optimizer = make_optimizer(self.trained, job.recipe, initialised)
        self.classifier = job.team.wrap(_Classifier(self.network))
        self.step = 0
        self.best = -math.inf
        self.since_best = 0
        self.saved_step = 0  # of the state on disk; 0: there is none
        self._heard: dict[int, Tensor] = {}  # the vectors of the batches that are kept
        self._file, self._identity = StateFile(job), Identity(job, data)

    def train_step(self, batch: Batch) -> float:
        """Take one step on a batch, or on this process's shard of it, and return the loss of the batch.

        Raises:
            ConfigError: the gradients are not finite.
        """
        recipe = self.recipe
        shard = take_shard(batch, self.job.team.rank, self.job.team.size)
        # Dropout and masks depend on the step's number alone, so a resumed run repeats them; each process has other
        # dropout, since its examples are others.
        torch.manual_seed(recipe.optim.seed * 1_000_003 + self.step + self.job.team.rank * _RANK_STRIDE)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, recipe) * group["share"]
        output = self._forward(shard)
        if self.voice_loss is not None:
            loss: Tensor = self.voice_loss(output.logits, shard.batch)
        else:
            loss = batch_loss(output, shard.batch, self.data.config, recipe, shard.weights)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        # All processes have the same gradients, so all of them fail here or none.
        if not math.isfinite(float(nn.utils.clip_grad_norm_(self.trained.values(), recipe.optim.clip_norm))):
            raise ConfigError(
                f"step {self.step + 1}: the loss is {float(loss.detach()):g} and its gradients are no finite numbers: "
                "begin anew with a lower learning rate than "
                f"{recipe.optim.learning_rate:g} (--set optim.learning_rate=RATE)"
            )
        self.optimizer.step()
        self.step += 1
        decay = min(recipe.optim.ema_decay, self.step / (self.step + 10))  # faster in the first steps
        with torch.no_grad():
            for key, value in self.network.named_parameters():
                self.average[key].lerp_(value, 1 - decay)
        return self.job.team.mean(float(loss.detach()))

    def _forward(self, shard: Shard) -> Output:
        device, features = self.job.device, self.data.config.features
        n_frames = shard.batch.n_frames.to(device)
        # Spectra have no parameters and want full precision; a pre-trained encoder is a network like the rest.
        learns = any(parameter.requires_grad for parameter in self.network.features.parameters())
        low = self.recipe.optim.precision == "bfloat16"
        autocast = partial(torch.autocast, torch.device(device).type, dtype=torch.bfloat16)
        with torch.set_grad_enabled(learns), autocast(enabled=low and features.kind == "pretrained"):
            vectors = self._hear(shard.batch.waveform, n_frames)
            rng = np.random.default_rng((self.recipe.optim.seed, self.step, 1))
            shape = (shard.n_rows, *vectors.shape[1:])
            masks = sample_masks(shape, rng, self.recipe.augment, features.vectors_per_s)
            vectors = mask_features(vectors, masks[shard.rows])
        with autocast(enabled=low):
            return Output(*self.classifier(vectors, n_frames))

    def _hear(self, waveform: Tensor, n_frames: Tensor) -> Tensor:
        """Return (batch, vector, feature) of (batch, sample), or those that are kept of this step's batch."""
        n_kept = self.recipe.optim.kept_batches
        if not n_kept:
            return self.network.extract(waveform.to(n_frames.device), n_frames)
        number = self.step % n_kept
        if number not in self._heard:
            self._heard[number] = self.network.extract(waveform.to(n_frames.device), n_frames).to("cpu", torch.float16)
        return self._heard[number].to(n_frames.device, torch.float32)

    def try_step(self) -> float:
        """Return the seconds of a step that nothing is learnt by."""
        began_s = time.monotonic()
        batch = make_examples(self.data, self.recipe, dev=False).make_batch(self.step)
        output = self._forward(take_shard(batch, 0, 1))
        loss = output.logits.float().sum()
        torch.autograd.backward(loss)
        loss.item()  # what a GPU still has to do
        self.optimizer.zero_grad()
        return time.monotonic() - began_s

    def averaged(self) -> Network:
        """Return a copy of the network with the moving average of its weights."""
        network = copy.deepcopy(self.network)
        fill(network, self.average, "the averaged weights")
        return network

    def measure(self) -> DevReport:
        """Measure the averaged weights on dev, and write the model file if they are to be kept."""
        network = self.averaged()
        engine = Engine(network.eval(), torch.device(self.job.device))
        report, _ = measure_dev(engine, self.data, self.recipe)
        self.since_best += 1
        is_best = report.score > self.best
        if is_best:
            self.best, self.since_best = report.score, 0
        # While no score is a number, the last weights are kept.
        if is_best or self.recipe.optim.keep == "last" or self.best == -math.inf:
            card = {**self.data.config.card, "dev": report.figures, "step": self.step, "recipe": self.recipe.name}
            card["split"] = {"how": self.data.split, "seed": self.recipe.optim.seed}
            config = replace(self.data.config, decision=report.decision, card=card)
            save_model(network, self.job.output, config=config, precision=self.recipe.stored)
        return report

    def measure_together(self) -> DevReport:
        """Measure in the first process; return its report in all."""
        report = None
        if self.job.team.is_first:
            report = replace(self.measure(), outputs=None)
        report, self.best, self.since_best = self.job.team.broadcast((report, self.best, self.since_best))
        assert report is not None
        return report

    def save(self) -> None:
        """Write the state of the run atomically.

        Raises:
            OutputError: it cannot be written.
        """
        tensors = {f"network.{k}": v.detach() for k, v in self.network.named_parameters()}
        tensors |= {f"network.{k}": v.detach() for k, v in self.trained.items() if k.startswith("voices.")}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for key, parameter in self.trained.items():
            state = self.optimizer.state[parameter]
            tensors |= {f"optimizer.{name}.{key}": value for name, value in state.items()}
        self._file.write(State(tensors, self.step, self.best, self.since_best), self._identity)
        self.saved_step = self.step

    def is_over(self) -> bool:
        """Return whether the run has stopped early: no gain for `optim.patience` measurements."""
        return 0 < self.recipe.optim.patience <= self.since_best

    def load(self) -> None:
        """Restore the saved state, if there is one.

        Raises:
            ModelError: it is of another run, or cannot be read.
        """
        state = self._file.read(self._identity, self.job.device)
        if state is None:
            return
        tensors = state.tensors
        self.step, self.best, self.since_best, self.saved_step = state.step, state.best, state.since_best, state.step
        parameters = {**dict(self.network.named_parameters()), **self.trained}
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(tensors[f"network.{key}"])
                if key in self.average:
                    self.average[key].copy_(tensors[f"average.{key}"])
                if f"optimizer.step.{key}" not in tensors:  # not trained, or without any gradient so far
                    continue
                moments = {name: tensors[f"optimizer.{name}.{key}"] for name in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {**moments, "step": tensors[f"optimizer.step.{key}"].cpu()}


class Checkpointer:
    """Save the state of a run at intervals, so that it takes at most a twentieth of the time."""

    _SHARE = 0.05

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saved_at_s = time.monotonic()
        self._wait_s = run.job.save_every_s

    def save(self) -> None:
        """Save the state, in the first process."""
        if not self._run.job.team.is_first:
            return
        began_s = time.monotonic()
        self._run.save()
        self._saved_at_s = time.monotonic()
        spent_s = self._saved_at_s - began_s
        every_s = self._run.job.save_every_s
        self._wait_s = max(every_s, spent_s / self._SHARE) if every_s else 0.0

    def save_if_due(self) -> None:
        """Save the state if there were steps since the last time, and it was long enough ago."""
        if self._run.step > self._run.saved_step and time.monotonic() - self._saved_at_s >= self._wait_s:
            self.save()


def train(
    job: Job,
    data: Data,
    progress: Callable[[Progress], None] | None = None,
    resumed: Callable[[int], None] | None = None,
    estimated: Callable[[float], None] | None = None,
) -> DevReport:
    """Train a model and write it to `job.output`; the state of the run is kept beside it.

    Args:
        job: manifest, recipe, output.
        data: what `prepare` gave for this job.
        progress: called after each step.
        resumed: called with the number of steps done before, for a run that is to be resumed.
        estimated: called before the first step with about how many seconds all will take, where one tells that of all.

    Returns:
        the last dev report; the file holds the weights of the best one, or of the last where no score is a number.

    Raises:
        ConfigError: the gradients are not finite.
        ModelError: the run cannot be resumed, or the model not be written.
        OutputError: the state of the run cannot be written.
    """
    run, recipe, team = Run(job, data), job.recipe, job.team
    if job.resume:
        run.load()
        if run.step != team.broadcast(run.step):
            raise ModelError(f"{job.folder}: not all machines see the same state there: share its disk to --resume")
        if resumed is not None:
            resumed(run.step)
    last = run.step if run.is_over() else min(recipe.optim.steps, job.stop_after or recipe.optim.steps)
    if estimated is not None and team.size == 1 and not recipe.optim.kept_batches and run.step < last:
        estimated(run.try_step() * (last - run.step))
    began, first = time.monotonic(), run.step
    checkpointer = Checkpointer(run)
    report = None
    for batch in training_batches(data, recipe, run.step, last):
        loss = run.train_step(batch)
        is_last = run.step == recipe.optim.steps
        if run.step % recipe.optim.dev_every == 0 or is_last:
            report = run.measure_together()
            checkpointer.save()
        checkpointer.save_if_due()
        if progress is not None:
            per_step_s = (time.monotonic() - began) / (run.step - first)
            left_s = per_step_s * (recipe.optim.steps - run.step)
            progress(Progress(run.step, recipe.optim.steps, loss, left_s, report, run.saved_step))
        if run.is_over():
            break
    return report or run.measure_together()
