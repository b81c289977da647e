"""Whisper's weights in our encoder, against torch's own encoder layers and a file written by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from torch.nn import functional

from framecls.config import EncoderConfig, FeatureConfig, ModelConfig
from framecls.errors import ModelError
from framecls.nn.encoder import sinusoids
from framecls.nn.network import Network
from framecls.nn.pooling import ReadingPooling
from framecls.recipes.ask_whisper import ask, pieces, read_languages
from framecls.recipes.from_whisper import copy_decoder, copy_encoder, read_ctranslate2
from framecls.training.data.clips import open_clips
from framecls.training.data.manifest import Recording, Span

DIM, HEADS, HIDDEN, BANDS = 8, 2, 32, 5
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


TOKENS = {"<|endoftext|>": 0, "<|startoftranscript|>": 1, "<|en|>": 2, "<|jw|>": 3, "<|translate|>": 4}
DECODER = {
    f"decoder/layer_{i}/{name}": shape
    for i in range(2)
    for name, shape in {
        **LAYER,
        "attention/layer_norm/gamma": (DIM,), "attention/layer_norm/beta": (DIM,),
        "attention/linear_0/weight": (DIM, DIM), "attention/linear_0/bias": (DIM,),
        "attention/linear_1/weight": (2 * DIM, DIM), "attention/linear_1/bias": (2 * DIM,),
        "attention/linear_2/weight": (DIM, DIM), "attention/linear_2/bias": (DIM,),
    }.items()
} | {
    "decoder/embeddings/weight": (5, DIM), "decoder/position_encodings/encodings": (4, DIM),
    "decoder/layer_norm/gamma": (DIM,), "decoder/layer_norm/beta": (DIM,),
}  # fmt: skip


def test_languages_are_the_tokens_after_the_first(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps({"added_tokens": [{"content": c, "id": i} for c, i in TOKENS.items()]}))
    assert read_languages(tokenizer) == (1, {"en": 2, "jv": 3})


def test_the_first_step_of_the_decoder_is_torchs() -> None:
    rng = np.random.default_rng(5)
    arrays = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in DECODER.items()}
    w = {name.removeprefix("decoder/"): torch.from_numpy(array) for name, array in arrays.items()}
    encoded = torch.randn(1, 7, DIM)
    x = (w["embeddings/weight"][1] + w["position_encodings/encodings"][0]).view(1, 1, DIM)
    for i in range(2):
        layer = nn.TransformerDecoderLayer(DIM, HEADS, HIDDEN, 0.0, functional.gelu, batch_first=True, norm_first=True)
        own = {name.removeprefix(f"layer_{i}/"): value for name, value in w.items() if name.startswith(f"layer_{i}/")}
        state = {}
        for kind, norm in (("weight", "gamma"), ("bias", "beta")):
            cross = [own[f"attention/linear_{j}/{kind}"] for j in (0, 1)]
            state |= {
                f"self_attn.in_proj_{kind}": own[f"self_attention/linear_0/{kind}"],
                f"self_attn.out_proj.{kind}": own[f"self_attention/linear_1/{kind}"],
                f"multihead_attn.in_proj_{kind}": torch.cat(cross),
                f"multihead_attn.out_proj.{kind}": own[f"attention/linear_2/{kind}"],
                f"linear1.{kind}": own[f"ffn/linear_0/{kind}"],
                f"linear2.{kind}": own[f"ffn/linear_1/{kind}"],
                f"norm1.{kind}": own[f"self_attention/layer_norm/{norm}"],
                f"norm2.{kind}": own[f"attention/layer_norm/{norm}"],
                f"norm3.{kind}": own[f"ffn/layer_norm/{norm}"],
            }
        layer.load_state_dict(state)
        with torch.no_grad():
            x = layer.eval()(x, encoded)
    wanted = functional.layer_norm(x, (DIM,), w["layer_norm/gamma"], w["layer_norm/beta"])[0, 0]
    pooling = ReadingPooling(DIM)
    pooling.layers = pooling.layers[:2]
    for layer in pooling.layers:
        layer.n_heads = HEADS  # type: ignore[assignment]
    copy_decoder(pooling, arrays, 1)
    # Alone, and padded in a batch.
    with torch.no_grad():
        alone = pooling(encoded[:, :3], torch.ones(1, 3, dtype=torch.bool))[:, 2 * DIM :]
        read = pooling(encoded.expand(2, -1, -1), torch.arange(7) < torch.tensor([[7], [3]]))[:, 2 * DIM :]
    torch.testing.assert_close(read, torch.stack([wanted, alone[0]]), atol=1e-4, rtol=1e-3)


def test_shares_of_languages_add_up_to_one() -> None:
    torch.manual_seed(4)
    network, reading = Network(CONFIG).eval(), ReadingPooling(DIM).eval()
    samples = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    one = torch.randn(DIM)
    shares = ask(network, reading, {"en": one, "jv": -one, "de": one}, samples)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["en"] == pytest.approx(shares["de"])
    assert abs(shares["en"] - shares["jv"]) > 0.01


def test_short_clips_of_a_voice_are_asked_about_together(tmp_path: Path) -> None:
    recordings = []
    for index, (speaker, seconds) in enumerate([("a", 1), ("a", 2), ("b", 5), ("a", 1), ("b", 1)]):
        file = tmp_path / f"{index}.wav"
        soundfile.write(file, np.zeros(seconds * 16000), 16000)
        recordings.append(Recording(file, (Span("x"),), speaker))
    store = open_clips(recordings, 16000, tmp_path / "cache")
    groups = [[int(r.file.stem) for r in group] for group in pieces(recordings, store, 3.0)]
    assert groups == [[0, 1], [3], [2], [4]]
