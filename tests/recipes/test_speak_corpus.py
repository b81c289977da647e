"""Speaking a small corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from framecls.errors import ManifestError
from framecls.recipes import speak_corpus
from framecls.recipes.phones import PHONES
from framecls.recipes.prepare_language import read_rows
from framecls.recipes.speak_corpus import Line, is_plausible, plan_clips

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")

LINES = [Line(f"Satz {number}", ("a", "t") * 20) for number in range(10)]


@pytest.mark.parametrize(
    ("n_phones", "seconds", "plausible"),
    [(3, 1.0, True), (30, 1.0, True), (2, 1.0, False), (31, 1.0, False), (0, 0.0, False)],
)
def test_is_plausible(n_phones: int, seconds: float, plausible: bool) -> None:
    assert is_plausible(n_phones, seconds) is plausible


def test_a_plan_is_repeatable_varied_and_as_long_as_asked() -> None:
    clips = plan_clips("de", LINES, 600.0, seed=3)
    assert clips == plan_clips("de", LINES, 600.0, seed=3)
    assert clips != plan_clips("de", LINES, 600.0, seed=4)
    assert len({clip.file for clip in clips}) == len(clips)
    assert 60 <= len(clips) <= 150
    assert len({clip.variant for clip in clips}) > 30
    assert all(130 <= clip.speed_wpm <= 190 and 25 <= clip.pitch <= 75 for clip in clips)


def test_text_that_is_always_too_long_gives_no_clip() -> None:
    assert plan_clips("de", [Line("lang", ("a", "t") * 500)], 60.0, seed=0) == []


def test_a_text_line_without_a_language_is_an_error() -> None:
    with pytest.raises(ManifestError, match='"lang"'):
        speak_corpus.read_lines([{"text": "Guten Tag"}], 10, 0)


@needs_espeak
def test_a_small_corpus_is_spoken_and_not_spoken_twice(tmp_path: Path) -> None:
    text = tmp_path / "lines.jsonl"
    rows = [
        {"lang": "de", "text": "Der Himmel ist heute blau, und die Sonne scheint."},
        {"lang": "fi", "text": "Taivas on tänään sininen ja aurinko paistaa kirkkaasti."},
        {"lang": "umb", "text": "No voice speaks this."},
        {"lang": "he", "text": "שלום לכולם"},
    ]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = [str(text), "--out", str(tmp_path / "out"), "--minutes", "0.2", "--seed", "1"]
    speak_corpus.main(arguments)
    manifest = tmp_path / "out" / "manifest.jsonl"
    clips = read_rows(manifest)
    assert {clip["lang"] for clip in clips} == {"de", "fi"}
    for clip in clips:
        info = soundfile.info(tmp_path / "out" / clip["file"])
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.duration == pytest.approx(clip["seconds"], abs=0.001)
        assert set(clip["phones"].split()) <= set(PHONES)
        assert 3.0 <= clip["seconds"] <= 12.5
    speak_corpus.main(arguments)
    assert read_rows(manifest) == clips
