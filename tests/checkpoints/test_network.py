"""Model files: the same network back, and one clear line for everything that is not one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framecls.checkpoints.file import FORMAT_VERSION, dequantize, quantize, read_config
from framecls.checkpoints.network import load_network, save_model
from framecls.config import ModelConfig, Precision
from framecls.errors import ModelError
from framecls.nn.network import Network
from support.models import save_tiny_model, tiny_config


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path, "frame")


def split(path: Path) -> tuple[dict[str, object], bytes]:
    """Return the header and the weights of a safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(path: Path, header: object, weights: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + weights)


def edit_metadata(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    header, weights = split(path)
    change(header["__metadata__"])  # type: ignore[arg-type]
    join(path, header, weights)


def edit_config(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    def edit(metadata: dict[str, str]) -> None:
        config = json.loads(metadata["config"])
        change(config)
        metadata["config"] = json.dumps(config)

    edit_metadata(path, edit)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float16", 1e-2), ("int8", 5e-2)])
def test_the_same_network_comes_back(tmp_path: Path, precision: Precision, tolerance: float) -> None:
    torch.manual_seed(1)
    config = replace(tiny_config("pooled"), phones=("a", "b"), card={"licence": "MIT"})
    network = Network(config).eval()
    path = tmp_path / "m.safetensors"
    save_model(network, path, precision=precision)
    loaded = load_network(path)
    assert loaded.config == config == read_config(path)
    waveform, n_frames = torch.randn(1, 352 + 320 * 50) * 0.1, torch.tensor([50])
    with torch.no_grad():
        got, wanted = loaded(waveform, n_frames).logits, network(waveform, n_frames).logits
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_int8_keeps_each_weight_to_half_a_step_of_its_row() -> None:
    torch.manual_seed(2)
    weights = {"a.weight": torch.randn(5, 128, 128) * torch.tensor([1e-3, 1.0, 50.0, 0.0, 7.0])[:, None, None]}
    weights |= {"a.bias": torch.randn(5), "small.weight": torch.randn(255, 256)}
    stored = quantize(weights, "int8")
    assert stored["a.weight"].dtype == torch.int8
    assert stored["a.bias"].dtype == stored["small.weight"].dtype == torch.float16
    back = dequantize(stored)
    assert back.keys() == weights.keys()
    step = weights["a.weight"].flatten(1).abs().amax(dim=1) / 127
    error = (back["a.weight"] - weights["a.weight"]).flatten(1).abs().amax(dim=1)
    assert bool((error <= 0.501 * step + 1e-12).all())


def test_int8_weights_without_their_scale_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.setattr("framecls.checkpoints.file._MIN_QUANTIZED", 1)
    path = tmp_path / "m.safetensors"
    save_model(Network(tiny_config("frame")), path, precision="int8")
    header, _ = split(path)
    stored = load_file(path)
    del stored["head.weight.scale"]
    save_file(stored, path, header["__metadata__"])  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"head\.weight"):
        load_network(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def rename_weight(path: Path) -> None:
    header, weights = split(path)
    header["head.wait"] = header.pop("head.weight")
    join(path, header, weights)


def drop_weight(path: Path) -> None:
    config = read_config(path)
    network = Network(config)
    del network.encoder.norm
    save_model(network, path, config=config)


def reshape_weight(path: Path) -> None:
    config = read_config(path)
    save_model(
        Network(replace(config, labels=("a", "b"), decision=replace(config.decision, thresholds={}))),
        path,
        config=config,
    )


def poison_weight(path: Path) -> None:
    network = load_network(path)
    network.head.weight[0, 0] = float("nan")
    save_model(network, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "not a model file, or cut short"),
    "five bytes": (lambda p: p.write_bytes(b"hello"), "not a model file, or cut short"),
    "text": (lambda p: p.write_text("this is not a model\n" * 50), "not a model file"),
    "zip": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(500)), "not a model file"),
    "zeros": (lambda p: p.write_bytes(bytes(4096)), "not a model file"),
    "huge header": (lambda p: p.write_bytes(struct.pack("<Q", 2**62) + bytes(64)), "not a model file"),
    "deep header": (lambda p: p.write_bytes(struct.pack("<Q", 200000) + b"[" * 200000), "not a model file"),
    "header is a list": (lambda p: join(p, [1, 2], b""), "not a framecls model"),
    "metadata of numbers": (lambda p: join(p, {"__metadata__": {"a": 1}}, b""), "header makes no sense"),
    "truncated": (truncate, "damaged or cut short"),
    "other safetensors": (lambda p: edit_metadata(p, lambda m: m.pop("framecls_format")), "not a framecls model"),
    "newer": (lambda p: edit_metadata(p, lambda m: m.update(framecls_format="99")), "newer format 99.*update framecls"),
    "older": (lambda p: edit_metadata(p, lambda m: m.update(framecls_format="2")), "format 2, .*train the model again"),
    "odd format": (lambda p: edit_metadata(p, lambda m: m.update(framecls_format="-1")), "unknown format"),
    "no config": (lambda p: edit_metadata(p, lambda m: m.pop("config")), "settings cannot be used"),
    "config of junk": (lambda p: edit_metadata(p, lambda m: m.update(config="{")), "settings cannot be used"),
    "unknown setting": (lambda p: edit_config(p, lambda c: c.update(evil=1)), "evil: there is no such setting"),
    "giant network": (
        lambda p: edit_config(p, lambda c: c["encoder"].update(dim=4096, ff_dim=65536)),
        "has shape",
    ),  # type: ignore[attr-defined]
    "many layers": (lambda p: edit_config(p, lambda c: c["encoder"].update(n_layers=60)), "weights are missing"),  # type: ignore[attr-defined]
    "giant neighbourhood": (
        lambda p: edit_config(p, lambda c: c["encoder"].update(kind="window", n_layers=0, dim=4096, context=1000)),
        "belong to no part|has shape",
    ),  # type: ignore[attr-defined]
    "endless window": (
        lambda p: (
            edit_config(p, lambda c: c.update(window={"length_s": 3600})),
            edit_config(p, lambda c: c["features"].update(hop_samples=2)),
        ),
        "more than 200000 frames",
    ),  # type: ignore[attr-defined]
    "number that no float holds": (
        lambda p: edit_config(p, lambda c: c["features"].update(f_max_hz=10**400)),
        "f_max_hz: inf is not a finite number",
    ),  # type: ignore[attr-defined]
    "renamed weight": (rename_weight, "1 weights are missing, such as head.weight"),
    "missing weight": (drop_weight, "weights are missing, such as encoder.norm"),
    "wrong shape": (reshape_weight, "head.* has shape"),
    "not finite": (poison_weight, "not finite"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_damaged_files_give_one_line(model: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(model)
    with pytest.raises(ModelError, match=message) as caught:
        load_network(model)
    assert "\n" not in str(caught.value)
    assert str(model) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_config(tmp_path / "nothing.safetensors")


def test_the_format_is_written(model: Path) -> None:
    assert split(model)[0]["__metadata__"]["framecls_format"] == str(FORMAT_VERSION)  # type: ignore[index]


def test_model_config_must_be_complete() -> None:
    with pytest.raises(TypeError):
        ModelConfig()  # type: ignore[call-arg]
