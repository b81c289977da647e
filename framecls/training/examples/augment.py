"""Random augmentation of waveforms: speed, rooms, microphones, lines, noise, levels, codecs.

A batch is filtered in one Fourier transform, then come noise, gain and clipping. All randomness comes from the
generator that is passed in, so a seed gives the same examples again. `notes`, one dict a waveform, log what was done.
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
from framecls.training.examples.codecs import apply_codec
from framecls.training.recipe import AugmentConfig

Samples = NDArray[np.float32]
Notes = Sequence[dict[str, Any]] | None  # of each waveform: what was done to it
_MIN_AMPLITUDE = 1e-5
_EQUALIZER_BANDS = 8
_VOCODER_SAMPLES = 2048  # one window of librosa's phase vocoder: shorter sounds are left as they are


def extend_with_crossfades(samples: Samples, n_samples: int, n_fade: int, rng: np.random.Generator) -> Samples:
    """Extend (sample,) to any length: random pieces of it, crossfaded at constant power.

    Stationary sounds, such as rain, continue without an audible seam.

    Args:
        samples: the sound to extend.
        n_samples: of the result.
        n_fade: samples of a crossfade, at most a quarter of `samples`.
        rng: chooses the pieces, at least half as long as `samples`.
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


def perturb(
    samples: Samples, rng: np.random.Generator, config: AugmentConfig, sample_rate: int
) -> tuple[Samples, float]:
    """Change speed, tempo and pitch of (sample,), each by chance.

    Returns:
        the samples, and how many times as fast they are.
    """
    speed = 1.0
    if rng.random() < config.speed_chance:
        speed = round(float(rng.uniform(*config.speed)), 3)
        samples = change_speed(samples, speed)
    # Nothing is sampled for what is off, so a seed gives the same examples as before there was any of it.
    if config.stretch_chance and rng.random() < config.stretch_chance and len(samples) >= _VOCODER_SAMPLES:
        rate = round(float(rng.uniform(*config.stretch)), 3)
        samples, speed = stretch_time(samples, rate), speed * rate
    if config.shift_chance and rng.random() < config.shift_chance and len(samples) >= _VOCODER_SAMPLES:
        samples = shift_pitch(samples, float(rng.uniform(*config.shift_semitones)), sample_rate)
    return samples, speed


def change_speed(samples: Samples, speed: float) -> Samples:
    """Return (sample,) played `speed` times as fast, pitch and formants changed with it."""
    if speed == 1:
        return samples
    played: Samples = soxr.resample(samples, 16000 * speed, 16000, quality="LQ").astype(np.float32)
    return played


def stretch_time(samples: Samples, rate: float) -> Samples:
    """Return (sample,) `rate` times as fast with the same pitch, by `librosa.effects.time_stretch`."""
    librosa: Any = packages.load("augment.stretch_chance", "librosa")
    stretched: Samples = librosa.effects.time_stretch(samples, rate=rate)
    return stretched


def shift_pitch(samples: Samples, semitones: float, sample_rate: int) -> Samples:
    """Return (sample,) some semitones higher and as long as before, by `librosa.effects.pitch_shift`.

    Formants are shifted with the pitch, as in a smaller or larger speaker.
    """
    librosa: Any = packages.load("augment.shift_chance", "librosa")
    shifted: Samples = librosa.effects.pitch_shift(samples, sr=sample_rate, n_steps=semitones)
    return shifted


def room_response(rng: np.random.Generator, reverb_s: float, sample_rate: int) -> Samples:
    """Sample the impulse response of a room: the direct sound, then noise that decays by 60 dB in `reverb_s`.

    The statistical model of Polack (1988).
    """
    length = int(min(reverb_s, 1.0) * sample_rate)
    time_s = np.arange(length) / sample_rate
    tail = rng.standard_normal(length) * 10 ** (-3 * time_s / reverb_s)
    tail *= np.arange(length) >= rng.uniform(0.001, 0.01) * sample_rate
    direct_to_tail_db = rng.uniform(-6.0, 15.0)
    tail *= 10 ** (-direct_to_tail_db / 20) / max(_MIN_AMPLITUDE, float(np.sqrt(np.square(tail).sum())))
    tail[0] = 1.0
    return tail.astype(np.float32)


def equalizer(
    rng: np.random.Generator,
    config: AugmentConfig,
    frequency_hz: NDArray[np.float64],
    note: dict[str, Any] | None = None,
) -> Samples:
    """Sample the gain of a microphone and a line at each frequency: (frequency,), 1 where it is unchanged."""
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
    """Filter each of (batch, sample) waveforms by a room and a line of its own; power is preserved."""
    n_samples = waveforms.shape[1]
    size = n_samples + sample_rate  # the longest response is a second
    size += -size % 1000  # small prime factors make the transform fast
    frequency_hz = np.fft.rfftfreq(size, 1 / sample_rate)
    # The curve is smooth: a fiftieth of the frequencies is enough to interpolate from.
    coarse_hz = np.append(frequency_hz[::50], frequency_hz[-1])
    filtered = torch.zeros_like(waveforms)
    heard = waveforms.any(dim=1)  # many tracks of a mixture are silent
    response = torch.zeros(int(heard.sum()), len(frequency_hz), dtype=torch.complex64)
    rows = iter(response)
    for index, is_heard in enumerate(heard.tolist()):
        note = {} if notes is None else notes[index]
        gain, room = equalizer(rng, config, coarse_hz, note), None
        if rng.random() < config.reverb_chance:
            reverb_s = float(rng.uniform(*config.reverb_s))
            note["reverb_s"] = round(reverb_s, 2)
            room = room_response(rng, reverb_s, sample_rate)
        if is_heard:
            row = next(rows)
            row += torch.from_numpy(np.interp(frequency_hz, coarse_hz, gain).astype(np.float32))
            if room is not None:
                row *= torch.fft.rfft(torch.from_numpy(room), size)
    if len(response):
        filtered[heard] = torch.fft.irfft(torch.fft.rfft(waveforms[heard], size) * response, size)[:, :n_samples]
    before, after = waveforms.square().sum(dim=1), filtered.square().sum(dim=1)
    scaled: Tensor = filtered * (before / after.clamp(min=1e-12)).sqrt().unsqueeze(1)
    return scaled


