"""Small corpora that a small network learns in seconds, and recipes for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from framecls.checkpoints.network import load_network
from framecls.config import EncoderConfig, FeatureConfig, WindowConfig
from framecls.training.recipe import AugmentConfig, MixConfig, OptimConfig, Recipe, SampleConfig
from support.signals import RATE

GENTLE = AugmentConfig(
    speed_chance=0,
    reverb_chance=0,
    equalize_chance=0,
    low_pass_chance=0,
    telephone_chance=0,
    noise_chance=0.2,
    frequency_masks=0,
    time_masks=0,
)
SMALL = {
    "features": FeatureConfig(n_mels=24),
    "encoder": EncoderConfig(dim=24, n_layers=1, n_heads=2, ff_dim=48, subsampling=2, kernel=5, dropout=0.1),
    "window": WindowConfig(1.0, 0.2),
    "augment": GENTLE,
}
FRAME_RECIPE = Recipe(
    "toy",
    "frame",
    overlapping=True,
    mix=MixConfig(enabled=True, spread_db=3.0),
    optim=OptimConfig(
        steps=60, batch_s=12.0, learning_rate=3e-3, warmup_steps=5, dev_every=20, ema_decay=0.9, workers=0
    ),
    **SMALL,
)  # type: ignore[arg-type]
POOLED_RECIPE = replace(
    FRAME_RECIPE, task="pooled", overlapping=False, mix=MixConfig(), sample=SampleConfig(length_s=(0.5, 1.0))
)


def write_corpus(folder: Path, n_speakers: int = 8, labels: tuple[str, str] = ("low", "high")) -> Path:
    """Write clips that a small network can tell apart, of each label one by each speaker, and a manifest of them.

    The labels are two of `low` and `high`, tones, and `hiss`. Clips called low have phones.
    """
    rng = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for speaker in range(n_speakers):
        for label in labels:
            name = f"{label}{speaker}.wav"
            soundfile.write(folder / name, _make_clip(label, rng), RATE)
            rows.append({"file": name, "label": label, "speaker": f"s{speaker}", "source": f"mic{speaker % 2}"})
            rows[-1]["split"] = "dev" if speaker < 2 else "train"
            if label == "low":
                rows[-1]["phones"] = "l o u"
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    return manifest


def _make_clip(label: str, rng: np.random.Generator) -> NDArray[np.float64]:
    n_samples = int(1.3 * RATE)
    if label == "hiss":
        return 0.1 * rng.standard_normal(n_samples)
    pitch_hz = rng.uniform(1, 1.5) * {"low": 200, "high": 2000}[label]
    return np.asarray(0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(n_samples) / RATE))


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters of a model file by name."""
    return dict(load_network(path).named_parameters())


# The text of a recipe file.
RECIPE = """
name = "toy"
task = "pooled"
[features]
n_mels = 24
[encoder]
dim = 24
n_layers = 1
n_heads = 2
ff_dim = 48
subsampling = 2
kernel = 5
[window]
length_s = 1.0
overlap_s = 0.2
[sample]
length_s = [0.5, 1.0]
[optim]
steps = 30
batch_s = 3.0
warmup_steps = 5
dev_every = 5
workers = 0
"""


def make_recipe(steps: int, dev_every: int, tuned_rate: float = 0.02) -> Recipe:
    """Return a recipe for a pooled model above a pre-trained encoder."""
    return Recipe(
        "heard",
        "pooled",
        encoder=EncoderConfig(dim=16, n_layers=1, n_heads=2, ff_dim=32, subsampling=4, kernel=3, dropout=0.1),
        window=WindowConfig(1.0, 0.0),
        sample=SampleConfig(length_s=(0.5, 0.8)),
        augment=AugmentConfig(
            reverb_chance=0, noise_chance=0, equalize_chance=0, telephone_chance=0, frequency_masks=0, time_masks=0
        ),
        optim=OptimConfig(
            steps=steps,
            batch_s=6.0,
            learning_rate=5e-3,
            warmup_steps=2,
            dev_every=dev_every,
            ema_decay=0.8,
            workers=0,
            tuned_rate=tuned_rate,
        ),
    )
