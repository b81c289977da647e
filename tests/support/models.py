"""Tiny untrained models that tests of whole commands run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from framecls.checkpoints.network import save_model
from framecls.config import DecisionConfig, EncoderConfig, FeatureConfig, ModelConfig, WindowConfig
from framecls.nn.network import Network
from support.signals import RATE, make_noise

TAG_LABELS = ("speech", "music", "noise")
LANGUAGES = ("de", "en", "fr")


def tiny_config(task: Literal["frame", "pooled"]) -> ModelConfig:
    """Return the settings of a network that runs in a blink.

    Its thresholds make the answer of an untrained tagger known: speech always, noise never.
    """
    is_frame = task == "frame"
    return ModelConfig(
        name="tiny-sound" if is_frame else "tiny-language",
        task=task,
        labels=TAG_LABELS if is_frame else LANGUAGES,
        overlapping=is_frame,
        features=FeatureConfig(n_mels=16, n_mfcc=13),
        encoder=EncoderConfig(dim=16, n_layers=1, n_heads=2, ff_dim=32, subsampling=2, kernel=3, dropout=0.0),
        window=WindowConfig(length_s=2.0, overlap_s=0.5),
        decision=DecisionConfig(thresholds={"speech": 0.0, "noise": 1.0} if is_frame else {}),
        card={"date": "2020-02-02", "data": "none, it is untrained"},
    )


def save_tiny_model(folder: Path, task: Literal["frame", "pooled"]) -> Path:
    """Write a seeded untrained model and return its file."""
    torch.manual_seed(7)
    config = tiny_config(task)
    path = folder / f"{config.name}.safetensors"
    save_model(Network(config), path)
    return path


def tiny_voice_config() -> ModelConfig:
    """Return the settings of a network that answers with a vector for a voice; untrained, it tells tones by pitch."""
    return replace(
        tiny_config("pooled"),
        name="tiny-speaker",
        labels=(),
        embedding=8,
        decision=DecisionConfig(thresholds={"unknown": 0.5}, same_voice=(200.0, -190.0)),
    )


def save_tiny_voice_model(folder: Path, seed: int = 7) -> Path:
    """Write a seeded untrained model of voices and return its file."""
    torch.manual_seed(seed)
    path = folder / f"tiny-speaker{seed}.safetensors"
    save_model(Network(tiny_voice_config()), path)
    return path


def noise_tensor(n_samples: int, seed: int = 0) -> torch.Tensor:
    """Return (sample,) white noise for a network."""
    return torch.from_numpy(make_noise(n_samples / RATE, seed=seed))
