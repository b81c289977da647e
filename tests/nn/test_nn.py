"""The networks against slow, obvious references; and that padding never shows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from framecls.config import EncoderConfig, ModelConfig
from framecls.errors import ConfigError
from framecls.nn.attention import ATTENTIONS, AdditiveAttention, Attention
from framecls.nn.encoder import Encoder, stack_neighbours
from framecls.nn.network import Network, recorded_attention, smooth
from framecls.nn.pooling import POOLINGS, AttentiveStatisticsPooling, ReadingPooling
from support.commands import run_command
from support.models import tiny_config


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lecture_attention(layer: Attention, x: Tensor, mask: Tensor, relevance: str) -> tuple[Tensor, Tensor]:
    """Self-attention with loops, as on the blackboard: x (position, channel), mask (position,)."""
    length, dim = x.shape
    size = dim // layer.n_heads
    query, key, value = layer.to_query_key_value(x).split(dim, dim=1)
    mixed = torch.zeros(length, dim)
    weights = torch.zeros(layer.n_heads, length, length)
    for head in range(layer.n_heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(length):
            scores = torch.full((length,), -math.inf)
            for j in range(length):
                if not mask[j]:
                    continue
                if relevance == "dot":
                    scores[j] = query[i, part] @ key[j, part] / math.sqrt(size)
                else:
                    assert isinstance(layer, AdditiveAttention)
                    scores[j] = layer.to_score[head] @ torch.tanh(query[i, part] + key[j, part])
            weights[head, i] = scores.softmax(dim=0)
            mixed[i, part] = sum(weights[head, i, j] * value[j, part] for j in range(length))
    return layer.to_output(mixed), weights


@pytest.mark.parametrize("relevance", ["dot", "additive"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_is_the_lectures(relevance: str, need_weights: bool) -> None:
    layer = ATTENTIONS[relevance](12, 3).eval()
    x = torch.randn(2, 7, 12)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    with torch.no_grad():
        got, weights = layer(x, mask, need_weights=need_weights)
        for row in range(2):
            wanted, wanted_weights = lecture_attention(layer, x[row], mask[row], relevance)
            torch.testing.assert_close(got[row], wanted, atol=1e-5, rtol=1e-4)
            if weights is not None:
                torch.testing.assert_close(weights[row], wanted_weights, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(weights[row].sum(-1), torch.ones(3, 7))
    assert (weights is not None) == need_weights


def test_additive_attention_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = AdditiveAttention(8, 2).eval()
    x, mask = torch.randn(1, 11, 8), torch.ones(1, 11, dtype=torch.bool)
    whole, _ = layer(x, mask)
    monkeypatch.setattr("framecls.nn.attention._MAX_PAIR_ELEMENTS", 300)
    pieces, _ = layer(x, mask)
    torch.testing.assert_close(pieces, whole)


def test_heads_must_divide_the_dimension() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 8"):
        ATTENTIONS["dot"](8, 3)


def test_stack_neighbours() -> None:
    frames = torch.arange(1.0, 5.0).view(1, 4, 1)
    wanted = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0]]).float()
    torch.testing.assert_close(stack_neighbours(frames, 1)[0], wanted)


RUNGS = {
    "fc": EncoderConfig(kind="fc", dim=16, n_layers=2, n_heads=2, ff_dim=32),
    "window": EncoderConfig(kind="window", context=3, dim=16, n_layers=2, n_heads=2, ff_dim=32),
    "dot": EncoderConfig(score="dot", dim=16, n_layers=2, n_heads=2, ff_dim=32, kernel=5),
    "additive": EncoderConfig(score="additive", dim=16, n_layers=2, n_heads=2, ff_dim=32, kernel=5),
    "sinusoidal": EncoderConfig(position="sinusoidal", dim=16, n_layers=2, n_heads=2, ff_dim=32),
    "lstm": EncoderConfig(kind="lstm", dim=16, n_layers=2, n_heads=2),
    "lstm both ways": EncoderConfig(kind="lstm", bidirectional=True, subsampling=2, dim=16, n_layers=2, n_heads=2),
    "subsampled": EncoderConfig(subsampling=4, dim=16, n_layers=2, n_heads=2, ff_dim=32, kernel=5),
    "campplus": EncoderConfig(kind="campplus", dim=32, n_layers=1, subsampling=2),
    "convolution stem": EncoderConfig(
        subsampling=4,
        dim=16,
        n_layers=2,
        n_heads=2,
        ff_dim=32,
        position="sinusoidal",
        stem="convolution",
        activation="gelu",
    ),
}


@pytest.mark.parametrize(("rung", "reach"), [("fc", 0), ("window", 3), ("dot", 99), ("additive", 99)])
def test_each_rung_sees_as_far_as_it_should(rung: str, reach: int) -> None:
    """Change one frame and see which outputs move."""
    encoder = Encoder(RUNGS[rung], 5).eval()
    vectors, mask = torch.randn(1, 40, 5), torch.ones(1, 40, dtype=torch.bool)
    changed = vectors.clone()
    changed[0, 20] += 1
    with torch.no_grad():
        moved = (encoder(vectors, mask) - encoder(changed, mask)).abs().amax(dim=2)[0] > 1e-7
    distance = (torch.arange(40) - 20).abs()
    assert bool(moved[distance <= reach].all())
    assert not bool(moved[distance > reach].any())


def test_fc_gives_equal_frames_equal_outputs_and_attention_does_not() -> None:
    vectors, mask = torch.randn(1, 10, 5), torch.ones(1, 10, dtype=torch.bool)
    vectors[0, 7] = vectors[0, 2]
    with torch.no_grad():
        fc = Encoder(RUNGS["fc"], 5).eval()(vectors, mask)[0]
        attention = Encoder(RUNGS["dot"], 5).eval()(vectors, mask)[0]
    torch.testing.assert_close(fc[7], fc[2])
    assert not torch.allclose(attention[7], attention[2], atol=1e-3)


def test_an_lstm_hears_what_was_before_and_both_ways_all() -> None:
    vectors, mask = torch.randn(1, 20, 5), torch.arange(20).unsqueeze(0) < 18
    changed = vectors.clone()
    changed[0, 10] += 1
    for bidirectional, first in ((False, 10), (True, 0)):
        encoder = Encoder(replace(RUNGS["lstm"], bidirectional=bidirectional), 5).eval()
        with torch.no_grad():
            moved = (encoder(vectors, mask) - encoder(changed, mask)).abs().amax(dim=2)[0] > 1e-7
        assert moved[:18].tolist() == [frame >= first for frame in range(18)]


def blackboard_lstm(memory: torch.nn.LSTM, x: Tensor) -> Tensor:
    """Return (frame, unit) what a long short-term memory gives, gate by gate; x: (frame, channel)."""
    units = memory.hidden_size
    hidden, cell, found = torch.zeros(units), torch.zeros(units), []
    for frame in x:
        gates = memory.weight_ih_l0 @ frame + memory.bias_ih_l0 + memory.weight_hh_l0 @ hidden + memory.bias_hh_l0
        take, keep, new, tell = gates.split(units)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        hidden = tell.sigmoid() * cell.tanh()
        found.append(hidden)
    return torch.stack(found)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_lstm_is_the_textbooks(bidirectional: bool) -> None:
    encoder = Encoder(replace(RUNGS["lstm"], bidirectional=bidirectional), 5).eval()
    vectors, lengths = torch.randn(3, 12, 5), (12, 7, 1)
    mask = torch.arange(12) < torch.tensor(lengths).unsqueeze(1)
    with torch.no_grad():
        got = encoder(vectors, mask)
        for row, length in enumerate(lengths):
            x = vectors[row, :length]
            for layer in encoder.layers:
                parts = [blackboard_lstm(layer.forth, x)]
                if layer.back is not None:
                    parts.append(blackboard_lstm(layer.back, x.flip(0)).flip(0))
                x = torch.cat(parts, dim=1)
            torch.testing.assert_close(got[row, :length], x, atol=1e-5, rtol=1e-4)


def test_an_lstm_gives_a_row_the_same_bits_alone_and_in_company() -> None:
    encoder = Encoder(EncoderConfig(kind="lstm", dim=64, n_layers=2), 64).eval()
    vectors, mask = torch.randn(9, 30, 64), torch.ones(9, 30, dtype=torch.bool)
    with torch.no_grad():
        together = encoder(vectors, mask)
        for size in range(1, 9):
            assert torch.equal(encoder(vectors[:size], mask[:size]), together[:size])


def test_attention_weights_of_every_layer() -> None:
    config = ModelConfig("x", "pooled", ("a", "b"), encoder=RUNGS["dot"], pooling="multihead")
    network = Network(config).eval()
    vectors, n_frames = torch.randn(2, 9, config.features.dim), torch.tensor([9, 6])
    with torch.no_grad():
        plain = network.classify(vectors, n_frames).logits
        with recorded_attention(network) as record:
            recorded = network.classify(vectors, n_frames).logits
        again = network.classify(vectors, n_frames).logits
    torch.testing.assert_close(recorded, plain)
    assert torch.equal(again, plain)  # and nothing more is recorded
    assert [tuple(w.shape) for w in record.layers] == [(2, 2, 9, 9)] * 2
    assert record.pooling is not None
    for weights in (*(w[1, :, :6] for w in record.layers), record.pooling[1].T):
        assert not weights[..., 6:].any()  # padding
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_a_pooling_says_how_it_weighs_frames(name: str) -> None:
    pooling = POOLINGS[name](6).eval()
    x, mask = torch.randn(2, 8, 6), torch.arange(8) < torch.tensor([[8], [5]])
    with torch.no_grad():
        weights, pooled = pooling.weigh(x, mask), pooling(x, mask)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, weights.shape[2]))
    assert not weights[1, 5:].any()
    if name not in ("multihead", "reading"):  # which map the frames first
        torch.testing.assert_close((weights * x).sum(dim=1), pooled[:, :6])


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_pooling_ignores_padding(name: str) -> None:
    pooling = POOLINGS[name](6).eval()
    x, mask = torch.randn(1, 8, 6), torch.arange(8).unsqueeze(0) < 5
    with torch.no_grad():
        padded, alone = pooling(x, mask), pooling(x[:, :5], mask[:, :5])
    assert padded.shape == (1, pooling.output_size)
    torch.testing.assert_close(padded, alone)


def test_attentive_statistics_with_even_attention_are_mean_and_deviation() -> None:
    pooling = AttentiveStatisticsPooling(4)
    torch.nn.init.zeros_(pooling.attention[2].weight)
    x = torch.randn(2, 50, 4)
    got = pooling(x, torch.ones(2, 50, dtype=torch.bool))
    torch.testing.assert_close(got, torch.cat([x.mean(1), x.std(1, correction=0)], 1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("length", [50, 101, 200, 249])
def test_a_clip_is_read_to_the_same_bits_alone_and_padded_in_company(length: int) -> None:
    pooling = ReadingPooling(512)
    x, mask = torch.randn(3, 250, 512), torch.ones(3, 250, dtype=torch.bool)
    mask[1, length:] = False
    with torch.no_grad():
        assert torch.equal(pooling(x, mask)[1], pooling(x[1:2, :length], mask[1:2, :length])[0])


@pytest.mark.parametrize("rung", sorted(RUNGS))
@pytest.mark.parametrize("task", ["frame", "pooled"])
@pytest.mark.parametrize("phones", [(), ("a", "b", "c")])
def test_a_padded_batch_gives_what_each_clip_gives_alone(rung: str, task: str, phones: tuple[str, ...]) -> None:
    config = ModelConfig("test", task, ("x", "y"), phones=phones, phone_layer=min(1, len(phones)), encoder=RUNGS[rung])  # type: ignore[arg-type]
    if rung == "convolution stem":
        config = replace(config, features=replace(config.features, normalize="peak"))
    network = Network(config).eval()
    margin = config.features.margin_samples
    lengths = torch.tensor([12, 5, 1])
    n_samples = int(lengths.max()) * config.hop_samples + 2 * margin
    batch = torch.randn(3, n_samples) * 0.1
    for row, length in zip(batch, lengths, strict=True):
        row[int(length) * config.hop_samples + margin :] = 0
    with torch.no_grad():
        together = network(batch, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = network(batch[row : row + 1, : length * config.hop_samples + 2 * margin], lengths[row : row + 1])
            got = together.logits[row] if task == "pooled" else together.logits[row, :length]
            torch.testing.assert_close(got, alone.logits[0], atol=1e-5, rtol=1e-4)
            assert (together.phone_logits is None) == (not phones)
            if together.phone_logits is not None and alone.phone_logits is not None:
                torch.testing.assert_close(
                    together.phone_logits[row, :length], alone.phone_logits[0], atol=1e-5, rtol=1e-4
                )


def test_what_follows_a_clip_in_its_batch_does_not_matter() -> None:
    config = ModelConfig("test", "frame", ("x",), encoder=RUNGS["dot"])
    network = Network(config).eval()
    vectors = torch.randn(1, 20, config.features.dim)
    loud = vectors.clone()
    loud[:, 11:] = 1000.0
    with torch.no_grad():
        quiet, noisy = (network.classify(v, torch.tensor([11])).logits[:, :11] for v in (vectors, loud))
    torch.testing.assert_close(quiet, noisy)


@pytest.mark.parametrize("width", [1, 3, 7, 41])
def test_smoothed_logits_are_the_means_of_what_is_real(width: int) -> None:
    logits, lengths = torch.randn(2, 20, 3), (20, 13)
    mask = torch.arange(20) < torch.tensor(lengths).unsqueeze(1)
    found = smooth(logits, mask, width)
    for row, n_frames in enumerate(lengths):
        for at in range(n_frames):
            around = logits[row, max(0, at - width // 2) : min(n_frames, at + width // 2 + 1)]
            torch.testing.assert_close(found[row, at], around.mean(dim=0))
    assert found.isfinite().all()


def test_a_network_smooths_what_it_says_of_frames() -> None:
    config = tiny_config("frame")
    network = Network(config).eval()
    vectors, n_frames = torch.randn(1, 24, config.features.dim), torch.tensor([12])
    with torch.inference_mode():
        plain = network.classify(vectors, n_frames).logits
        network.config = replace(config, smoothing=5)
        smoothed = network.classify(vectors, n_frames).logits
    torch.testing.assert_close(smoothed[0, 6], plain[0, 4:9].mean(dim=0))


@pytest.mark.parametrize(("task", "width"), [("frame", 4), ("frame", -1), ("frame", 1003), ("pooled", 3)])
def test_smoothing_is_odd_and_of_frames(task: Literal["frame", "pooled"], width: int) -> None:
    with pytest.raises(ConfigError, match="smooth"):
        replace(tiny_config(task), smoothing=width)


def test_what_a_file_is_loaded_into_is_built_without_torchs_compiler() -> None:
    answer = run_command(
        code="import sys, torch\n"
        "from framecls.nn.attention import ATTENTIONS\n"
        "from framecls.nn.pooling import POOLINGS\n"
        "with torch.device('meta'):\n"
        "    parts = [kind(64, 4) for kind in ATTENTIONS.values()] + [kind(512) for kind in POOLINGS.values()]\n"
        "print(len(parts), 'torch._dynamo' in sys.modules)\n"
    )
    assert (answer.status, answer.out) == (0, f"{len(ATTENTIONS) + len(POOLINGS)} False\n"), answer.err
