"""The tables that turn a spectrum into mel bands and mel bands into cepstra.

They are computed in float32 and in the order in which torchaudio computes its own, so that every number is the same to
the last bit; librosa's, made in double precision, agree to rounding.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

MelScale = Literal["htk", "slaney", "kaldi"]

# Slaney's scale is linear up to 1000 Hz, with 3 mel to 200 Hz, and logarithmic above, with 27 mel to a factor of 6.4.
_LINEAR_HZ_PER_MEL = 200 / 3
_LINEAR_UP_TO_HZ = 1000.0
_LINEAR_UP_TO_MEL = _LINEAR_UP_TO_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27


def hann_window(n_samples: int) -> Tensor:
    """Return (sample,) one period of a raised cosine, von Hann's window.

    Periodic, as is usual in a short-time Fourier transform: the sample after the last would be the first again
    (Harris 1978, "On the use of windows for harmonic analysis with the discrete Fourier transform").
    """
    return torch.hann_window(n_samples, periodic=True, dtype=torch.float32)


def povey_window(n_samples: int) -> Tensor:
    """Return (sample,) Kaldi's usual window: von Hann's, symmetric, a little wider, and zero at both ends."""
    return torch.hann_window(n_samples, periodic=False, dtype=torch.float32).pow(0.85)


def hz_to_mel(frequency_hz: float, scale: MelScale) -> float:
    """Return the pitch in mel of a frequency.

    Args:
        frequency_hz: 0 or more.
        scale: "htk": O'Shaughnessy 1987, "Speech communication: human and machine", which HTK follows; "slaney": Slaney
            1998, "Auditory toolbox", which librosa and Whisper follow; "kaldi": as "htk".
    """
    if scale != "slaney":
        return 2595.0 * math.log10(1.0 + frequency_hz / 700.0)
    if frequency_hz < _LINEAR_UP_TO_HZ:
        return frequency_hz / _LINEAR_HZ_PER_MEL
    return _LINEAR_UP_TO_MEL + math.log(frequency_hz / _LINEAR_UP_TO_HZ) / _LOG_STEP


def mel_to_hz(mel: Tensor, scale: MelScale) -> Tensor:
    """Return the frequencies in Hz of pitches in mel, of any shape; see `hz_to_mel`."""
    if scale != "slaney":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    linear = _LINEAR_HZ_PER_MEL * mel
    logarithmic = _LINEAR_UP_TO_HZ * torch.exp(_LOG_STEP * (mel - _LINEAR_UP_TO_MEL))
    return torch.where(mel >= _LINEAR_UP_TO_MEL, logarithmic, linear)


def mel_filters(
    n_mels: int, n_fft: int, sample_rate: int, f_min_hz: float, f_max_hz: float, scale: MelScale = "htk"
) -> Tensor:
    """Return (bin, band) how much of each bin of a power spectrum goes into each mel band.

    The bands are triangles over frequency: each rises from the centre of the band before it to its own and falls to the
    next one's, and the centres lie equally far apart in mel (Davis and Mermelstein 1980, "Comparison of parametric
    representations for monosyllabic word recognition in continuously spoken sentences").

    Args:
        n_mels: number of bands.
        n_fft: samples of a Fourier transform, which has `n_fft // 2 + 1` bins from 0 Hz to half the sample rate.
        sample_rate: Hz.
        f_min_hz: where the first band begins.
        f_max_hz: where the last band ends.
        scale: "htk": triangles of height 1; "slaney": of area 1, as in the same toolbox as the scale; "kaldi": of
            height 1, with straight sides over mel, not over Hz.
    """
    bins_hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float32)
    corners_mel = torch.linspace(
        hz_to_mel(f_min_hz, scale), hz_to_mel(f_max_hz, scale), n_mels + 2, dtype=torch.float32
    )
    if scale == "kaldi":
        bins_mel = [hz_to_mel(bin_hz, scale) for bin_hz in bins_hz.tolist()]
        corners, bins = corners_mel, torch.tensor(bins_mel, dtype=torch.float32)
    else:
        corners, bins = mel_to_hz(corners_mel, scale), bins_hz
    widths = corners.diff()
    above = corners.unsqueeze(0) - bins.unsqueeze(1)  # (bin, corner) how far a corner lies above a bin
    rising = -above[:, :-2] / widths[:-1]
    falling = above[:, 2:] / widths[1:]
    filters = torch.minimum(rising, falling).clamp(min=0)
    if scale == "slaney":
        filters *= 2.0 / (corners[2:] - corners[:-2])
    return filters


def cosine_transform(n_coefficients: int, n_bands: int) -> Tensor:
    """Return (band, coefficient) the orthonormal discrete cosine transform of type II, to be multiplied from the right.

    Ahmed, Natarajan and Rao 1974, "Discrete cosine transform"; of log-mel bands it makes cepstral coefficients.
    """
    band = torch.arange(n_bands, dtype=torch.float32)
    coefficient = torch.arange(n_coefficients, dtype=torch.float32).unsqueeze(1)
    table = torch.cos(math.pi / n_bands * (band + 0.5) * coefficient)
    table[0] *= 1 / math.sqrt(2)
    table *= math.sqrt(2 / n_bands)
    return table.t()
