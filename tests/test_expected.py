"""What the shipped models say of the sample clips: as recorded in expected.json, and close to the truth."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import framecls
from framecls.checkpoints import registry
from framecls.inference.ctc import count_edits

SAMPLES = Path(__file__).parent.parent / "samples"
EXPECTED: dict[str, Any] = json.loads((SAMPLES / "expected.json").read_text(encoding="utf-8"))
TRUTH: dict[str, Any] = json.loads((SAMPLES / "truth.json").read_text(encoding="utf-8"))


@cache
def model(name: str) -> framecls.Model:
    return framecls.load(name, device="cpu")


@cache
def tagged(name: str) -> framecls.TagResult:
    return model("sound").tag(SAMPLES / name)


def frames(segments: list[dict[str, Any]], label: str, times: np.ndarray) -> np.ndarray:
    """Return (frame,) where a list of segments puts a label."""
    holds = np.zeros(len(times), bool)
    for segment in segments:
        if segment["label"] == label:
            holds |= (times >= segment["start"]) & (times < segment["end"])
    return holds


def said(result: framecls.TagResult, label: str) -> np.ndarray:
    return frames([{"start": s.start, "end": s.end, "label": s.label} for s in result.segments], label, result.times)


def test_every_clip_is_expected() -> None:
    assert EXPECTED.keys() == TRUTH.keys()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_tag_says_what_it_said(name: str) -> None:
    """To a few frames: another machine rounds differently, and a frame at a threshold may tip over."""
    result = tagged(name)
    for label in result.labels:
        wanted = frames(EXPECTED[name]["segments"], label, result.times)
        assert (said(result, label) == wanted).mean() >= 0.98, label


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_identify_says_what_it_said(name: str) -> None:
    result = model("language").identify(SAMPLES / name)
    assert (result.label, result.reason) == (EXPECTED[name]["language"], EXPECTED[name].get("reason"))
    assert result.score == (pytest.approx(EXPECTED[name]["score"], abs=0.03) if result.reason is None else None)


@pytest.mark.parametrize(
    ("clip", "among", "answer"),
    [
        ("speech_tr.mp3", "de,fr", "unknown"),
        ("speech_tr.mp3", "sw", "unknown"),
        ("speech_es.ogg", "sw", "unknown"),
        ("speech_tr.mp3", "de,tr", "tr"),
        ("speech_de.opus", "de,fr", "de"),
        ("speech_de.opus", "de,nl,da", "de"),
        ("speech_it.opus", "it,de", "it"),
        ("speech_fr.mp3", "de,fr,es", "fr"),
    ],
)
def test_none_of_those_named_can_win(clip: str, among: str, answer: str) -> None:
    result = model("language").identify(SAMPLES / clip, among=among.split(","))
    assert result.label == answer
    assert result.reason == ("none of those named" if answer == "unknown" else None)


def test_voices_are_known_again_in_another_language(tmp_path: Path) -> None:
    """The synthesiser's voices are those that make_samples.py gives the clips."""
    speaker, gallery = model("speaker"), tmp_path / "g.sqlite"
    for name, clip in (("Chloe", "speech_en.ogg"), ("Boris", "speech_it.opus")):
        assert speaker.enroll(name, [SAMPLES / clip], gallery=gallery) == []
    heard = {"speech_tr.mp3": "Chloe", "speech_hi.opus": "Boris", "speech_flite.flac": "unknown"}
    found = {clip: speaker.identify(SAMPLES / clip, enrolled=gallery) for clip in heard}
    assert {clip: result.label for clip, result in found.items()} == heard
    assert min(result.score for result in found.values() if result.score is not None) > 0.9
    assert found["speech_flite.flac"].reason == "nobody enrolled"
    with pytest.raises(framecls.AudioError, match="too little"):
        speaker.identify(SAMPLES / "music_only.ogg", enrolled=gallery)


@pytest.mark.parametrize("name", sorted(name for name in TRUTH if TRUTH[name]["language"]))
def test_speech_is_found_where_it_is(name: str) -> None:
    result = tagged(name)
    truth = frames(TRUTH[name]["segments"], "speech", result.times)
    found = said(result, "speech")
    recall = (found & truth).sum() / truth.sum()
    precision = (found & truth).sum() / max(1, found.sum())
    assert recall > 0.85
    assert precision > 0.75  # pauses inside a sentence may be bridged


@pytest.mark.parametrize("name", sorted(name for name in TRUTH if not TRUTH[name]["language"]))
def test_no_speech_is_found_where_nobody_talks(name: str) -> None:
    assert said(tagged(name), "speech").mean() < 0.05


# "I left my umbrella on the train again this morning. Luckily, a kind stranger ran after me ..."
SAID = (
    "ay l eh f t m ay ah m b r eh l ah aa n dh ah t r ey n ah g eh n dh ih s m ao r n ih ng "
    "l ah k ah l iy ah k ay n d s t r ey n jh er r ae n ae f t er m iy"
)


def test_phones_are_those_of_the_dictionary() -> None:
    truth = SAID.split()
    heard = model("phones").tag_string(SAMPLES / "speech_en.ogg").phones
    edits = count_edits(truth, heard[: len(truth)])
    assert edits.total / len(truth) < 0.3
    tagged_phones = model("phones").tag(SAMPLES / "speech_en.ogg")
    assert tagged_phones.segments[0].label == "sil"
    assert tagged_phones.segments[-1].end == pytest.approx(tagged_phones.duration)


@pytest.mark.parametrize("name", ["music_only.ogg", "noise_only.ogg", "quiet.flac"])
def test_where_nobody_speaks_there_are_no_phones(name: str) -> None:
    segments = model("phones").tag(SAMPLES / name).segments
    assert sum(s.end - s.start for s in segments if s.label == "sil") > 0.95 * segments[-1].end


def test_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in registry.locate("sound").parent.glob("*.safetensors")) < 64e6
