"""A gate: what another model hears decides which windows count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import framecls
from framecls.config import ReadOptions
from framecls.inference.engine import Engine
from framecls.inference.gate import Gate
from framecls.inference.identify import pool_windows
from framecls.model import Model
from framecls.nn.network import Network
from support.models import tiny_config
from support.signals import RATE, make_swell

CPU = torch.device("cpu")


def gated_model(speech_bias: float) -> Model:
    """Return an identifier that listens where a tiny tagger, made to hear speech or not, hears it."""
    torch.manual_seed(3)
    gate = Network(tiny_config("frame")).eval()
    torch.nn.init.zeros_(gate.head.weight)
    with torch.no_grad():
        gate.head.bias[0] = speech_bias
    listener = Network(replace(tiny_config("pooled"), gate="speech")).eval()
    return Model(Engine(listener, CPU, gate=gate))


def test_a_gated_model_answers_only_where_its_gate_opens() -> None:
    heard = gated_model(+1.0).identify(make_swell(5.0), sample_rate=RATE)
    deaf = gated_model(-1.0).identify(make_swell(5.0), sample_rate=RATE)
    assert heard.label == heard.top[0].label
    assert (deaf.label, deaf.score, deaf.reason) == ("unknown", None, "no speech")
    assert [c.label for c in deaf.top] == [c.label for c in heard.top]


@pytest.mark.parametrize(
    ("subsampling", "n_fft", "overlap_s"), [(2, 512, 0.5), (1, 400, 0.0), (4, 512, 1.0), (1, 400, 1.0)]
)
def test_a_gate_fits_other_frames_and_margins(subsampling: int, n_fft: int, overlap_s: float) -> None:
    """The gate hears everything as speech: so the seconds heard are those of the recording, whatever overlaps."""
    torch.manual_seed(3)
    gate = Network(tiny_config("frame")).eval()
    torch.nn.init.zeros_(gate.head.weight)
    with torch.no_grad():
        gate.head.bias[0] = 1.0
    config = tiny_config("pooled")
    listener = replace(
        config,
        gate="speech",
        features=replace(config.features, n_fft=n_fft),
        encoder=replace(config.encoder, subsampling=subsampling),
        window=replace(config.window, overlap_s=overlap_s),
    )
    for network_gate in (gate, None):
        engine = Engine(Network(listener).eval(), CPU, gate=network_gate)
        running = engine.run([make_swell(5.03)], ReadOptions(sample_rate=RATE))
        outputs = [output for recording in running for output in recording]
        assert [output.weight_s for output in outputs[:2]] == pytest.approx([2.0, 2.0])
        assert pool_windows(outputs)[1] == pytest.approx(5.03, abs=0.04)


def test_a_gate_hears_the_same_through_other_margins() -> None:
    """A spectrum window of 400 samples in a transform of 512 reads no more than one in a transform of 400."""
    config = tiny_config("frame")
    torch.manual_seed(3)
    gate = Network(config).eval()
    samples = torch.from_numpy(make_swell(3.0))[None, : 100 * 320 + 2 * 176]
    n_frames = torch.tensor([100])
    pooled = replace(tiny_config("pooled"), gate="speech")
    near = replace(pooled, features=replace(pooled.features, n_fft=400))
    wide, narrow = (Gate(gate, listener) for listener in (pooled, near))
    wanted = wide.hear(samples, n_frames)
    got = narrow.hear(samples[:, 176 - 120 : 120 - 176], n_frames)
    assert wanted.any()
    assert got.tolist() == wanted.tolist()


def test_a_gate_that_does_not_fit_is_refused() -> None:
    config = tiny_config("frame")
    gate = Network(replace(config, features=replace(config.features, sample_rate=8000, f_max_hz=3900.0)))
    with pytest.raises(framecls.ModelError, match="cannot tell it where 'speech' is heard"):
        Engine(Network(replace(tiny_config("pooled"), gate="speech")), CPU, gate=gate)
