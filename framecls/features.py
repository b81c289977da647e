"""Waveform to feature vectors, with torchaudio, on whatever device the waveform is on."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from framecls.config import FeatureConfig

# A log-mel band of speech at a usual level lies around -4 with a spread of 4 (natural logarithm of power):
# this brings the network's input near zero mean and unit variance without a statistic to store.
_LOG_FLOOR = 1e-8
_LOG_CENTRE = -4.0
_LOG_SPREAD = 4.0


class FeatureExtractor(nn.Module):
    """Slide windows over a waveform and describe each by a vector: log-mel energies, or MFCCs with two differences."""

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind == "given":
            return
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            win_length=config.window_samples,
            hop_length=config.hop_samples,
            f_min=config.f_min_hz,
            f_max=config.f_max_hz,
            n_mels=config.n_mels,
            power=2.0,
            center=False,
        )
        dct = torchaudio.functional.create_dct(config.n_mfcc, config.n_mels, norm="ortho")
        self.register_buffer("dct", dct, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the feature vectors of a batch of waveforms.

        Args:
            waveform: (batch, sample) float, -1..1; besides the samples to describe it holds
                `config.margin_samples` before and after them. Given vectors, (batch, vector, feature), are left alone.

        Returns:
            (batch, vector, feature), a vector for each `config.hop_samples` described samples, near unit variance.
        """
        if self.config.kind == "given":
            return waveform
        log_mel = torch.log(self.mel(waveform) + _LOG_FLOOR).transpose(1, 2)
        log_mel = (log_mel - _LOG_CENTRE) / _LOG_SPREAD
        if self.config.kind == "logmel":
            return log_mel
        cepstra = log_mel @ self.get_buffer("dct")
        first = torchaudio.functional.compute_deltas(cepstra.transpose(1, 2))
        second = torchaudio.functional.compute_deltas(first)
        return torch.cat([cepstra, first.transpose(1, 2), second.transpose(1, 2)], dim=2)


def normalize(vectors: Tensor, mask: Tensor, how: str) -> Tensor:
    """Take each feature's mean (and spread) over the real vectors of a window away; padding becomes zero.

    Args:
        vectors: (batch, vector, feature).
        mask: (batch, vector) True = real.
        how: "none", "mean" or "mean_variance".

    Returns:
        (batch, vector, feature).
    """
    real = mask.unsqueeze(2)
    if how != "none":
        count = real.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (vectors * real).sum(dim=1, keepdim=True) / count
        vectors = vectors - mean
        if how == "mean_variance":
            variance = (vectors.square() * real).sum(dim=1, keepdim=True) / count
            vectors = vectors / (variance + 1e-4).sqrt()
    return vectors * real
