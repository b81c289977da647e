"""Features against librosa, an independent implementation, and their tables against torchaudio's too."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import librosa
import numpy as np
import pytest
import scipy.fft
import torch
import torchaudio
import torchaudio.compliance.kaldi

from framecls.config import FeatureConfig
from framecls.nn import mel
from framecls.nn.features import _LOG_CENTRE, _LOG_SPREAD, FeatureExtractor, normalize
from support.models import noise_tensor


def librosa_log_mel(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Return (vector, band)."""
    mel = librosa.feature.melspectrogram(
        y=samples,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        win_length=config.window_samples,
        hop_length=config.hop_samples,
        center=False,
        n_mels=config.n_mels,
        fmin=config.f_min_hz,
        fmax=config.f_max_hz,
        htk=config.mel_scale == "htk",
        norm="slaney" if config.mel_scale == "slaney" else None,
    )
    return np.asarray(np.log(mel + config.floor).T)


# n_mels, n_fft, sample rate, lowest and highest frequency
BANKS = [
    (64, 512, 16000, 50.0, 7600.0),
    (80, 400, 16000, 0.0, 8000.0),
    (24, 256, 8000, 100.0, 900.0),  # all below where Slaney's scale bends
    (128, 2048, 44100, 30.0, 22050.0),
]


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize(("n_mels", "n_fft", "rate", "low", "high"), BANKS)
def test_mel_filters_are_torchaudios_to_the_bit_and_librosas_to_rounding(
    scale: Literal["htk", "slaney"], n_mels: int, n_fft: int, rate: int, low: float, high: float
) -> None:
    ours = mel.mel_filters(n_mels, n_fft, rate, low, high, scale)
    norm: Literal["slaney"] | None = "slaney" if scale == "slaney" else None
    theirs = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, low, high, n_mels, rate, norm, scale)
    assert torch.equal(ours, theirs)
    wanted = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=low, fmax=high, htk=not norm, norm=norm).T
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=3e-5 * wanted.max())


def test_mel_filters_at_an_odd_sample_rate_are_librosas() -> None:
    """Half of it is no whole number of Hz, which torchaudio rounds off."""
    wanted = librosa.filters.mel(sr=11025, n_fft=512, n_mels=40, fmin=50, fmax=5000, htk=True, norm=None).T
    np.testing.assert_allclose(mel.mel_filters(40, 512, 11025, 50.0, 5000.0), wanted, rtol=0, atol=3e-5)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_and_hertz_are_librosas_and_each_others_inverse(scale: Literal["htk", "slaney"]) -> None:
    for frequency_hz in (0.0, 440.0, 999.9, 1000.0, 1000.1, 7600.0):
        pitch = mel.hz_to_mel(frequency_hz, scale)
        assert pitch == pytest.approx(float(librosa.hz_to_mel(frequency_hz, htk=scale == "htk")))
        assert float(mel.mel_to_hz(torch.tensor(pitch), scale)) == pytest.approx(frequency_hz, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("n_coefficients", "n_bands"), [(13, 64), (20, 40), (80, 80), (1, 1)])
def test_the_cosine_transform_is_torchaudios_and_scipys(n_coefficients: int, n_bands: int) -> None:
    ours = mel.cosine_transform(n_coefficients, n_bands)
    assert torch.equal(ours, torchaudio.functional.create_dct(n_coefficients, n_bands, "ortho"))
    wanted = scipy.fft.dct(np.eye(n_bands), type=2, norm="ortho")[:, :n_coefficients]
    np.testing.assert_allclose(ours, wanted, atol=3e-6)


def test_the_window_is_librosas() -> None:
    np.testing.assert_allclose(mel.hann_window(400), librosa.filters.get_window("hann", 400), atol=1e-6)


def test_tables_do_not_follow_the_programs_default_type() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        tables = (mel.hann_window(400), mel.mel_filters(64, 512, 16000, 50.0, 7600.0), mel.cosine_transform(13, 64))
    finally:
        torch.set_default_dtype(before)
    assert {table.dtype for table in tables} == {torch.float32}
    assert torch.equal(tables[1], mel.mel_filters(64, 512, 16000, 50.0, 7600.0))


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
def test_log_mel_is_librosas(mel_scale: Literal["htk", "slaney"]) -> None:
    config = FeatureConfig(mel_scale=mel_scale)
    samples = noise_tensor(8000).numpy()
    got = FeatureExtractor(config)(torch.from_numpy(samples)[None])[0] * _LOG_SPREAD + _LOG_CENTRE
    np.testing.assert_allclose(got, librosa_log_mel(samples, config), atol=2e-3)


def test_mfcc_is_librosas() -> None:
    config = FeatureConfig(kind="mfcc", n_mels=40)
    samples = noise_tensor(8000).numpy()
    got = FeatureExtractor(config)(torch.from_numpy(samples)[None])[0]
    log_mel = (librosa_log_mel(samples, config) - _LOG_CENTRE) / _LOG_SPREAD
    cepstra = librosa.feature.mfcc(S=log_mel.T, n_mfcc=13, norm="ortho")
    first = librosa.feature.delta(cepstra, width=5, mode="nearest")
    assert got.shape[1] == 39
    np.testing.assert_allclose(got[:, :13], cepstra.T, atol=2e-3)
    # Here the edge is repeated where librosa fits a line, so only the middle agrees.
    np.testing.assert_allclose(got[4:-4, 13:26], first.T[4:-4], atol=2e-3)


