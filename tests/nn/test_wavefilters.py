"""Features that are learnt of the waveform: their grid, and the filters that they are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from framecls.nn.wavefilters import WaveFilters
from framecls.recipes.from_pyannote import make_filters, settings
from support.models import noise_tensor


@pytest.mark.parametrize("n_vectors", [1, 2, 37])
def test_there_is_a_vector_for_each_hop(n_vectors: int) -> None:
    features = settings().features
    waveform = noise_tensor(n_vectors * features.hop_samples + 2 * features.margin_samples).unsqueeze(0)
    assert WaveFilters()(waveform).shape == (1, n_vectors, features.dim)


def test_a_vector_is_of_the_samples_around_its_middle() -> None:
    """Where one sample is changed, those change most whose middle is near."""
    torch.manual_seed(0)
    features, filters = settings().features, WaveFilters()
    waveform = noise_tensor(60 * features.hop_samples + 2 * features.margin_samples).unsqueeze(0)
    other = waveform.clone()
    other[0, features.margin_samples + 30 * features.hop_samples + features.hop_samples // 2] += 3
    change = (filters(waveform) - filters(other)).norm(dim=2)[0]
    assert abs(int(change.argmax()) - 30) <= 2


def test_a_filter_passes_its_band() -> None:
    found = make_filters(torch.tensor([[950.0]]), torch.tensor([[150.0]]))[:, 0].numpy()
    spectrum = np.abs(np.fft.rfft(found, 16000))
    for row in spectrum:
        assert 1000 <= row.argmax() <= 1200
        assert row[2000:].max() < 0.05 * row.max()
    assert found[0] == pytest.approx(found[0][::-1], abs=1e-6)
    assert found[1] == pytest.approx(-found[1][::-1], abs=1e-6)
