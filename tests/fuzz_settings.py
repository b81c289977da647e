"""Settings, recipes and lists changed at random: each is taken, or refused with one clear line, in bounded time.

python tests/fuzz_settings.py --seconds 60 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framecls.audio import find_inputs
from framecls.checkpoints.file import read_config
from framecls.config import PretrainedConfig, from_dict
from framecls.errors import FrameclsError
from framecls.textfiles import read_json
from framecls.training.recipe import change_recipe, find_recipe, read_recipe, shipped_recipes

CASE_LIMIT_S = 10.0
MOST_CHARACTERS = 2500  # of a message

NUMBERS = (0, -1, 1, 7, 64, 65, 4096, 2**16, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"))
TEXTS = ("", "x", "window", "additive", "pretrained", "precomputed", "\0", "\ud800", "é" * 300, "a." * 500, "../x", "-")


def mutate(rng: random.Random, content: bytes) -> bytes:
    """Set, cut, repeat or add some bytes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice([1, 2, 8, 64, 1000])
        action = rng.choice(["set", "cut", "repeat", "add", "nest"])
        if action == "set":
            data[at : at + length] = rng.randbytes(length)
        elif action == "cut":
            del data[at : at + length]
        elif action == "repeat":
            data[at:at] = data[at : at + length] * rng.choice([1, 2, 100])
        elif action == "nest":
            data[at:at] = rng.choice([b"[", b"{a=", b"a.", b'{"a":', b"9", b" "]) * rng.choice([1, 50, 5000])
        else:
            data[at:at] = rng.choice([b"\n", b"=", b'"', b"'''", b"]", b"}", b",", b"nan", b"-", b"\xff"])
    return bytes(data)


def make_value(rng: random.Random, depth: int = 0) -> Any:
    """Return a value of JSON: most often a number or text that is at the edge of something."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 7:
        return rng.choice(TEXTS)
    if kind == 7 or depth > 3:
        return rng.choice([None, True, False])
    if kind == 8:
        return [make_value(rng, depth + 1) for _ in range(rng.choice([0, 1, 3, 200]) if depth < 2 else 1)]
    return {rng.choice(TEXTS): make_value(rng, depth + 1) for _ in range(rng.randint(0, 4))}


def change(rng: random.Random, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with some of them, at any depth, set to something else, left out or added."""
    changed: dict[str, Any] = json.loads(json.dumps(settings))
    for _ in range(rng.choice([1, 1, 2, 4])):
        table = changed
        while rng.random() < 0.7:
            inner = [value for value in table.values() if isinstance(value, dict) and value]
            table = rng.choice(inner) if inner else table
        key = rng.choice([*table, *TEXTS])
        if rng.random() < 0.2:
            table.pop(key, None)
        else:
            table[key] = make_value(rng)
    return changed


def model_settings() -> dict[str, Any]:
    """Return the settings of a model that hears through a speech encoder."""
    own = {
        "source": "lab/encoder",
        "carried": True,
        "architecture": {"config": {"conv_dim": [8] * 7, "conv_stride": [5, 2, 2, 2, 2, 2, 2]}, "input": {}},
        **{"dim": 16, "n_layers": 2, "hop_samples": 320, "window_samples": 400},
    }
    return {
        "name": "m",
        "task": "frame",
        "labels": ["a", "b"],
        "features": {
            "kind": "pretrained",
            "window_samples": 400,
            "n_fft": 400,
            "hop_samples": 320,
            "pretrained": own,
        },
        "encoder": {"dim": 16, "n_layers": 1, "n_heads": 2, "ff_dim": 32},
        "window": {"length_s": 2.0, "overlap_s": 0.5},
        "decision": {"thresholds": {"a": 0.5}},
    }


def fuzz_model(rng: random.Random, folder: Path) -> None:
    """Read what the header of a model file says."""
    settings = json.dumps(change(rng, model_settings()))
    version = rng.choice(["3", "3", "3", "2", "0", "-1", "٣", "9" * 10_000, "", "2.0"])
    if rng.random() < 0.3:
        settings = mutate(rng, settings.encode()).decode(errors="replace")
    header = json.dumps({"__metadata__": {"framecls_format": version, "config": settings}}).encode()
    if rng.random() < 0.2:
        header = mutate(rng, header)
    path = folder / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    read_config(path)


def fuzz_encoder(rng: random.Random, folder: Path) -> None:
    """Read the settings of a pre-trained encoder."""
    text = json.dumps(change(rng, model_settings()["features"]["pretrained"])).encode()
    path = folder / "encoder.json"
    path.write_bytes(mutate(rng, text) if rng.random() < 0.4 else text)
    config = from_dict(PretrainedConfig, read_json(path))
    assert config.n_layers <= 64 or not config.architecture
    assert all(number >= 0 for number in config.largest_arrays(100).values())


def fuzz_recipe(rng: random.Random, folder: Path) -> None:
    """Read a recipe, and change settings of it as --set does."""
    shipped = find_recipe(rng.choice(shipped_recipes()))
    if rng.random() < 0.3:
        change_recipe(read_recipe(shipped), [mutate(rng, b"optim.patience=3").decode(errors="replace")])
        return
    path = folder / "recipe.toml"
    path.write_bytes(mutate(rng, shipped.read_bytes()))
    read_recipe(path)


def fuzz_list(rng: random.Random, folder: Path) -> None:
    """Read a list of recordings."""
    (folder / "a.wav").touch()
    content = mutate(rng, b"a.wav\n# a comment\n\nb.wav\n*.wav\nin\n@list.txt\n-\n")
    path = folder / "list.txt"
    # A list may name any folder, and to look through all of the machine takes its time.
    path.write_bytes(content.replace(b"/", b"").replace(b".\n", b"\n"))
    with contextlib.chdir(folder):
        list(find_inputs(["@list.txt"]))


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "model": fuzz_model,
    "encoder": fuzz_encoder,
    "recipe": fuzz_recipe,
    "list": fuzz_list,
}


def run_case(kind: str, seed: str, folder: Path) -> str:
    """Run one case and return what became of it: "taken" or "refused".

    Raises:
        AssertionError: it took too long, or its message is no line of words.
        Exception: whatever is no FrameclsError.
    """
    began = time.monotonic()
    said = None
    try:
        KINDS[kind](random.Random(seed), folder)
    except FrameclsError as error:
        said = str(error)
    assert said is None or 0 < len(said) < MOST_CHARACTERS, f"a message of {len(said or '')} characters"
    elapsed_s = time.monotonic() - began
    assert elapsed_s < CASE_LIMIT_S, f"it took {elapsed_s:.1f} s"
    return "taken" if said is None else "refused"


def main(arguments: list[str] | None = None) -> int:
    """Run cases for a while; return 1 if one of them failed, with what to give again to see it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--kind", choices=KINDS, help="only this one")
    options = parser.parse_args(arguments)
    kinds = [options.kind] if options.kind else list(KINDS)
    counts: Counter[str] = Counter()
    deadline = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as name:
        number = 0
        while time.monotonic() < deadline:
            kind = kinds[number % len(kinds)]
            seed = f"{options.seed} {number // len(kinds)} {kind}"
            try:
                counts[f"{kind} {run_case(kind, seed, Path(name))}"] += 1
            except Exception:
                print(f"failed: run_case({kind!r}, {seed!r}, folder)", file=sys.stderr)
                raise
            number += 1
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
