"""Write training examples as sound files, to hear what mixing and augmentation do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile
from torch import Tensor

from framecls.config import ModelConfig
from framecls.errors import ConfigError, OutputError
from framecls.inference.segments import find_runs
from framecls.training.examples.batch import Batch
from framecls.training.examples.loader import make_examples
from framecls.training.examples.voices import VoiceExamples
from framecls.training.job import Data
from framecls.training.recipe import Recipe

LIST_NAME = "preview.jsonl"


def write_preview(data: Data, recipe: Recipe, folder: Path, count: int) -> None:
    """Write the first training examples as wav files, and a JSON line for each that says how it was made.

    Args:
        data: what `job.prepare` gave.
        recipe: of the run.
        folder: made if needed; an earlier preview in it is replaced.
        count: how many examples.

    Raises:
        ConfigError: the features are precomputed, or the folder holds something else.
        OutputError: the folder cannot be written.
    """
    if data.config.features.kind == "precomputed":
        raise ConfigError("features computed elsewhere cannot be listened to: there is no preview of them")
    is_ours = not os.path.exists(folder) or (
        folder.is_dir() and (not any(folder.iterdir()) or (folder / LIST_NAME).exists())
    )
    if not is_ours:
        raise ConfigError(f"{folder}: there is something else here: name a new folder for the preview")
    lines = []
    with _translated_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for number, (samples, note) in zip(range(1, count + 1), _examples(data, recipe), strict=False):
        name = f"{number:04d}.wav"
        with _translated_errors(folder):
            soundfile.write(folder / name, samples.numpy(), data.config.features.sample_rate, subtype="PCM_16")
        lines.append(json.dumps({"file": name, **note}) + "\n")
    with _translated_errors(folder):
        (folder / LIST_NAME).write_text("".join(lines), encoding="utf-8")


@contextmanager
def _translated_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, soundfile.LibsndfileError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"{folder}: the preview cannot be written here: {reason}") from error


def _examples(data: Data, recipe: Recipe) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    examples = make_examples(data, recipe, dev=False)
    if isinstance(examples, VoiceExamples):
        examples.check()
    margin, hop = data.config.features.margin_samples, data.config.hop_samples
    for number in range(recipe.optim.steps):
        notes: list[dict[str, Any]] = []
        examples.notes = notes
        batch = examples.make_batch(number)
        for index, note in enumerate(notes):
            n_samples = int(batch.n_frames[index]) * hop
            duration_s = round(n_samples / data.config.features.sample_rate, 3)
            row = {"step": number + 1, "duration": duration_s, **_targets_of(batch, index, data.config, note)}
            yield batch.waveform[index, margin : margin + n_samples], row | note


def _targets_of(batch: Batch, index: int, config: ModelConfig, note: dict[str, Any]) -> dict[str, Any]:
    """Return the label of an example, or its labels with their times."""
    if config.embedding:  # all clips have one label, their voice
        return {"label": note["clips"][0]["label"]}
    if config.task == "pooled":
        return {"label": config.labels[int(batch.targets[index])]}
    targets = batch.targets[index, : int(batch.n_frames[index])]
    segments = []
    for column, label in enumerate(config.labels):
        holds = targets[:, column] > 0.5 if config.overlapping else targets == column
        for first, last in find_runs(holds.numpy()):
            segments.append(
                {"start": round(first * config.hop_s, 3), "end": round(last * config.hop_s, 3), "label": label}
            )
    return {"segments": sorted(segments, key=lambda segment: (segment["start"], segment["label"]))}
