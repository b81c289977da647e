"""ONNX files say what torch says, for any batch and length, and say what they are."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framecls.checkpoints import onnx as export
from framecls.checkpoints.frontends import look_up
from framecls.checkpoints.network import load_network, new_network, save_model
from framecls.checkpoints.registry import locate
from framecls.cli.boundary import run
from framecls.config import EncoderConfig, FeatureConfig, ModelConfig, PretrainedConfig
from framecls.errors import ModelError, PackageError
from framecls.inference.engine import Engine
from framecls.model import Model
from framecls.nn.features import ConvolutionFeatures, FeatureExtractor, log_above
from framecls.nn.network import Network, Output
from support.models import save_tiny_model, tiny_config
from support.signals import make_tone

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the packages onnx, onnxscript and onnxruntime",
)


@pytest.mark.parametrize("config", [FeatureConfig(), FeatureConfig(kind="mfcc", window_samples=320, n_mels=40)])
def test_features_by_convolution_are_the_same(config: FeatureConfig) -> None:
    extractor = FeatureExtractor(config)
    waveform = torch.from_numpy(np.stack([make_tone(1.0), 0.001 * make_tone(1.0, 3000.0), np.zeros(16000, np.float32)]))
    torch.testing.assert_close(ConvolutionFeatures(extractor)(waveform), extractor(waveform), atol=1e-4, rtol=0)


@pytest.mark.parametrize("floor", [1e-10, 1e-8, 1.0])
def test_the_floor_of_a_graph_is_the_same(floor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    energy = torch.cat([torch.zeros(1), torch.logspace(-14, 6, 500)])
    wanted = log_above(energy, floor)
    torch.testing.assert_close(wanted, torch.log(energy.double() + floor).float())
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(log_above(energy, floor), wanted, atol=5e-6, rtol=0)


def run_onnx(path: Path, first: torch.Tensor, n_frames: torch.Tensor) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return session.run(["logits"], dict(zip(names, (first.numpy(), n_frames.numpy()), strict=True)))[0]


def check_same(network: Network, path: Path, *, features: bool) -> None:
    """Compare with torch, on real frames, for batches and lengths that the export has not seen."""
    config = network.config
    for number, (batch, length) in enumerate(((1, 1), (1, 7), (3, 120), (2, 333))):
        generator = torch.Generator().manual_seed(number)
        n_samples = length * config.hop_samples + 2 * config.features.margin_samples
        waveform = torch.randn(batch, n_samples, generator=generator) * 0.1
        waveform[:, n_samples // 2 :] *= number % 2  # digital silence after sound
        waveform[1:2] = 0  # and nothing else
        n_frames = torch.full((batch,), length)
        n_frames[0] = (length + 1) // 2
        with torch.inference_mode():
            first = waveform if features else network.features(waveform)
            wanted = network(waveform, n_frames).logits.numpy()
        got = run_onnx(path, first, n_frames)
        assert got.shape == wanted.shape
        assert np.isfinite(wanted).all()
        real = np.arange(length) < n_frames.numpy()[:, None] if wanted.ndim == 3 else slice(None)
        assert np.abs(got - wanted)[real].max() < 1e-4


@needs_onnx
@pytest.mark.parametrize("name", ["sound", "language"])
def test_shipped_models_say_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export.export_onnx(name, path)
    check_same(load_network(locate(name)), path, features=True)
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


@needs_onnx
def test_features_can_be_left_out(tmp_path: Path) -> None:
    network = load_network(save_tiny_model(tmp_path, "frame"))
    export.save_onnx(network, tmp_path / "m.onnx", features=False)
    check_same(network, tmp_path / "m.onnx", features=False)


def small(encoder: EncoderConfig, **changes: Any) -> ModelConfig:
    return replace(tiny_config("pooled"), encoder=encoder, **changes)


SMALL = EncoderConfig(dim=16, n_layers=2, n_heads=2, ff_dim=32, subsampling=2, kernel=3)
KINDS = {
    "additive, sinusoidal, phones": small(
        replace(SMALL, score="additive", position="sinusoidal"), pooling="attentive", phones=("a", "b"), phone_layer=1
    ),
    "convolution stem, peak": small(
        replace(SMALL, stem="convolution", activation="gelu"),
        pooling="mean",
        features=FeatureConfig(mel_scale="slaney", normalize="peak", floor=1e-10),
    ),
    "window, mean and variance": small(
        replace(SMALL, kind="window", context=3),
        features=FeatureConfig(normalize="mean_variance"),
        pooling="multihead",
    ),
    "reading": small(SMALL, pooling="reading"),
    "embedding": small(
        SMALL,
        features=FeatureConfig(normalize="mean"),
        pooling="last",
        labels=(),
        embedding=8,
        embedding_hidden=12,
    ),
    "lstm both ways, mel": small(
        replace(SMALL, kind="lstm", bidirectional=True),
        task="frame",
        features=FeatureConfig(kind="mel", n_fft=400, mel_scale="slaney", raise_to_dbfs=-10.0),
    ),
    "campplus, fbank": small(
        EncoderConfig(kind="campplus", dim=32, n_layers=1, subsampling=2),
        pooling="statistics",
        labels=(),
        embedding=8,
        features=FeatureConfig(kind="fbank", mel_scale="kaldi", normalize="mean"),
    ),
    "fc, mfcc, smoothed": small(
        replace(SMALL, kind="fc"),
        features=FeatureConfig(kind="mfcc", normalize="mean_variance"),
        task="frame",
        smoothing=5,
    ),
}


@needs_onnx
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_can_be_exported(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = Network(KINDS[kind]).eval()
    export.save_onnx(network, tmp_path / "m.onnx")
    check_same(network, tmp_path / "m.onnx", features=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Network]:
    """Return the exported file of the tiny tagger, and its network."""
    folder = tmp_path_factory.mktemp("exported")
    model = save_tiny_model(folder, "frame")
    export.export_onnx(model, folder / "m.onnx")
    return folder / "m.onnx", load_network(model)


@needs_onnx
def test_the_file_says_what_it_is(exported: tuple[Path, Network]) -> None:
    import onnx

    said = {item.key: item.value for item in onnx.load(exported[0]).metadata_props}
    config = tiny_config("frame")
    assert json.loads(said["labels"]) == list(config.labels)
    assert json.loads(said["thresholds"]) == config.decision.thresholds
    assert (float(said["hop_s"]), int(said["sample_rate"])) == (config.hop_s, 16000)
    assert (said["name"], said["task"], said["features_included"]) == (config.name, "frame", "true")


class OnnxNetwork:
    """An exported network in the place of a `Network`."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self.path, self.config = path, config

    def to(self, device: torch.device) -> OnnxNetwork:
        return self

    def __call__(self, waveform: torch.Tensor, n_frames: torch.Tensor) -> Output:
        return Output(torch.from_numpy(run_onnx(self.path, waveform, n_frames)))


