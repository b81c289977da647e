"""A run: hear each recording once, fit heads while a part is held out, decide by what they say there, fit the last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.checkpoints.frontends import look_up
from framecls.checkpoints.network import new_network, save_model
from framecls.config import FeatureConfig, ModelConfig, PretrainedConfig
from framecls.errors import ConfigError, ManifestError, OutputError
from framecls.inference.engine import Engine
from framecls.inference.windows import Window, WindowOutput, stitch
from framecls.nn.network import Network, smooth
from framecls.report import Epoch, TrainingReport, report_path
from framecls.text import about
from framecls.training.data.band import describe_lost, measure_band
from framecls.training.data.clips import ClipStore, array_size, open_clips
from framecls.training.data.manifest import Recording, find_labels, read_manifest
from framecls.training.data.splits import assign_folds
from framecls.training.data.survey import UNLABELLED_SHARE, find_overlaps, labelled_s
from framecls.training.examples.frames import FrameExamples, hard_targets
from framecls.training.head.choose import EXCERPT_S, MOST_EXCERPTS, choose_layer
from framecls.training.head.fit import (
    Examples,
    Watcher,
    estimate_epoch_s,
    estimate_probe_s,
    fit_head,
    head_config,
    least_time,
    predict,
)
from framecls.training.head.measure import Answers, score_fold
from framecls.training.head.plan import Plan, plan_folds
from framecls.training.head.report import Findings, make_report
from framecls.training.head.vectors import Heard, Hearing, VectorCache, hear
from framecls.training.job import Job, find_label_fault, reading
from framecls.training.recipe import Recipe

ENCODER_RATE = 16000  # Hz, of all encoders
_TRIED_FOLDS = 2


@dataclass(frozen=True)
class Listener:
    """Who is told how a run goes."""

    show: Callable[[str, float, float], None] = lambda what, done, total: None  # what is done, how much of how much
    note: Callable[[str], None] = lambda line: None  # a sentence


@dataclass(eq=False)
class Course:
    """A run on its way."""

    job: Job
    recipe: Recipe
    listener: Listener
    recordings: list[Recording]
    plan: Plan
    config: ModelConfig
    store: ClipStore
    examples: Examples = field(default_factory=lambda: Examples([], [], np.zeros(0, np.int64)))
    heard: list[Heard] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    n_fits: int = 0
    fits_done: int = 0

    def fit(self, fold: int, rows: NDArray[np.int64], epochs: int, watch: Watcher) -> Network:
        """Fit a head to some recordings, and log its epochs."""

        def follow(epoch: int, loss: float, network: Network) -> None:
            total = self.n_fits * (self.recipe.head.epochs + 1)
            self.listener.show("learning", self.fits_done * (self.recipe.head.epochs + 1) + epoch, total)
            watch(epoch, loss, network)

        head = head_config(self.config)
        network = fit_head(head, self.recipe, self.examples.of(rows), epochs, follow)
        self.fits_done += 1
        return network

    def answer(self, network: Network, rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Return the logits of recordings: (label,), or (frame, label)."""
        windows = [torch.from_numpy(window) for row in rows for window in self.heard[row].windows]
        logits = iter(predict(network, windows))
        found = []
        for row in rows:
            heard = self.heard[row]
            own = [next(logits) for _ in heard.windows]
            if self.config.task == "pooled":
                found.append(np.average(own, axis=0, weights=[len(window) for window in heard.windows]))
                continue
            outputs = [
                WindowOutput(Window(first, len(each)), each, 0.0) for first, each in zip(heard.firsts, own, strict=True)
            ]
            found.append(stitch(outputs, self.config.overlap_frames))
        return [np.asarray(each, np.float32) for each in found]


def train_head(job: Job, listener: Listener | None = None) -> TrainingReport:
    """Train a model whose encoder stays as it is, write it to `job.output`, and its report beside it.

    Raises:
        ManifestError: something in the manifest cannot be used, or a label cannot be both learnt and measured.
        ConfigError: the recipe does not go with that.
        OutputError: the model, its report or what is kept for the next run cannot be written.
    """
    began = time.monotonic()
    course = prepare_course(job, listener or Listener())
    _hear(course, began)
    _choose_start(course)
    answers, best = _hold_out(course)
    curve = _halve(course, best)
    network = course.fit(-1, course.plan.final(), best, _log(course, -1))
    findings = Findings(course.recordings, course.store, course.plan, course.config, answers, course.epochs, curve)
    findings = replace(findings, hop_s=course.config.hop_s, way=_way(course), seconds=time.monotonic() - began)
    report, decision = make_report(findings, course.recipe.head.precision)
    card = {
        **course.config.card,
        "data": f"{len(course.recordings)} recordings, {len(course.config.labels)} labels",
        "date": date.today().isoformat(),
        "way": report.way,
        "dev": report.figures,
        "split": {
            "how": report.split,
            "seed": job.recipe.optim.seed,
            "final": "train" if course.plan.is_given else "all",
        },
    }
    _save(course, network, replace(course.config, decision=decision, card=card))
    report.save(report_path(job.output))
    return report


