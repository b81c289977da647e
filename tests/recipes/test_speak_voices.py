"""Speaking a small corpus with recorded voices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from framecls.errors import FrameclsError
from framecls.recipes import speak_voices
from framecls.recipes.phones import PHONES
from framecls.recipes.prepare_language import read_rows
from framecls.recipes.speak_corpus import Line
from framecls.recipes.speak_voices import VOICES, Voice, is_installed, plan_voice, speakable, speed_of

CZECH = Voice("festival", "czech_ph", "cs", "GPL 2+", "iso-8859-2")
SPOKEN = ("a", "t") * 20
LINES = [Line(f"Věta {word}", SPOKEN) for word in ("jedna", "druhá", "třetí")]
ENGLISH = Line("All human beings are born free and equal in dignity and rights", SPOKEN)
_FLITE = Voice("flite", "rms", "en", "BSD-like")


def test_no_two_voices_share_a_name() -> None:
    assert len({voice.speaker for voice in VOICES}) == len(VOICES)


def test_lines_that_the_voice_cannot_read_are_left_out() -> None:
    lines = [Line("Dobré „ráno“", SPOKEN), Line("В 7 часов", SPOKEN), Line("Утро", SPOKEN), Line("Rok 1984", SPOKEN)]
    assert [line.text for line in speakable(CZECH, lines)] == ['Dobré "ráno"']


def test_a_plan_is_repeatable_named_after_the_voice_and_different_for_each_voice() -> None:
    clips = plan_voice(CZECH, LINES, 60.0, seed=3)
    assert clips == plan_voice(CZECH, LINES, 60.0, seed=3)
    assert clips[0].file == "voices/festival-czech_ph/0000.flac"
    other = plan_voice(dataclasses.replace(CZECH, name="czech_krb"), LINES, 60.0, seed=3)
    assert [clip.speed_wpm for clip in clips] != [clip.speed_wpm for clip in other]
    assert all(0.9 <= speed_of(clip) <= 1.15 for clip in clips)


def test_a_voice_without_text_has_no_plan() -> None:
    assert plan_voice(CZECH, [Line("Утро", SPOKEN)], 60.0, seed=0) == []


def _pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: np.ndarray) -> Voice:
    """Register a synthesiser that always answers `speech`, (samples,) at 16 kHz."""
    ready = tmp_path / "ready.wav"
    soundfile.write(ready, speech, 16000)
    monkeypatch.setitem(speak_voices._SYSTEMS, "copy", lambda voice, text, speed, wav: (["cp", ready, wav], text))
    return Voice("copy", "machine", "cs", "none")


def test_silence_and_clips_of_the_wrong_length_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000 * 6)
    for speech, expected in [(noise, True), (0 * noise, False), (noise[:16000], False), (noise[:0], False)]:
        voice = _pretend(tmp_path, monkeypatch, speech)
        clip = plan_voice(voice, LINES, 10.0, seed=0)[0]
        assert (speak_voices.speak_clip(voice, clip, tmp_path) is not None) is expected


def test_a_program_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(speak_voices._SYSTEMS, "none", lambda voice, text, speed, wav: (["no-such-program"], text))
    voice = Voice("none", "nobody", "cs", "none")
    with pytest.raises(FrameclsError, match="no-such-program is not installed"):
        speak_voices.speak_clip(voice, plan_voice(voice, LINES, 10.0, seed=0)[0], tmp_path)


@pytest.mark.skipif(not is_installed(_FLITE), reason="flite is not installed")
def test_a_small_corpus_is_spoken_and_not_spoken_twice(tmp_path: Path) -> None:
    lines = {"en": [ENGLISH]}
    assert speak_voices.write_corpus([_FLITE], lines, tmp_path, 0.1, 0) >= 1
    rows = read_rows(tmp_path / "voices.jsonl")
    assert sum(row["seconds"] for row in rows) >= 6.0
    for row in rows:
        info = soundfile.info(tmp_path / row["file"])
        assert (info.samplerate, info.channels) == (16000, 1)
        assert set(row["phones"].split()) <= set(PHONES)
        assert (row["speaker"], row["lang"], row["source"]) == ("flite-rms", "en", "flite-synthetic")
    assert speak_voices.write_corpus([_FLITE], lines, tmp_path, 0.1, 0) == 0


def test_main_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"lang": "cs", "text": "Dobré ráno"}) + "\n", encoding="utf-8")
    speak_voices.main([str(lines), "--out", str(tmp_path / "out")])
    assert "festival-czech_ph" in capsys.readouterr().err
    assert read_rows(tmp_path / "out" / "voices.jsonl") == []
