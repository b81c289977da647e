"""Transcribing a manifest, and speaking a small corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from framecls.errors import ManifestError
from framecls.recipes import speak_corpus, transcribe_corpus
from framecls.recipes.phones import PHONES
from framecls.recipes.speak_corpus import Line, plan_clips
from framecls.recipes.transcribe_corpus import is_plausible, spoken_text, transcribe

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")

LINES = [Line(f"Satz {number}", ("a", "t") * 20) for number in range(10)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"source": "fleurs", "lang": "de", "text": "guten tag"}, "guten tag"),
        ({"source": "lt-speech-commands", "lang": "lt", "text": "į_viršų"}, "į viršų"),
        ({"source": "precise-community", "lang": "en", "text": "heycomputer"}, "hey computer"),
        ({"source": "precise-community", "lang": "es", "text": "heycomputer"}, None),
        ({"source": "arabic-speech-commands", "lang": "ar", "text": "yes"}, "نَعَم"),
        ({"source": "arabic-speech-commands", "lang": "ar", "text": "zoom in"}, None),
        ({"source": "picovoice-barista", "lang": "en", "text": '{"size": "small"}'}, None),
        ({"source": "fleurs", "lang": "he", "text": "שלום"}, None),
        ({"source": "fleurs", "lang": "de"}, None),
    ],
)
def test_spoken_text(row: dict[str, str], expected: str | None) -> None:
    assert spoken_text(row) == expected


@pytest.mark.parametrize(
    ("n_phones", "seconds", "plausible"),
    [(3, 1.0, True), (30, 1.0, True), (2, 1.0, False), (31, 1.0, False), (1, 0.1, False), (0, 0.0, False)],
)
def test_is_plausible(n_phones: int, seconds: float, plausible: bool) -> None:
    assert is_plausible(n_phones, seconds) is plausible


def test_ipa_of_a_synthesiser_is_taken_unless_it_switches_language_or_was_cut_off() -> None:
    rows = [
        {"file": "good", "lang": "de", "source": "kokoro-synthetic", "seconds": 1.0, "ipa": "ɡˈuːtən tˈɑːk"},
        {"file": "switch", "lang": "de", "source": "kokoro-synthetic", "seconds": 1.0, "ipa": "(en)ɡˈuːtən(de) tˈɑːk"},
        {"file": "cut", "lang": "de", "source": "kokoro-synthetic", "seconds": 24.0, "ipa": "ɡˈuːtən tˈɑːk " * 30},
    ]
    assert list(transcribe(rows)) == [{"file": "good", "phones": "ɡ u t ə n t ɑ k"}]


@needs_espeak
def test_transcribe_leaves_out_what_cannot_be_right(tmp_path: Path) -> None:
    rows = [
        {"file": "de", "lang": "de", "source": "fleurs", "seconds": 1.0, "text": "guten tag"},
        {"file": "slow", "lang": "de", "source": "fleurs", "seconds": 20.0, "text": "guten tag"},
        {"file": "unspoken", "lang": "umb", "source": "fleurs", "seconds": 1.0, "text": "guten tag"},
        {"file": "music", "source": "wesnoth-music", "seconds": 30.0},
    ]
    manifest, out = tmp_path / "manifest.jsonl", tmp_path / "phones.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    transcribe_corpus.main([str(manifest), "--out", str(out)])
    assert transcribe_corpus.read_rows(out) == [{"file": "de", "phones": "ɡ u t ə n t ɑ k"}]


@pytest.mark.parametrize("content", ["not json\n", "[1, 2]\n"])
def test_a_broken_manifest_is_one_clear_error(tmp_path: Path, content: str) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match="one JSON object a line"):
        transcribe_corpus.read_rows(manifest)


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
    clips = transcribe_corpus.read_rows(manifest)
    assert {clip["lang"] for clip in clips} == {"de", "fi"}
    for clip in clips:
        info = soundfile.info(tmp_path / "out" / clip["file"])
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.duration == pytest.approx(clip["seconds"], abs=0.001)
        assert set(clip["phones"].split()) <= set(PHONES)
        assert 3.0 <= clip["seconds"] <= 12.5
    speak_corpus.main(arguments)
    assert transcribe_corpus.read_rows(manifest) == clips
