"""Measure a model file on labelled recordings: the same figures as in training, through the same code as `tag`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from framecls.engine import Engine
from framecls.errors import ManifestError
from framecls.identification import pool_windows
from framecls.training.clips import ClipStore, check_features, open_clips
from framecls.training.examples import Batch, FrameExamples, PooledExamples
from framecls.training.loop import DEV_NUMBER, N_DEV_BATCHES
from framecls.training.manifest import Recording, SplitBy, check_labels, read_manifest, split_recordings
from framecls.training.measure import DevReport, collect_frames, measure, report_frames, report_pooled
from framecls.training.recipe import OptimConfig, Recipe
from framecls.training.sources import Reading


@dataclass(frozen=True)
class Test:
    """What to measure on."""

    manifest: Path
    cache: Path  # folder for decoded recordings
    split: Literal["train", "dev", "all"] = "dev"
    recipe: Recipe | None = None  # mix and augment as this recipe does, where it mixes; else recordings as they are
    length_s: float | None = None  # pooled: join and cut what each voice says to this length; None: each file whole
    tier: str | None = None  # of TextGrids that have several
    split_by: SplitBy | None = None  # as in training; None: what the manifest allows
    only_candidates: bool = False  # pooled: leave out recordings whose label the model does not answer by itself


def evaluate(engine: Engine, test: Test, progress: Callable[[int, int], None] | None = None) -> DevReport:
    """Measure a model.

    Args:
        engine: the model.
        test: the recordings, and how they are cut.
        progress: told the number of recordings (or batches) done, and of all.

    Raises:
        ManifestError: the manifest cannot be used, or has a label that the model does not have.
    """
    recordings = _choose(engine, test)
    store = open_clips(recordings, engine.config.features.sample_rate, test.cache)
    recipe = test.recipe or Recipe(engine.config.name, engine.config.task, optim=OptimConfig(batch_s=80.0))
    if engine.config.task == "pooled":
        if test.length_s is None:
            return _whole_recordings(engine, recordings, store, progress)
        pooled = PooledExamples(recordings, engine.config, recipe, store)
        return _restricted(engine, pooled.dev_batches(recordings, test.length_s), test)
    frames = FrameExamples(recordings, engine.config, recipe, store, number_from=DEV_NUMBER)
    if recipe.mix.enabled:
        return measure(engine.network, _tell((frames.make_batch(n) for n in range(N_DEV_BATCHES)), progress))
    return _whole_frames(engine, recordings, store, frames, progress)


def _choose(engine: Engine, test: Test) -> list[Recording]:
    features = engine.config.features
    reading = Reading(test.tier, engine.config.task == "pooled", features.sample_rate / features.hop_samples)
    recordings = read_manifest(test.manifest, reading)
    if test.only_candidates and engine.config.decision.candidates:
        recordings = [r for r in recordings if r.label in engine.config.decision.candidates]
    check_labels(recordings, engine.config.labels)
    check_features(recordings, engine.config)
    parts = split_recordings(recordings, _seed(engine, test), test.split_by)
    chosen = {"train": parts.train, "dev": parts.dev, "all": recordings}[test.split]
    if not chosen:
        raise ManifestError(f"{test.manifest}: no recording is left to measure on in the split {test.split!r}")
    return chosen


def _seed(engine: Engine, test: Test) -> int:
    """Return the seed that split the recordings in training: what was learnt from must not be measured on."""
    if test.recipe is not None:
        return test.recipe.optim.seed
    split = engine.config.card.get("split")
    seed = split.get("seed", 0) if isinstance(split, dict) else 0
    return seed if isinstance(seed, int) else 0


def _tell(batches: Iterator[Batch], progress: Callable[[int, int], None] | None) -> Iterator[Batch]:
    for number, batch in enumerate(batches, start=1):
        if progress is not None:
            progress(number, N_DEV_BATCHES)
        yield batch


def _restricted(engine: Engine, batches: Iterator[Batch] | object, test: Test) -> DevReport:
    report = measure(engine.network, batches)  # type: ignore[arg-type]
    return replace(report, decision=engine.config.decision)


def _whole_recordings(
    engine: Engine, recordings: list[Recording], store: ClipStore, progress: Callable[[int, int], None] | None
) -> DevReport:
    logits, truth, sources = [], [], []
    for number, recording in enumerate(recordings, start=1):
        with engine.open(store.read(recording.file), store.sample_rate) as stream:
            logits.append(pool_windows(engine.run(stream))[0])
        truth.append(engine.config.labels.index(recording.label))
        sources.append(recording.source)
        if progress is not None:
            progress(number, len(recordings))
    return report_pooled(np.stack(logits), np.array(truth), sources, engine.config.labels, engine.config.decision)


def _whole_frames(
    engine: Engine,
    recordings: list[Recording],
    store: ClipStore,
    frames: FrameExamples,
    progress: Callable[[int, int], None] | None,
) -> DevReport:
    logits, truth = collect_frames(engine, recordings, store, frames, progress)
    return report_frames(engine.config, logits, truth)
