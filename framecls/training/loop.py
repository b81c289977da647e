"""The training loop: read, split, decode once, then step, measure and keep the best."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.checkpoint import fill, save_model
from framecls.config import FeatureConfig, ModelConfig
from framecls.engine import Engine
from framecls.errors import ConfigError, ManifestError, ModelError
from framecls.modelfile import read_weights
from framecls.nn.encoder import Encoder
from framecls.nn.model import Network, Output
from framecls.speech_encoder import look_up
from framecls.training.augment import mask_features
from framecls.training.clips import ClipStore, array_size, open_clips
from framecls.training.examples import IGNORED, Batch, FrameExamples, PooledExamples
from framecls.training.manifest import (
    Recording,
    SplitBy,
    check_labels,
    find_labels,
    find_phones,
    read_manifest,
    split_recordings,
)
from framecls.training.measure import DevReport, collect_frames, measure, report_frames
from framecls.training.recipe import Recipe
from framecls.training.sources import Reading
from framecls.training.spoken import spell_all
from framecls.training.team import ALONE, Part, Team
from framecls.training.voices import Teacher, VoiceExamples, read_teacher

N_DEV_BATCHES = 24
DEV_NUMBER = 10**9  # dev batches are numbered from here, so that no training batch is one of them
_BATCHES_AHEAD = 4
_TUNED = "features.encoder.carried."  # parameters of a pre-trained encoder are called so
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


@dataclass(frozen=True)
class Job:
    """What to train on and where to put it."""

    manifest: Path
    output: Path
    recipe: Recipe
    noise: Path | None = None  # a manifest of recordings to hide speech in
    teacher: Path | None = None  # what another model makes of the recordings, for an embedding to match
    init: Path | None = None  # a model whose weights are taken where name and shape agree
    resume: bool = False
    device: str = "cpu"
    cache: Path | None = None  # folder for the decoded recordings; None: that of the run
    team: Team = ALONE  # the processes that share the work
    stop_after: int | None = None  # steps after which to leave off; the schedule stays that of the whole run
    tier: str | None = None  # of TextGrids that have several
    split_by: SplitBy | None = None  # what stays together where the manifest gives no split; None: what it allows
    save_every_s: float = 60.0  # the state is saved about as often, besides after each dev measurement

    @property
    def folder(self) -> Path:
        """Where the state of the run lives, and the decoded recordings unless there is a cache."""
        return self.output.with_name(f"{self.output.name}.training")


@dataclass(frozen=True)
class Data:
    """Recordings that are split, decoded and checked."""

    train: list[Recording]
    dev: list[Recording]
    noise: list[Recording]
    store: ClipStore
    config: ModelConfig
    split: str  # how recordings were told apart into train and dev
    shared_speakers: tuple[str, ...] = ()  # heard on both sides all the same
    teacher: Teacher | None = None


def prepare(job: Job, decoded: Callable[[int, int], None] | None = None) -> Data:
    """Read, split, decode and check everything that a run needs; train nothing.

    Raises:
        ManifestError: something in the manifest cannot be used, or one of the splits would be empty.
    """
    recordings = read_manifest(job.manifest, reading(job))
    if job.recipe.hear_phones and job.recipe.task == "frame":
        recordings = spell_all(recordings, set(find_labels(recordings)) - set(job.recipe.silent))
    noise = read_manifest(job.noise) if job.noise else []
    config = job.recipe.model_config(find_labels(recordings), find_phones(recordings))
    features = given_features(job.recipe, array_size(recordings))
    config = replace(config, features=job.team.in_turn(lambda: look_up(features)))
    teacher = read_teacher(job.teacher) if job.teacher else None
    _check_task(job, config, recordings)
    parts = split_recordings(recordings, job.recipe.optim.seed, split_by(job))
    if fault := parts.find_fault():
        raise ManifestError(f"{job.manifest}: {fault}")
    cache = job.cache or job.folder
    store = job.team.in_turn(lambda: open_clips([*recordings, *noise], config.features.sample_rate, cache, decoded))
    return Data(parts.train, parts.dev, noise, store, config, parts.how, parts.shared, teacher)


def _check_task(job: Job, config: ModelConfig, recordings: list[Recording]) -> None:
    """Refuse labels, or options, that do not go with what the recipe is to answer."""
    if config.embedding:
        if job.team.size > 1:
            raise ConfigError(f"{job.recipe.name}: a model of voices is trained by one process: leave torchrun out")
        return
    if job.teacher:
        raise ConfigError(f"{job.recipe.name}: --teacher is for a recipe with an embedding")
    check_labels(recordings, config.labels)
    if config.task == "pooled" and len(config.labels) < 2:
        raise ManifestError(f"{job.manifest}: all rows have the label {config.labels[0]!r}: at least two are needed")


def reading(job: Job) -> Reading:
    """Return how the labels of a job are read."""
    return Reading(job.tier, job.recipe.task == "pooled", vectors_per_s(job.recipe.features))


def split_by(job: Job) -> SplitBy | None:
    """Return what stays together when a job's recordings are split; None: what the manifest allows."""
    # Voices are told apart that were never heard: no voice may be on both sides, though the label is the speaker.
    return job.split_by or ("speaker" if job.recipe.embedding else None)


