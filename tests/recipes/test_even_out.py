"""Within-class covariance normalisation, against scipy's distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from framecls.nn.network import Network
from framecls.recipes import even_out as recipe
from support.models import tiny_voice_config
from support.signals import make_noise


def test_voices_vary_alike_in_all_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances between vectors are Mahalanobis' in the covariance of what is left of each without its voice's mean."""
    monkeypatch.setattr(recipe, "_SHRINKAGE", 0.0)
    rng = np.random.default_rng(0)
    voices = np.repeat(np.arange(30), rng.integers(2, 9, 30))
    vectors = rng.normal(size=(30, 6))[voices] + rng.normal(size=(len(voices), 6)) * np.geomspace(0.1, 5, 6)
    got = vectors @ recipe.even_out(torch.from_numpy(vectors), voices).double().numpy()
    rest = np.concatenate([vectors[voices == one] - vectors[voices == one].mean(axis=0) for one in range(30)])
    inverse = np.linalg.inv(np.cov(rest.T, ddof=30))
    wanted = [mahalanobis(vectors[one], vectors[other], inverse) for one, other in ((0, 1), (0, 50), (20, 90))]
    np.testing.assert_allclose([np.linalg.norm(got[i] - got[j]) for i, j in ((0, 1), (0, 50), (20, 90))], wanted, 1e-4)


def test_the_network_answers_with_vectors_that_are_evened_out() -> None:
    torch.manual_seed(1)
    network = Network(tiny_voice_config()).eval()
    pieces = [make_noise(0.6, seed=seed) for seed in range(12)]
    voices = np.repeat(np.arange(4), 3)
    after = recipe.evened(network, pieces, voices)
    with torch.no_grad():
        raw = torch.stack([recipe.embed_raw(network, piece) for piece in pieces])
        got = torch.stack([recipe.embed_raw(after, piece) for piece in pieces])
    torch.testing.assert_close(got, raw @ recipe.even_out(raw, voices), atol=1e-4, rtol=1e-4)
