"""Encoders of torchaudio in place of log-mel: tiny untrained ones of its own classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import load_file
from torch.nn.functional import layer_norm
from torchaudio.pipelines import Wav2Vec2Bundle

from framecls.checkpoints.file import read_config
from framecls.checkpoints.frontends import build_frontend, look_up, open_frontend
from framecls.cli.boundary import run
from framecls.config import FeatureConfig, PretrainedConfig
from framecls.errors import ConfigError, ModelError
from framecls.model import load
from framecls.nn.frontend import PretrainedFrontend
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.recipe import with_encoder
from support.models import noise_tensor
from support.signals import RATE
from support.training import make_recipe, write_corpus

PARAMS: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 3,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 32,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
    "aux_num_out": None,
}
# Kind -> torchaudio's name of the class, more settings, whether the input is normalised.
KINDS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "wav2vec2": ("Wav2Vec2", {}, False),
    "wav2vec2-large": ("Wav2Vec2", {"extractor_mode": "layer_norm", "encoder_layer_norm_first": True}, True),
    "asr": ("Wav2Vec2", {"aux_num_out": 5}, False),
    "wavlm": ("WavLM", {"encoder_num_buckets": 20, "encoder_max_distance": 50}, False),
}
only_wav2vec2 = pytest.mark.parametrize("kind", ["wav2vec2"])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Path:
    """Teach torchaudio a tiny bundle called TINY, and return the file in torch's cache that holds its weights."""
    model_type, changes, normalizes = KINDS[kind]
    params = {**PARAMS, **changes}
    torch.manual_seed(5)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pth"
    path.parent.mkdir(parents=True)
    build = torchaudio.models.wavlm_model if model_type == "WavLM" else torchaudio.models.wav2vec2_model
    state = build(**params).state_dict()
    # So that something comes through seven layers of untrained convolutions.
    torch.save({key: 3 * value if value.ndim > 1 else value for key, value in state.items()}, path)
    bundle = Wav2Vec2Bundle("tiny.pth", params, RATE, normalizes, model_type)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    return path


def features(source: str = "torchaudio:TINY", **settings: Any) -> FeatureConfig:
    return look_up(FeatureConfig(kind="pretrained", pretrained=PretrainedConfig(source, **settings)))


def frontend(**settings: Any) -> PretrainedFrontend:
    return open_frontend(features(**settings).pretrained, "torchaudio:TINY").eval()


@torch.inference_mode()
def test_vectors_are_those_of_torchaudio(cached: Path) -> None:
    config = features()
    assert (config.sample_rate, config.hop_samples, config.window_samples, config.dim) == (RATE, 320, 400, 16)
    waveform = noise_tensor(50 * 320 + 80)[None]
    model = torchaudio.pipelines.TINY.get_model()  # type: ignore[attr-defined]
    layers = [layer_norm(layer, (16,)) for layer in model.extract_features(waveform)[0]]
    torch.testing.assert_close(frontend(layer=2)(waveform), layers[1])
    torch.testing.assert_close(frontend()(waveform), layer_norm(torch.stack(layers).mean(dim=0), (16,)))


@torch.inference_mode()
def test_padding_and_neighbours_change_nothing(cached: Path) -> None:
    encoder, lengths = frontend(), torch.tensor([7, 3, 7, 5])
    rows = [noise_tensor(7 * 320 + 80, seed) for seed in range(4)]
    batch = torch.stack(rows)
    for row, length in zip(batch, lengths.tolist(), strict=True):
        row[length * 320 + 80 :] = 9.0
    for row, length, vectors in zip(rows, lengths.tolist(), encoder(batch, lengths), strict=True):
        alone = encoder(row[None, : length * 320 + 80])[0]
        torch.testing.assert_close(vectors[:length], alone, rtol=1e-4, atol=1e-5)
        assert not vectors[length:].any()


