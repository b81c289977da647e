"""What of recordings lies above the band that a model hears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from framecls.audio import open_audio
from framecls.config import FeatureConfig
from framecls.errors import AudioError
from framecls.training.data.manifest import Recording

_MOST_RECORDINGS = 20
_MOST_S = 10.0  # of each
_MUCH = 0.1  # share of the energy that is worth a word


@dataclass(frozen=True)
class Band:
    """The sample rates of some recordings, and how much of their energy lies above a frequency."""

    highest_rate: int  # Hz; 0 where none could be read
    share_above: float  # 0..1, the mean over recordings


def measure_band(recordings: Sequence[Recording], top_hz: float) -> Band:
    """Measure a sample of recordings at their own rates; those that cannot be read are left out.

    Args:
        recordings: of sound.
        top_hz: the frequency above which energy is counted.
    """
    files = sorted({recording.audio for recording in recordings if not recording.is_array})
    step = -(-len(files) // _MOST_RECORDINGS) or 1
    rates, shares = [0], []
    for file in files[::step]:
        try:
            with open_audio(file) as stream:
                rate = stream.info.sample_rate
            with open_audio(file, rate) as stream:
                samples = next(iter(stream.blocks(_MOST_S)), np.zeros(0, np.float32))
        except AudioError:
            continue
        rates.append(rate)
        power = np.abs(np.fft.rfft(samples)) ** 2 if len(samples) else np.zeros(1)
        if power[1:].sum() > 0:
            above = np.fft.rfftfreq(len(samples), 1 / rate) > top_hz
            shares.append(float(power[1:][above[1:]].sum() / power[1:].sum()))
    return Band(max(rates), float(np.mean(shares)) if shares else 0.0)


def highest_heard_hz(features: FeatureConfig) -> float:
    """Return the highest frequency that a model with these features hears."""
    if (
        features.kind != "pretrained"
        or features.pretrained.family != "framecls"
        or not features.pretrained.architecture
    ):
        return min(features.f_max_hz, features.sample_rate / 2)
    own = features.pretrained.own_features
    return own.f_max_hz * features.sample_rate / own.sample_rate


def describe_lost(recordings: Sequence[Recording], features: FeatureConfig) -> str | None:
    """Return what a model does not hear of recordings, in words; None if it is little."""
    top_hz = highest_heard_hz(features)
    share = measure_band(recordings, top_hz).share_above
    if share < _MUCH:
        return None
    much = "half" if 0.45 <= share <= 0.55 else f"{100 * share:.0f} %"
    way_out = "; --preset wildlife or machines hears up to 24 kHz" if top_hz < 20000 else ""
    return (
        f"{much} of these recordings' energy lies above {top_hz / 1000:g} kHz, which this model does not hear{way_out}"
    )
