"""Music, songs and room noise that recipes make: as composed, seeded, and free of speech."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from framecls.recipes import make_music, make_rooms
from framecls.recipes.make_music import STYLES, compose, draw_frame, encode_number, find_grooves
from framecls.recipes.make_rooms import pauses, room_of
from framecls.recipes.make_songs import Voice, bend, draw_tune

RATE = 16000


def read_midi(data: bytes) -> list[tuple[int, int, int, int]]:
    """Return (tick, status, first, second) of each message of a channel; the plain reader that the writer must suit."""
    assert data[:4] == b"MThd"
    assert data[14:18] == b"MTrk"
    assert int.from_bytes(data[18:22], "big") == len(data) - 22
    at, tick, events = 22, 0, []
    while at < len(data):
        wait = 0
        while data[at] & 128:
            wait, at = wait << 7 | data[at] & 127, at + 1
        tick, at = tick + (wait << 7 | data[at]), at + 1
        status = data[at]
        if status == 0xFF:
            at += 3 + data[at + 2]
            continue
        n_data = 1 if status >> 4 == 0xC else 2
        events.append((tick, status, data[at + 1], data[at + 2] if n_data == 2 else 0))
        at += 1 + n_data
    return events


@pytest.mark.parametrize(("number", "expected"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x81\x00"), (480, b"\x83\x60")])
def test_numbers_of_midi(number: int, expected: bytes) -> None:
    assert encode_number(number) == expected


@pytest.mark.parametrize("style", STYLES)
def test_every_note_that_starts_stops(style: str) -> None:
    for seed in range(5):
        data = compose(style, np.random.default_rng(seed))
        assert data == compose(style, np.random.default_rng(seed))
        sounding: dict[tuple[int, int], int] = {}
        events = read_midi(data)
        for _, status, pitch, loudness in events:
            assert 0 <= pitch < 128
            assert 0 <= loudness < 128
            if status >> 4 in (8, 9):
                key = (status & 15, pitch)
                sounding[key] = sounding.get(key, 0) + (1 if status >> 4 == 9 else -1)
        assert len(events) > 20
        assert set(sounding.values()) == {0}


def test_grooves_are_those_that_files_define(tmp_path: Path) -> None:
    (tmp_path / "a.mma").write_text("Begin Drum Define\nDefGroove Polka  A polka\nDefGroove PolkaIntro\n")
    (tmp_path / "b.mma").write_text("DefGroove Rock\n")
    assert find_grooves(tmp_path) == ["Polka", "Rock"]


FONTS = sorted(Path("/usr/share/sounds/sf2").glob("*.sf2"), key=lambda file: file.stat().st_size)


@pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="needs the program fluidsynth")
@pytest.mark.skipif(not FONTS, reason="needs a sound font of General MIDI where Debian puts them")
def test_music_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_music, "LENGTH_S", 2.0)
    monkeypatch.setattr(make_music, "STYLES", {"beat": STYLES["beat"]})
    monkeypatch.setattr(sys, "argv", ["x", "--out", str(tmp_path), "--fonts", str(FONTS[0]), "--clips", "1"])
    make_music.main()
    row = json.loads((tmp_path / "manifest.jsonl").read_text())
    music, rate = soundfile.read(tmp_path / row["file"])
    assert (row["kind"], row["source"], rate, len(music)) == ("music", "made-beat", RATE, 2 * RATE)
    assert np.abs(music).max() == pytest.approx(0.5, abs=0.01)
    assert np.square(music).mean() > 1e-4


def test_syllables_are_held_for_notes_of_the_scale(rng: np.random.Generator) -> None:
    syllables = [(10 + 50 * n, 40 + 50 * n) for n in range(40)]
    pitch_hz = np.zeros(2010)
    for first, last in syllables:
        pitch_hz[first:last] = 180.0
    piece = draw_frame(rng, 2.0)
    places, notes = draw_tune(Voice(pitch_hz, np.ones((2010, 3)), np.ones((2010, 3)), syllables), piece, 0.5)
    assert len(places) == len(notes)
    assert len(places) * 0.005 > 2 * 40 * 0.15  # vowels last longer than they were said
    is_voiced = np.isfinite(notes)
    assert set((np.unique(notes[is_voiced]) - piece.key).astype(int) % 12) <= set(piece.scale)
    np.testing.assert_array_equal(pitch_hz[np.round(places).astype(int)] > 0, is_voiced)
    assert 100 < 440 * 2 ** ((np.median(notes[is_voiced]) - 69) / 12) < 700
    sung = bend(notes, rng)
    assert np.isfinite(sung).all()
    assert np.abs(sung - notes)[is_voiced].mean() < 1.5


def test_pauses_keep_clear_of_speech() -> None:
    assert pauses([(1.0, 2.0), (2.3, 4.0)], 5.0) == [(0.0, 0.88), (4.12, 5.0)]
    assert pauses([(0.1, 2.0)], 2.2) == []


def test_a_room_is_what_is_left_when_nobody_speaks(rng: np.random.Generator) -> None:
    air = rng.standard_normal(6 * RATE) * 0.003
    said = air.copy()
    said[RATE : 4 * RATE] += 0.3 * np.sin(np.arange(3 * RATE) * 0.2)
    room = room_of(said.astype(np.float32), [(1.0, 4.0)])
    assert room is not None
    assert len(room) / RATE == pytest.approx(0.88 + 1.88 - make_rooms.FADE_S, abs=0.01)
    spectrum = np.abs(np.fft.rfft(room))
    assert spectrum.max() < 8 * np.median(spectrum)  # no tone is left
    assert room_of(said.astype(np.float32), [(0.0, 5.5)]) is None
    gated = np.where(np.abs(np.arange(6 * RATE) - 2.5 * RATE) < 1.5 * RATE, said, 0)
    assert room_of(gated.astype(np.float32), [(1.0, 4.0)]) is None