def vectors_per_s(features: FeatureConfig) -> float:
    """Return how many feature vectors a second there are."""
    return features.sample_rate / features.hop_samples


def given_features(recipe: Recipe, n_given: int) -> FeatureConfig:
    """Return the recipe's features, or those computed elsewhere that take their place, as many a second.

    Raises:
        ConfigError: the recipe cannot be used with features computed elsewhere.
    """
    if not n_given:
        return recipe.features
    rate = vectors_per_s(recipe.features)
    needs_sound = recipe.mix.enabled or recipe.gate or recipe.embedding
    if needs_sound or recipe.features.kind == "pretrained" or rate != round(rate):
        raise ConfigError(
            f"{recipe.name}: features computed elsewhere go with no mix, gate, embedding or speech encoder, "
            "and with a whole number of vectors a second (features.sample_rate / features.hop_samples)"
        )
    how = recipe.features.normalize
    return FeatureConfig("given", round(rate), window_samples=1, hop_samples=1, normalize=how, n_given=n_given)


def make_examples(data: Data, recipe: Recipe, *, dev: bool) -> FrameExamples | PooledExamples | VoiceExamples:
    """Return the supply of training or dev batches."""
    # Noise of the training set must not be heard again in the dev set.
    noise = [] if dev else data.noise
    recordings = data.dev if dev else data.train
    if data.config.embedding:
        return VoiceExamples(recordings, data.config, recipe, data.store, noise, None if dev else data.teacher)
    if data.config.task == "pooled":
        return PooledExamples(recordings, data.config, recipe, data.store, noise)
    return FrameExamples(recordings, data.config, recipe, data.store, noise, DEV_NUMBER if dev else 0)


def dev_batches(data: Data, recipe: Recipe) -> Iterator[Batch]:
    """Yield the fixed batches that a run is measured on."""
    examples = make_examples(data, recipe, dev=True)
    if isinstance(examples, VoiceExamples):
        yield from examples.dev_batches(data.dev, recipe.voices.dev_length_s)
    elif isinstance(examples, PooledExamples):
        yield from examples.dev_batches(data.dev, data.config.window.length_s)
    else:
        yield from (examples.make_batch(number) for number in range(N_DEV_BATCHES))


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


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the rate of a step: a linear warm-up, then half a cosine down to a hundredth."""
    optim = recipe.optim
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def loss_of(output: Output, part: Part, config: ModelConfig, recipe: Recipe) -> Tensor:
    """Return the loss of a batch, or of a part of one: the label's, and the phones' where they are known."""
    device, batch = output.logits.device, part.batch
    targets = batch.targets.to(device)
    logits = output.logits.float()
    if config.overlapping:
        if batch.targets.lt(0).any():  # padding
            logits, targets = logits[targets >= 0], targets[targets >= 0]
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
    elif not part.own.labels:
        loss = 0 * logits.sum()  # nothing here has a label
    else:
        flat = logits.flatten(0, -2)
        smoothing = recipe.optim.label_smoothing
        if batch.soft is not None and batch.soft.any():
            soft, weight = batch.soft.to(device), recipe.optim.soft_weight
            hard = functional.one_hot(targets, flat.shape[1]).float()
            hard = torch.where(soft.any(dim=1, keepdim=True), (1 - weight) * hard + weight * soft, hard)
            loss = functional.cross_entropy(flat, hard, label_smoothing=smoothing)
        else:
            loss = functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)
    loss = loss * part.weigh("labels")
    if output.phone_logits is None:
        return loss
    return loss + recipe.optim.phone_weight * phone_loss(output.phone_logits.float(), part)


def phone_loss(logits: Tensor, part: Part) -> Tensor:
    """Return the loss of the phones: frame by frame where their times are known, else by CTC where they are.

    Args:
        logits: (batch, frame, 1 + phone).
        part: what they are of.
    """
    batch, device, loss = part.batch, logits.device, logits.new_zeros(())
    timed = batch.phone_frames.ne(IGNORED)
    if timed.any():
        by_frame = functional.cross_entropy(logits[timed.to(device)], batch.phone_frames[timed].to(device))
        loss = loss + by_frame * part.weigh("timed_phones")
    known = batch.phones.ne(0).any(dim=1) & ~timed.any(dim=1)
    if known.any():
        phones, n_frames = batch.phones[known].to(device), batch.n_frames[known].to(device)
        log_probs = logits[known.to(device)].log_softmax(dim=2).transpose(0, 1)
        lengths = phones.ne(0).sum(dim=1)
        by_string = functional.ctc_loss(log_probs, phones, n_frames, lengths, zero_infinity=True)
        loss = loss + by_string * part.weigh("strings")
    return loss


class Examples(Protocol):
    """A numbered supply of batches."""

    def make_batch(self, number: int) -> Batch: ...


class _Numbered(torch.utils.data.Dataset[Batch]):
    """Batches by number, for torch's worker processes."""

    def __init__(self, examples: Examples, numbers: range) -> None:
        self._examples, self._numbers = examples, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Batch:
        return self._examples.make_batch(self._numbers[index])


