"""The training loop: step, measure, keep the best, and save what a run needs to go on after a break."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from framecls.checkpoints.network import fill, new_network, save_model
from framecls.errors import ConfigError, ModelError
from framecls.inference.engine import Engine
from framecls.nn.network import Network, Output
from framecls.training.examples.augment import mask_features
from framecls.training.examples.mixtures import PooledExamples
from framecls.training.examples.voices import VoiceExamples
from framecls.training.job import Data, Job
from framecls.training.losses import loss_of
from framecls.training.metrics.measure import DevReport, collect_frames, measure, report_frames
from framecls.training.optimizer import freeze, learning_rate, make_optimizer, take_weights
from framecls.training.recipe import Recipe
from framecls.training.state import Identity, State, StateFile
from framecls.training.supply import Examples, dev_batches, make_examples, training_batches
from framecls.training.team import Part

_RANK_STRIDE = 998_244_353  # seeds of the processes of a run lie this far apart


@dataclass(frozen=True)
class Progress:
    """Where a run stands, told to the caller after each step and each dev measurement."""

    step: int
    steps: int
    loss: float
    seconds_left: float
    dev: DevReport | None = None
    saved_step: int = 0  # from which a run that is cut off now could go on; 0: from none


def measure_dev(engine: Engine, data: Data, recipe: Recipe) -> tuple[DevReport, dict[str, float]]:
    """Measure a network on the dev set: on whole recordings, unless the task mixes or cuts them into examples.

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
    """The network from feature vectors on, as the one call that all processes share."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, vectors: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self.network.classify(vectors, n_frames)
        return output.logits, output.phone_logits


class Run:
    """The moving parts of a training run; all that a resumed run needs is in `state`."""

    def __init__(self, job: Job, data: Data) -> None:
        self.job, self.data, self.recipe = job, data, job.recipe
        torch.manual_seed(job.recipe.optim.seed)
        self.network = new_network(data.config, job.recipe.features.pretrained.source).to(job.device)
        brought = take_weights(self.network, job.init) if job.init else set()
        if job.recipe.optim.frozen_layers:
            freeze(self.network.encoder, job.recipe.optim.frozen_layers, brought)
        self.average = {key: value.detach().clone() for key, value in self.network.named_parameters()}
        self.trained = {key: value for key, value in self.network.named_parameters() if value.requires_grad}
        examples = make_examples(data, job.recipe, dev=False) if data.config.embedding else None
        self.voices = examples.make_loss().to(job.device) if isinstance(examples, VoiceExamples) else None
        if self.voices is not None:
            # They are not a part of the model: only a run has them, and its state.
            self.trained |= {f"voices.{key}": value for key, value in self.voices.named_parameters()}
        self.optimizer = make_optimizer(self.trained, job.recipe, brought)
        self.classifier = job.team.wrap(_Classifier(self.network))
        self.step = 0
        self.best = -math.inf
        self.since_best = 0
        self.saved_step = 0  # that of the state on disk; 0: there is none of this run
        self._file, self._identity = StateFile(job), Identity(job, data)

    def learn(self, part: Part) -> float:
        """Take one step and return the loss.

        Raises:
            ConfigError: it went wild: there are gradients that are no finite numbers.
        """
        recipe, device = self.recipe, self.job.device
        # Dropout and masks of a step depend on its number alone, so a resumed run repeats them.
        # Each process drops out other numbers: its examples are others.
        torch.manual_seed(recipe.optim.seed * 1_000_003 + self.step + self.job.team.rank * _RANK_STRIDE)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, recipe) * group["share"]
        low = recipe.optim.precision == "bfloat16"
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=low):
            output = self._classify(part)
        if self.voices is not None:
            loss: Tensor = self.voices(output.logits, part.batch)
        else:
            loss = loss_of(output, part, self.data.config, recipe)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        # All processes of a run have the same gradients: where one gives up here, all do.
        if not math.isfinite(float(nn.utils.clip_grad_norm_(self.trained.values(), recipe.optim.clip_norm))):
            raise ConfigError(
                f"step {self.step + 1}: the loss is {float(loss.detach()):g} and its gradients are no finite numbers: "
                "begin anew with a lower learning rate than "
                f"{recipe.optim.learning_rate:g} (--set optim.learning_rate=RATE)"
            )
        self.optimizer.step()
        self.step += 1
        decay = min(recipe.optim.ema_decay, self.step / (self.step + 10))  # an average of few steps forgets fast
        with torch.no_grad():
            for key, value in self.network.named_parameters():
                self.average[key].lerp_(value, 1 - decay)
        return self.job.team.mean(float(loss.detach()))

    def _classify(self, part: Part) -> Output:
        batch, device, n_frames = part.batch, self.job.device, part.batch.n_frames.to(self.job.device)
        features = self.data.config.features
        # Spectra have nothing to learn and want all their digits; a pre-trained encoder is a network like the rest.
        learns = any(parameter.requires_grad for parameter in self.network.features.parameters())
        low = self.recipe.optim.precision == "bfloat16" and features.kind == "pretrained"
        autocast = torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=low)
        with torch.set_grad_enabled(learns), autocast:
            vectors = self.network.extract(batch.waveform.to(device), n_frames)
            vectors = self._mask(vectors, part, features.vectors_per_s)
        return Output(*self.classifier(vectors, n_frames))

    def _mask(self, vectors: Tensor, part: Part, vectors_per_s: float) -> Tensor:
        """Blank parts of (batch, vector, feature), each example as it would be in the whole batch."""
        rng = np.random.default_rng((self.recipe.optim.seed, self.step, 1))
        if part.n_parts == 1:
            return mask_features(vectors, rng, self.recipe.augment, vectors_per_s)
        at = {row: place for place, row in enumerate(part.rows)}
        masked = [vectors[place : place + 1] for place in range(len(vectors))]
        for row in range(part.n_rows):
            place = at.get(row, 0)  # for a row of another process something is masked too, and forgotten
            blanked = mask_features(vectors[place : place + 1], rng, self.recipe.augment, vectors_per_s)
            masked[place] = blanked if row in at else masked[place]
        return torch.cat(masked)

    def averaged(self) -> Network:
        """Return a copy of the network with the moving average of its weights."""
        network = copy.deepcopy(self.network)
        fill(network, self.average, "the averaged weights")
        return network

    def measure(self) -> DevReport:
        """Measure the averaged weights on dev, and write the model file if the recipe wants them kept."""
        network = self.averaged()
        engine = Engine(network.eval(), torch.device(self.job.device))
        report, _ = measure_dev(engine, self.data, self.recipe)
        self.since_best += 1
        is_best = report.score > self.best
        if is_best:
            self.best, self.since_best = report.score, 0
        # While no score is a number, none is better: then the last weights are kept, rather than none.
        if is_best or self.recipe.optim.keep == "last" or self.best == -math.inf:
            card = {**self.data.config.card, "dev": report.figures, "step": self.step, "recipe": self.recipe.name}
            card["split"] = {"how": self.data.split, "seed": self.recipe.optim.seed}
            config = replace(self.data.config, decision=report.decision, card=card)
            save_model(network, self.job.output, config=config, precision=self.recipe.stored)
        return report

    def measure_together(self) -> DevReport:
        """Let the first process measure, and tell the others."""
        report = None
        if self.job.team.is_first:
            report = replace(self.measure(), answers=None)
        report, self.best, self.since_best = self.job.team.hear_first((report, self.best, self.since_best))
        assert report is not None
        return report

    def save(self) -> None:
        """Write the state of the run, whole or not at all.

        Raises:
            OutputError: there is no room for it, or no such place.
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
        """Return whether the run has stopped early, for want of gain."""
        return 0 < self.recipe.optim.patience <= self.since_best

    def load(self) -> None:
        """Go back to the saved state, if there is one.

        Raises:
            ModelError: it belongs to another recipe, other labels or other recordings, or cannot be read.
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
                if f"optimizer.step.{key}" not in tensors:  # not trained, or no loss has reached it so far
                    continue
                moments = {name: tensors[f"optimizer.{name}.{key}"] for name in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {**moments, "step": tensors[f"optimizer.step.{key}"].cpu()}


class Saving:
    """Saves the state of a run now and then, so seldom that it costs little."""

    _SHARE = 0.05  # of the time may go into saving

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saved_at_s = time.monotonic()
        self._wait_s = run.job.save_every_s

    def save(self) -> None:
        """Save the state, if this is the process that writes."""
        if not self._run.job.team.is_first:
            return
        began_s = time.monotonic()
        self._run.save()
        self._saved_at_s = time.monotonic()
        spent_s = self._saved_at_s - began_s
        every_s = self._run.job.save_every_s
        self._wait_s = max(every_s, spent_s / self._SHARE) if every_s else 0.0

    def save_if_due(self) -> None:
        """Save the state, if the last time was long enough ago and anything has happened since."""
        if self._run.step > self._run.saved_step and time.monotonic() - self._saved_at_s >= self._wait_s:
            self.save()


def train(
    job: Job,
    data: Data,
    progress: Callable[[Progress], None] | None = None,
    resumed: Callable[[int], None] | None = None,
) -> DevReport:
    """Train a model and write it to `job.output`; the state of the run is kept beside it.

    Args:
        job: manifest, recipe, output.
        data: what `prepare` gave for this job.
        progress: told after each step.
        resumed: told how many steps were done before, of a run that is to be resumed.

    Returns:
        the last dev report; the file holds the weights of the best one, or of the last where no score is a number.

    Raises:
        ConfigError: the weights went wild.
        ModelError: the run cannot be resumed, or the model not be written.
        OutputError: there is no room for the state of the run.
    """
    run, recipe, team = Run(job, data), job.recipe, job.team
    if job.resume:
        run.load()
        if run.step != team.hear_first(run.step):
            raise ModelError(f"{job.folder}: not all machines see the same state there: share its disk to --resume")
        if resumed is not None:
            resumed(run.step)
    last = min(recipe.optim.steps, job.stop_after or recipe.optim.steps)
    examples: Examples = make_examples(data, recipe, dev=False)
    began, first = time.monotonic(), run.step
    saving = Saving(run)
    report = None
    if run.is_over():
        last = run.step
    own = training_batches(data, recipe, run.step, last, examples, team)
    for part in team.deal(own, run.step, last):
        loss = run.learn(part)
        is_last = run.step == recipe.optim.steps
        if run.step % recipe.optim.dev_every == 0 or is_last:
            report = run.measure_together()
            saving.save()
        saving.save_if_due()
        if progress is not None:
            per_step_s = (time.monotonic() - began) / (run.step - first)
            left_s = per_step_s * (recipe.optim.steps - run.step)
            progress(Progress(run.step, recipe.optim.steps, loss, left_s, report, run.saved_step))
        if run.is_over():
            break
    return report or run.measure_together()
