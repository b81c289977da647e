"""Small files that ask for much: every one is refused in seconds and in little memory, with one line."""

from __future__ import annotations

import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import fuzz_settings
from support.commands import run_command
from support.forked import Runner, forked_runner
from support.models import save_tiny_model
from support.signals import write_wav

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")

TIME_LIMIT_S = 10.0  # of computing
MEMORY_LIMIT_BYTES = 250e6  # beyond what torch takes
DIGITS = "9" * 100_000

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
STRIDES = {"conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
ENCODER_SETTINGS: dict[str, Any] = {
    **{"model_type": "wav2vec2", **SIZES, **STRIDES, "conv_dim": [8] * 7},
    **{"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0},
}
LARGEST = {"hidden_size": 4096, "num_hidden_layers": 64, "intermediate_size": 10**6}
LARGEST_TOLD = {"dim": 4096, "n_layers": 64}


@dataclass(frozen=True)
class Bomb:
    """How to make a file, the command that reads it (FILE and WAV stand for paths), and what is said."""

    make: Callable[[Path], object]
    command: str
    said: str
    status: int = 1
    transformers: bool = False  # it is imported on the way


def edit(path: Path, change: Callable[[dict[str, Any]], object], version: str | None = None) -> None:
    """Change the settings in a model file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header["__metadata__"]["config"])
    change(config)
    text = json.dumps(config).replace('"DIGITS"', DIGITS).replace('"DEEP"', "[" * 100_000)
    header["__metadata__"] |= {"config": text} | ({"framecls_format": version} if version else {})
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])


def model(change: Callable[[dict[str, Any]], object], version: str | None = None) -> Callable[[Path], object]:
    """Return what makes a tiny model with settings changed."""

    def make(path: Path) -> None:
        save_tiny_model(path.parent, "frame").rename(path)
        edit(path, change, version)

    return make


def speech(told: dict[str, int] | None = None, **settings: Any) -> Callable[[dict[str, Any]], object]:
    """Return what lets a model carry an encoder of transformers with such settings, about which it tells others."""
    grid = {"kind": "pretrained", "window_samples": 400, "n_fft": 400, "hop_samples": 320}
    own = {"source": "x", "carried": True, "dim": 16, "n_layers": 2, "hop_samples": 320, "window_samples": 400}
    own |= {"architecture": {"config": ENCODER_SETTINGS | settings, "input": {}}, **(told or {})}
    return lambda config: config["features"].update(grid | {"pretrained": own})


def hears(told: dict[str, int] | None = None, **settings: Any) -> Callable[[Path], object]:
    """Return what makes a model that carries such an encoder."""
    return model(speech(told, **settings))


def lower_part(config: dict[str, Any]) -> None:
    """Let a model hear through as large a network as settings can ask for, that is in no file."""
    encoder = config["encoder"] | {"dim": 4096, "ff_dim": 65536, "n_layers": 64, "subsampling": 2}
    features = {key: value for key, value in config["features"].items() if key != "pretrained"}
    window = features["n_fft"] - features["hop_samples"] + 2 * features["hop_samples"]
    grid = {"window_samples": window, "n_fft": window, "hop_samples": 2 * features["hop_samples"]}
    architecture = {"features": features, "encoder": encoder, "digest": "0"}
    own = {"source": "framecls:language", "family": "framecls", "architecture": architecture, "dim": 4096}
    own |= {"n_layers": 64, "hop_samples": grid["hop_samples"], "window_samples": window}
    config["features"].update(grid | {"kind": "pretrained", "pretrained": own})


def folder(**settings: Any) -> Callable[[Path], object]:
    """Return what makes a folder as transformers saves an encoder."""

    def make(path: Path) -> None:
        path.mkdir()
        text = json.dumps(ENCODER_SETTINGS | settings).replace('"DIGITS"', DIGITS).replace('"DEEP"', "[" * 100_000)
        (path / "config.json").write_text(text)
        save_file({"x": torch.zeros(2)}, path / "model.safetensors", {"format": "pt"})

    return make


def text(content: str) -> Callable[[Path], object]:
    """Return what makes a text file."""
    return lambda path: path.write_text(content)


def sparse(n_bytes: int) -> Callable[[Path], object]:
    """Return what makes a file of zeros that takes no room on the disk."""

    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, n_bytes)

    return make


def many_labels(config: dict[str, Any]) -> None:
    config["labels"] = [str(number) for number in range(50_000)]
    config["decision"] = {"candidates": config["labels"], "thresholds": dict.fromkeys(config["labels"], 0.5)}


TAG = "tag WAV --device cpu -m FILE.safetensors"
CARD = "models FILE.safetensors"
EXPORT = "export FILE.safetensors -o x.onnx"
TRAIN = "train identify MANIFEST -o m"
ENCODER = f"{TRAIN} --encoder FILE"
WIDE = {"conv_dim": [65536, *[8] * 6]}
MANY = {"n_layers": 65536}
FAST = {"sample_rate": 384_000, "hop_samples": 8000, "window_samples": 8000, "n_fft": 8192}
SECOND = {"window": {"length_s": 1.0, "overlap_s": 0.0}}
HOUR = {"window": {"length_s": 3600.0, "overlap_s": 0.0}}

BOMBS = {
    # Models
    "layers: tag": Bomb(hears(MANY), TAG, r"pretrained\.n_layers must be in 1\.\.64"),
    "layers: card": Bomb(hears(MANY), CARD, r"pretrained\.n_layers must be in 1\.\.64"),
    "layers: export": Bomb(hears(MANY), EXPORT, r"pretrained\.n_layers must be in 1\.\.64"),
    "layers: evaluate": Bomb(hears(MANY), "evaluate FILE.safetensors MANIFEST", r"n_layers must be in 1\.\.64"),
    "layers that are not told of": Bomb(hears(num_hidden_layers=65536), TAG, "do not go together", transformers=True),
    "as many layers as may be": Bomb(hears(LARGEST_TOLD, **LARGEST), TAG, "weights are missing", transformers=True),
    "layers of the network": Bomb(model(lambda c: c["encoder"].update(n_layers=65536)), TAG, r"n_layers must be in 0"),
    "as large a network as may be": Bomb(
        model(lambda c: c["encoder"].update(n_layers=64, dim=4096, ff_dim=65536)), TAG, "weights are missing"
    ),
    "convolutions": Bomb(hears(conv_dim=[8] * 65536), TAG, "no list of 1 to 16 sizes"),
    "wide convolutions": Bomb(
        model(lambda c: (speech(**WIDE)(c), c.update(SECOND))), TAG, "weights are missing", transformers=True
    ),
    "a vast lower part": Bomb(model(lambda c: (lower_part(c), c.update(SECOND))), TAG, "another version"),
    "format number": Bomb(model(lambda c: None, DIGITS), CARD, "unknown format '9{20}'"),
    "number": Bomb(model(lambda c: c["encoder"].update(dim="DIGITS")), CARD, "digits"),
    "deep": Bomb(model(lambda c: c.update(card="DEEP")), CARD, "settings cannot be used"),
    "many labels": Bomb(model(many_labels), TAG, "has shape"),
    "more labels": Bomb(model(lambda c: c.update(labels=[str(n) for n in range(10**5)])), CARD, "at most 65536 labels"),
    "long label": Bomb(model(lambda c: c["labels"].append("x" * 10**6)), CARD, "at most 1000 characters"),
    "same labels": Bomb(model(lambda c: c.update(labels=["x"] * 50_000)), CARD, "labels must differ"),
    "long name of a setting": Bomb(model(lambda c: c.update({"x" * 10**6: 1})), CARD, "x{80}: there is no such"),
    "long value": Bomb(model(lambda c: c.update(task=["x"] * 10**5)), CARD, "is not one of frame, pooled"),
    "threshold": Bomb(
        model(lambda c: c["decision"]["thresholds"].update(speech=float("nan"))), CARD, "nan is not a finite number"
    ),
    "header": Bomb(lambda p: p.write_bytes(struct.pack("<Q", 2**24) + bytes(2**24)), CARD, "not a model file"),
    "an hour of pairs": Bomb(
        model(lambda c: (c.update(HOUR), c["encoder"].update(score="additive"))), TAG, "pairs of frames would be"
    ),
    "an hour of samples": Bomb(model(lambda c: (c.update(HOUR), c["features"].update(FAST))), TAG, "samples would be"),
    "an hour of wide layers": Bomb(
        model(lambda c: (c.update(HOUR), c["encoder"].update(ff_dim=65536))), TAG, "activations would be"
    ),
    "spectra": Bomb(
        model(lambda c: (c.update(HOUR), c["features"].update(n_fft=65536))), TAG, "spectrum would be"
    ),
    "an hour of an encoder's layers": Bomb(
        model(lambda c: (speech(LARGEST_TOLD, **LARGEST)(c), c.update(HOUR))),
        TAG,
        "layers in its encoder would be",
    ),
    "long transform": Bomb(
        model(lambda c: c["features"].update(n_fft=65536)), EXPORT, "at most 4096 are exported", status=2
    ),
    # Settings of speech encoders
    "encoder: layers": Bomb(folder(num_hidden_layers=65536), ENCODER, "n_layers must be in 1", transformers=True),
    "encoder: as large as may be": Bomb(folder(**LARGEST), ENCODER, "larger than its files", transformers=True),
    "encoder: convolutions": Bomb(
        folder(conv_dim=[8] * 50_000), ENCODER, "no list of 1 to 16|cannot open this", transformers=True
    ),
    "encoder: number": Bomb(folder(num_attention_heads="DIGITS"), ENCODER, r"config\.json: cannot be read"),
    "encoder: deep": Bomb(folder(num_attention_heads="DEEP"), ENCODER, r"config\.json: cannot be read: .*deep"),
    "encoder: long": Bomb(folder(x="x" * 10**6), ENCODER, r"config\.json: larger than 256 kB"),
    # Recipes
    "recipe: deep": Bomb(text("labels = " + "[" * 100_000), f"{TRAIN} --recipe FILE", "nested too deep"),
    "recipe: deep tables": Bomb(text("a = " + "{a=" * 50_000), f"{TRAIN} --recipe FILE", "nested too deep"),
    "recipe: deep name": Bomb(text("a." * 32_768 + "a = 1"), f"{TRAIN} --recipe FILE", "more than 32 parts"),
    "recipe: deep quoted name": Bomb(text("""x = {"a".'b'.""" * 9999), f"{TRAIN} --recipe FILE", "deep|parts"),
    "recipe: digits": Bomb(text(f"phone_layer = {DIGITS}"), f"{TRAIN} --recipe FILE", "digits"),
    "recipe: hexadecimal": Bomb(text(f"phone_layer = 0x{'f' * 9999}"), f"{TRAIN} --recipe FILE", "than 63 bits"),
    "recipe: hexadecimal text": Bomb(text(f"name = 0x{'f' * 9999}"), f"{TRAIN} --recipe FILE", "of type str"),
    "recipe: giant": Bomb(sparse(2**36), f"{TRAIN} --recipe FILE", "larger than 256 kB"),
    "recipe: long name": Bomb(text(f"{'x' * 10**5} = 1"), f"{TRAIN} --recipe FILE", "x{80}: there is no such setting"),
    "recipe: long label": Bomb(
        text(f'name = "x"\ntask = "frame"\n[mix.presence]\n{"x" * 10**5} = 2'), f"{TRAIN} --recipe FILE", "presence x+…"
    ),
    "recipe: --set": Bomb(text(""), f"{TRAIN} --set window={{{'a.' * 9999}a=1}}", "window: a table was", status=2),
    "recipe: --set deep": Bomb(text(""), f"{TRAIN} --set {'a.' * 9999}a=1", "there is no such setting", status=2),
    # Lists of recordings
    "manifest: line": Bomb(
        lambda p: p.write_bytes(b'{"file": "' + b"x" * 50_000_000 + b'"}'), "train tag FILE -o m --check", "characters"
    ),
    "manifest: table": Bomb(
        lambda p: p.with_suffix(".csv").write_bytes(b"file,label\n" + b"," * 50_000_000),
        "train tag FILE.csv -o m --check",
        "line 2 has 50,000,000 characters",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with forked_runner() as run:
        yield run


@pytest.mark.parametrize("kind", fuzz_settings.KINDS)
def test_settings_changed_at_random(kind: str, tmp_path: Path) -> None:
    """Longer: python tests/fuzz_settings.py --seconds 3600."""
    results = {fuzz_settings.run_case(kind, f"{number}", tmp_path) for number in range(200)}
    assert "taken" in results
    assert kind == "list" or "refused" in results  # what is wrong with a list is told of each of its lines


def measure_import(statement: str) -> int:
    """Return the memory that Python takes with some packages."""
    code = f"import {statement}; import re; print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    return int(run_command(code=code).out) * 1024


@pytest.fixture(scope="module")
def transformers_bytes() -> int:
    """Return the memory that an encoder of transformers takes beside torch."""
    encoder = "framecls.nn.network, transformers; transformers.Wav2Vec2Model; transformers.AutoModel"
    return measure_import(encoder) - measure_import("framecls.nn.network")


@pytest.mark.parametrize("name", BOMBS)
def test_one_line_in_little_time_and_memory(
    name: str, tmp_path: Path, runner: Runner, request: pytest.FixtureRequest
) -> None:
    bomb = BOMBS[name]
    for package in ("onnx", "onnxscript") if bomb.command.startswith("export ") else ():
        pytest.importorskip(package, reason=f"export needs {package}, of the extra onnx")
    path = tmp_path / "FILE"
    bomb.make(path.with_suffix(".safetensors") if "FILE.safetensors" in bomb.command else path)
    write_wav(tmp_path / "WAV", 3.0)
    (tmp_path / "MANIFEST").write_text('{"file": "WAV", "label": "a"}\n' * 2)
    answer = runner(bomb.command.split(), tmp_path)
    said = answer.err
    print(f"{name}: {answer.cpu_s:.1f} s, {answer.grown_bytes / 1e6:.0f} MB: {said[:150]}")
    assert answer.status == bomb.status, said
    assert said.startswith("framecls: error: ")
    assert len(said.splitlines()) == 1
    assert len(said) < 2000
    assert "unexpected" not in said
    assert re.search(bomb.said, said), said
    taken_bytes = request.getfixturevalue("transformers_bytes") if bomb.transformers else 0
    assert answer.cpu_s < (2 if bomb.transformers else 1) * TIME_LIMIT_S
    assert answer.grown_bytes < taken_bytes + MEMORY_LIMIT_BYTES
