"""Make singing of speech: vowels lengthened, pitch on the notes of a tune, alone, in a choir, or over music.

Recorded singing that may be shared is scarce, and without any a network takes a sung song for speech. The vocoder WORLD
(pyworld) takes speech apart into pitch and timbre. So that the vocoder itself is not what is learnt, some speech goes
through it as it is, and stays speech.

    pip install pyworld
    python -m framecls.recipes.make_songs sound.jsonl --out DIR --songs 200 --seed 0
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from framecls.inference.segments import clean_runs, find_runs
from framecls.recipes.make_meetings import Clip, read_voices
from framecls.recipes.prepare_sound import RATE, loudness_db, read_all

LENGTH_S = 12.0
FRAME_S = 0.005  # of the vocoder
SCALES = [(0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 3, 5, 7, 9, 10)]
Rng = np.random.Generator
Samples = NDArray[np.float32]
Curve = NDArray[np.float64]


def stretch(rng: Rng, voiced: NDArray[np.bool_], slowness: float) -> NDArray[np.int64]:
    """Return for each output frame the frame it is made of: what is voiced lasts longer, the rest as long as it did."""
    speed = np.where(np.convolve(voiced, np.ones(5) / 5, "same") > 0.5, 1 / (slowness * rng.uniform(0.8, 1.25)), 1.0)
    ends = np.cumsum(1 / speed)
    return np.minimum(np.searchsorted(ends, np.arange(int(ends[-1]))), len(voiced) - 1)


def draw_tune(rng: Rng, n_frames: int, centre_hz: float) -> Curve:
    """Return (frame,) the pitch in Hz of a tune: notes of a scale, gliding into each other, with vibrato."""
    scale = SCALES[rng.integers(len(SCALES))]
    beat_s, key = 60 / rng.uniform(60, 150), rng.uniform(-1, 1)
    vibrato_hz, depth = rng.uniform(4.5, 6.8), rng.choice([0.0, rng.uniform(0.1, 0.9)])
    degree, semitones, growth = int(rng.integers(-3, 4)), np.zeros(n_frames), np.zeros(n_frames)
    at = 0
    while at < n_frames:
        length = max(10, int(rng.choice([0.5, 0.5, 1, 1, 1, 1.5, 2, 3]) * beat_s / FRAME_S))
        octave, step = divmod(degree, len(scale))
        semitones[at : at + length] = key + 12 * octave + scale[step]
        growth[at : at + length] = np.clip((np.arange(length) * FRAME_S - 0.15) / 0.3, 0, 1)[: n_frames - at]
        degree = int(np.clip(degree + rng.choice([-4, -2, -1, -1, 0, 1, 1, 2, 3]), -5, 7))
        at += length
    width = int(rng.uniform(0.03, 0.12) / FRAME_S) | 1
    glide = np.convolve(np.pad(semitones, width // 2, mode="edge"), np.hanning(width + 2)[1:-1], "valid")
    glide /= np.hanning(width + 2)[1:-1].sum()
    time_s = np.arange(n_frames) * FRAME_S
    glide += depth * growth * np.sin(2 * np.pi * vibrato_hz * time_s) + rng.normal(0, 0.04, n_frames)
    return np.asarray(centre_hz * 2 ** (glide / 12))


class Voice:
    """Speech taken apart by WORLD."""

    def __init__(self, samples: Samples) -> None:
        import pyworld

        self._world: Any = pyworld
        wave = samples.astype(np.float64)
        pitch, times = pyworld.dio(wave, RATE, frame_period=FRAME_S * 1000)
        self.pitch_hz: Curve = pyworld.stonemask(wave, pitch, times, RATE)
        self._envelope = pyworld.cheaptrick(wave, self.pitch_hz, times, RATE)
        self._aperiodicity = pyworld.d4c(wave, self.pitch_hz, times, RATE)

    def speak(self) -> Samples:
        """Put it together again as it was."""
        return self._synthesize(self.pitch_hz, np.arange(len(self.pitch_hz)))

    def sing(self, rng: Rng, n_singers: int) -> Samples:
        """Sing it, alone or several at intervals of each other."""
        voiced = self.pitch_hz > 0
        frames = stretch(rng, voiced, rng.uniform(1.2, 3.0))[: int(LENGTH_S / FRAME_S)]
        centre_hz = float(np.median(self.pitch_hz[voiced])) * 2 ** rng.uniform(-0.1, 0.9)
        tune = draw_tune(rng, len(frames), centre_hz)
        total = np.zeros(0, np.float32)
        for singer in range(n_singers):
            shift = 2 ** ((rng.choice([0, 0, -12, 4, 7, 3]) if singer else 0) / 12 + rng.normal(0, 0.006))
            one = self._synthesize(np.where(voiced[frames], tune * shift, 0.0), frames)
            one = np.pad(one, (int(rng.uniform(0, 0.05) * RATE) if singer else 0, 0))
            length = max(len(total), len(one))
            total = np.pad(total, (0, length - len(total))) + np.pad(one, (0, length - len(one)))
        return total

    def _synthesize(self, pitch_hz: Curve, frames: NDArray[np.int64]) -> Samples:
        envelope, aperiodicity = self._envelope[frames], self._aperiodicity[frames]
        wave = self._world.synthesize(pitch_hz, envelope, aperiodicity, RATE, FRAME_S * 1000)
        return np.asarray(wave, np.float32)


def level(samples: Samples, decibels: float) -> Samples:
    """Bring the loud parts of (sample,) to a level."""
    loud_db = float(np.quantile(loudness_db(samples), 0.9))
    return samples * np.float32(10 ** ((decibels - max(loud_db, -80)) / 20))


def say_for(rng: Rng, clips: Sequence[Clip], length_s: float) -> Samples:
    """Return (sample,) clips of one voice, joined until they are long enough."""
    parts: list[Samples] = []
    while sum(map(len, parts)) < length_s * RATE and len(parts) < 12:
        parts.append(read_all(clips[int(rng.integers(len(clips)))].file))
    return np.concatenate(parts)[: int(length_s * RATE)]


def main() -> None:
    """Write songs, and speech that went through the vocoder, and their manifest."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path, help="what prepare_sound wrote; its music accompanies")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--songs", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    voices = read_voices(options.manifest, "train", [])
    by_source: dict[str, list[list[Clip]]] = defaultdict(list)
    for (source, _), clips in voices.items():
        by_source[source].append(clips)
    rows = [json.loads(line) for line in options.manifest.read_text(encoding="utf-8").splitlines()]
    music = sorted({row["file"] for row in rows if row["label"] == "music" and row["split"] == "train"})
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "manifest.jsonl").open("w", encoding="utf-8") as out:
        for number in range(options.songs):
            rng = np.random.default_rng((options.seed, number))
            source = list(by_source)[rng.integers(len(by_source))]
            clips = by_source[source][rng.integers(len(by_source[source]))]
            voice = Voice(say_for(rng, clips, float(rng.uniform(4, 9))))
            if (voice.pitch_hz > 0).sum() < 100:
                continue
            plain = rng.random() < 0.2
            sung = voice.speak() if plain else voice.sing(rng, int(rng.choice([1, 1, 1, 2, 4])))
            wave = level(sung, -26)
            runs = clean_runs(find_runs(loudness_db(wave) > -55), 5, 15 if plain else 40)
            if not plain and music and rng.random() < 0.55:
                played = read_all(options.manifest.parent / music[rng.integers(len(music))])
                first = int(rng.integers(0, max(1, len(played) - len(wave))))
                wave = wave + np.resize(level(played[first : first + len(wave)], rng.uniform(-38, -24)), len(wave))
                runs = [(0, len(wave) * 100 // RATE)]
            wave = wave * np.float32(0.7 / max(1e-6, float(np.abs(wave).max())))
            name = f"{options.seed}-{number:04d}.flac"
            soundfile.write(options.out / name, wave, RATE)
            label = "speech" if plain else "music"
            for first, last in runs:
                row = {"file": name, "start": first / 100, "end": min(last / 100, len(wave) / RATE), "label": label}
                row |= {"speaker": name, "source": "vocoder" if plain else "songs", "split": "train"}
                out.write(json.dumps(row) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