def training_batches(
    data: Data, recipe: Recipe, first: int, last: int, examples: Examples | None = None, team: Team = ALONE
) -> Iterator[Batch]:
    """Yield what the steps `[first, last)` of a run learn from, made ahead by the recipe's workers.

    Of several processes, each yields the batches that are its own to make.
    """
    workers = recipe.optim.workers
    loader = torch.utils.data.DataLoader(
        _Numbered(examples or make_examples(data, recipe, dev=False), team.own_numbers(first, last)),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_BATCHES_AHEAD if workers else None,
        worker_init_fn=_one_thread,
    )
    return iter(loader)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


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
        self.network = Network(data.config).to(job.device)
        if self.network.features.encoder is not None:
            self.network.features.encoder.take(job.recipe.features.pretrained.source)
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

    def fingerprint(self) -> str:
        """Return a digest of what must not change between the parts of a run.

        Settings at their defaults are left out, so that a setting which framecls learns later, and which is off unless
        asked for, does not keep an older run from being resumed.
        """
        held_fast = [settings_made(self.recipe), settings_made(self.data.config), self._input_digest]
        return hashlib.sha256(json.dumps(held_fast, sort_keys=True).encode()).hexdigest()[:16]

    @functools.cached_property
    def _input_digest(self) -> str:
        digest = hashlib.sha256()
        for file in (self.job.init, self.job.teacher):
            digest.update(hashlib.sha256(file.read_bytes()).digest() if file else b"--")
        for side in (self.data.train, self.data.dev, self.data.noise):
            for recording in side:
                spans = [(span.label, span.start_s, span.end_s) for span in recording.spans]
                n_samples = self.data.store.n_samples(recording.file)
                said = (recording.phones, recording.alignment, recording.soft)
                line = f"{recording.name} {recording.speaker} {recording.source} {n_samples} {spans} {said}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
            digest.update(b"--\n")
        return digest.hexdigest()

    def learn(self, part: Part) -> float:
        """Take one step and return the loss."""
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
        nn.utils.clip_grad_norm_(self.trained.values(), recipe.optim.clip_norm)
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
        # Spectra have nothing to learn and want all their digits; a speech encoder is a network like the rest.
        learns = any(parameter.requires_grad for parameter in self.network.features.parameters())
        low = self.recipe.optim.precision == "bfloat16" and features.kind == "pretrained"
        autocast = torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=low)
        with torch.set_grad_enabled(learns), autocast:
            vectors = self.network.extract(batch.waveform.to(device), n_frames)
            vectors = self._mask(vectors, part, features.sample_rate / features.hop_samples)
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
        network = Network(self.data.config)
        fill(network, self.average, "the averaged weights")
        return network.to(self.job.device)

    def measure(self) -> DevReport:
        """Measure the averaged weights on dev, and write the model file if the recipe wants them kept."""
        network = self.averaged()
        engine = Engine(network.eval(), torch.device(self.job.device))
        report, _ = measure_dev(engine, self.data, self.recipe)
        self.since_best += 1
        is_best = report.score > self.best
        if is_best:
            self.best, self.since_best = report.score, 0
        if is_best or self.recipe.optim.keep == "last":
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
        """Write the state of the run, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"network.{k}": v.detach() for k, v in self.network.named_parameters()}
        tensors |= {f"network.{k}": v.detach() for k, v in self.trained.items() if k.startswith("voices.")}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for key, parameter in self.trained.items():
            state = self.optimizer.state[parameter]
            tensors |= {f"optimizer.{name}.{key}": value for name, value in state.items()}
        metadata = {
            "step": str(self.step),
            "best": repr(self.best),
            "since_best": str(self.since_best),
            "fingerprint": self.fingerprint(),
        }
        temporary = self._state_path.with_suffix(".tmp")
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # on the disk before it takes the old state's place, should the power go
        os.replace(temporary, self._state_path)
        self.saved_step = self.step

    def is_over(self) -> bool:
        """Return whether the run has stopped early, for want of gain."""
        return 0 < self.recipe.optim.patience <= self.since_best

    def load(self) -> None:
        """Go back to the saved state, if there is one.

        Raises:
            ModelError: it belongs to another recipe, other labels or other recordings, or cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        if not self._state_path.exists():
            return
        try:
            with safe_open(self._state_path, "pt", device=self.job.device) as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{self._state_path}: this state of a run is damaged: leave out --resume") from error
        if metadata.get("fingerprint") != self.fingerprint():
            raise ModelError(
                f"{self._state_path}: left by a run with another recipe, other labels or other recordings: "
                "leave out --resume"
            )
        self.step, self.best = int(metadata["step"]), float(metadata["best"])
        self.saved_step = self.step
        self.since_best = int(metadata["since_best"])
        parameters = {**dict(self.network.named_parameters()), **self.trained}
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(tensors[f"network.{key}"])
                if key in self.average:
                    self.average[key].copy_(tensors[f"average.{key}"])
                if f"optimizer.step.{key}" not in tensors:  # not trained, or no loss has reached it so far
                    continue
                state = {name: tensors[f"optimizer.{name}.{key}"] for name in ("step", "exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {**state, "step": state["step"].cpu()}

    @property
    def _state_path(self) -> Path:
        return self.job.folder / "state.safetensors"


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


def settings_made(config: Any) -> dict[str, Any]:
    """Return the settings of a dataclass that are not at their defaults, those of dataclasses in it likewise."""
    made: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            inner = settings_made(value)
            if inner:
                made[field.name] = inner
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value != default:
            made[field.name] = value
    return made


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], recipe: Recipe, brought: Collection[str] = ()
) -> torch.optim.AdamW:
    """Return AdamW that decays the matrices, leaves biases and norms alone, and moves what was learnt before slower.

    A group's "share" says how much of the learning rate is its own.

    Args:
        parameters: to learn, by name.
        recipe: its `optim` sets the rates.
        brought: names of the parameters that another model began.
    """
    optim = recipe.optim
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for key, parameter in parameters.items():
        share = min(optim.tuned_rate if key.startswith(_TUNED) else 1.0, optim.init_rate if key in brought else 1.0)
        groups.setdefault((share, parameter.ndim >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": own, "weight_decay": optim.weight_decay * is_matrix, "share": share}
            for (share, is_matrix), own in groups.items()
        ],
        lr=optim.learning_rate,
        betas=(0.9, 0.98),
    )