def prepare_course(job: Job, listener: Listener) -> Course:
    """Read, check and decode all that a run needs.

    Raises:
        ManifestError: something in the manifest cannot be used.
        ConfigError: the recipe does not go with it.
    """
    recordings = read_manifest(job.manifest, reading(job))
    if array_size(recordings):
        raise ConfigError("features computed elsewhere need a recipe: --recipe tag or --recipe identify")
    labels = find_labels(recordings)
    recipe = replace(job.recipe, overlapping=job.recipe.task == "frame" and job.recipe.head.unmarked != "ignored")
    if fault := find_label_fault(recipe, labels):
        raise ManifestError(f"{job.manifest}: {fault}")
    plan = plan_folds(job, recordings)
    asked = recipe.features
    if asked.sample_rate > ENCODER_RATE:  # no higher than what is there
        rate = max(ENCODER_RATE, min(asked.sample_rate, measure_band(recordings, 0.0).highest_rate))
        recipe = replace(recipe, features=replace(asked, sample_rate=rate, f_max_hz=min(asked.f_max_hz, rate / 2)))
    config = recipe.model_config(labels, ())
    config = replace(config, name=job.output.stem, features=find_features(recipe, asked.pretrained.layer))
    cache = job.cache or job.folder
    store = open_clips(
        recordings, config.features.sample_rate, cache, lambda done, total: listener.show("decoding", done, total)
    )
    if recipe.head.unmarked == "auto" and _is_dense(recordings, store):
        recipe, config = replace(recipe, overlapping=False), replace(config, overlapping=False)
    course = Course(job, recipe, listener, recordings, plan, config, store)
    listener.note(_announce(course))
    if lost := describe_lost(recordings, config.features):
        listener.note(lost)
    return course


def find_features(recipe: Recipe, layer: int) -> FeatureConfig:
    """Return the settings of a layer of a frozen encoder, whose weights the model is to carry.

    At a higher sample rate than its own the encoder hears recordings slowed down: all frequencies are lower for it.
    """
    one = PretrainedConfig(recipe.features.pretrained.source, layer, carried=True)
    found = look_up(replace(recipe.features, pretrained=one), own_rate=True)
    rate = max(found.sample_rate, recipe.features.sample_rate)
    return replace(found, sample_rate=rate, f_max_hz=min(found.f_max_hz, rate / 2))


def _is_dense(recordings: Sequence[Recording], store: ClipStore) -> bool:
    """Return whether labels follow each other without gaps, so that each frame has one: as phones do, or words."""
    if not all(recording.spans for recording in recordings):
        return False
    n_long = sum(len({span.label for span in recording.spans}) > 1 for recording in recordings)
    if n_long < len(recordings) / 2 or any(find_overlaps(recording.spans) for recording in recordings):
        return False
    lengths_s = [store.n_samples(recording.file) / store.sample_rate for recording in recordings]
    marked_s = sum(labelled_s(each, length_s) for each, length_s in zip(recordings, lengths_s, strict=True))
    return marked_s >= (1 - UNLABELLED_SHARE) * sum(lengths_s)


def _announce(course: Course) -> str:
    """Say which way the run takes, why, and about how long it will take."""
    store, config, head = course.store, course.config, course.recipe.head
    lengths_s = [store.n_samples(recording.file) / store.sample_rate for recording in course.recordings]
    length_s = sum(lengths_s)
    engine = Engine(Hearing(config, course.recipe.features.pretrained.source).eval(), torch.device(course.job.device))
    blank = np.zeros(config.window_frames * config.hop_samples, np.float32)
    window = (Window(0, config.window_frames), np.pad(blank, config.features.margin_samples))
    n_frames = length_s / config.hop_s
    n_full = n_frames / (config.window_frames - config.overlap_frames)
    n_windows = max(n_full, len(course.recordings))
    sampled_s = min(MOST_EXCERPTS, len(course.recordings)) * min(EXCERPT_S, length_s / len(course.recordings))
    hear_s = least_time(lambda: engine.forward([window])) * n_full * (1 + sampled_s / length_s) / engine.n_workers
    n_folds = course.plan.n_folds
    course.n_fits = n_folds * (2 if head.curve else 1) + 1
    probe_s = estimate_probe_s(config, n_windows if config.task == "pooled" else n_frames)
    # As many epochs as turn out best, for the curve and the final model.
    n_epochs = (n_folds + (n_folds if head.curve else 0) / 2 + 0.5) * head.epochs
    # A batch is as long as its longest window.
    epoch_s = estimate_epoch_s(
        config, course.recipe, n_windows, min(config.window_frames, max(lengths_s) / config.hop_s)
    )
    estimate_s = hear_s + (n_folds * len(head.inverse_penalties) + course.n_fits) * probe_s + n_epochs * epoch_s
    encoder, task = config.features.pretrained, "tag" if config.task == "frame" else "identify"
    return (
        f"{len(course.recordings)} recordings, {about(length_s)}: each is heard once by the encoder of "
        f"{encoder.model or encoder.source}, which stays as it is; a small network learns on top, for which few do"
        f" (--recipe {task}: a whole network, from many); {course.plan.how}; about {about(estimate_s)} on this machine"
    )


