"""Waveform to feature vectors, on whatever device the waveform is on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import FeatureConfig
from framecls.nn.frontend import PretrainedEncoder, SpeechEncoder
from framecls.nn.mel import cosine_transform, hann_window, mel_filters

# A log-mel band of speech at a usual level lies around -4 with a spread of 4 (natural logarithm of power):
# this brings the network's input near zero mean and unit variance without a statistic to store.
_LOG_CENTRE = -4.0
_LOG_SPREAD = 4.0
# Features that are measured from the loudest of a window run from -1, 80 dB below it, to 1. But for the level, which
# is lost, that is the scale of Whisper's features.
_PEAK_RANGE = 8 * math.log(10) / _LOG_SPREAD
# Mean square of samples that are as good as silence: what is softer is raised no further.
_SILENCE = 1e-12


class FeatureExtractor(nn.Module):
    """Slide windows over a waveform and describe each by a vector.

    That is mel energies, their logarithms, MFCCs with two differences, or what a pre-trained speech encoder makes of
    it. Vectors that were computed elsewhere pass through.

    Args:
        config: what the vectors are.
        encoder: the pre-trained one; None: one of torchaudio's classes, if the settings want any.
    """

    def __init__(self, config: FeatureConfig, encoder: PretrainedEncoder | None = None) -> None:
        super().__init__()
        self.config = config
        named = config.kind == "pretrained" and encoder is None
        self.encoder = SpeechEncoder(config.pretrained) if named else encoder
        if config.kind in ("pretrained", "given"):
            return
        # These tables are made from the settings, not loaded: they are real also where the weights are only shapes yet.
        with torch.device("cpu"):
            tables = {
                "window": hann_window(config.window_samples),
                "filters": mel_filters(
                    config.n_mels, config.n_fft, config.sample_rate, config.f_min_hz, config.f_max_hz, config.mel_scale
                ),
                "dct": cosine_transform(config.n_mfcc, config.n_mels),
            }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, waveform: Tensor, n_vectors: Tensor | None = None) -> Tensor:
        """Return the feature vectors of a batch of waveforms.

        Args:
            waveform: (batch, sample) float, -1..1; besides the samples to describe it holds
                `config.margin_samples` before and after them. Given vectors, (batch, vector, feature), are left alone.
            n_vectors: (batch,) how many of the vectors are not of padding; None: all. Of a spectrum only the level does
                depend on it.

        Returns:
            (batch, vector, feature), a vector for each `config.hop_samples` described samples; but for plain mel
            energies near unit variance.
        """
        if self.config.kind == "given":
            return waveform
        if self.encoder is not None:
            vectors: Tensor = self.encoder(waveform, n_vectors)
            return vectors
        return self.describe(self._energies(waveform), waveform, n_vectors)

    def _energies(self, waveform: Tensor) -> Tensor:
        """Return (batch, vector, band) the mel energies of (batch, sample) waveforms."""
        config = self.config
        spectrum = torch.stft(
            waveform,
            config.n_fft,
            config.hop_samples,
            config.window_samples,
            self.get_buffer("window"),
            center=False,
            return_complex=True,
        ).transpose(1, 2)
        # The square of the magnitude would have a root in it that costs more than all the rest.
        real, imaginary = spectrum.real, spectrum.imag
        energies: Tensor = real.square().addcmul_(imaginary, imaginary) @ self.get_buffer("filters")
        return energies

    def describe(self, mel: Tensor, waveform: Tensor, n_vectors: Tensor | None) -> Tensor:
        """Return (batch, vector, feature) what (batch, vector, band) mel energies of waveforms become."""
        if self.config.raise_to_dbfs is not None:
            mel = mel * self._gain(waveform, n_vectors, self.config.raise_to_dbfs).square().view(-1, 1, 1)
        if self.config.kind == "mel":
            return mel
        log_mel = (log_above(mel, self.config.floor) - _LOG_CENTRE) / _LOG_SPREAD
        if self.config.kind == "logmel":
            return log_mel
        cepstra = log_mel @ self.get_buffer("dct")
        first = differences(cepstra)
        return torch.cat([cepstra, first, differences(first)], dim=2)

    def _gain(self, waveform: Tensor, n_vectors: Tensor | None, level_dbfs: float) -> Tensor:
        """Return (batch,) the factor, 1 or more, that brings the level of what is described up to a wanted one."""
        margin, hop = self.config.margin_samples, self.config.hop_samples
        described = waveform[:, margin : waveform.shape[1] - margin]
        if n_vectors is None:
            power = described.square().mean(dim=1)
        else:
            n_samples = (n_vectors * hop).unsqueeze(1)
            real = torch.arange(described.shape[1], device=waveform.device) < n_samples
            power = (described.square() * real).sum(dim=1) / n_samples.squeeze(1).clamp(min=1)
        return (10 ** (level_dbfs / 20) / power.clamp(min=_SILENCE).sqrt()).clamp(min=1)


def log_above(energy: Tensor, floor: float) -> Tensor:
    """Return the logarithm of energy plus a floor, of any shape."""
    if torch.compiler.is_exporting():
        # The same in numbers of a usual size: what optimizes graphs takes so small a summand for none, and then silence
        # has no logarithm.
        return torch.log(energy / floor + 1) + math.log(floor)
    return torch.log(energy + floor)


def differences(vectors: Tensor) -> Tensor:
    """Return how fast (batch, vector, feature) change: the slope of the line through five vectors, the ends repeated.

    As `torchaudio.functional.compute_deltas` and HTK have it, in operations that any runtime knows.
    """
    first, last = vectors[:, :1], vectors[:, -1:]
    padded = torch.cat([first, first, vectors, last, last], dim=1)
    near, far = padded[:, 3:-1] - padded[:, 1:-3], padded[:, 4:] - padded[:, :-4]
    return (near + 2 * far) / 10


class ConvolutionFeatures(nn.Module):
    """The same features without complex numbers: the Fourier transform is a convolution with cosines and sines.

    Slower than a fast transform, but any runtime has it. Window, mel bands and the rest are those of the extractor.
    """

    def __init__(self, features: FeatureExtractor) -> None:
        super().__init__()
        self._features = features
        config = features.config
        window = features.get_buffer("window").double()
        before = (config.n_fft - config.window_samples) // 2  # where torch's transform puts a shorter window
        window = functional.pad(window, (before, config.n_fft - config.window_samples - before))
        turns = torch.outer(torch.arange(config.n_fft // 2 + 1), torch.arange(config.n_fft)) % config.n_fft
        angle = turns.double() * (2 * math.pi / config.n_fft)
        waves = torch.cat([angle.cos(), angle.sin()]) * window
        self.register_buffer("waves", waves.unsqueeze(1).float(), persistent=False)  # (2 * bin, 1, sample)

    def forward(self, waveform: Tensor, n_vectors: Tensor | None = None) -> Tensor:
        """See `FeatureExtractor.forward`."""
        parts = functional.conv1d(
            waveform.unsqueeze(1), self.get_buffer("waves"), stride=self._features.config.hop_samples
        )
        cosine, sine = parts.chunk(2, dim=1)  # each (batch, bin, vector)
        power = (cosine.square() + sine.square()).transpose(1, 2)
        return self._features.describe(power @ self._features.get_buffer("filters"), waveform, n_vectors)


def normalize(vectors: Tensor, mask: Tensor, how: str) -> Tensor:
    """Take what the vectors of a window have in common away; padding becomes zero.

    Args:
        vectors: (batch, vector, feature).
        mask: (batch, vector) True = real.
        how: "none"; "mean" or "mean_variance": each feature's mean (and spread) over the real vectors; "peak": the
            greatest feature of the window becomes 1, and what is 80 dB or more below it -1.

    Returns:
        (batch, vector, feature).
    """
    real = mask.unsqueeze(2)
    if how == "peak":
        peak = vectors.masked_fill(~real, -math.inf).amax(dim=(1, 2), keepdim=True)
        vectors = 1 + (vectors - peak).clamp(min=-_PEAK_RANGE) * (2 / _PEAK_RANGE)
        # A window of padding alone has no peak.
        vectors = vectors.masked_fill(~real, 0.0)
    elif how != "none":
        count = real.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (vectors * real).sum(dim=1, keepdim=True) / count
        vectors = vectors - mean
        if how == "mean_variance":
            # Once more: of silence only rounding is left, and the deviation would make a hundred times as much of it.
            vectors = vectors - (vectors * real).sum(dim=1, keepdim=True) / count
            variance = (vectors.square() * real).sum(dim=1, keepdim=True) / count
            vectors = vectors / (variance + 1e-4).sqrt()
    return vectors * real
