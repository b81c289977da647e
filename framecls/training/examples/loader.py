"""The batches of a run by number: training batches, made ahead by worker processes, and dev batches."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import torch

from framecls.training.examples.batch import Batch
from framecls.training.examples.frames import FrameExamples
from framecls.training.examples.mixtures import MixtureExamples
from framecls.training.examples.pooled import PooledExamples
from framecls.training.examples.voices import VoiceExamples
from framecls.training.job import Data
from framecls.training.recipe import Recipe

N_DEV_BATCHES = 24
DEV_NUMBER = 10**9  # dev batches are numbered from here, beyond all training batches
_BATCHES_AHEAD = 4


def make_examples(data: Data, recipe: Recipe, *, dev: bool) -> FrameExamples | PooledExamples | VoiceExamples:
    """Return the maker of training or dev batches for the task of a recipe."""
    # No noise of the training set in dev examples.
    noise = [] if dev else data.noise
    recordings = data.dev if dev else data.train
    if data.config.embedding:
        return VoiceExamples(recordings, data.config, recipe, data.store, noise, None if dev else data.teacher)
    if data.config.task == "pooled":
        return PooledExamples(recordings, data.config, recipe, data.store, noise)
    teacher = None if dev else data.frame_teacher
    kind = MixtureExamples if recipe.mix.enabled else FrameExamples
    return kind(recordings, data.config, recipe, data.store, noise, DEV_NUMBER if dev else 0, teacher)


def dev_batches(data: Data, recipe: Recipe) -> Iterator[Batch]:
    """Yield the fixed batches that a run is measured on."""
    examples = make_examples(data, recipe, dev=True)
    if isinstance(examples, VoiceExamples):
        yield from examples.dev_batches(data.dev, recipe.voices.dev_length_s)
    elif isinstance(examples, PooledExamples):
        yield from examples.dev_batches(data.dev, data.config.window.length_s)
    else:
        yield from (examples.make_batch(number) for number in range(N_DEV_BATCHES))


def training_batches(data: Data, recipe: Recipe, first: int, last: int) -> Iterator[Batch]:
    """Yield the batches of the steps `[first, last)`, made ahead by the recipe's workers.

    Those that the recipe keeps come again in turn, without their sound.
    """
    workers, n_kept = recipe.optim.workers, recipe.optim.kept_batches
    # Any sequence is a dataset, and without a batch size its items go to collate_fn one by one, in the workers.
    steps = range(first, min(last, first + n_kept) if n_kept else last)
    numbers: Any = [step % n_kept for step in steps] if n_kept else steps
    make_batch: Any = make_examples(data, recipe, dev=False).make_batch
    loader = torch.utils.data.DataLoader(
        numbers,
        batch_size=None,
        collate_fn=make_batch,
        num_workers=workers,
        prefetch_factor=_BATCHES_AHEAD if workers else None,
        worker_init_fn=_begin_worker,
    )
    kept = []
    for batch in loader:
        yield batch
        if n_kept:
            kept.append(replace(batch, waveform=batch.waveform[:, :0].clone()))
    yield from islice(cycle(kept), last - first - len(steps))


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    # What is sent to the whole group of processes is for the first of them, which ends the workers: were they gone
    # before, torch would call that a failure.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
