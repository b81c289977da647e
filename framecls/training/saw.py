"""A synthetic corpus after the lecture's "saw": frames with equal samples and different labels.

"I saw" or "the saw": which it is, only the word at the beginning of the clip says. Here the words are tones. A clip
begins with one of two, then come several saws among other tones, and every saw is a verb or a noun by what the clip
began with. Each clip has a twin that differs in its first word alone, so nothing else can tell the two labels apart:
a network that sees one frame at a time is right in exactly half of them, whatever it learns, and one that sees
neighbours is right only as far as they reach. Frames that are no saw have no label, and do not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from framecls.errors import OutputError

SAMPLE_RATE = 16000  # Hz
FRAME_SAMPLES = 640  # of the recipe "saw", whose frames do not overlap
N_FRAMES = 50
FIRST_WORDS = {"verb": 400, "noun": 800}  # Hz of the tone that says "I", and of the one that says "the"
# Frames that a saw lies behind the first word, both ends included; a window of 5 neighbours reaches the first of these.
DISTANCES = ((1, 5), (6, 15), (16, 45))
_OTHER_WORDS = (0, 1200, 1600, 2000, 2400, 3000, 3600)  # Hz; 0 is silence
_SAW_HZ = 200
_N_SAWS = 3
_AMPLITUDE = 0.5  # of every word alike: no level gives anything away


@dataclass(frozen=True)
class Sentence:
    """Where the words of a clip are, in frames."""

    first_word: int
    saws: tuple[int, ...]
    others: tuple[int, ...]  # (frame,) Hz of the tones around them


def write_saw(folder: Path, seed: int = 0, n_train: int = 60, n_dev: int = 40) -> Path:
    """Write clips and their manifest, and return the manifest's path.

    Each row's source says how far its saws are from the word that decides, such as "1-5 frames".

    Args:
        folder: where the clips go; it is made.
        seed: of the random clips.
        n_train: pairs of clips to learn from, of each distance.
        n_dev: pairs of clips to measure on, of each distance.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        return _write_clips(folder, seed, n_train, n_dev)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"{folder}: the clips cannot be written here: {reason}") from error


def _write_clips(folder: Path, seed: int, n_train: int, n_dev: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for split, n_pairs in (("train", n_train), ("dev", n_dev)):
        for nearest, farthest in DISTANCES:
            for number in range(n_pairs):
                sentence = _sample_sentence(rng, nearest, farthest)
                for label, first_word_hz in FIRST_WORDS.items():
                    name = f"{split}-{nearest}-{number}-{label}.wav"
                    soundfile.write(folder / name, speak(sentence, first_word_hz), SAMPLE_RATE, subtype="PCM_16")
                    row = {"label": label, "source": f"{nearest}-{farthest} frames", "split": split}
                    rows += [{"file": name, **span, **row} for span in _spans(sentence)]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def speak(sentence: Sentence, first_word_hz: int) -> NDArray[np.float32]:
    """Return (sample,) a clip of `N_FRAMES` frames."""
    time_s = np.arange(FRAME_SAMPLES) / SAMPLE_RATE
    frames = np.sin(2 * np.pi * np.array(sentence.others)[:, None] * time_s)
    frames[sentence.first_word] = np.sin(2 * np.pi * first_word_hz * time_s)
    frames[list(sentence.saws)] = 2 * (time_s * _SAW_HZ % 1) - 1
    return (_AMPLITUDE * frames).reshape(-1).astype(np.float32)


def _sample_sentence(rng: np.random.Generator, nearest: int, farthest: int) -> Sentence:
    first_word = int(rng.integers(0, N_FRAMES - farthest))
    distances = np.sort(rng.choice(np.arange(nearest, farthest + 1), _N_SAWS, replace=False))
    others = rng.choice(_OTHER_WORDS, N_FRAMES)
    return Sentence(first_word, tuple((first_word + distances).tolist()), tuple(others.tolist()))


def _spans(sentence: Sentence) -> Iterator[dict[str, float]]:
    frame_s = FRAME_SAMPLES / SAMPLE_RATE
    for frame in sentence.saws:
        yield {"start": round(frame * frame_s, 3), "end": round((frame + 1) * frame_s, 3)}
