"""What lies above the band of a model is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from framecls.config import FeatureConfig
from framecls.training.choices import PRESETS
from framecls.training.data.band import describe_lost, highest_heard_hz, measure_band
from framecls.training.data.manifest import Recording, Span
from framecls.training.head.run import find_features
from framecls.training.recipe import change_recipe, find_recipe, preset_settings, read_recipe


def write(path: Path, pitches_hz: list[float], rate: int = 48000) -> Recording:
    times_s = np.arange(rate) / rate
    soundfile.write(path, sum(0.1 * np.sin(2 * np.pi * pitch * times_s) for pitch in pitches_hz), rate)
    return Recording(path, (Span("x"),), "s")


def test_half_of_the_energy_above(tmp_path: Path) -> None:
    recordings = [write(tmp_path / "a.wav", [1000.0, 12000.0]), write(tmp_path / "b.wav", [2000.0, 15000.0])]
    band = measure_band(recordings, 8000.0)
    assert (band.highest_rate, band.share_above) == (48000, pytest.approx(0.5, abs=0.01))
    said = describe_lost(recordings, FeatureConfig(f_max_hz=8000.0))
    assert said is not None
    assert said.startswith("half of these recordings' energy lies above 8 kHz, which this model does not hear; ")
    assert describe_lost([write(tmp_path / "c.wav", [1000.0])], FeatureConfig()) is None
    wide = FeatureConfig(sample_rate=48000, f_max_hz=24000.0)
    assert describe_lost(recordings, wide) is None


def test_an_encoder_of_speech_hears_more_of_what_is_slowed_down() -> None:
    recipe = read_recipe(find_recipe("quick_tag"))
    plain = find_features(recipe, 1)
    assert (highest_heard_hz(plain), plain.sample_rate, plain.hop_samples) == (8000.0, 16000, 640)
    slowed = find_features(change_recipe(recipe, preset_settings("wildlife")), 1)
    assert (highest_heard_hz(slowed), slowed.sample_rate, slowed.hop_samples) == (24000.0, 48000, 640)


@pytest.mark.parametrize("task", ["tag", "identify", "quick_tag", "quick_identify"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_go_with_every_recipe(task: str, name: str) -> None:
    recipe = change_recipe(read_recipe(find_recipe(task)), preset_settings(name))
    assert (recipe.augment.telephone_chance > 0) == (name == "speech")
    if name in ("wildlife", "machines") and not recipe.head.enabled:
        assert recipe.features.f_max_hz == 24000.0
        assert replace(recipe.features, kind="logmel").sample_rate == 48000


def test_nothing_is_sent_through_a_telephone_unless_speech_is_meant() -> None:
    for task in ("tag", "identify"):
        augment = read_recipe(find_recipe(task)).augment
        assert (augment.telephone_chance, augment.low_pass_chance) == (0, 0)
