"""Export models to ONNX, for programs without torch."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framecls import packages
from framecls._version import __version__
from framecls.checkpoints.network import load_network
from framecls.checkpoints.registry import locate
from framecls.config import ModelConfig, to_dict
from framecls.errors import ModelError, UsageError
from framecls.nn.features import ConvolutionFeatures, FeatureExtractor
from framecls.nn.frontend import PretrainedFrontend
from framecls.nn.network import Network
from framecls.replacing import replacing

_NEEDED = ("onnx", "onnxscript")
_EXAMPLE_FRAMES = 50
# The graph holds the matrix of the Fourier transform: the square of its length in numbers.
_MOST_FFT = 4096
_MOST_FRAMES, _MOST_WINDOWS = 1 << 20, 1 << 16


class _FromWaveform(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        assert isinstance(network.features, FeatureExtractor)
        self.features = ConvolutionFeatures(network.features)

    def forward(self, waveform: Tensor, n_frames: Tensor) -> Tensor:
        vectors = self.features(waveform, n_frames * self.network.config.encoder.subsampling)
        return self.network.classify(vectors, n_frames).logits


class _FromVectors(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, vectors: Tensor, n_frames: Tensor) -> Tensor:
        return self.network.classify(vectors, n_frames).logits


def export_onnx(model: str | Path, path: Path, *, features: bool = True) -> None:
    """Write a model as an ONNX file, whole or not at all.

    The graph takes `waveform` (batch, sample) float32 of `2 * margin_samples + hop_samples * frame` samples, or without
    its features `vectors` (batch, vector, feature), and `n_frames` (batch,) int64, how many frames of each row are
    real. It gives `logits`: (batch, frame, label), or (batch, label) of a pooled model. Batch and length are free. The
    metadata of the file holds what `describe` gives.

    Args:
        model: a shipped model's name, or a model file.
        path: where to; a file there is replaced.
        features: the graph turns samples into feature vectors itself.

    Raises:
        PackageError: a package that writes ONNX is not installed or does not load.
        ModelError: the model cannot be loaded or the file not be written.
    """
    packages.require("ONNX", *_NEEDED)
    for name in _NEEDED:
        packages.load("ONNX", name)
    network = load_network(locate(model))
    save_onnx(network, path, features=features)


def save_onnx(network: Network, path: Path, *, features: bool = True) -> None:
    """Write a loaded network as `export_onnx` does.

    Raises:
        UsageError: its features are precomputed or a pre-trained encoder, which is not exported.
    """
    if features and network.config.features.kind == "precomputed":
        raise UsageError(f"the model {network.config.name} takes precomputed features: --no-features exports it")
    if features and isinstance(network.features, PretrainedFrontend):
        raise UsageError(
            f"the model {network.config.name} has a pre-trained encoder, which is not exported: "
            "--no-features exports what is above it"
        )
    if features and network.config.features.kind == "wavefilters":
        raise UsageError(
            f"the filters of the model {network.config.name} are not exported: --no-features leaves them out"
        )
    if features and network.config.features.n_fft > _MOST_FFT:
        raise UsageError(
            f"the model {network.config.name} has spectra of {network.config.features.n_fft} samples, and at most "
            f"{_MOST_FFT} are exported: --no-features exports what is above them"
        )
    module = (_FromWaveform(network) if features else _FromVectors(network)).eval()
    try:
        with replacing(path) as temporary:
            with _quiet(), torch.no_grad():
                program: Any = torch.onnx.export(
                    module,
                    _example(network.config, features),
                    input_names=["waveform" if features else "vectors", "n_frames"],
                    output_names=["logits"],
                    dynamic_shapes=_free_shapes(network.config, features),
                    dynamo=True,
                    verbose=False,
                )
            program.model.metadata_props.update(describe(network.config, features=features))
            program.save(str(temporary), external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error


def describe(config: ModelConfig, *, features: bool = True) -> dict[str, str]:
    """Return the metadata of an exported model: numbers as text, lists and tables as JSON."""
    decision = config.decision
    facts: dict[str, Any] = {
        "name": config.name,
        "task": config.task,
        "labels": list(config.labels),
        "embedding": config.embedding,
        "overlapping": config.overlapping,
        "thresholds": decision.thresholds,
        "temperature": decision.temperature,
        "sample_rate": config.features.sample_rate,
        "hop_samples": config.hop_samples,
        "hop_s": config.hop_s,
        "margin_samples": config.features.margin_samples,
        "window_frames": config.window_frames,
        "overlap_frames": config.overlap_frames,
        "vectors_per_frame": config.encoder.subsampling,
        "features_included": features,
        "framecls": __version__,
        "config": to_dict(config),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def _example(config: ModelConfig, features: bool) -> tuple[Tensor, Tensor]:
    """Return two windows, one of them padded, to trace the graph with."""
    n_frames = torch.tensor([_EXAMPLE_FRAMES, _EXAMPLE_FRAMES // 2])
    if features:
        n_samples = _EXAMPLE_FRAMES * config.hop_samples + 2 * config.features.margin_samples
        return torch.zeros(2, n_samples), n_frames
    return torch.zeros(2, _EXAMPLE_FRAMES * config.encoder.subsampling, config.features.dim), n_frames


def _free_shapes(config: ModelConfig, features: bool) -> dict[str, dict[int, Any]]:
    batch = torch.export.Dim("batch", min=1, max=_MOST_WINDOWS)
    frame = torch.export.Dim("frame", min=1, max=_MOST_FRAMES)
    if features:
        length = config.hop_samples * frame + 2 * config.features.margin_samples
        return {"waveform": {0: batch, 1: length}, "n_frames": {0: batch}}
    return {"vectors": {0: batch, 1: config.encoder.subsampling * frame}, "n_frames": {0: batch}}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
