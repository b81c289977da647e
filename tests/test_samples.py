"""The clips of samples/ are there, can be decoded, and fit what truth.json says of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

SAMPLES = Path(__file__).parent.parent / "samples"
TRUTH: dict[str, dict[str, Any]] = json.loads((SAMPLES / "truth.json").read_text(encoding="utf-8"))
LABELS = {"speech", "music", "noise"}


def decode(name: str) -> tuple[np.ndarray, int]:
    """Return (sample, channel) the clip, and its rate in Hz."""
    samples, sample_rate = soundfile.read(SAMPLES / name, dtype="float32", always_2d=True)
    return samples, sample_rate


def level_db(samples: np.ndarray) -> float:
    """Return the root mean square level in dBFS."""
    return float(10 * np.log10(np.mean(samples.astype(float) ** 2) + 1e-12))


def test_truth_lists_every_clip() -> None:
    found = {path.name for path in SAMPLES.iterdir() if path.suffix in {".wav", ".flac", ".ogg", ".opus", ".mp3"}}
    assert found == set(TRUTH)
    assert len(found) >= 8


def test_the_folder_is_small() -> None:
    total = sum(
        path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    assert total < 2_000_000


def test_the_clips_cover_codecs_rates_and_languages() -> None:
    infos = [soundfile.info(SAMPLES / name) for name in TRUTH]
    assert {info.subtype for info in infos} >= {"OPUS", "VORBIS", "MPEG_LAYER_III", "PCM_16", "ULAW"}
    assert {info.samplerate for info in infos} >= {8_000, 44_100, 48_000}
    assert {info.channels for info in infos} == {1, 2}
    assert {clip["language"] for clip in TRUTH.values()} >= {"en", "de", "fr", "es", "it", None}
    assert {segment["label"] for clip in TRUTH.values() for segment in clip["segments"]} == LABELS


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_clip_decodes_as_long_as_the_truth_says(name: str) -> None:
    samples, sample_rate = decode(name)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() < 1.0  # not clipped
    assert len(samples) / sample_rate == pytest.approx(TRUTH[name]["duration"], abs=0.06)  # an mp3 may be padded


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_segments_are_ordered_and_inside_the_clip(name: str) -> None:
    segments = TRUTH[name]["segments"]
    assert [s["start"] for s in segments] == sorted(s["start"] for s in segments)
    assert all(0 <= s["start"] < s["end"] <= TRUTH[name]["duration"] for s in segments)
    for label in LABELS:
        spans = [(s["start"], s["end"]) for s in segments if s["label"] == label]
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert {s["label"] for s in segments} <= LABELS
    assert any(s["label"] == "speech" for s in segments) == (TRUTH[name]["language"] is not None)


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_segments_are_heard_and_the_rest_is_not(name: str) -> None:
    samples, sample_rate = decode(name)
    is_labelled = np.zeros(len(samples), bool)
    for segment in TRUTH[name]["segments"]:
        span = slice(round(segment["start"] * sample_rate), round(segment["end"] * sample_rate))
        assert level_db(samples[span]) > -45, segment
        is_labelled[span] = True
    # Room, line hiss and codec may sound on between segments, but faintly.
    rest = samples[~is_labelled]
    if len(rest) and name != "far_room.ogg":  # there the room goes on in every pause
        assert level_db(rest) < -40


def test_quiet_is_silent_but_not_empty() -> None:
    samples, _ = decode("quiet.flac")
    assert level_db(samples) == pytest.approx(-70, abs=1)
    assert TRUTH["quiet.flac"]["segments"] == []
