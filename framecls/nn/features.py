"""Waveform to feature vectors, on whatever device the waveform is on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import FeatureConfig
from framecls.nn.mel import cosine_transform, hann_window, mel_filters, povey_window

# Log-mel bands of speech at a usual level have about this mean and deviation (natural logarithm of power): scaling by
# constants brings the input near zero mean and unit variance without statistics to store.
_LOG_CENTRE = -4.0
_LOG_SPREAD = 4.0
# "peak" maps the 80 dB below the loudest value of a window to -1..1: Whisper's scale, but for the level.
_PEAK_RANGE = 8 * math.log(10) / _LOG_SPREAD
# Mean square of samples taken for silence: softer windows are amplified no further.
_SILENCE = 1e-12
_PRE_EMPHASIS = 0.97  # of Kaldi's features: how much of each sample is taken from the next


class FeatureExtractor(nn.Module):
    """Compute mel energies, their logarithms, or MFCCs with two differences; precomputed features pass through.

    "fbank" are the logarithms that Kaldi computes, and with it most of what recognises speech and speakers.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind == "precomputed":
            return
        # These tables are computed, not loaded: they are needed also in a network that is built on the meta device.
        with torch.device("cpu"):
            tables = {
                "window": (povey_window if config.kind == "fbank" else hann_window)(config.window_samples),
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
            waveform: (batch, sample) float, -1..1, with `config.margin_samples` before and after the samples that are
                described; or (batch, vector, feature) precomputed features.
            n_vectors: (batch,) how many of the vectors are not of padding; None: all. Only the level depends on it.

        Returns:
            (batch, vector, feature), a vector for each `config.hop_samples` described samples, near unit variance
            unless they are plain mel energies or "fbank".
        """
        if self.config.kind == "precomputed":
            return waveform
        return self.describe(self._energies(waveform), waveform, n_vectors)

    def _energies(self, waveform: Tensor) -> Tensor:
        """Return (batch, vector, band) the mel energies of (batch, sample) waveforms."""
        spectrum = self.spectrum(waveform)
        # The square of the magnitude would have a root in it that costs more than all the rest.
        real, imaginary = spectrum.real, spectrum.imag
        energies: Tensor = real.square().addcmul_(imaginary, imaginary) @ self.get_buffer("filters")
        return energies

    def spectrum(self, waveform: Tensor) -> Tensor:
        """Return (batch, vector, bin) the complex spectra of (batch, sample) waveforms."""
        config, window = self.config, self.get_buffer("window")
        if config.kind != "fbank":
            stft = torch.stft(
                waveform,
                config.n_fft,
                config.hop_samples,
                config.window_samples,
                window,
                center=False,
                return_complex=True,
            )
            return stft.transpose(1, 2)
        before = (config.n_fft - config.window_samples) // 2  # where torch's transform puts a shorter window
        inner = waveform[:, before : waveform.shape[1] - (config.n_fft - config.window_samples - before)]
        pieces = inner.unfold(1, config.window_samples, config.hop_samples)
        pieces = pieces - pieces.mean(dim=2, keepdim=True)
        pieces = pieces - _PRE_EMPHASIS * torch.cat([pieces[:, :, :1], pieces[:, :, :-1]], dim=2)
        spectra: Tensor = torch.fft.rfft(pieces * window, config.n_fft)
        return spectra

    def describe(self, mel: Tensor, waveform: Tensor, n_vectors: Tensor | None) -> Tensor:
        """Map (batch, vector, band) mel energies of waveforms to (batch, vector, feature)."""
        if self.config.raise_to_dbfs is not None:
            mel = mel * self._gain(waveform, n_vectors, self.config.raise_to_dbfs).square().view(-1, 1, 1)
        if self.config.kind == "mel":
            return mel
        if self.config.kind == "fbank":
            return mel.clamp(min=self.config.floor).log()
        log_mel = (log_above(mel, self.config.floor) - _LOG_CENTRE) / _LOG_SPREAD
        if self.config.kind == "logmel":
            return log_mel
        cepstra = log_mel @ self.get_buffer("dct")
        first = differences(cepstra)
        return torch.cat([cepstra, first, differences(first)], dim=2)

    def _gain(self, waveform: Tensor, n_vectors: Tensor | None, level_dbfs: float) -> Tensor:
        """Return (batch,) factors, 1 or more, that raise the level of each window to `level_dbfs`."""
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
        # Equal, but in numbers of usual size: graph optimizers drop so small a summand, and log(0) is no number.
        return torch.log(energy / floor + 1) + math.log(floor)
    return torch.log(energy + floor)


def differences(vectors: Tensor) -> Tensor:
    """Return the differences (deltas) of (batch, vector, feature) over five vectors, the ends repeated.

    As in HTK and `torchaudio.functional.compute_deltas`, in operations that any runtime has.
    """
    first, last = vectors[:, :1], vectors[:, -1:]
    padded = torch.cat([first, first, vectors, last, last], dim=1)
    near, far = padded[:, 3:-1] - padded[:, 1:-3], padded[:, 4:] - padded[:, :-4]
    return (near + 2 * far) / 10


class ConvolutionFeatures(nn.Module):
    """Compute the features of a `FeatureExtractor` with a convolution in place of the FFT, for ONNX.

    The kernels are the spectra of single samples: slower, but any runtime has it.
    """

    def __init__(self, features: FeatureExtractor) -> None:
        super().__init__()
        self._features = features
        spectra = features.spectrum(torch.eye(features.config.n_fft)).squeeze(1)  # (sample, bin)
        waves = torch.cat([spectra.real, spectra.imag], dim=1).T
        self.register_buffer("waves", waves.unsqueeze(1), persistent=False)  # (2 * bin, 1, sample)

    def forward(self, waveform: Tensor, n_vectors: Tensor | None = None) -> Tensor:
        """See `FeatureExtractor.forward`."""
        parts = functional.conv1d(
            waveform.unsqueeze(1), self.get_buffer("waves"), stride=self._features.config.hop_samples
        )
        cosine, sine = parts.chunk(2, dim=1)  # each (batch, bin, vector)
        power = (cosine.square() + sine.square()).transpose(1, 2)
        return self._features.describe(power @ self._features.get_buffer("filters"), waveform, n_vectors)


def normalize(vectors: Tensor, mask: Tensor, how: str) -> Tensor:
    """Normalise each window's features; padding becomes zero.

    Args:
        vectors: (batch, vector, feature).
        mask: (batch, vector) True = real.
        how: "none"; "mean" or "mean_variance": each feature gets mean 0 (and variance 1) over the real vectors; "peak":
            the greatest value of the window becomes 1, values 80 dB or more below it -1.

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
            # Subtract the mean again: in silence only rounding errors are left, which the division would magnify.
            vectors = vectors - (vectors * real).sum(dim=1, keepdim=True) / count
            variance = (vectors.square() * real).sum(dim=1, keepdim=True) / count
            vectors = vectors / (variance + 1e-4).sqrt()
    return vectors * real
