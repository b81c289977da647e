"""Settings: strict about names, types and ranges, and the same after a round trip."""

from __future__ import annotations

import json
from typing import Any

import pytest

from framecls.config import DecisionConfig, EncoderConfig, FeatureConfig, ModelConfig, from_dict, to_dict
from framecls.errors import ConfigError
from framecls.training.recipe import SHIPPED, Recipe, find_recipe, read_recipe


def test_round_trip_through_json() -> None:
    config = ModelConfig(
        "m",
        "frame",
        ("a", "b"),
        True,
        decision=DecisionConfig({"a": 0.4}),
        card={"data": ["x"], "figures": {"f1": 0.5}},
    )
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "m", "task": "frame", "labels": ["a"], "lables": []}, "lables: there is no such setting"),
        ({"name": "m", "task": "frames", "labels": ["a"]}, "task: 'frames' is not one of frame, pooled"),
        ({"name": "m", "task": "frame"}, "the settings: labels must be given"),
        ({"labels": ["a"], "overlapping": True}, "the settings: name and task must be given"),
        ({"name": "m", "task": "frame", "labels": ["a"], "spectra": {}}, "spectra: there is no such setting"),
        ({"name": "m", "task": "frame", "labels": "ab"}, "labels: a list was expected"),
        ({"name": "m", "task": "frame", "labels": ["a", "a"]}, "labels must differ"),
        ({"name": "m", "task": "frame", "labels": []}, "at least one label"),
        ({"name": "m", "task": "pooled", "labels": ["a"], "overlapping": True}, "only frame labels may overlap"),
        ({"name": "m", "task": "frame", "labels": ["a"], "encoder": {"dim": 7}}, "n_heads must divide dim"),
        (
            {"name": "m", "task": "frame", "labels": ["a"], "encoder": {"dim": True}},
            "encoder.dim: True is not of type int",
        ),
        ({"name": "m", "task": "frame", "labels": ["a"], "encoder": []}, "a table was expected"),
        ({"name": "m", "task": "frame", "labels": ["a"], "decision": {"thresholds": {"a": 1.5}}}, "not in 0..1"),
        (
            {"name": "m", "task": "frame", "labels": ["a"], "decision": {"thresholds": {"z": 0.5}}},
            "no label of this model",
        ),
        ({"name": "m", "task": "frame", "labels": ["a"], "window": {"length_s": float("nan")}}, "not a finite number"),
        ({"name": "m", "task": "frame", "labels": ["a"], "features": {"f_max_hz": 9000.0}}, "f_max_hz"),
        ([], "a table was expected"),
    ],
)
def test_bad_settings_are_named(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(ModelConfig, data)


def test_derived_numbers() -> None:
    config = ModelConfig("m", "frame", ("a",), features=FeatureConfig(n_fft=512), encoder=EncoderConfig(subsampling=2))
    assert config.hop_samples == 320
    assert config.hop_s == 0.02
    assert config.window_frames == 500
    assert config.features.margin_samples == 176
    assert FeatureConfig(kind="mfcc").dim == 39


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_can_be_read(path: Any) -> None:
    assert isinstance(read_recipe(path), Recipe)
    assert find_recipe(path.stem) == path


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe is called 'nosuch': choose .*language"):
        find_recipe("nosuch")
