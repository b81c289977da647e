"""Make noises: wind, rain, engines, fans, traffic, knocks, beeps and plain hiss, as recordings to learn `noise` from.

Recorded noise that may be shared is scarce and mostly short; without long steady noise a network takes whatever is
steady for music. These are drawn from simple physical pictures, each clip with its own numbers.

    python -m framecls.recipes.make_noise --out DIR --clips 40 --seed 0
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16000
LENGTH_S = 10.0
N = int(RATE * LENGTH_S)
Rng = np.random.Generator
Samples = NDArray[np.float64]


def shaped(rng: Rng, tilt: float, low_hz: float = 0.0, high_hz: float = RATE / 2) -> Samples:
    """Return noise of unit power that falls by `6 * tilt` dB an octave between two frequencies."""
    spectrum = np.fft.rfft(rng.standard_normal(N))
    hertz = np.fft.rfftfreq(N, 1 / RATE)
    spectrum *= np.maximum(hertz, 20.0) ** -tilt
    # Slopes of 24 dB an octave, not cliffs.
    spectrum *= 1 / np.sqrt(1 + (max(low_hz, 1e-3) / np.maximum(hertz, 1.0)) ** 8) / np.sqrt(1 + (hertz / high_hz) ** 8)
    noise = np.fft.irfft(spectrum, N)
    return np.asarray(noise / noise.std())


def slow(rng: Rng, per_s: float) -> Samples:
    """Return a smooth random curve around 0 with a spread of about 1, with `per_s` turns a second."""
    knots = rng.standard_normal(max(4, int(LENGTH_S * per_s) + 2))
    return np.interp(np.linspace(0, len(knots) - 1, N), np.arange(len(knots)), knots)


def hiss(rng: Rng) -> Samples:
    """Stationary noise of any colour and band."""
    low_hz = rng.choice([0.0, rng.uniform(50, 1000)])
    return shaped(rng, rng.uniform(-0.3, 1.6), low_hz, rng.uniform(max(1500, 2 * low_hz), 8000))


def wind(rng: Rng) -> Samples:
    """Gusts: low noise whose strength wanders."""
    gust = np.exp(rng.uniform(0.4, 1.0) * slow(rng, rng.uniform(0.4, 3)))
    return shaped(rng, rng.uniform(1.0, 2.2), 0, rng.uniform(300, 2500)) * gust


def impulses(rng: Rng, per_s: float, decay_s: float, modes_hz: tuple[float, float], n_modes: int) -> Samples:
    """Return strokes at random times, each a few decaying tones and a burst of noise."""
    out = np.zeros(N)
    for start in rng.integers(0, N, max(1, rng.poisson(per_s * LENGTH_S))):
        length = min(N - int(start), int(6 * decay_s * RATE))
        time_s = np.arange(length) / RATE
        stroke = rng.standard_normal(length) * np.exp(-time_s / (0.3 * decay_s)) * rng.uniform(0.2, 1)
        for _ in range(n_modes):
            hertz = np.exp(rng.uniform(*np.log(modes_hz)))
            stroke += np.sin(2 * np.pi * (hertz * time_s + rng.random())) * np.exp(
                -time_s / (decay_s * rng.uniform(0.3, 1))
            )
        out[start : start + length] += stroke * np.exp(rng.normal(0, 0.5))
    return out


def rain(rng: Rng) -> Samples:
    """Many drops on a bed of hiss; fire and frying sound alike."""
    drops = impulses(rng, rng.uniform(30, 200), rng.uniform(0.001, 0.005), (800, 6000), 1)
    return drops + shaped(rng, rng.uniform(0, 0.8), 200, 8000) * rng.uniform(0.02, 0.5)


def knocks(rng: Rng) -> Samples:
    """Knocks, steps, dishes, typing: now and then, sometimes in rows."""
    return impulses(
        rng, rng.uniform(0.5, 8), np.exp(rng.uniform(np.log(0.006), np.log(0.12))), (80, 5000), int(rng.integers(1, 5))
    )


def engine(rng: Rng) -> Samples:
    """A motor: pulses at a wandering rate through a muffler, with its roar."""
    rate_hz = rng.uniform(12, 140) * np.exp(rng.uniform(0.0, 0.3) * slow(rng, rng.uniform(0.1, 1.5)))
    phase = np.cumsum(rate_hz) / RATE
    out = np.zeros(N)
    for harmonic in range(1, rng.integers(6, 30)):
        strength = rng.uniform(0.2, 1) * harmonic ** -rng.uniform(0.6, 1.8)
        out += strength * np.sin(2 * np.pi * (harmonic * phase + rng.random()))
    return np.asarray(out / out.std() + shaped(rng, rng.uniform(0.3, 1.5)) * rng.uniform(0.1, 1.5))


def fan(rng: Rng) -> Samples:
    """Air and a few steady tones: fans, vacuum cleaners, mains hum."""
    out = shaped(rng, rng.uniform(0.2, 1.3), 0, rng.uniform(1500, 8000))
    base_hz = rng.choice([50.0, 60.0, rng.uniform(80, 700)])
    time_s = np.arange(N) / RATE
    for harmonic in rng.integers(1, 12, int(rng.integers(1, 5))):
        out += rng.uniform(0.05, 0.8) * np.sin(2 * np.pi * (harmonic * base_hz * time_s + rng.random()))
    return out * (1 + rng.uniform(0, 0.2) * slow(rng, 4))


def traffic(rng: Rng) -> Samples:
    """Vehicles that pass, near and far."""
    out = shaped(rng, 1.2, 0, 1500) * rng.uniform(0.05, 0.4)
    time_s = np.arange(N) / RATE
    for _ in range(rng.integers(1, 6)):
        passing = np.exp(-(((time_s - rng.uniform(0, LENGTH_S)) / rng.uniform(0.4, 3)) ** 2))
        source = shaped(rng, rng.uniform(0.5, 1.3), 30, rng.uniform(1000, 6000)) if rng.random() < 0.6 else engine(rng)
        out += source * passing * rng.uniform(0.3, 1)
    return out


def beeps(rng: Rng) -> Samples:
    """Alarms: one tone, or two in turn, on and off; sirens."""
    time_s = np.arange(N) / RATE
    low_hz, period_s = np.exp(rng.uniform(np.log(400), np.log(4000))), rng.uniform(0.08, 1.5)
    turn = (time_s / period_s) % 1
    if rng.random() < 0.3:  # a siren
        hertz = low_hz * (1 + rng.uniform(0.2, 1) * 0.5 * (1 + np.sin(2 * np.pi * time_s / (2 * period_s))))
        on = np.ones(N)
    else:
        hertz = np.where(turn < 0.5, low_hz, low_hz * rng.choice([1.0, rng.uniform(1.1, 1.6)]))
        on = (turn < rng.uniform(0.3, 0.8)).astype(float)
    tone = np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
    overdriven: Samples = np.tanh(rng.uniform(0.5, 6) * tone)
    return overdriven * np.convolve(on, np.ones(80) / 80, mode="same")


KINDS: dict[str, Callable[[Rng], Samples]] = {
    "hiss": hiss,
    "wind": wind,
    "rain": rain,
    "knocks": knocks,
    "engine": engine,
    "fan": fan,
    "traffic": traffic,
    "beeps": beeps,
}


def make_clip(kind: str, number: int, seed: int) -> NDArray[np.float32]:
    """Return (sample,) ten seconds at 16 kHz, peak 0.5; the same for the same kind, number and seed."""
    rng = np.random.default_rng((seed, sorted(KINDS).index(kind), number))
    noise = KINDS[kind](rng)
    return (noise * (0.5 / max(1e-6, float(np.abs(noise).max())))).astype(np.float32)


def main() -> None:
    """Write the clips and their manifest."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--clips", type=int, default=40, help="of each kind")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    rows = []
    for kind in KINDS:
        (options.out / kind).mkdir(parents=True, exist_ok=True)
        for number in range(options.clips):
            name = f"{kind}/{number:03d}.flac"
            soundfile.write(options.out / name, make_clip(kind, number, options.seed), RATE)
            rows.append(
                {"file": name, "seconds": LENGTH_S, "kind": "noise", "source": f"made-{kind}", "licence": "MIT"}
            )
    (options.out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
