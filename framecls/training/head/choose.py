"""Choose the layer of an encoder whose vectors tell the labels apart best, by a linear probe on a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from framecls.config import ReadOptions
from framecls.inference.engine import Engine
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.examples.frames import FrameExamples
from framecls.training.metrics import scores as metrics

MOST_EXCERPTS = 60  # that are heard to choose
EXCERPT_S = 6.0
_MOST_FRAMES = 3000
_CLEARLY = 0.02  # better, for another layer than the usual one: a sample says no more
_PENALTY = 100.0  # of ridge regression


def choose_layer(
    engine: Engine,
    layers: Sequence[int],
    recordings: Sequence[Recording],
    folds: NDArray[np.int64],
    examples: FrameExamples | None,
    store: ClipStore,
) -> tuple[int, dict[int, float]]:
    """Return the layer that is best on what is held out, and the mean area under the ROC curve of each.

    Args:
        engine: of a `Hearing` of all layers.
        layers: to choose from, counted from 1; the usual one first.
        recordings: that may be sampled.
        folds: (recording,) in which each is held out.
        examples: tells the labels of frames; None: recordings have one label each.
        store: their sound.
    """
    picked = _sample(recordings)
    length = round(EXCERPT_S * store.sample_rate)
    starts = [_start(recordings[index], length, store) for index in picked]
    sounds = (store.read(recordings[i].file, start, start + length) for i, start in zip(picked, starts, strict=True))
    running = engine.run(sounds, ReadOptions(sample_rate=store.sample_rate))
    n_layers = engine.config.features.pretrained.n_layers
    rows: list[NDArray[np.float32]] = []
    truth: list[NDArray[np.bool_]] = []
    held = []
    for index, start, request in zip(picked, starts, running, strict=True):
        vectors = np.concatenate([output.logits for output in request])
        vectors = vectors.reshape(len(vectors), n_layers, -1)
        if examples is None:
            rows.append(np.concatenate([vectors.mean(axis=0), vectors.std(axis=0)], axis=1)[None])
            label = recordings[index].label
            truth.append(np.array([[label == each for each in engine.config.labels]]))
        else:
            rows.append(vectors)
            truth.append(examples.annotate(recordings[index], start, len(vectors)) > 0.5)
        held.append(np.full(len(rows[-1]), folds[index]))
    x, y, fold = np.concatenate(rows), np.concatenate(truth).astype(bool), np.concatenate(held)
    known = [layer for layer in layers if layer <= n_layers] or range(n_layers, 0, -1)  # of an encoder with few
    some = np.random.default_rng(0).permutation(len(x))[:_MOST_FRAMES]
    found = {layer: _separation(x[some, layer - 1], y[some], fold[some]) for layer in known}
    usual = next(iter(found))
    best = max(found, key=lambda layer: found[layer])
    return (best if found[best] >= found[usual] + _CLEARLY else usual), found


def _sample(recordings: Sequence[Recording]) -> list[int]:
    """Return the numbers of some recordings, those of each first label in turn."""
    by_label: dict[str, list[int]] = {}
    for index in np.random.default_rng(0).permutation(len(recordings)).tolist():
        label = recordings[index].spans[0].label if recordings[index].spans else ""
        by_label.setdefault(label, []).append(index)
    turns = sorted((turn, label, index) for label, ids in by_label.items() for turn, index in enumerate(ids))
    return [index for _, _, index in turns[:MOST_EXCERPTS]]


def _start(recording: Recording, length: int, store: ClipStore) -> int:
    """Return the sample that an excerpt around a recording's first label begins with."""
    if not recording.spans:
        return 0
    start = round(recording.spans[0].start_s * store.sample_rate) - length // 4
    return max(0, min(start, store.n_samples(recording.file) - length))


def _separation(x: NDArray[np.float32], truth: NDArray[np.bool_], folds: NDArray[np.int64]) -> float:
    """Return the mean area under the ROC curve of labels, each fold told by a ridge regression on the others."""
    from sklearn.linear_model import Ridge

    scores = np.zeros(truth.shape)
    for fold in np.unique(folds):
        known = folds != fold
        if not known.any():
            continue
        mean, deviation = x[known].mean(axis=0), x[known].std(axis=0) + 1e-5
        model = Ridge(_PENALTY).fit((x[known] - mean) / deviation, truth[known].astype(np.float32))
        scores[~known] = model.predict((x[~known] - mean) / deviation).reshape(-1, truth.shape[1])
    areas = [metrics.roc_auc(scores[:, column], truth[:, column]) for column in range(truth.shape[1])]
    return float(np.nanmean(areas)) if not np.isnan(areas).all() else 0.0
