"""What happens to sound between the mouth and the file, at random: rooms, microphones, lines, noise, levels, codecs.

Everything is linear filtering in one Fourier transform, then noise, gain and clipping, on a batch of waveforms.
Randomness comes from the generator that is passed in, so a seed gives the same examples again. Who wants to know what
was done passes a list of dicts, one a waveform, to be filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls import packages
from framecls.training.examples.codecs import pass_codec
from framecls.training.recipe import AugmentConfig

Samples = NDArray[np.float32]
Notes = Sequence[dict[str, Any]] | None  # of each waveform, what was done to it
_QUIET = 1e-5
_EQUALIZER_BANDS = 8
_VOCODER_SAMPLES = 2048  # one window of librosa's phase vocoder: what is shorter is left alone


def lengthen(samples: Samples, n_samples: int, n_fade: int, rng: np.random.Generator) -> Samples:
    """Return (sample,) of any length made of (sample,): pieces of it from anywhere, each faded into the next.

    What sounds alike throughout, such as rain, goes on so without a seam: the fades keep the power.

    Args:
        samples: what to make longer.
        n_samples: of the result.
        n_fade: samples of a fade, at most a quarter of `samples`.
        rng: draws the pieces, which have at least half of the length of `samples`.
    """
    ramp = np.sin(np.linspace(0, np.pi / 2, n_fade, dtype=np.float32))
    total, at = np.zeros(n_fade + n_samples + len(samples), np.float32), 0
    while at < n_fade + n_samples:
        length = int(rng.integers(len(samples) // 2, len(samples) + 1))
        start = int(rng.integers(0, len(samples) - length + 1))
        piece = samples[start : start + length].copy()
        piece[:n_fade] *= ramp
        piece[length - n_fade :] *= ramp[::-1]
        total[at : at + length] += piece
        at += length - n_fade
    return total[n_fade : n_fade + n_samples]


def change_speed(samples: Samples, rng: np.random.Generator, config: AugmentConfig) -> tuple[Samples, float]:
    """Play (sample,) faster or slower, pitch and formants with it; return it and the factor (2: twice as fast)."""
    if rng.random() >= config.speed_chance:
        return samples, 1.0
    factor = round(float(rng.uniform(*config.speed)), 3)
    return play_at(samples, factor), factor


def change_delivery(
    samples: Samples, rng: np.random.Generator, config: AugmentConfig, sample_rate: int
) -> tuple[Samples, float]:
    """Change how (sample,) is delivered: speed, tempo and pitch, each by chance.

    Returns:
        the samples, and how many times as fast they are.
    """
    samples, factor = change_speed(samples, rng, config)
    # Nothing is drawn for what is off: the examples of a seed stay what they were before these were there.
    if config.stretch_chance and rng.random() < config.stretch_chance and len(samples) >= _VOCODER_SAMPLES:
        rate = round(float(rng.uniform(*config.stretch)), 3)
        samples, factor = stretch_time(samples, rate), factor * rate
    if config.shift_chance and rng.random() < config.shift_chance and len(samples) >= _VOCODER_SAMPLES:
        samples = shift_pitch(samples, float(rng.uniform(*config.shift_semitones)), sample_rate)
    return samples, factor


def stretch_time(samples: Samples, rate: float) -> Samples:
    """Return (sample,) `rate` times as fast, its pitch and formants kept: `librosa.effects.time_stretch`."""
    librosa: Any = packages.load("augment.stretch_chance", "librosa")
    stretched: Samples = librosa.effects.time_stretch(samples, rate=rate)
    return stretched


def shift_pitch(samples: Samples, semitones: float, sample_rate: int) -> Samples:
    """Return (sample,) so many semitones higher and as long as before: `librosa.effects.pitch_shift`.

    Formants move with the pitch, so that a voice becomes that of somebody smaller or larger.
    """
    librosa: Any = packages.load("augment.shift_chance", "librosa")
    shifted: Samples = librosa.effects.pitch_shift(samples, sr=sample_rate, n_steps=semitones)
    return shifted


def play_at(samples: Samples, factor: float) -> Samples:
    """Return (sample,) played `factor` times as fast."""
    if factor == 1:
        return samples
    played: Samples = soxr.resample(samples, 16000 * factor, 16000, quality="LQ").astype(np.float32)
    return played


def room_response(rng: np.random.Generator, reverb_s: float, sample_rate: int) -> Samples:
    """Draw the impulse response of a room: the direct sound, then noise that falls by 60 dB in `reverb_s`.

    The statistical model of Polack (1988); early reflections are those of the noise.
    """
    length = int(min(reverb_s, 1.0) * sample_rate)
    time_s = np.arange(length) / sample_rate
    tail = rng.standard_normal(length) * 10 ** (-3 * time_s / reverb_s)
    tail *= np.arange(length) >= rng.uniform(0.001, 0.01) * sample_rate
    direct_to_tail_db = rng.uniform(-6.0, 15.0)
    tail *= 10 ** (-direct_to_tail_db / 20) / max(_QUIET, float(np.sqrt(np.square(tail).sum())))
    tail[0] = 1.0
    return tail.astype(np.float32)


def equalizer(
    rng: np.random.Generator,
    config: AugmentConfig,
    frequency_hz: NDArray[np.float64],
    note: dict[str, Any] | None = None,
) -> Samples:
    """Draw the gain of a microphone and a line at each frequency: (frequency,), 1 where nothing happens."""
    gain_db = np.zeros(len(frequency_hz))
    note = {} if note is None else note
    if rng.random() < config.equalize_chance:
        note["equalized"] = True
        knots_hz = np.geomspace(60, frequency_hz[-1], _EQUALIZER_BANDS)
        gain_db += np.interp(frequency_hz, knots_hz, rng.normal(0, config.equalize_db, _EQUALIZER_BANDS))
    if rng.random() < config.telephone_chance:
        low_hz, high_hz = rng.uniform(200, 350), rng.uniform(3200, 3700)
        note["telephone_hz"] = [round(low_hz), round(high_hz)]
        outside = np.maximum(low_hz - frequency_hz, 0) / 100 + np.maximum(frequency_hz - high_hz, 0) / 200
        gain_db -= np.minimum(outside * 20, 60)
    elif rng.random() < config.low_pass_chance:
        low_pass_hz = rng.uniform(2500, 7500)
        note["low_pass_hz"] = round(low_pass_hz)
        gain_db -= np.minimum(np.maximum(frequency_hz - low_pass_hz, 0) / 200 * 20, 60)
    return (10 ** (gain_db / 20)).astype(np.float32)


def filter_batch(
    waveforms: Tensor, rng: np.random.Generator, config: AugmentConfig, sample_rate: int, notes: Notes = None
) -> Tensor:
    """Put each of (batch, sample) waveforms through a room and a line of its own, loudness kept."""
    n_samples = waveforms.shape[1]
    size = n_samples + sample_rate  # the longest response is a second
    size += -size % 1000  # small prime factors make the transform fast
    frequency_hz = np.fft.rfftfreq(size, 1 / sample_rate)
    # One curve is interpolated at a fiftieth of the frequencies: it is smooth.
    coarse_hz = np.append(frequency_hz[::50], frequency_hz[-1])
    response = np.zeros((len(waveforms), len(frequency_hz)), np.complex64)
    for index, row in enumerate(response):
        note = {} if notes is None else notes[index]
        row += np.interp(frequency_hz, coarse_hz, equalizer(rng, config, coarse_hz, note))
        if rng.random() < config.reverb_chance:
            reverb_s = float(rng.uniform(*config.reverb_s))
            note["reverb_s"] = round(reverb_s, 2)
            row *= np.fft.rfft(room_response(rng, reverb_s, sample_rate), size)
    spectrum = torch.fft.rfft(waveforms, size) * torch.from_numpy(response)
    filtered = torch.fft.irfft(spectrum, size)[:, :n_samples]
    before, after = waveforms.square().sum(dim=1), filtered.square().sum(dim=1)
    scaled: Tensor = filtered * (before / after.clamp(min=1e-12)).sqrt().unsqueeze(1)
    return scaled


def coloured_noise(rng: np.random.Generator, n_samples: int) -> Samples:
    """Draw stationary noise, (sample,) of unit power, its spectrum falling by 0 to 9 dB an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    slope = rng.uniform(0, 1.5)
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** slope
    noise = np.fft.irfft(spectrum, n_samples)
    return (noise / max(_QUIET, float(noise.std()))).astype(np.float32)


