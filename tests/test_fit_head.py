"""A head fitted by logistic regression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from models import tiny_config

from framecls.config import ModelConfig
from framecls.errors import ConfigError
from framecls.nn.model import Network
from framecls.recipes.fit_head import fit, pooled, take_encoder
from framecls.training.examples import Batch


def phone_config(n_layers: int = 1) -> ModelConfig:
    config = tiny_config("pooled")
    encoder = replace(config.encoder, n_layers=n_layers)
    return replace(
        config, encoder=encoder, phones=("a", "b", "c"), phone_layer=1, phone_bottleneck=True, pooling="mean"
    )


class Noises:
    """Batches of noise whose label is its loudness: phones of an untrained network tell that well enough."""

    def make_batch(self, number: int) -> Batch:
        rng = np.random.default_rng(number)
        targets = rng.integers(0, 3, 8)
        samples = (
            rng.standard_normal((8, 352 + 320 * 20)).astype(np.float32) * np.array([1e-3, 3e-2, 0.5])[targets, None]
        )
        none = torch.zeros((8, 0), dtype=torch.long)
        waveform = torch.from_numpy(samples.astype(np.float32))
        return Batch(waveform, torch.full((8,), 20), torch.from_numpy(targets), none, torch.full((8, 20), -100))


def test_the_head_says_what_the_regression_says() -> None:
    torch.manual_seed(0)
    heard, network = Network(phone_config(2)).eval(), Network(phone_config()).eval()
    take_encoder(network, heard)
    fit(network, Noises(), 160, 1.0)  # type: ignore[arg-type]
    batch = Noises().make_batch(10**6)
    with torch.no_grad():
        logits = network(batch.waveform, batch.n_frames).logits
    assert (logits.argmax(1) == batch.targets).float().mean() > 0.8
    linear = pooled(network, batch) @ network.head.weight[:, :4].detach().numpy().T + network.head.bias.detach().numpy()
    np.testing.assert_allclose(logits, linear, atol=1e-4)


def test_what_hears_stays_as_it_was() -> None:
    heard, network = Network(phone_config(2)).eval(), Network(phone_config()).eval()
    take_encoder(network, heard)
    batch = Noises().make_batch(3)
    with torch.no_grad():
        wanted = heard(batch.waveform, batch.n_frames).phone_logits
        got = network(batch.waveform, batch.n_frames).phone_logits
    assert wanted is not None
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


def test_an_encoder_that_goes_on_above_the_phones_is_refused() -> None:
    with pytest.raises(ConfigError, match="must sit on the last layer"):
        take_encoder(Network(phone_config(2)), Network(phone_config(2)))
