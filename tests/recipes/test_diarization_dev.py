"""Simulated conversations: everything is said once, by the one it is said of, and overlaps are as they are told."""

from __future__ import annotations

import numpy as np

from framecls.inference.segments import find_runs
from framecls.recipes.diarization_dev import RATE, cut_turns, draw_conversation, draw_voices, find_speech, write_turns


def speak(n_words: int, pitch_hz: float, seed: int) -> np.ndarray:
    """Return (sample,) bursts of a tone, with pauses between."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(n_words):
        n_samples = int(rng.uniform(0.4, 1.2) * RATE)
        parts += [0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(n_samples) / RATE), np.zeros(int(0.35 * RATE))]
    return np.concatenate(parts).astype(np.float32)


def test_turns_hold_all_that_is_said() -> None:
    sound = speak(12, 300, 0)
    turns = cut_turns(sound, np.random.default_rng(1))
    assert len(turns) > 1
    said = sum(last - first for turn in turns for first, last in find_speech(turn))
    assert abs(said - sum(last - first for first, last in find_speech(sound))) <= 6 * len(turns)


def test_conversations_overlap_and_nobody_overlaps_themselves() -> None:
    turns = [
        cut_turns(speak(30, pitch, seed), np.random.default_rng(seed)) for seed, pitch in enumerate((200, 300, 400))
    ]
    said = draw_conversation(turns, np.random.default_rng(5))
    assert 0.02 < said.overlap < 0.3
    for row, own in zip(said.voices, turns, strict=True):
        energy = sum(float(np.square(turn).sum()) for turn in own)
        assert abs(float(np.square(row).sum()) / energy - 1) < 0.02
    for row, active in zip(said.voices, said.active, strict=True):
        loud = np.abs(row).reshape(-1, 160).max(axis=1) > 0.1
        assert (active >= loud).mean() > 0.99
    lines = list(write_turns("x", ["a", "b", "c"], said))
    assert len(lines) == sum(len(find_runs(active)) for active in said.active)
    assert all(line.startswith("SPEAKER x 1 ") and len(line.split()) == 10 for line in lines)


def test_who_speaks_is_what_marks_it() -> None:
    turns = [cut_turns(speak(12, pitch, seed), np.random.default_rng(seed)) for seed, pitch in enumerate((200, 300))]
    said = draw_conversation(turns, np.random.default_rng(5), lambda row: [(10, 60), (80, 90), (200, 203)])
    assert [find_runs(active) for active in said.active] == [[(10, 90)], [(10, 90)]]  # no pauses, no clicks
    by_level = draw_conversation(turns, np.random.default_rng(5))
    assert (said.voices == by_level.voices).all()


def test_no_two_voices_of_a_language_of_fleurs() -> None:
    names = ["fl-de_de-1", "fl-de_de-2", "fl-fr_fr-1", "ls1", "ls2"]
    chosen = list(draw_voices(names, 4, np.random.default_rng(0)))
    assert len(chosen) == 4
    assert sum(name.startswith("fl-de") for name in chosen) == 1