def _hear(course: Course, began: float) -> None:
    """Choose the layer, hear all recordings, and make examples of them."""
    job, asked, store = course.job, course.recipe.features.pretrained, course.store
    device = torch.device(job.device)
    total_s = sum(store.n_samples(recording.file) for recording in course.recordings) / store.sample_rate
    frames = None
    if course.config.task == "frame":
        frames = FrameExamples(course.recordings, course.config, course.recipe, store)
    if not asked.layer and course.config.features.pretrained.n_layers > 1:
        course.listener.show("choosing a layer", 0, total_s)
        engine = Engine(Hearing(course.config, asked.source, all_layers=True).eval(), device)
        layers, folds = course.recipe.head.layers, course.plan.folds
        layer, _ = choose_layer(engine, layers, course.recordings, folds, frames, store)
        course.config = replace(course.config, features=find_features(course.recipe, layer))
    engine = Engine(Hearing(course.config, asked.source).eval(), device)
    cache = VectorCache((job.cache or job.folder) / "vectors", course.config)
    course.heard = hear(
        engine, course.recordings, store, cache, lambda done, total: course.listener.show("hearing", done, total)
    )
    vectors, targets, owners = [], [], []
    for index, (recording, heard) in enumerate(zip(course.recordings, course.heard, strict=True)):
        for first, window in zip(heard.firsts, heard.windows, strict=True):
            vectors.append(torch.from_numpy(window))
            targets.append(_target(course, frames, recording, first, len(window)))
            owners.append(index)
    course.examples = Examples(vectors, targets, np.array(owners, np.int64))


def _target(course: Course, frames: FrameExamples | None, recording: Recording, first: int, n_frames: int) -> Tensor:
    """Return the truth of a window: (frame, label), (frame,) or () ."""
    if frames is None:
        return torch.tensor(course.config.labels.index(recording.label))
    targets = torch.from_numpy(frames.annotate(recording, first * course.config.hop_samples, n_frames))
    return targets if course.config.overlapping else hard_targets(targets[None])[0]


def _hold_out(course: Course) -> tuple[list[Answers], int]:
    """Fit a head without each fold; return the answers of the best epoch for each recording held out, and the epoch.

    If after `_TRIED_FOLDS` the linear probe is the best, it alone is fitted without the others.
    """
    n_folds, n_epochs = course.plan.n_folds, course.recipe.head.epochs
    scores = np.zeros((n_folds, n_epochs + 1))
    kept: list[list[list[NDArray[np.float32]]]] = []  # by fold and epoch
    for fold in range(n_folds):
        rows, by_epoch = course.plan.held_out(fold), list[list[NDArray[np.float32]]]()

        def measure(
            epoch: int, loss: float, network: Network, fold: int = fold, rows: NDArray[np.int64] = rows
        ) -> None:
            logits = course.answer(network, rows)
            by_epoch.append(logits)  # noqa: B023
            scores[fold, epoch] = score_fold(course.config, logits, [_truth(course, row) for row in rows])
            _log(course, fold, scores[fold, epoch])(epoch, loss, network)

        is_probe = fold >= _TRIED_FOLDS and prefer(scores[:_TRIED_FOLDS]) == 0
        course.fit(fold, course.plan.train(fold), 0 if is_probe else n_epochs, measure)
        kept.append(by_epoch)
    best = prefer(scores) if len(kept[-1]) > 1 else 0
    answers = [
        Answers(int(row), fold, logits, _truth(course, row))
        for fold in range(n_folds)
        for row, logits in zip(course.plan.held_out(fold), kept[fold][best], strict=True)
    ]
    return answers, best


