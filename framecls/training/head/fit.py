"""Fit a head: first a linear one, by logistic regression, then all of it from there.

Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution": what a linear
probe finds in the vectors of a frozen encoder is kept where the layers above it begin with it. The layers of
self-attention begin as identities, so before the first step the network is the linear probe.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from framecls.checkpoints.file import dequantize, quantize
from framecls.config import FeatureConfig, ModelConfig
from framecls.nn.network import Network, smooth
from framecls.nn.pooling import AttentiveStatisticsPooling
from framecls.training.examples.batch import IGNORED
from framecls.training.recipe import Recipe

_MOST_FRAMES = 8000  # that principal components are found by
_MOST_PROBED = 60000  # frames that the linear probe learns from
_CROP = (0.4, 1.0)  # share of a window that an example is cut to
_MASKED = 0.1  # share of an example's frames that is hidden (SpecAugment, Park et al. 2019)
_LEAST_BATCHES, _MOST_BATCHES = 8, 40  # of an epoch
_EPSILON = 1e-5
_ITERATIONS = 60  # of a logistic regression, about


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows of recordings with their truth."""

    vectors: list[Tensor]  # of each window (frame, channel) 16-bit floats
    targets: list[Tensor]  # (frame, label) 0..1, (frame,) label index or `IGNORED`; of a pooled task () label index
    owners: NDArray[np.int64]  # (window,) the number of its recording

    def of(self, recordings: NDArray[np.int64]) -> Examples:
        """Return the windows of some recordings."""
        kept = np.flatnonzero(np.isin(self.owners, recordings)).tolist()
        return Examples([self.vectors[i] for i in kept], [self.targets[i] for i in kept], self.owners[kept])


Watcher = Callable[[int, float, Network], None]  # told the epoch, its mean loss, and the network after it


def head_config(config: ModelConfig) -> ModelConfig:
    """Return the settings of a network that takes the vectors of a model's frames, and is the model above them."""
    features = FeatureConfig(
        "precomputed",
        max(1, round(1 / config.hop_s)),
        window_samples=1,
        hop_samples=1,
        precomputed_dim=config.features.dim,
    )
    return replace(config, features=features, encoder=replace(config.encoder, subsampling=1), gate="")


def fit_head(config: ModelConfig, recipe: Recipe, examples: Examples, epochs: int, watch: Watcher) -> Network:
    """Fit a head to examples.

    Args:
        config: of the head, see `head_config`.
        recipe: optimizer, regularisation, and how many epochs the learning rate is planned for.
        examples: to learn from.
        epochs: after which to stop; 0: the linear probe.
        watch: called with the probe as epoch 0, and after each epoch.
    """
    torch.manual_seed(recipe.optim.seed)
    rng = np.random.default_rng((recipe.optim.seed, 7))
    network = Network(config)
    _begin_as_probe(network, recipe, examples, rng)
    watch(0, math.nan, network.eval())
    if not epochs:
        return network
    with torch.no_grad():
        projected = [network.encoder.input(window.float()) for window in examples.vectors]
    # All but the projection onto principal components.
    parameters = [value for name, value in network.named_parameters() if not name.startswith("encoder.input.")]
    optim = recipe.optim
    optimizer = torch.optim.AdamW(parameters, lr=optim.learning_rate, weight_decay=optim.weight_decay)
    n_rows, n_batches = _plan_epoch(config, recipe, len(projected))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, optim.learning_rate, total_steps=recipe.head.epochs * n_batches + 1, pct_start=0.1
    )
    weights = window_weights(examples, config)
    for epoch in range(1, epochs + 1):
        network.train()
        losses = []
        for _ in range(n_batches):
            rows = rng.choice(len(projected), n_rows, p=weights)
            cut = [_crop(projected[row], examples.targets[row], rng) for row in rows]
            x, mask = pad([vectors for vectors, _ in cut])
            loss = _loss(answer(network, x, mask, recipe.head.dropout), [target for _, target in cut], mask, recipe)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        watch(epoch, float(np.mean(losses)), network.eval())
    return network


def _plan_epoch(config: ModelConfig, recipe: Recipe, n_windows: float) -> tuple[int, int]:
    """Return the examples of a batch, and the batches of an epoch."""
    n_rows = max(4, round(recipe.optim.batch_s / (config.window.length_s * sum(_CROP) / 2)))
    return n_rows, int(np.clip(n_windows / n_rows, _LEAST_BATCHES, _MOST_BATCHES))


def estimate_epoch_s(config: ModelConfig, recipe: Recipe, n_windows: float, window_frames: float) -> float:
    """Return about how many seconds an epoch takes, by the time of a step on nothing.

    Args:
        config: of the model.
        recipe: size of a batch.
        n_windows: to learn from.
        window_frames: of the longest.
    """
    n_rows, n_batches = _plan_epoch(config, recipe, n_windows)
    network = Network(head_config(config)).train()
    n_frames = max(1, round(window_frames * sum(_CROP) / 2))
    x, mask = torch.zeros(n_rows, n_frames, config.encoder.dim), torch.ones(n_rows, n_frames, dtype=torch.bool)
    return n_batches * least_time(lambda: torch.autograd.backward(answer(network, x, mask).sum()))


