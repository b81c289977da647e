"""Whisper's weights in our encoder, against torch's own encoder layers and a file written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from framecls.config import EncoderConfig, FeatureConfig, ModelConfig
from framecls.errors import ModelError
from framecls.nn.encoder import sinusoids
from framecls.nn.model import Network
from framecls.recipes.from_whisper import copy_encoder, read_ctranslate2

DIM, HEADS, HIDDEN, BANDS = 8, 2, 16, 5
CONFIG = ModelConfig(
    name="test",
    task="pooled",
    labels=("x", "y"),
    features=FeatureConfig(n_mels=BANDS, n_mfcc=BANDS, mel_scale="slaney", normalize="peak"),
    encoder=EncoderConfig(
        dim=DIM, n_layers=2, n_heads=HEADS, ff_dim=HIDDEN, subsampling=4, position="sinusoidal", stem="convolution",
        activation="gelu", dropout=0.0,
    ),
)  # fmt: skip
LAYER = {
    "self_attention/layer_norm/gamma": (DIM,), "self_attention/layer_norm/beta": (DIM,),
    "self_attention/linear_0/weight": (3 * DIM, DIM), "self_attention/linear_0/bias": (3 * DIM,),
    "self_attention/linear_1/weight": (DIM, DIM), "self_attention/linear_1/bias": (DIM,),
    "ffn/layer_norm/gamma": (DIM,), "ffn/layer_norm/beta": (DIM,),
    "ffn/linear_0/weight": (HIDDEN, DIM), "ffn/linear_0/bias": (HIDDEN,),
    "ffn/linear_1/weight": (DIM, HIDDEN), "ffn/linear_1/bias": (DIM,),
}  # fmt: skip
SHAPES = {
    "encoder/conv1/weight": (DIM, BANDS, 3), "encoder/conv1/bias": (DIM,), "encoder/conv2/weight": (DIM, DIM, 3),
    "encoder/conv2/bias": (DIM,), "encoder/layer_norm/gamma": (DIM,), "encoder/layer_norm/beta": (DIM,),
} | {f"encoder/layer_{i}/{name}": shape for i in range(2) for name, shape in LAYER.items()}  # fmt: skip


def whisper_like() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.normal(0, 0.4, shape).astype(np.float16) for name, shape in SHAPES.items()}


def write_ctranslate2(arrays: dict[str, np.ndarray]) -> bytes:
    def name(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", 6) + name("WhisperSpec") + struct.pack("<II", 3, len(arrays) + 1)
    data += name("encoder/num_heads") + struct.pack("<BBI", 0, 2, 2) + struct.pack("<h", HEADS)
    for key, array in arrays.items():
        data += name(key) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", 4, array.nbytes) + array.tobytes()
    return data + struct.pack("<I", 0)


def reference(vectors: torch.Tensor, arrays: dict[str, np.ndarray]) -> torch.Tensor:
    """Whisper's encoder, with its frames joined in pairs, out of torch's parts; vectors: (1, vector, band)."""
    w = {name.removeprefix("encoder/"): torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    x = functional.gelu(functional.conv1d(vectors.transpose(1, 2), w["conv1/weight"], w["conv1/bias"], padding=1))
    x = functional.gelu(functional.conv1d(x, w["conv2/weight"], w["conv2/bias"], padding=1, stride=2)).transpose(1, 2)
    x = x + sinusoids(x.shape[1], DIM, x.device)
    x = (x[:, 0::2] + x[:, 1::2]) / 2
    for i in range(2):
        layer = nn.TransformerEncoderLayer(DIM, HEADS, HIDDEN, 0.0, functional.gelu, batch_first=True, norm_first=True)
        own = {name.removeprefix(f"layer_{i}/"): value for name, value in w.items() if name.startswith(f"layer_{i}/")}
        pairs = {
            "self_attn.in_proj_weight": "self_attention/linear_0/weight",
            "self_attn.in_proj_bias": "self_attention/linear_0/bias",
            "self_attn.out_proj.weight": "self_attention/linear_1/weight",
            "self_attn.out_proj.bias": "self_attention/linear_1/bias",
            "norm1.weight": "self_attention/layer_norm/gamma", "norm1.bias": "self_attention/layer_norm/beta",
            "norm2.weight": "ffn/layer_norm/gamma", "norm2.bias": "ffn/layer_norm/beta",
            "linear1.weight": "ffn/linear_0/weight", "linear1.bias": "ffn/linear_0/bias",
            "linear2.weight": "ffn/linear_1/weight", "linear2.bias": "ffn/linear_1/bias",
        }  # fmt: skip
        layer.load_state_dict({theirs: own[ours] for theirs, ours in pairs.items()})
        x = layer.eval()(x)
    return functional.layer_norm(x, (DIM,), w["layer_norm/gamma"], w["layer_norm/beta"])


def test_the_encoder_computes_what_whispers_does() -> None:
    arrays = whisper_like()
    network = Network(CONFIG).eval()
    copy_encoder(network, read_ctranslate2(write_ctranslate2(arrays)))
    vectors = torch.randn(1, 40, BANDS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = network.encoder(vectors, torch.ones(1, 10, dtype=torch.bool))
        torch.testing.assert_close(got, reference(vectors, arrays), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("change", ["cut", "other version", "text", "other shape", "missing"])
def test_a_file_that_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    arrays = whisper_like()
    if change == "other shape":
        arrays["encoder/conv1/bias"] = arrays["encoder/conv1/bias"][:-1]
    if change == "missing":
        del arrays["encoder/layer_1/ffn/linear_1/bias"]
    data = write_ctranslate2(arrays)
    data = {"cut": data[:-200], "other version": b"\7" + data[1:], "text": b"hello there"}.get(change, data)
    with pytest.raises(ModelError):
        copy_encoder(Network(CONFIG), read_ctranslate2(data))