def test_mel_energies_are_librosas() -> None:
    """No logarithm, a transform as long as the window."""
    config = FeatureConfig(kind="mel", n_fft=400, n_mels=40, f_min_hz=0.0, f_max_hz=8000.0, mel_scale="slaney")
    samples = noise_tensor(8000).numpy()
    got = FeatureExtractor(config)(torch.from_numpy(samples)[None])[0]
    wanted = np.exp(librosa_log_mel(samples, config)) - config.floor
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-7)


KALDI = FeatureConfig(kind="fbank", n_mels=80, f_min_hz=20.0, f_max_hz=8000.0, mel_scale="kaldi", floor=1.1920929e-7)
TELEPHONE = replace(KALDI, sample_rate=8000, window_samples=200, hop_samples=80, n_fft=256, n_mels=23, f_max_hz=4000.0)


@pytest.mark.parametrize("gain", [1.0, 1e-4])
@pytest.mark.parametrize("config", [KALDI, TELEPHONE])
def test_fbank_is_kaldis(config: FeatureConfig, gain: float) -> None:
    """Its first vector begins where ours does, and silences have the same least value."""
    samples = gain * noise_tensor(8000)[None] + 0.1 * gain
    samples[:, 3000:5000] = 0.0
    got = FeatureExtractor(config)(samples)[0]
    before = (config.n_fft - config.window_samples) // 2
    wanted = torchaudio.compliance.kaldi.fbank(
        samples[:, before:],
        num_mel_bins=config.n_mels,
        sample_frequency=config.sample_rate,
        low_freq=20.0,
    )[: len(got)]
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("level_dbfs", "louder"), [(-60.0, 1.0), (-10.0, 10 ** (-10 / 20) / 0.1)])
def test_a_soft_window_is_raised_to_a_level(level_dbfs: float, louder: float) -> None:
    """The noise is at -20 dB: what is behind the real vectors, and the margins, must not count."""
    plain, raised = FeatureConfig(kind="mel"), FeatureConfig(kind="mel", raise_to_dbfs=level_dbfs)
    samples = noise_tensor(160 * 500 + 2 * plain.margin_samples)[None].repeat(2, 1)
    described = samples[:, plain.margin_samples : plain.margin_samples + 300 * 160]
    samples *= 0.1 / described.square().mean(dim=1, keepdim=True).sqrt()
    samples[1, plain.margin_samples + 300 * 160 :] = 0
    n_vectors = torch.tensor([300, 300])
    samples[:, : plain.margin_samples] = 3.0
    before, after = (FeatureExtractor(config)(samples, n_vectors) for config in (plain, raised))
    torch.testing.assert_close(after, before * louder**2, rtol=1e-3, atol=1e-6)
    silence = FeatureExtractor(raised)(torch.zeros(1, 4000))
    assert bool((silence == 0).all())


def test_a_vector_for_each_hop() -> None:
    config = FeatureConfig()
    for n_vectors in (1, 2, 50):
        waveform = torch.zeros(3, n_vectors * config.hop_samples + 2 * config.margin_samples)
        assert FeatureExtractor(config)(waveform).shape == (3, n_vectors, config.dim)


def test_a_click_is_in_the_vector_of_its_time() -> None:
    config = FeatureConfig()
    waveform = torch.zeros(1, 20 * config.hop_samples + 2 * config.margin_samples)
    waveform[0, config.margin_samples + 7 * config.hop_samples + config.hop_samples // 2] = 1.0
    assert int(FeatureExtractor(config)(waveform)[0].sum(dim=1).argmax()) == 7


def test_normalize_counts_real_vectors_only() -> None:
    vectors = torch.randn(2, 9, 4) * 3 + 5
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    vectors[1, 6:] = 1e6
    got = normalize(vectors, mask, "mean_variance")
    real = got[1, :6]
    torch.testing.assert_close(real.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    assert bool((got[1, 6:] == 0).all())
    torch.testing.assert_close(normalize(vectors, mask, "none")[0], vectors[0])


def test_peak_measures_80_db_down_from_the_loudest_whatever_the_level() -> None:
    vectors = torch.randn(2, 9, 4) * 0.2
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    vectors[1, 7] = 100.0  # padding, however loud, is no peak
    got = normalize(vectors, mask, "peak")
    decibels = vectors * (10 * _LOG_SPREAD / np.log(10))
    for row in range(2):
        loudest = decibels[row][mask[row]].max()
        wanted = 1 + (decibels[row] - loudest).clamp(min=-80) / 40
        torch.testing.assert_close(got[row][mask[row]], wanted[mask[row]], atol=1e-5, rtol=1e-5)
    assert not got[1, 6:].any()
    torch.testing.assert_close(normalize(vectors + 3, mask, "peak"), got, atol=1e-5, rtol=1e-5)
    assert not normalize(vectors, torch.zeros(2, 9, dtype=torch.bool), "peak").any()