def estimate_probe_s(config: ModelConfig, n_items: float) -> float:
    """Return about how many seconds the linear probe of clips, or frames, takes, by the time of a matrix product."""
    x = torch.zeros(4096, config.encoder.dim * (2 if config.task == "pooled" else 1))
    product_s = least_time(lambda: x @ x[0]) / len(x)
    return min(n_items, _MOST_PROBED) * product_s * len(config.labels) * _ITERATIONS * 2


def least_time(do: Callable[[], object]) -> float:
    """Return the seconds of the faster of two times."""
    times_s = [time.monotonic()]
    for _ in range(2):
        do()
        times_s.append(time.monotonic())
    return min(later - earlier for earlier, later in pairwise(times_s))


def answer(network: Network, x: Tensor, mask: Tensor, dropout: float = 0.0) -> Tensor:
    """Return the logits of projected vectors.

    Args:
        network: the head.
        x: (window, frame, channel) what its input layer made of vectors.
        mask: (window, frame) True = real.
        dropout: before the last layer, in training.
    """
    logits: Tensor = network.head(functional.dropout(_describe(network, x, mask), dropout, network.training))
    return smooth(logits, mask, network.config.smoothing)


def _describe(network: Network, x: Tensor, mask: Tensor, first: int = 0) -> Tensor:
    """Return what the last layer reads, by layers from `first` on: (window, number), or (window, frame, channel)."""
    x = functional.dropout(x, network.config.encoder.dropout, network.training)
    x = network.encoder.run_layers(x, mask, first, len(network.encoder.layers))
    return x if network.pooling is None else network.pooling(x, mask)


@torch.inference_mode()
def predict(network: Network, windows: Sequence[Tensor], n_at_once: int = 32) -> list[NDArray[np.float32]]:
    """Return for each of (frame, channel) windows the logits: (label,), or (frame, label)."""
    found: list[NDArray[np.float32]] = []
    for first in range(0, len(windows), n_at_once):
        part = windows[first : first + n_at_once]
        vectors, mask = pad([window.float() for window in part])
        logits = answer(network, network.encoder.project(vectors, mask), mask).numpy()
        found += [row[: len(window)] if row.ndim == 2 else row for row, window in zip(logits, part, strict=True)]
    return found


def pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (row, frame, channel), zeros where padded, and the (row, frame) mask."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True), mask


def window_weights(examples: Examples, config: ModelConfig) -> NDArray[np.float64]:
    """Return (window,) the chances of windows, so that each label, and "none", is heard as often as the others."""
    has = np.zeros((len(examples.targets), len(config.labels) + 1))
    for row, target in enumerate(examples.targets):
        if target.ndim == 2:
            has[row, :-1] = target.amax(dim=0).numpy()
            has[row, -1] = not bool((target > 0).any())
        else:
            has[row, np.unique(target[target != IGNORED].numpy())] = 1
    if config.task == "pooled":  # a long recording counts no more than a short one
        has /= np.bincount(examples.owners)[examples.owners][:, None]
    totals = has.sum(axis=0)
    weights = (has / np.where(totals > 0, totals, 1)).sum(axis=1)
    return np.asarray(weights / weights.sum(), np.float64)


