"""Products in bfloat16: those of torch itself, near those in 32 bits, and the same whatever shares the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.checkpoints.network import save_model
from framecls.config import EncoderConfig, ModelConfig
from framecls.errors import UsageError
from framecls.inference.engine import load_engine
from framecls.nn.network import Network
from framecls.nn.precision import BFloat16Linear, is_lowered, lower, lower_voices
from framecls.speakers.listening import ListeningEngine
from tests.support.models import (
    noise_tensor,
    save_tiny_model,
    save_tiny_voice_model,
    tiny_config,
    tiny_voice_config,
)

_POSITIONS = {"convolution": {}, "sinusoidal": {"stem": "convolution", "activation": "gelu"}}


def large_config(position: str) -> ModelConfig:
    """Settings of a network whose matrices are large enough to gain."""
    encoder = EncoderConfig(dim=256, n_layers=2, n_heads=4, ff_dim=512, subsampling=2, position=position, dropout=0.0)
    return replace(tiny_config("pooled"), encoder=replace(encoder, **_POSITIONS[position]))


def exact_and_lowered(network: Network, lower_it: Callable[[Network], object]) -> tuple[Tensor, Tensor]:
    """Return the answers of a network to three windows before and after it is lowered; they must differ."""
    margin = network.config.features.margin_samples
    waveform = torch.stack([noise_tensor(64 * network.config.hop_samples + 2 * margin, seed) for seed in range(3)])
    n_frames = torch.tensor([64, 64, 40])
    exact = network(waveform, n_frames).logits
    lower_it(network)
    near = network(waveform, n_frames).logits
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    return exact, near


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("n_rows", [1, 3, 250])
def test_a_linear_layer_gives_what_torch_gives(n_rows: int) -> None:
    linear = nn.Linear(256, 300).requires_grad_(False)
    weight, bias = linear.weight.bfloat16(), linear.bias.bfloat16()
    x = torch.randn(n_rows, 256)
    assert torch.equal(BFloat16Linear(linear)(x), functional.linear(x.bfloat16(), weight, bias))


@pytest.mark.parametrize("position", _POSITIONS)
def test_a_lowered_network_is_near_to_what_it_was(position: str) -> None:
    network = Network(large_config(position)).eval().requires_grad_(False)
    exact, near = exact_and_lowered(network, lower)
    torch.testing.assert_close(near, exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", ["fc", "window", "lstm"])
def test_an_encoder_without_attention_stays_as_it_is(kind: Any) -> None:
    config = large_config("convolution")
    network = Network(replace(config, encoder=replace(config.encoder, kind=kind, subsampling=1))).eval()
    lower(network)
    assert not is_lowered(network)


@pytest.mark.parametrize("position", _POSITIONS)
def test_what_comes_out_of_lowered_layers_does_not_depend_on_the_batch(position: str) -> None:
    network = Network(large_config(position)).eval().requires_grad_(False)
    lower(network)
    x, mask = torch.randn(3, 64, 256), torch.ones(3, 64, dtype=torch.bool)
    whole = network.encoder.run_layers(x, mask, 0, 2)
    assert torch.equal(network.encoder.run_layers(x[:1], mask[:1], 0, 2), whole[:1])
    assert torch.equal(network.encoder.run_layers(x[1:], mask[1:], 0, 2), whole[1:])


def test_precision_is_chosen_where_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large.safetensors"
    save_model(Network(large_config("sinusoidal")), large)
    small, voices = save_tiny_model(tmp_path, "frame"), save_tiny_voice_model(tmp_path)
    for multiplies in (True, False):
        monkeypatch.setattr("framecls.inference.engine.multiplies_bfloat16", lambda _device, yes=multiplies: yes)
        assert load_engine(large, device="cpu").precision == ("bf16" if multiplies else "fp32")
        assert load_engine(large, device="cpu", precision="bf16").precision == "bf16"
        assert load_engine(large, device="cpu", precision="fp32").precision == "fp32"
        for path in (small, voices):  # nothing to gain; and vectors that are compared with those of another day
            assert not is_lowered(load_engine(path, device="cpu").network)
    with pytest.raises(UsageError, match="compares vectors"):
        load_engine(voices, device="cpu", precision="bf16")
    with pytest.raises(UsageError, match="choose auto, fp32, bf16"):
        load_engine(small, device="cpu", precision="int8")


def test_vectors_of_voices_in_low_precision_are_near_to_what_they_were() -> None:
    config = tiny_voice_config()
    network = Network(replace(config, encoder=EncoderConfig(kind="campplus", dim=256, n_layers=3, subsampling=2)))
    network.eval().requires_grad_(False)
    exact, near = exact_and_lowered(network, lower_voices)
    assert float(functional.cosine_similarity(near, exact).min()) > 0.999


def test_windows_of_voices_are_heard_in_low_precision_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for multiplies, precision, dtype in (
        (True, "auto", torch.bfloat16),
        (True, "fp32", torch.float32),
        (False, "auto", torch.float32),
    ):
        monkeypatch.setattr("framecls.inference.engine.multiplies_bfloat16", lambda _device, yes=multiplies: yes)
        engine = load_engine("speaker", device="cpu", precision=precision)
        listening = ListeningEngine(engine, engine.config)
        assert {parameter.dtype for parameter in listening.network.encoder.parameters()} == {dtype}
        assert {parameter.dtype for parameter in engine.network.parameters()} == {torch.float32}