def coloured_noise(rng: np.random.Generator, n_samples: int) -> Samples:
    """Sample stationary noise, (sample,) of unit power, whose spectrum falls by 0 to 9 dB an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    slope = rng.uniform(0, 1.5)
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** slope
    noise = np.fft.irfft(spectrum, n_samples)
    return (noise / max(_MIN_AMPLITUDE, float(noise.std()))).astype(np.float32)


def add_noise(
    waveforms: Tensor,
    rng: np.random.Generator,
    config: AugmentConfig,
    sample_noise: Callable[[int], Samples] | None,
    notes: Notes = None,
) -> Tensor:
    """Add noise to some of (batch, sample) waveforms.

    Args:
        sample_noise: returns (sample,) recorded noise of a length; without it, and by chance, noise is coloured.
    """
    noisy = waveforms.clone()
    for index, row in enumerate(noisy):
        if rng.random() >= config.noise_chance:
            continue
        recorded = sample_noise is not None and rng.random() < 0.6
        noise = torch.from_numpy(sample_noise(len(row)) if recorded and sample_noise else coloured_noise(rng, len(row)))
        snr_db = float(rng.uniform(*config.noise_snr_db))
        if notes is not None:
            notes[index]["noise"] = {"kind": "recorded" if recorded else "coloured", "snr_db": round(snr_db, 1)}
        # Power of the speech itself, not of its pauses.
        power = row.square().view(-1, 160 if len(row) % 160 == 0 else 1).mean(dim=1).quantile(0.9)
        noise_power = noise.square().mean().clamp(min=1e-12)
        row += noise * (power / noise_power * 10 ** (-snr_db / 10)).sqrt()
    return noisy


def set_level(waveforms: Tensor, rng: np.random.Generator, config: AugmentConfig, notes: Notes = None) -> Tensor:
    """Set each waveform's peak to a random level, overdrive some by up to 12 dB, and clip to -1..1."""
    peak = waveforms.abs().amax(dim=1, keepdim=True).clamp(min=_MIN_AMPLITUDE)
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
    sample_noise: Callable[[int], Samples] | None = None,
    notes: Notes = None,
) -> Tensor:
    """Augment each of (batch, sample) waveforms: room, line, noise, level, codec."""
    waveforms = filter_batch(waveforms, rng, config, sample_rate, notes)
    waveforms = add_noise(waveforms, rng, config, sample_noise, notes)
    waveforms = set_level(waveforms, rng, config, notes)
    return apply_codecs(waveforms, rng, config, sample_rate, notes) if config.codec_chance else waveforms


def apply_codecs(
    waveforms: Tensor, rng: np.random.Generator, config: AugmentConfig, sample_rate: int, notes: Notes = None
) -> Tensor:
    """Encode and decode some of (batch, sample) waveforms with a random codec and level."""
    coded = waveforms.clone()
    for index, row in enumerate(coded):
        if rng.random() >= config.codec_chance:
            continue
        name, level = config.codecs[rng.integers(len(config.codecs))], float(rng.random())
        if notes is not None:
            notes[index]["codec"] = {"name": name, "level": round(level, 2)}
        row.copy_(torch.from_numpy(apply_codec(row.numpy(), sample_rate, name, level)))
    return coded


def sample_masks(shape: Sequence[int], rng: np.random.Generator, config: AugmentConfig, vectors_per_s: float) -> Tensor:
    """Sample the masks of SpecAugment (Park et al. 2019): (batch, vector, feature), True where a feature is kept."""
    keep = torch.ones(tuple(shape), dtype=torch.bool)
    _, n_vectors, n_features = shape
    for row in keep:
        for _ in range(config.frequency_masks):
            width = int(rng.integers(0, config.frequency_mask_width + 1))
            first = int(rng.integers(0, max(1, n_features - width)))
            row[:, first : first + width] = False
        for _ in range(config.time_masks):
            width = int(rng.uniform(0, config.time_mask_s) * vectors_per_s)
            first = int(rng.integers(0, max(1, n_vectors - width)))
            row[first : first + width] = False
    return keep


def mask_features(vectors: Tensor, keep: Tensor) -> Tensor:
    """Replace the masked features of (batch, vector, feature) by the mean of each example."""
    return torch.where(keep.to(vectors.device), vectors, vectors.mean(dim=(1, 2), keepdim=True))