def _crop(vectors: Tensor, target: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut a window to a part of it, and hide a few frames."""
    n_frames = max(1, math.ceil(len(vectors) * rng.uniform(*_CROP)))
    first = int(rng.integers(0, len(vectors) - n_frames + 1))
    cut = vectors[first : first + n_frames]
    n_masked = int(n_frames * _MASKED * rng.random())
    if n_masked:
        at = int(rng.integers(0, n_frames - n_masked + 1))
        cut = cut.clone()
        cut[at : at + n_masked] = 0
    return cut, target if target.ndim == 0 else target[first : first + n_frames]


def _loss(logits: Tensor, targets: Sequence[Tensor], mask: Tensor, recipe: Recipe) -> Tensor:
    smoothing = recipe.optim.label_smoothing
    if targets[0].ndim == 0:
        return functional.cross_entropy(logits, torch.stack(list(targets)), label_smoothing=smoothing)
    truth = torch.cat(list(targets))
    if truth.ndim == 2:
        return functional.binary_cross_entropy_with_logits(logits[mask], truth)
    if not truth.ne(IGNORED).any():
        return 0 * logits.sum()
    return functional.cross_entropy(logits[mask], truth, ignore_index=IGNORED, label_smoothing=smoothing)


def _begin_as_probe(network: Network, recipe: Recipe, examples: Examples, rng: np.random.Generator) -> None:
    """Make a network of principal components, identities, and a linear probe."""
    from sklearn.utils.class_weight import compute_sample_weight

    encoder, config = network.encoder, network.config
    _rotate(encoder.input, examples, rng)
    encoder.init_identity(0)
    if isinstance(network.pooling, AttentiveStatisticsPooling):  # plain statistics
        last = network.pooling.attention[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    network.eval()
    described = []
    with torch.inference_mode():
        for first in range(0, len(examples.vectors), 64):
            vectors, mask = pad([window.float() for window in examples.vectors[first : first + 64]])
            # The layers change nothing yet: after the last of them.
            rows = _describe(network, encoder.project(vectors, mask), mask, len(encoder.layers))
            described.append(rows if network.pooling is not None else rows[mask])
    x = torch.cat(described).numpy()
    if network.pooling is not None:
        y, weights = torch.stack(examples.targets).numpy(), window_weights(examples, config)
    else:
        y = torch.cat(examples.targets).numpy()
        some = _sample_frames(y, rng)
        x, y = x[some], y[some]
        weights = np.ones(len(y)) if y.ndim == 2 else compute_sample_weight("balanced", y)
    parts = x.reshape(len(x), -1, encoder.output_size)  # means and deviations, or frames as they are
    scale = np.repeat(np.sqrt(parts.var(axis=0).mean(axis=1)) + _EPSILON, encoder.output_size)
    penalty = recipe.head.inverse_penalties[0]
    weight, bias = fit_linear(x, scale, y, weights / weights.mean(), len(config.labels), penalty)
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))


def _rotate(layer: nn.Module, examples: Examples, rng: np.random.Generator) -> None:
    """Make a linear layer give the first principal components of standardised vectors, of mean variance 1.

    Each keeps its share of the variance: so a penalty on weights above them is one on weights of the vectors
    themselves. Were each brought to the same variance, as whitening does, a few clips would be told apart by noise.
    """
    assert isinstance(layer, nn.Linear)
    frames = torch.cat(examples.vectors)
    frames = frames[torch.from_numpy(rng.permutation(len(frames))[:_MOST_FRAMES])].float()
    mean, deviation = frames.mean(dim=0), frames.std(dim=0, correction=0) + _EPSILON
    scaled = (frames - mean) / deviation
    values, directions = torch.linalg.eigh(scaled.T @ scaled / len(frames))  # ascending
    size = min(layer.out_features, layer.in_features)
    spread = values[-size:].clamp(min=0).mean().sqrt() + _EPSILON
    chosen = directions[:, -size:].flip(1) / (deviation.unsqueeze(1) * spread)
    with torch.no_grad():
        layer.weight.zero_()
        # As a model file rounds it: the vectors lie far from zero, so what rounding adds must be a part of the mean.
        layer.weight[:size] = dequantize(quantize({"": chosen.T.contiguous()}, "int8"))[""]
        layer.bias.copy_(-(layer.weight @ mean))


def _sample_frames(truth: NDArray[np.float32] | NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the numbers of frames for the probe: of all that have a truth, the rarest labels before the rest."""
    if truth.ndim == 2:
        columns, known = list((truth > 0).T), np.ones(len(truth), bool)
    else:
        known = truth != IGNORED
        columns = [np.asarray(truth == label) for label in np.unique(truth[known])]
    each = _MOST_PROBED // (2 * max(1, len(columns)))
    picked = [rng.permutation(np.flatnonzero(column))[:each] for column in columns]
    rest = rng.permutation(np.flatnonzero(known))[: _MOST_PROBED // 2]
    return np.unique(np.concatenate([*picked, rest])).astype(np.int64)


def fit_linear(
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    truth: NDArray[np.float32] | NDArray[np.int64],
    weights: NDArray[np.float64],
    n_labels: int,
    inverse_penalty: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit a logistic regression on scaled numbers.

    Args:
        x: (item, number).
        scale: (number,) that numbers are divided by, after their means are taken off.
        truth: (item,) label indices, or (item, label) 0 or 1 of labels that may overlap.
        weights: (item,) of mean 1.
        n_labels: of the model; one that no item has is never the answer.
        inverse_penalty: scikit-learn's C.

    Returns:
        (label, number) weights and (label,) biases for the numbers as they are.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean = x.mean(axis=0)
    scaled = (x - mean) / scale
    weight, bias = np.zeros((n_labels, x.shape[1])), np.full(n_labels, -8.0)
    balance = "balanced" if truth.ndim == 2 else None

    def fit(truth: NDArray[Any]) -> LogisticRegression:
        model = LogisticRegression(C=inverse_penalty, max_iter=200, tol=1e-3, class_weight=balance)
        return model.fit(scaled, truth, sample_weight=weights)

    # A label a thread: several threads of BLAS at one label, beside those of torch, take longer than one.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        if truth.ndim == 2:
            holds = truth > 0
            bias[holds.all(axis=0)] = 8.0
            told = np.flatnonzero(holds.any(axis=0) & ~holds.all(axis=0))
            for label, model in zip(told, threads.map(fit, holds.T[told]), strict=True):
                weight[label], bias[label] = model.coef_[0], model.intercept_[0]
        else:
            known = np.unique(truth)
            if len(known) > 1:
                model = fit(truth)
                weight[known], bias[known] = _by_label(model.coef_), _by_label(model.intercept_)
            else:
                bias[known] = 8.0
    weight /= scale
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


def _by_label(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a row for each of two labels where scikit-learn gives one for both."""
    return np.concatenate([-values / 2, values / 2]) if len(values) == 1 else values
