"""Measure `framecls train` beside a probe, on the corpora of `teach_dev`, with sources kept apart.

    python -m framecls.recipes.teach_compare DEV [--task identify|audacity|raven] [--parts 0,1,2]

The probe is one pass of the frozen encoder of `language`, its vectors pooled to mean and deviation (of a clip, or of
none for frames), and scikit-learn's logistic regression; of the last layer, and of that which the model chose. For
`identify` the figure is balanced accuracy, for label files the mean over labels of the average precision of frames and
the F1 of segments.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import framecls
from framecls.config import ReadOptions
from framecls.inference.engine import Engine
from framecls.inference.segments import find_runs
from framecls.model import Model
from framecls.training.data.manifest import Recording, read_manifest
from framecls.training.head.decide import match_segments
from framecls.training.head.run import find_features
from framecls.training.head.vectors import Hearing
from framecls.training.recipe import Recipe, find_recipe, read_recipe

Floats = NDArray[np.float32]


def hear_all(recipe: Recipe, labels: tuple[str, ...], recordings: list[Recording]) -> list[Floats]:
    """Return (frame, layer, channel) the vectors of all layers of recordings."""
    from dataclasses import replace

    config = replace(recipe.model_config(labels, ()), features=find_features(recipe, 0))
    config = replace(config, encoder=replace(config.encoder, subsampling=1), window=replace(config.window, overlap_s=0))
    engine = Engine(Hearing(config, recipe.features.pretrained.source, all_layers=True).eval(), torch.device("cpu"))
    n_layers = config.features.pretrained.n_layers
    found = []
    for request in engine.run([str(recording.file) for recording in recordings], ReadOptions()):
        rows = np.concatenate([output.logits for output in request])
        found.append(rows.reshape(len(rows), n_layers, -1))
    return found


def probe_clips(train: list[Floats], truth: list[str], test: list[Floats], layer: int) -> list[str]:
    """Return the answers of a logistic regression on mean and deviation of a layer."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def pool(clips: list[Floats]) -> Floats:
        rows = [np.concatenate([c[:, layer - 1].mean(axis=0), c[:, layer - 1].std(axis=0)]) for c in clips]
        return np.stack(rows)

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    answers: list[str] = probe.fit(pool(train), truth).predict(pool(test)).tolist()
    return answers


def frame_truth(recording: Recording, labels: tuple[str, ...], n_frames: int, hop_s: float) -> NDArray[np.bool_]:
    """Return (frame, label) what holds at the middle of each frame."""
    times_s = (np.arange(n_frames) + 0.5) * hop_s
    truth = np.zeros((n_frames, len(labels)), bool)
    for span in recording.spans:
        truth[(times_s >= span.start_s) & (times_s < (span.end_s or np.inf)), labels.index(span.label)] = True
    return truth