def _choose_start(course: Course) -> None:
    """Choose the penalty of the linear probe, and how its answers are smoothed, by what it says of clips held out."""
    head, config, n_folds = course.recipe.head, course.config, course.plan.n_folds
    widths = sorted({2 * round(s / config.hop_s / 2) + 1 for s in head.smoothings_s}) if config.task == "frame" else [1]
    choices = [(penalty, width) for penalty in head.inverse_penalties for width in widths]
    scores = np.zeros((n_folds, len(choices)))
    tries = list(product(range(n_folds), enumerate(head.inverse_penalties))) if len(choices) > 1 else []
    for done, (fold, (index, penalty)) in enumerate(tries):
        course.listener.show("choosing a penalty", done, len(tries))
        known, rows = course.plan.train(fold), course.plan.held_out(fold)
        recipe = with_penalty(course.recipe, penalty)
        network = fit_head(head_config(config), recipe, course.examples.of(known), 0, lambda *_: None)
        truth, answers = [_truth(course, row) for row in rows], course.answer(network, rows)
        for choice, width in enumerate(widths, index * len(widths)):
            scores[fold, choice] = score_fold(config, [_smooth(each, width) for each in answers], truth)
    penalty, width = choices[prefer(scores)]
    course.recipe = with_penalty(course.recipe, penalty)
    course.config = replace(config, smoothing=width)


def _smooth(logits: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return (frame, label) logits as `nn.network.smooth` does, (label,) as they are."""
    if width == 1:
        return logits
    rows = torch.from_numpy(logits)[None]
    return smooth(rows, torch.ones(rows.shape[:2], dtype=torch.bool), width)[0].numpy()


def with_penalty(recipe: Recipe, penalty: float) -> Recipe:
    """Return a recipe whose linear probe has one penalty."""
    return replace(recipe, head=replace(recipe.head, inverse_penalties=(penalty,)))


def prefer(scores: NDArray[np.float64]) -> int:
    """Return the choice of the best mean of (fold, choice) scores; the first, unless folds agree on the gain.

    They do if the mean of what is gained on each is more than its standard error.
    """
    gains = scores - scores[:, :1]
    best = int(gains.mean(axis=0).round(4).argmax())
    error = gains[:, best].std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return best if gains[:, best].mean() > error else 0


def _truth(course: Course, row: int) -> NDArray[np.float32]:
    """Return (frame, label) the truth of a recording, or (label,) of a pooled task."""
    labels = course.config.labels
    if course.config.task == "pooled":
        return np.array([label == course.recordings[row].label for label in labels], np.float32)
    heard = course.heard[row]
    n_frames = heard.firsts[-1] + len(heard.windows[-1])
    frames = FrameExamples([], course.config, course.recipe, course.store)
    return frames.annotate(course.recordings[row], 0, n_frames)


def _halve(course: Course, epochs: int) -> list[list[Answers]]:
    """Return the answers of heads that learnt from half of what is not held out, one list a fold; none if not asked."""
    found = []
    for fold in range(course.plan.n_folds if course.recipe.head.curve else 0):
        known, rows = course.plan.train(fold), course.plan.held_out(fold)
        some, groups = [course.recordings[i] for i in known], [course.plan.groups[i] for i in known]
        half = known[assign_folds(some, groups, 2, course.recipe.optim.seed) == 0]
        network = course.fit(fold, half, epochs, lambda epoch, loss, network: None)
        logits = course.answer(network, rows)
        found.append(
            [Answers(int(row), fold, each, _truth(course, row)) for row, each in zip(rows, logits, strict=True)]
        )
    return found


def _log(course: Course, fold: int, score: float | None = None) -> Watcher:
    """Return what adds an epoch to the report, and to a log beside the vectors."""

    def watch(epoch: int, loss: float, _: Network) -> None:
        entry = Epoch(fold + 1, epoch, None if np.isnan(loss) else round(loss, 5), score)
        course.epochs.append(entry)
        folder = course.job.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "log.jsonl").open("w" if len(course.epochs) == 1 else "a", encoding="utf-8") as file:
                file.write(json.dumps(vars(entry) | {"fold": fold + 1}) + "\n")
        except OSError as error:
            raise OutputError(f"{folder}: the log cannot be written: {error.strerror}") from error

    return watch


def _way(course: Course) -> str:
    encoder = course.config.features.pretrained
    return f"a head on layer {encoder.n_layers} of the encoder {encoder.source.partition(':')[2] or encoder.source}"


def _save(course: Course, head: Network, config: ModelConfig) -> None:
    """Write the model: the encoder as it is, and the head, whose input reads the vectors that a frame joins."""
    network = new_network(config, course.recipe.features.pretrained.source)
    state = dict(head.named_parameters())
    joined = config.encoder.subsampling
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name == "encoder.input.weight":
                parameter.copy_(state[name].repeat(1, joined) / joined)
            elif name in state:
                parameter.copy_(state[name])
    save_model(network, course.job.output, config=config, precision=course.recipe.stored)