def freeze(encoder: Encoder, n_layers: int, brought: Collection[str]) -> None:
    """Keep what the first layers of an encoder, and what they read, have learnt before.

    Raises:
        ConfigError: not all of it was brought from another model.
    """
    for name, module in (("input", encoder.input), *((f"layers.{i}", encoder.layers[i]) for i in range(n_layers))):
        for key, parameter in module.named_parameters():
            if f"encoder.{name}.{key}" not in brought:
                raise ConfigError(f"optim.frozen_layers={n_layers}: --init brought no {name}, so it must learn")
            parameter.requires_grad_(False)


def take_weights(network: Network, path: Path) -> set[str]:
    """Copy from a model file the weights whose name and shape agree; return their names.

    Layers of the encoder above those that it has begin by changing nothing.
    """
    state = read_weights(path)
    taken = set()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key in state and state[key].shape == parameter.shape:
                parameter.copy_(state[key])
                taken.add(key)
    if not taken:
        raise ModelError(f"{path}: none of its weights fits this recipe's network")
    if brought := [int(key.split(".")[2]) for key in taken if key.startswith("encoder.layers.")]:
        network.encoder.grow(max(brought) + 1)
    return taken


def train(
    job: Job,
    data: Data,
    progress: Callable[[Progress], None] | None = None,
) -> DevReport:
    """Train a model and write it to `job.output`; the state of the run is kept beside it.

    Args:
        job: manifest, recipe, output.
        data: what `prepare` gave for this job.
        progress: told after each step.

    Returns:
        the last dev report; the file holds the weights of the best one.
    """
    run, recipe, team = Run(job, data), job.recipe, job.team
    if job.resume:
        run.load()
        if run.step != team.hear_first(run.step):
            raise ModelError(f"{job.folder}: not all machines see the same state there: share its disk to --resume")
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
