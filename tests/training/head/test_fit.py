"""What a head begins with: as good as a linear probe, however few clips there are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt
from sklearn.linear_model import LogisticRegression

from framecls.training.choices import PRESETS
from framecls.training.head.fit import fit_linear
from framecls.training.head.run import prefer, train_head
from framecls.training.job import Job
from framecls.training.recipe import change_recipe, find_recipe, read_recipe

N_CLIPS = 5  # of each label
LENGTH_S = 1.0


def band_of_noise(low_hz: float, high_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    white = rng.standard_normal(int(LENGTH_S * rate))
    return sosfilt(butter(4, [low_hz, high_hz], "band", fs=rate, output="sos"), 0.2 * white)


def tone(low_hz: float, high_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * rng.uniform(low_hz, high_hz) * np.arange(int(LENGTH_S * rate)) / rate)


def clicks(low_hz: float, high_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    n_each, sound = int(0.004 * rate), np.zeros(int(LENGTH_S * rate))
    for first in range(rng.integers(rate // 12), len(sound) - n_each, int(rate / rng.uniform(8, 14))):
        sound[first : first + n_each] = 2 * tone(low_hz, high_hz, rate, rng)[:n_each] * np.hanning(n_each)
    return sound


def trill(low_hz: float, high_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    times_s = np.arange(int(LENGTH_S * rate)) / rate
    return tone(low_hz, high_hz, rate, rng) * (np.sin(2 * np.pi * rng.uniform(15, 25) * times_s) > 0)


def train_on(folder: Path, rate: int, sounds: dict[str, Callable[[np.random.Generator], np.ndarray]]) -> float:
    """Write some clips of each label, train on them, without tuning, and return the score of folds."""
    rng, rows = np.random.default_rng(4), []
    for label, make in sounds.items():
        for number in range(N_CLIPS):
            sound = make(rng) * rng.uniform(0.3, 1)
            name = f"{label}{number}.wav"
            soundfile.write(folder / name, sound + 0.003 * rng.standard_normal(len(sound)), rate)
            rows.append(json.dumps({"file": name, "label": label}))
    (folder / "clips.jsonl").write_text("\n".join(rows))
    settings = ["head.epochs=0", "head.curve=false", *(PRESETS["wildlife"] if rate > 16000 else ())]
    recipe = change_recipe(read_recipe(find_recipe("quick_identify")), settings)
    return train_head(Job(folder / "clips.jsonl", folder / "m.safetensors", recipe)).score.mean


def test_five_clips_of_plainly_different_sounds_are_enough(tmp_path: Path) -> None:
    kinds = {"tone": tone, "noise": band_of_noise, "clicks": clicks}
    sounds = {label: lambda rng, make=make: make(400, 4000, 16000, rng) for label, make in kinds.items()}
    assert train_on(tmp_path, 16000, sounds) >= 0.9  # by chance a third


def test_the_wildlife_preset_hears_what_differs_above_8_khz_alone(tmp_path: Path) -> None:
    kinds = {"cricket": (trill, 8000, 11000), "bat": (trill, 15000, 20000), "cicada": (band_of_noise, 8000, 20000)}
    sounds = {
        label: lambda rng, make=make, low=low, high=high: make(low, high, 48000, rng)
        for label, (make, low, high) in kinds.items()
    }
    assert train_on(tmp_path, 48000, sounds) >= 0.9


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([[0.8, 0.9], [0.7, 0.8], [0.6, 0.7]], 1),  # better in each fold
        ([[0.8, 0.9], [0.7, 0.6], [0.6, 0.61]], 0),  # by chance
        ([[0.8, 0.7, 0.8]], 0),  # as good
        ([[0.8, 0.7, 0.81]], 2),
    ],
)
def test_another_choice_must_be_clearly_better(scores: list[list[float]], best: int) -> None:
    assert prefer(np.array(scores)) == best


def test_labels_that_overlap_are_fitted_as_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)).astype(np.float32)
    truth = np.stack([x[:, 0] > 1, x[:, 1] > 0, np.ones(300), np.zeros(300)], axis=1).astype(np.float32)
    weight, bias = fit_linear(x, np.ones(6, np.float32), truth, np.ones(300), 4, 1.0)
    logits = x @ weight.T + bias
    for label in (0, 1):
        alone = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-3).fit(x - x.mean(axis=0), truth[:, label])
        assert np.allclose(logits[:, label], alone.decision_function(x - x.mean(axis=0)), atol=0.02)
    assert (logits[:, 2:] == [8, -8]).all()
