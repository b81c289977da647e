"""Seeded sounds, and files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16000
Samples = NDArray[np.float32]


def make_tone(
    duration_s: float = 1.0, frequency_hz: float = 440.0, sample_rate: int = RATE, noise: float = 0.01
) -> Samples:
    """Return (sample,) a sine of amplitude 0.3 under white noise of this standard deviation."""
    times = np.arange(round(duration_s * sample_rate)) / sample_rate
    below = np.random.default_rng(3).normal(0, noise, len(times))
    return (0.3 * np.sin(2 * np.pi * frequency_hz * times) + below).astype(np.float32)


def make_noise(duration_s: float = 1.0, sample_rate: int = RATE, channels: int = 1, seed: int = 0) -> Samples:
    """Return (sample,), or (sample, channel) where there are several, white noise of standard deviation 0.1."""
    noise = 0.1 * np.random.default_rng(seed).standard_normal((round(duration_s * sample_rate), channels))
    return (noise[:, 0] if channels == 1 else noise).astype(np.float32)


def make_swell(duration_s: float, seed: int = 5) -> Samples:
    """Return (sample,) white noise that rises and falls, so that no two seconds are alike."""
    noise = make_noise(duration_s, seed=seed)
    return (noise * (1 + np.sin(np.arange(len(noise)) / 9000))).astype(np.float32)


def write_wav(path: Path, duration_s: float = 1.0, frequency_hz: float = 440.0) -> Path:
    """Write a tone as a 16 kHz mono recording, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, make_tone(duration_s, frequency_hz), RATE, format="WAV", subtype="PCM_16")
    return path
