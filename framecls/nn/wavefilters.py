"""Features that a network learns of the waveform itself: band-pass filters, and two convolutions over their output.

Ravanelli and Bengio 2018, "Speaker Recognition from Raw Waveform with SincNet", as pyannote.audio has it in its
segmentation. The filters are kept as they are, not as the two frequencies that each was made of.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_STRIDE_SAMPLES = 10
_POOLED = 3  # after each convolution
HOP_SAMPLES = _STRIDE_SAMPLES * _POOLED**3
WIDTH_SAMPLES = 991  # that a vector depends on
N_FEATURES = 60


class WaveFilters(nn.Module):
    """Compute feature vectors of waveforms; used as `FeatureExtractor` is.

    Levels are normalised over a window, its padding included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.InstanceNorm1d(1, affine=True)
        self.filters = nn.Conv1d(1, 80, 251, stride=_STRIDE_SAMPLES, bias=False)
        self.convolutions = nn.ModuleList([nn.Conv1d(80, N_FEATURES, 5), nn.Conv1d(N_FEATURES, N_FEATURES, 5)])
        self.norms = nn.ModuleList(nn.InstanceNorm1d(size, affine=True) for size in (80, N_FEATURES, N_FEATURES))

    def forward(self, waveform: Tensor, n_vectors: Tensor | None = None) -> Tensor:
        """Return (batch, vector, feature) of (batch, sample) waveforms with their margins."""
        n_all = (waveform.shape[1] - WIDTH_SAMPLES) // HOP_SAMPLES + 1
        missing = WIDTH_SAMPLES + HOP_SAMPLES - waveform.shape[1]  # of one vector there is no deviation
        waveform = functional.pad(waveform, (0, max(0, missing)))
        x: Tensor = self.filters(self.level(waveform.unsqueeze(1))).abs()
        for index, norm in enumerate(self.norms):
            x = self.convolutions[index - 1](x) if index else x
            x = functional.leaky_relu(norm(functional.max_pool1d(x, _POOLED)))
        return x[:, :, :n_all].transpose(1, 2)
