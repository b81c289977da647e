"""Pooling and head that learn on an encoder which stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from framecls.errors import ConfigError
from framecls.nn.network import Network
from framecls.recipes.fit_head import Kept, _blend, _fold, encode, fit
from framecls.training.examples.batch import Batch
from framecls.training.recipe import OptimConfig
from support.models import tiny_config

CONFIG = replace(tiny_config("pooled"), pooling="multihead", labels=("soft", "middle", "loud"))
OPTIM = OptimConfig(learning_rate=5e-3, weight_decay=0.01, seed=3)


class Noises:
    """Batches of noise whose label is its loudness."""

    def make_batch(self, number: int) -> Batch:
        rng = np.random.default_rng(number)
        targets = rng.integers(0, 3, 8)
        n_frames = int(rng.integers(5, 20))
        loudness = np.array([1e-3, 3e-2, 0.5])[targets, None]
        samples = rng.standard_normal((8, 352 + 320 * n_frames)) * loudness
        none = torch.zeros((8, 0), dtype=torch.long)
        waveform = torch.from_numpy(samples.astype(np.float32))
        frames = torch.full((8, n_frames), -100)
        return Batch(waveform, torch.full((8,), n_frames), torch.from_numpy(targets), none, frames)


def test_a_head_learns_and_the_encoder_does_not() -> None:
    torch.manual_seed(0)
    network = Network(CONFIG).eval()
    before = {key: value.clone() for key, value in network.named_parameters()}
    kept = encode(network, Noises(), 160, low=False)  # type: ignore[arg-type]
    assert [len(v) for v in kept.vectors[:8]] == [len(Noises().make_batch(0).phone_frames[0])] * 8
    fit(network, kept, OPTIM, 15)
    batch = Noises().make_batch(10**6)
    with torch.no_grad():
        logits = network(batch.waveform, batch.n_frames).logits
    assert (logits.argmax(1) == batch.targets).float().mean() > 0.8
    for key, value in network.named_parameters():
        assert torch.equal(value, before[key]) == (not key.startswith(("pooling.", "head."))), key


def test_scaling_vectors_is_what_folding_undoes() -> None:
    torch.manual_seed(0)
    network = Network(CONFIG).eval()
    x, mask = torch.randn(2, 9, CONFIG.encoder.dim) * 3 + 1, torch.arange(9) < torch.tensor([[9], [4]])
    mean, deviation = torch.randn(CONFIG.encoder.dim), torch.rand(CONFIG.encoder.dim) + 0.5
    assert network.pooling is not None
    with torch.no_grad():
        wanted = network.pooling((x - mean) / deviation, mask)
        _fold(network, mean, deviation)
        torch.testing.assert_close(network.pooling(x, mask), wanted, atol=1e-4, rtol=1e-4)


def test_a_teacher_is_heard_where_there_is_one() -> None:
    soft = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
    targets = _blend(Kept([], torch.tensor([0, 2]), soft), 0.4)
    torch.testing.assert_close(targets, torch.tensor([[0.6, 0.2, 0.2], [0.0, 0.0, 1.0]]))


def test_other_poolings_are_refused() -> None:
    with pytest.raises(ConfigError, match="multihead"):
        fit(Network(replace(CONFIG, pooling="mean")), Kept([], torch.zeros(0), torch.zeros(0, 3)), OPTIM, 1)