@only_wav2vec2
def test_a_frozen_encoder_is_named_and_not_carried(cached: Path, tmp_path: Path) -> None:
    recipe = with_encoder(make_recipe(6, 6), "torchaudio:TINY")
    job = Job(write_corpus(tmp_path, labels=("low", "hiss")), tmp_path / "frozen.safetensors", recipe)
    losses: list[float] = []
    train(job, prepare(job), lambda progress: losses.append(progress.loss))
    assert np.isfinite(losses).all()
    stored = load_file(job.output)
    assert [key for key in stored if key.startswith("features.")] == ["features.mix"]
    assert stored["features.mix"].abs().max() > 0  # the mix was learnt
    assert read_config(job.output).features.pretrained.source == "torchaudio:TINY"
    answer = load(job.output, device="cpu").identify(str(tmp_path / "low0.wav"))
    state = torch.load(cached, weights_only=True)
    torch.save({key: -value if value.ndim == 3 else value for key, value in state.items()}, cached)
    other = load(job.output, device="cpu").identify(str(tmp_path / "low0.wav"))
    assert answer.top[0].score != pytest.approx(other.top[0].score, abs=1e-6)  # it is the weights in the cache


@pytest.mark.parametrize("kind", ["wav2vec2-large", "wavlm"])
def test_a_tuned_encoder_is_carried(cached: Path, tmp_path: Path) -> None:
    recipe = with_encoder(make_recipe(4, 4, tuned_rate=1.0), "torchaudio:TINY", layer=2, tuned=True)
    job = Job(write_corpus(tmp_path, labels=("low", "hiss")), tmp_path / "tuned.safetensors", recipe)
    train(job, prepare(job))
    before, after, prefix = torch.load(cached, weights_only=True), load_file(job.output), "features.encoder.model."
    kept = [key for key in before if prefix + key in after]
    moved = {key for key in kept if not torch.allclose(before[key], after[prefix + key].float(), atol=2e-3)}
    assert moved
    assert all(".layers." in key for key in moved)  # what is before self-attention stays
    assert not any("transformer.layers.2" in key for key in after)  # what is not run is left out
    cached.unlink()
    assert load(job.output, device="cpu").identify(str(tmp_path / "low0.wav")).label in {"low", "hiss"}


def test_every_encoder_of_torchaudio_has_vectors_of_20_ms() -> None:
    bundles = [name for name, each in vars(torchaudio.pipelines).items() if isinstance(each, Wav2Vec2Bundle)]
    assert len(bundles) > 20
    for name in bundles:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("framecls.checkpoints.frontends.open_frontend", lambda *_: None)  # nothing is fetched
            found = features(f"torchaudio:{name}")
        assert (found.window_samples, found.hop_samples, found.sample_rate) == (400, 320, RATE), name
        assert found.dim >= 768


@only_wav2vec2
def test_without_weights_there_is_one_clear_line(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise URLError("no route to host")

    manifest = str(write_corpus(tmp_path, labels=("low", "hiss")))
    arguments = ["train", "identify", manifest, "-o", str(tmp_path / "x"), "--device", "cpu", "--encoder"]
    cached.write_bytes(b"damaged")
    assert run([*arguments, "torchaudio:TINY"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("framecls: error: torchaudio:TINY: its weights can neither be read from ")
    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils.load_state_dict_from_url", unreachable)
    assert run([*arguments, "torchaudio:TINY"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "no route to host" in line
    assert run([*arguments, "torchaudio:HUGE"]) == 1
    assert "torchaudio:HUGE: torchaudio has no such encoder: WAVLM_BASE_PLUS is one" in capsys.readouterr().err


@only_wav2vec2
def test_settings_that_are_not_those_of_the_bundle_are_refused(cached: Path) -> None:
    with pytest.raises(ConfigError, match="layers 1 to 3, and there is no 4"):
        features(layer=4)
    own = features(tuned=True).pretrained
    assert isinstance(build_frontend(own, {}), PretrainedFrontend)
    narrow = {"config": {**own.architecture["config"], "conv_dim": [1] * 7}}
    for changes in ({"dim": 32}, {"n_layers": 2}, {"hop_samples": 160}, {"architecture": narrow}):
        with pytest.raises(ModelError, match="do not go together"):
            build_frontend(replace(own, **changes), {})
