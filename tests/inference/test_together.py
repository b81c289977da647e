"""Several models over recordings that are read once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import framecls
from framecls import ModelGroup, UsageError
from framecls.config import TimelineConfig, WindowConfig
from framecls.inference.engine import Engine
from framecls.inference.windows import cut_grids, cut_windows
from framecls.model import Model
from framecls.nn.network import Network
from support.models import tiny_config
from support.signals import RATE, make_noise, make_swell, write_wav


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model]:
    """A tagger and an identifier whose windows and overlaps differ."""
    torch.manual_seed(2)
    pooled = replace(
        tiny_config("pooled"),
        window=WindowConfig(length_s=1.2, overlap_s=0.0),
        timeline=TimelineConfig(hop_s=0.2, span_s=0.6, overlap_s=0.4),
    )
    made = [Model(Engine(Network(config).eval(), torch.device("cpu"))) for config in (tiny_config("frame"), pooled)]
    return made[0], made[1]


def test_each_says_what_it_says_alone(models: tuple[Model, Model]) -> None:
    sources = [make_swell(5.3), make_noise(0.4), make_noise(7.0)]
    group = list(ModelGroup(models).tag_many(sources, sample_rate=RATE))
    for number, model in enumerate(models):
        for together, alone in zip(group, model.tag_many(sources, sample_rate=RATE), strict=True):
            assert not isinstance(together, Exception)
            assert not isinstance(alone, Exception)
            tier = together.tiers[number]
            assert (tier.model, tier.segments, tier.labels) == (alone.model, alone.segments, alone.labels)
            np.testing.assert_array_equal(tier.scores, alone.scores)
            assert together.duration == alone.duration


def test_a_recording_is_opened_once(models: tuple[Model, Model], tmp_path: Path) -> None:
    """A pipe can be read only once: an iterator of blocks stands for one."""

    def blocks() -> Iterator[np.ndarray]:
        for _ in range(5):
            yield make_swell(1.0)

    told: list[float] = []
    result = ModelGroup(models).tag(blocks(), sample_rate=RATE, progress=told.append)
    assert [len(tier.scores) for tier in result.tiers] == [5 * RATE // 320, 25]
    assert told[-1] == pytest.approx(5.0, abs=0.2)
    file = write_wav(tmp_path / "a.wav")
    assert framecls.ModelGroup(models).tag(file).file == str(file)


def test_one_that_fails_does_not_stop_the_others(models: tuple[Model, Model], tmp_path: Path) -> None:
    good, bad = write_wav(tmp_path / "a.wav"), tmp_path / "b.wav"
    bad.write_bytes(b"no audio")
    results = list(ModelGroup(models).tag_many([good, bad, good]))
    assert isinstance(results[1], framecls.AudioError)
    assert not isinstance(results[0], Exception)
    assert not isinstance(results[2], Exception)


def test_options_go_to_the_model_that_takes_them(models: tuple[Model, Model]) -> None:
    options = {models[1].name: {"among": ["de"]}}
    result = ModelGroup(models).tag(make_swell(3.0), options=options, sample_rate=RATE)
    assert set(result.tiers[1].labels) <= {"de", "unknown"}
    with pytest.raises(UsageError, match="among goes with"):
        ModelGroup(models).tag(make_swell(3.0), options={models[0].name: {"among": ["de"]}}, sample_rate=RATE)


def test_models_that_do_not_go_together_are_refused(models: tuple[Model, Model]) -> None:
    with pytest.raises(UsageError, match="these must differ: tiny-sound, tiny-sound"):
        ModelGroup([models[0], models[0]])
    config = tiny_config("frame")
    slow = replace(config, name="slow", features=replace(config.features, sample_rate=8000, f_max_hz=3900.0))
    other = Model(Engine(Network(slow).eval(), torch.device("cpu")))
    with pytest.raises(UsageError, match="slow does not read the same samples as tiny-sound"):
        ModelGroup([models[0], other]).tag(make_swell(1.0), sample_rate=RATE)


def test_windows_of_several_grids_come_by_their_ends() -> None:
    config = tiny_config("frame")
    grids = [config, replace(config, window=WindowConfig(length_s=0.8, overlap_s=0.2))]
    samples = make_noise(7.3)
    blocks = [samples[at : at + 5000] for at in range(0, len(samples), 5000)]
    items = list(cut_grids(iter(blocks), grids))
    ends = [window.first + window.n_frames for window, _ in items]
    assert ends == sorted(ends)
    for number, grid in enumerate(grids):
        alone = list(cut_windows(iter(blocks), grid))
        mine = [item for item in items if item[0].grid == number]
        assert [(w.first, w.n_frames) for w, _ in mine] == [(w.first, w.n_frames) for w, _ in alone]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(mine, alone, strict=True))