@needs_onnx
def test_an_exported_network_tags(exported: tuple[Path, Network]) -> None:
    path, network = exported
    cpu = torch.device("cpu")
    stand_in: Any = OnnxNetwork(path, network.config)
    got = Model(Engine(stand_in, cpu)).tag(make_tone(5.3), sample_rate=16000)
    wanted = Model(Engine(network, cpu)).tag(make_tone(5.3), sample_rate=16000)
    np.testing.assert_allclose(got.scores, wanted.scores, atol=1e-4)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PackageError, match=r"^ONNX needs onnx and onnxscript, .*: pip install onnx onnxscript$"):
        export.export_onnx("sound", tmp_path / "m.onnx")


@needs_onnx
def test_a_folder_that_cannot_be_written_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delattr(torch.onnx, "export")
    with pytest.raises(ModelError, match="cannot be written"):
        export.export_onnx(save_tiny_model(tmp_path, "frame"), tmp_path / "file" / "m.onnx")


@needs_onnx
def test_what_has_a_pretrained_encoder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(Network(small(SMALL)), tmp_path / "own.safetensors")
    own = PretrainedConfig(f"framecls:{tmp_path / 'own.safetensors'}", layer=1)
    features = look_up(FeatureConfig("pretrained", pretrained=own))
    save_model(new_network(small(SMALL, features=features), own.source), tmp_path / "m.safetensors")
    assert run(["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "m.onnx")]) == 2
    assert capsys.readouterr().err == (
        "framecls: error: the model tiny-language has a pre-trained encoder, which is not exported: "
        "--no-features exports what is above it\n"
    )
    assert not (tmp_path / "m.onnx").exists()