def add_noise(
    waveforms: Tensor,
    rng: np.random.Generator,
    config: AugmentConfig,
    draw_noise: Callable[[int], Samples] | None,
    notes: Notes = None,
) -> Tensor:
    """Add noise to some of (batch, sample) waveforms.

    Args:
        draw_noise: gives (sample,) recorded noise of a length; None, or half of the time: coloured noise.
    """
    noisy = waveforms.clone()
    for index, row in enumerate(noisy):
        if rng.random() >= config.noise_chance:
            continue
        recorded = draw_noise is not None and rng.random() < 0.6
        noise = torch.from_numpy(draw_noise(len(row)) if recorded and draw_noise else coloured_noise(rng, len(row)))
        snr_db = float(rng.uniform(*config.noise_snr_db))
        if notes is not None:
            notes[index]["noise"] = {"kind": "recorded" if recorded else "coloured", "snr_db": round(snr_db, 1)}
        # Loudness of the speech itself, not of its pauses.
        power = row.square().view(-1, 160 if len(row) % 160 == 0 else 1).mean(dim=1).quantile(0.9)
        noise_power = noise.square().mean().clamp(min=1e-12)
        row += noise * (power / noise_power * 10 ** (-snr_db / 10)).sqrt()
    return noisy


def set_level(waveforms: Tensor, rng: np.random.Generator, config: AugmentConfig, notes: Notes = None) -> Tensor:
    """Set each waveform's peak to a random level, and overdrive some by up to 12 dB; -1..1 afterwards."""
    peak = waveforms.abs().amax(dim=1, keepdim=True).clamp(min=_QUIET)
    gain_db = torch.from_numpy(rng.uniform(*config.gain_db, len(waveforms)).astype(np.float32)).clamp(max=0)
    overdriven = rng.random(len(waveforms)) < config.clip_chance
    gain_db[torch.from_numpy(overdriven)] = float(rng.uniform(0, 12))
    for note, peak_db in zip(notes or (), gain_db.tolist(), strict=False):
        note["peak_db"] = round(peak_db, 1)  # above 0: overdriven
    return (waveforms / peak * (10 ** (gain_db / 20)).unsqueeze(1)).clamp(-1, 1)


