"""The last word into a model file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framecls.checkpoints.file import read_config
from framecls.checkpoints.network import save_model
from framecls.config import DecisionConfig
from framecls.errors import ConfigError, ModelError
from framecls.inference.engine import Engine
from framecls.model import Model
from framecls.nn.network import Network
from framecls.recipes.blend import blend
from framecls.recipes.finish import keep_labels, main
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


def test_what_was_fitted_stays_and_the_date_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = DecisionConfig({"unknown": 0.2}, candidates=("de", "fr"), other_odds=4.5, temperature=0.7)
    config = replace(tiny_config("pooled"), decision=fitted, card={"date": "2026-11-23", "dev": {"right": 0.5}})
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    save_model(Network(config), before)
    monkeypatch.setattr(sys, "argv", f"finish {before} --recipe language --date 2026-11-30 --out {after}".split())
    main()
    written = read_config(after)
    assert written.decision == fitted
    assert (written.card["date"], written.card["dev"]) == ("2026-11-30", {"right": 0.5})
    assert written.card["licence"].startswith("MIT")
