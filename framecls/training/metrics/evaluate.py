"""Measure a model file on labelled recordings: the figures of training, by the code of `tag` and `identify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from framecls.config import UNKNOWN, ReadOptions
from framecls.errors import ConfigError, ManifestError
from framecls.inference.engine import Engine
from framecls.inference.identify import pool_windows
from framecls.speakers.recognition import pool_vectors
from framecls.training.choices import MeasuredSplit, SplitBy
from framecls.training.data.clips import ClipStore, CodecStore, check_features, open_clips
from framecls.training.data.labels import LabelSettings
from framecls.training.data.manifest import Recording, check_labels, read_manifest
from framecls.training.data.splits import choose_split_by, split_recordings
from framecls.training.examples.batch import Batch
from framecls.training.examples.frames import FrameExamples
from framecls.training.examples.loader import DEV_NUMBER, N_DEV_BATCHES
from framecls.training.examples.mixtures import MixtureExamples
from framecls.training.examples.pooled import PooledExamples
from framecls.training.examples.voices import VoiceExamples
from framecls.training.metrics.details import describe, phone_figures
from framecls.training.metrics.frames import collect_frames, report_frames, run_over
from framecls.training.metrics.measure import measure
from framecls.training.metrics.pooled import report_pooled
from framecls.training.metrics.report import DevReport
from framecls.training.metrics.review import hold_out, review
from framecls.training.metrics.timelines import TimelineRules, measure_timelines
from framecls.training.metrics.verification import report_voices
from framecls.training.recipe import OptimConfig, Recipe


@dataclass(frozen=True)
class Test:
    """What to measure on."""

    manifest: Path
    cache: Path  # folder for decoded recordings
    split: MeasuredSplit = "dev"
    recipe: Recipe | None = None  # measure on mixtures if this recipe has them; None: on recordings as they are
    length_s: float | None = None  # pooled: join and cut the recordings of each voice; None: each file whole
    tier: str | None = None  # of TextGrids that have several
    annotation: str | None = None  # the column of Raven's tables that is the label
    split_by: SplitBy | None = None  # as in training
    codec: str | None = None  # one of `CODECS`, to encode and decode the recordings with
    timeline: TimelineRules | None = None  # pooled: measure what holds when, not one answer a recording


def evaluate(
    engine: Engine,
    test: Test,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> DevReport:
    """Measure a model.

    Args:
        engine: the model.
        test: the recordings, and how they are cut.
        progress: called with the number of recordings (or batches) done, and of all.
        note: told which part of the recordings is measured, where that was chosen here.

    Raises:
        ManifestError: the manifest cannot be used, or has a label that the model does not have.
        ConfigError: a codec is asked for where there are no recordings.
    """
    if test.timeline is not None:
        return measure_timelines(engine, _read_timelines(engine, test), test.timeline, progress)
    recordings = _read_split(engine, test, note)
    store = _open_store(engine, test, recordings)
    report = _measure(engine, test, recordings, store, progress)
    figures = describe(report, engine.config) if report.outputs is not None else report.figures
    if engine.config.phones and not (test.recipe and test.recipe.mix.enabled):
        figures |= phone_figures(engine, recordings, store, progress)
    report = replace(report, decision=engine.config.decision, figures=figures)
    found = review(report, engine.config, recordings, _describe_test(test, len(recordings)))
    return replace(report, outputs=None, held_out=(), review=found)


def _describe_test(test: Test, n_recordings: int) -> str:
    part = "all" if test.split == "all" else f"the {test.split} part"
    parts = [f"{part} of {test.manifest}: {n_recordings} recordings"]
    if test.recipe is not None and test.recipe.mix.enabled:
        parts.append(f"mixed as {test.recipe.name} does, so there is none to listen to")
    elif test.length_s is not None:
        parts.append(f"joined and cut to {test.length_s:g} s, so there is none to listen to")
    if test.codec is not None:
        parts.append(f"through {test.codec}")
    return ", ".join(parts)


def _open_store(engine: Engine, test: Test, recordings: list[Recording]) -> ClipStore:
    store = open_clips(recordings, engine.config.features.sample_rate, test.cache)
    if test.codec is None:
        return store
    if engine.config.features.kind == "precomputed" or (test.recipe and test.recipe.mix.enabled):
        raise ConfigError("a codec goes with recordings, not with mixtures or with features computed elsewhere")
    return CodecStore(store, test.codec)


def _measure(
    engine: Engine,
    test: Test,
    recordings: list[Recording],
    store: ClipStore,
    progress: Callable[[int, int], None] | None,
) -> DevReport:
    recipe = test.recipe or Recipe(engine.config.name, engine.config.task, optim=OptimConfig(batch_s=80.0))
    if engine.config.embedding:
        return _voices(engine, recordings, store, recipe, test)
    if engine.config.task == "pooled":
        if test.length_s is None:
            return _whole_recordings(engine, recordings, store, progress)
        pooled = PooledExamples(recordings, engine.config, recipe, store)
        return measure(engine.network, pooled.dev_batches(recordings, test.length_s))
    if recipe.mix.enabled:
        mixtures = MixtureExamples(recordings, engine.config, recipe, store, number_from=DEV_NUMBER)
        batches = (mixtures.make_batch(number) for number in range(N_DEV_BATCHES))
        return measure(engine.network, _with_progress(batches, progress))
    frames = FrameExamples(recordings, engine.config, recipe, store)
    logits, truth = collect_frames(engine, recordings, store, frames, progress)
    held_out = hold_out(engine.config, recordings, logits, store)
    return replace(report_frames(engine.config, logits, truth), held_out=held_out)


def _read_split(engine: Engine, test: Test, note: Callable[[str], None] | None) -> list[Recording]:
    features = engine.config.features
    reading = LabelSettings(test.tier, test.annotation, engine.config.task == "pooled", features.vectors_per_s)
    recordings = read_manifest(test.manifest, reading)
    if not engine.config.embedding:
        check_labels(recordings, engine.config.labels)
    check_features(recordings, engine.config)
    by = choose_split_by(test.split_by, voices=bool(engine.config.embedding))
    parts = split_recordings(recordings, _seed(engine, test), by)
    chosen = {"train": parts.train, "dev": parts.dev, "all": recordings}[test.split]
    if not chosen:
        raise ManifestError(
            f"{test.manifest}: no recording is left to measure on in the split {test.split!r}; --split all measures all"
        )
    if note is not None and len(chosen) < len(recordings) and any(recording.split is None for recording in recordings):
        which = f"{test.split} of a split {parts.how}"
        note(f"{len(chosen)} of {len(recordings)} recordings are measured, {which}; --split all measures all")
    return chosen


def _read_timelines(engine: Engine, test: Test) -> list[Recording]:
    """Read what to compare timelines with: all of it, but for what another split is named for."""
    recordings = read_manifest(test.manifest, LabelSettings(test.tier))
    if not engine.config.embedding:
        check_labels(recordings, engine.config.labels)
    chosen = [r for r in recordings if test.split == "all" or r.split in (None, test.split)]
    if not chosen:
        raise ManifestError(f"{test.manifest}: no recording is left to measure on in the split {test.split!r}")
    return chosen


def _seed(engine: Engine, test: Test) -> int:
    """Return the seed that split the recordings in training, so that dev is what was dev then."""
    if test.recipe is not None:
        return test.recipe.optim.seed
    split = engine.config.card.get("split")
    seed = split.get("seed", 0) if isinstance(split, dict) else 0
    return seed if isinstance(seed, int) else 0


def _with_progress(batches: Iterator[Batch], progress: Callable[[int, int], None] | None) -> Iterator[Batch]:
    for number, batch in enumerate(batches, start=1):
        if progress is not None:
            progress(number, N_DEV_BATCHES)
        yield batch


def _voices(engine: Engine, recordings: list[Recording], store: ClipStore, recipe: Recipe, test: Test) -> DevReport:
    known = [recording for recording in recordings if recording.label != UNKNOWN]
    if not known:
        raise ManifestError(f"{test.manifest}: no recording names its voice")
    if test.length_s is not None:
        cut = VoiceExamples(recordings, engine.config, recipe, store).cut_voices(recordings, test.length_s)
        pieces, who, sources = (list(column) for column in zip(*cut, strict=True))
    else:
        names = sorted({recording.label for recording in known})
        pieces = [store.read(recording.file) for recording in known]
        who, sources = [names.index(recording.label) for recording in known], [r.source for r in known]
    reading = ReadOptions(sample_rate=store.sample_rate)
    vectors = [pool_vectors(windows)[0] for windows in engine.run(pieces, reading)]
    return report_voices(np.stack(vectors), np.array(who), sources, engine.config.decision)


def _whole_recordings(
    engine: Engine, recordings: list[Recording], store: ClipStore, progress: Callable[[int, int], None] | None
) -> DevReport:
    logits, truth, sources = [], [], []
    for recording, windows in run_over(engine, recordings, store, progress):
        logits.append(pool_windows(windows)[0])
        truth.append(engine.config.labels.index(recording.label))
        sources.append(recording.source)
    report = report_pooled(np.stack(logits), np.array(truth), sources, engine.config.labels, engine.config.decision)
    return replace(report, held_out=hold_out(engine.config, recordings, logits, store))
