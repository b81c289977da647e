"""The last word into a model file."""

from __future__ import annotations

import pytest
import torch

from framecls.errors import ConfigError, ModelError
from framecls.inference.engine import Engine
from framecls.model import Model
from framecls.nn.network import Network
from framecls.recipes.blend import blend
from framecls.recipes.finish import keep_labels
from support.models import tiny_config
from support.signals import RATE, make_tone


def test_a_smaller_head_scores_what_is_left_alike() -> None:
    torch.manual_seed(0)
    network = Network(tiny_config("pooled")).eval()
    whole, part = (Model(Engine(n, torch.device("cpu"))) for n in (network, keep_labels(network, ["fr", "de"])))
    assert part.labels == ("de", "fr")
    samples = make_tone(2.0)
    wanted = whole.identify(samples, sample_rate=RATE, among=["de", "fr"]).top
    got = part.identify(samples, sample_rate=RATE).top
    assert [c.label for c in got] == [c.label for c in wanted]
    assert got[0].score / got[1].score == pytest.approx(wanted[0].score / wanted[1].score, rel=1e-4)


def test_a_label_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="has no label 'xx'"):
        keep_labels(Network(tiny_config("pooled")), ["de", "xx"])


def test_between_two_networks() -> None:
    torch.manual_seed(0)
    before, after = (Network(tiny_config("pooled")) for _ in range(2))
    for share in (0.0, 0.25, 1.0):
        for key, value in blend(before, after, share).named_parameters():
            here, there = before.get_parameter(key), after.get_parameter(key)
            torch.testing.assert_close(value, (1 - share) * here + share * there)
    with pytest.raises(ModelError, match="not of one shape"):
        blend(before, Network(tiny_config("frame")), 0.5)