def probe_frames(train: list[Floats], truth: list[NDArray[np.bool_]], test: list[Floats], layer: int) -> list[Floats]:
    """Return (frame, label) probabilities of a logistic regression for each label on the frames of a layer."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = np.concatenate([c[:, layer - 1] for c in train]), np.concatenate(truth)
    columns = []
    for column in range(y.shape[1]):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, class_weight="balanced"))
        probe.fit(x, y[:, column])
        columns.append([probe.predict_proba(clip[:, layer - 1])[:, 1] for clip in test])
    return [np.stack([column[i] for column in columns], axis=1).astype(np.float32) for i in range(len(test))]


def score_frames(scores: list[Floats], truth: list[NDArray[np.bool_]]) -> float:
    """Return the mean over labels of the average precision of frames."""
    from sklearn.metrics import average_precision_score

    flat, holds = np.concatenate(scores), np.concatenate(truth)
    values = [average_precision_score(holds[:, c], flat[:, c]) for c in range(flat.shape[1]) if holds[:, c].any()]
    return float(np.mean(values))


def segment_score(found: list[NDArray[np.bool_]], truth: list[NDArray[np.bool_]]) -> float:
    """Return the mean over labels of the F1 of segments."""
    values = []
    for column in range(truth[0].shape[1]):
        given = [find_runs(rows[:, column]) for rows in found]
        wanted = [find_runs(rows[:, column]) for rows in truth]
        hits = sum(len(match_segments(a, b)) for a, b in zip(given, wanted, strict=True))
        if any(wanted):
            values.append(2 * hits / max(1, sum(map(len, given)) + sum(map(len, wanted))))
    return float(np.mean(values))


def compare_clips(dev: Path, part: int, folder: Path) -> dict[str, Any]:
    """Train and measure on one part of the clips."""
    from sklearn.metrics import balanced_accuracy_score

    train, test = (read_manifest(dev / f"clips-{side}-{part}.jsonl") for side in ("train", "test"))
    began = time.monotonic()
    model = framecls.train(dev / f"clips-train-{part}.jsonl", "identify", folder / f"clips{part}.safetensors")
    minutes = (time.monotonic() - began) / 60
    truth = [recording.label for recording in test]
    answers = [model.identify(recording.file).top[0].label for recording in test]
    layer = model.config.features.pretrained.n_layers
    heard = hear_all(read_recipe(find_recipe("quick_identify")), model.labels, [*train, *test])
    row = _report(model, minutes) | {"head": balanced_accuracy_score(truth, answers)}
    for name, number in (("probe, last layer", 6), (f"probe, layer {layer}", layer)):
        probed = probe_clips(heard[: len(train)], [r.label for r in train], heard[len(train) :], number)
        row[name] = balanced_accuracy_score(truth, probed)
    return row


def compare_frames(dev: Path, kind: str, part: int, folder: Path) -> dict[str, Any]:
    """Train and measure on one part of recordings with label files."""
    train, test = (read_manifest(dev / kind / f"{side}-{part}") for side in ("train", "test"))
    began = time.monotonic()
    model = framecls.train(dev / kind / f"train-{part}", "tag", folder / f"{kind}{part}.safetensors")
    minutes = (time.monotonic() - began) / 60
    labels, hop_s = model.labels, model.config.hop_s
    results = [model.tag(recording.file) for recording in test]
    truth = [frame_truth(r, labels, len(result.scores), hop_s) for r, result in zip(test, results, strict=True)]
    found = [np.zeros(each.shape, bool) for each in truth]
    for rows, result in zip(found, results, strict=True):
        for segment in result.segments:
            rows[round(segment.start / hop_s) : round(segment.end / hop_s), labels.index(segment.label)] = True
    layer = model.config.features.pretrained.n_layers
    heard = hear_all(read_recipe(find_recipe("quick_tag")), labels, [*train, *test])
    marks = [frame_truth(r, labels, len(h), hop_s) for r, h in zip([*train, *test], heard, strict=True)]
    row = _report(model, minutes) | {"head": score_frames([result.scores for result in results], truth)}
    row["head, segments"] = segment_score(found, truth)
    for name, number in (("probe, last layer", 6), (f"probe, layer {layer}", layer)):
        probed = probe_frames(heard[: len(train)], marks[: len(train)], heard[len(train) :], number)
        row[name] = score_frames(probed, marks[len(train) :])
        row[f"{name}, segments"] = segment_score([scores >= 0.5 for scores in probed], marks[len(train) :])
    return row


def _report(model: Model, minutes: float) -> dict[str, Any]:
    assert model.report is not None
    folds = model.report.score
    return {"minutes": minutes, "folds": folds.mean, "spread": folds.spread}


def main() -> None:
    """Print a line of figures for each part."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("dev", type=Path)
    arguments.add_argument("--task", choices=("identify", "audacity", "raven"), default="identify")
    arguments.add_argument("--parts", default="0,1,2")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        for part in map(int, options.parts.split(",")):
            if options.task == "identify":
                row = compare_clips(options.dev, part, Path(name))
            else:
                row = compare_frames(options.dev, options.task, part, Path(name))
            figures = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
            sys.stdout.write(f"{options.task} {part}: {figures}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