def augment_batch(
    waveforms: Tensor,
    rng: np.random.Generator,
    config: AugmentConfig,
    sample_rate: int,
    draw_noise: Callable[[int], Samples] | None = None,
    notes: Notes = None,
) -> Tensor:
    """Room, line, noise, level and codec for each of (batch, sample) waveforms."""
    waveforms = filter_batch(waveforms, rng, config, sample_rate, notes)
    waveforms = add_noise(waveforms, rng, config, draw_noise, notes)
    waveforms = set_level(waveforms, rng, config, notes)
    # Nothing is drawn for codecs that are off: the examples of a seed stay what they were before there were any.
    return pass_codecs(waveforms, rng, config, sample_rate, notes) if config.codec_chance else waveforms


def pass_codecs(
    waveforms: Tensor, rng: np.random.Generator, config: AugmentConfig, sample_rate: int, notes: Notes = None
) -> Tensor:
    """Encode and decode some of (batch, sample) waveforms with a codec and a level that are drawn."""
    passed = waveforms.clone()
    for index, row in enumerate(passed):
        if rng.random() >= config.codec_chance:
            continue
        name, level = config.codecs[rng.integers(len(config.codecs))], float(rng.random())
        if notes is not None:
            notes[index]["codec"] = {"name": name, "level": round(level, 2)}
        row.copy_(torch.from_numpy(pass_codec(row.numpy(), sample_rate, name, level)))
    return passed


def mask_features(vectors: Tensor, rng: np.random.Generator, config: AugmentConfig, vectors_per_s: float) -> Tensor:
    """Blank random bands and stretches of (batch, vector, feature) (Park et al. 2019, "SpecAugment")."""
    keep = torch.ones_like(vectors, dtype=torch.bool)
    _, n_vectors, n_features = vectors.shape
    for row in keep:
        for _ in range(config.frequency_masks):
            width = int(rng.integers(0, config.frequency_mask_width + 1))
            first = int(rng.integers(0, max(1, n_features - width)))
            row[:, first : first + width] = False
        for _ in range(config.time_masks):
            width = int(rng.uniform(0, config.time_mask_s) * vectors_per_s)
            first = int(rng.integers(0, max(1, n_vectors - width)))
            row[first : first + width] = False
    mean = vectors.mean(dim=(1, 2), keepdim=True)
    return torch.where(keep, vectors, mean)
