"""Make songs of recorded speech: sung music that may be shared is scarce, and networks take it for speech.

The vocoder WORLD (Morise et al. 2016) takes a voice apart; its vowels are held for notes of a tune, with vibrato and
glides between them, and put together again: alone, as a choir, and over a band in the same key (make_music) or over
recorded music. All of it is music; nobody talks. So that nobody learns the vocoder in place of the song, the same
voices talk through it, too.

    pip install pyworld 'setuptools<81'
    python -m framecls.recipes.make_songs sound.jsonl --out DIR --songs 100 --fonts FluidR3_GM.sf2 [--backing CORPUS]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from framecls.inference.segments import clean_runs, find_runs
from framecls.recipes.make_meetings import Clip, read_voices
from framecls.recipes.make_music import (
    LENGTH_S,
    PADS,
    PLUCKED,
    RATE,
    Piece,
    add_bass,
    add_chords,
    add_drums,
    draw_frame,
    encode_midi,
    render,
)
from framecls.recipes.prepare_sound import read_all

FRAME_S = 0.005  # of the vocoder
SYLLABLE_FRAMES = 40  # longer runs of voice are cut near here, where they are softest
LONGEST_GAP = 50  # frames of what is not voiced between two notes
CHOIR_CHANCE = 0.2
Rng = np.random.Generator
Samples = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Voice:
    """What the vocoder found in speech."""

    pitch_hz: NDArray[np.float64]  # (frame,) 0 where there is no voice
    spectrum: NDArray[np.float64]  # (frame, bin) power
    aperiodicity: NDArray[np.float64]  # (frame, bin)
    syllables: list[tuple[int, int]]  # frames [first, last)


def analyse(samples: Samples) -> Voice:
    """Take (sample,) speech apart."""
    import pyworld

    wide = samples.astype(np.float64)
    rough, times = pyworld.dio(wide, RATE, f0_floor=65, f0_ceil=500, frame_period=FRAME_S * 1000)
    pitch_hz = pyworld.stonemask(wide, rough, times, RATE)
    spectrum = pyworld.cheaptrick(wide, pitch_hz, times, RATE)
    energy = np.convolve(np.log(spectrum.sum(axis=1) + 1e-12), np.ones(7) / 7, mode="same")
    syllables = []
    for first, last in clean_runs(find_runs(pitch_hz > 0), 8, 3):
        while last - first > 1.5 * SYLLABLE_FRAMES:
            near = slice(first + SYLLABLE_FRAMES // 2, first + 3 * SYLLABLE_FRAMES // 2)
            cut = near.start + int(energy[near].argmin())
            syllables.append((first, cut))
            first = cut
        syllables.append((first, last))
    return Voice(pitch_hz, spectrum, pyworld.d4c(wide, pitch_hz, times, RATE), syllables)


def draw_tune(voice: Voice, piece: Piece, beat_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lay syllables on notes; return (frame,) the frame of the speech at each frame of the song, and its pitch.

    Pitches are those of MIDI, not a number where nothing is voiced.
    """
    rng, own = piece.rng, float(np.median(voice.pitch_hz[voice.pitch_hz > 0]))
    usual = 69 + 12 * np.log2(own * rng.uniform(1.0, 1.7) / 440)
    octave = round((usual - piece.key - 5) / 12)
    step, at, places, pitches = 0, 0.0, [], []
    spread = rng.choice([1, 2, 3])
    for number, (first, last) in enumerate(voice.syllables):
        if at >= LENGTH_S:
            break
        before = voice.syllables[number - 1][1] if number else max(0, first - 10)
        gap = np.arange(max(before, first - LONGEST_GAP), first)
        beats = float(rng.choice([0.5, 0.5, 1, 1, 1, 1.5, 2, 4]))
        n_frames = max(last - first, 12, round(beats * beat_s / FRAME_S) - len(gap))
        edge = min(6, (last - first) // 4)  # attack and release keep their lengths
        held = np.linspace(first + edge, last - 1 - edge, n_frames - 2 * edge)
        places += [gap, np.arange(first, first + edge), held, np.arange(last - edge, last)]
        step = int(np.clip(step + rng.integers(-spread, spread + 1), -4, 8))
        if rng.random() < 0.3:
            step = piece.roots[int(at / beat_s / piece.beats_a_bar) % len(piece.roots)] + int(rng.choice([0, 2, 4]))
        note = piece.pitch(step % 7 if step > 8 else step, octave)
        pitches += [np.full(len(gap), np.nan), np.full(n_frames, float(note))]
        at += (len(gap) + n_frames) * FRAME_S
    return np.concatenate(places), np.concatenate(pitches)


def bend(notes: NDArray[np.float64], rng: Rng) -> NDArray[np.float64]:
    """Return (frame,) pitches that glide from note to note, tremble where a note is held, and drift."""
    known = np.flatnonzero(np.isfinite(notes))
    filled = np.interp(np.arange(len(notes)), known, notes[known])
    glide = int(rng.integers(4, 24))
    smooth = np.convolve(np.pad(filled, glide, mode="edge"), np.ones(glide) / glide, mode="same")[glide:-glide]
    held, since = np.abs(np.gradient(smooth)) < 1e-6, np.zeros(len(notes))
    for frame in range(1, len(notes)):
        since[frame] = (since[frame - 1] + 1) * held[frame]
    depth = rng.choice([0.0, rng.uniform(0.1, 0.9)]) * np.clip(since * FRAME_S / rng.uniform(0.1, 0.5), 0, 1)
    vibrato = depth * np.sin(2 * np.pi * np.cumsum(np.full(len(notes), rng.uniform(4.5, 7.0) * FRAME_S)))
    return np.asarray(smooth + vibrato + wander(rng, len(notes), 0.12))


def wander(rng: Rng, n_frames: int, spread: float) -> NDArray[np.float64]:
    """Return (frame,) numbers around zero that change slowly."""
    knots = np.arange(0, n_frames + 80, 80)
    return np.interp(np.arange(n_frames), knots, rng.normal(0, spread, len(knots)))


def sing(voice: Voice, places: NDArray[np.float64], notes: NDArray[np.float64], rng: Rng) -> Samples:
    """Return (sample,) a voice that sings a tune."""
    pitch_hz = np.where(np.isfinite(notes), 440 * 2 ** ((bend(notes, rng) - 69) / 12), 0.0)
    return put_together(voice, places, pitch_hz, rng)


def talk(voice: Voice, rng: Rng) -> Samples:
    """Return (sample,) what was said, at another pitch and tempo."""
    n_frames = len(voice.pitch_hz)
    places = np.linspace(0, n_frames - 1, int(n_frames * rng.uniform(0.8, 1.3)))
    return put_together(voice, places, voice.pitch_hz[np.round(places).astype(int)] * rng.uniform(0.8, 1.3), rng)


def put_together(voice: Voice, places: NDArray[np.float64], pitch_hz: NDArray[np.float64], rng: Rng) -> Samples:
    """Return (sample,) frames of a voice in another order and at other pitches, its formants moved a little."""
    import pyworld

    index = np.clip(np.round(places), 0, len(voice.pitch_hz) - 1).astype(int)
    spectrum, aperiodicity = voice.spectrum[index], voice.aperiodicity[index] ** rng.uniform(1.0, 2.0)
    n_bins, scale = spectrum.shape[1], rng.uniform(0.88, 1.14)
    warped = np.clip(np.arange(n_bins) * scale, 0, n_bins - 1).astype(int)
    spectrum = spectrum[:, warped] * np.exp(wander(rng, len(index), 0.5))[:, None]
    aperiodicity = np.clip(aperiodicity[:, warped], 1e-6, 1 - 1e-6)
    given = map(np.ascontiguousarray, (pitch_hz, spectrum, aperiodicity))
    samples = pyworld.synthesize(*given, RATE, FRAME_S * 1000)
    return np.asarray(samples[: int(LENGTH_S * RATE)], np.float32)


def sing_together(voice: Voice, places: NDArray[np.float64], notes: NDArray[np.float64], rng: Rng) -> Samples:
    """Return (sample,) a choir: the voice many times, not quite alike, in one part or two."""
    total = np.zeros(int((LENGTH_S + 1) * RATE), np.float32)
    part = float(rng.choice([0, 0, -12, -5, 7, 12]))
    for number in range(int(rng.integers(3, 8))):
        own = sing(voice, places, notes + rng.normal(0, 0.12) + part * (number % 2), rng)
        start = int(rng.uniform(0, 0.06) * RATE)
        total[start : start + len(own)] += own
    return total[: int(LENGTH_S * RATE)]


def speak(clips: Sequence[Clip], rng: Rng) -> Samples:
    """Return (sample,) what one voice says in some of its clips, half a song long."""
    parts: list[Samples] = []
    for index in rng.permutation(len(clips)):
        samples = read_all(clips[int(index)].file)
        parts += [samples[int(first * RATE) : int(last * RATE)] for first, last in sorted(clips[int(index)].spans)]
        if sum(map(len, parts)) > LENGTH_S / 2 * RATE:
            break
    return np.concatenate(parts)[: int(LENGTH_S / 2 * RATE)]


def accompany(piece: Piece, beat_s: float, fonts: Sequence[Path], folder: Path) -> Samples:
    """Return (sample,) a band that plays the chords of a piece, its tune left to the voice."""
    rng = piece.rng
    if rng.random() < 0.7:
        add_drums(piece)
        add_bass(piece, piece.play(0, tuple(range(32, 40))))
    add_chords(piece, piece.play(1, (*PLUCKED, *PADS)), 4)
    if rng.random() < 0.4:
        add_chords(piece, piece.play(2, PADS), 4)
    return render(encode_midi(piece, 1 / beat_s), fonts[int(rng.integers(len(fonts)))], rng, folder)


def level(samples: Samples) -> Samples:
    """Return (sample,) the same at unit power where it is loud."""
    loud = samples[np.abs(samples) > 0.1 * np.abs(samples).max(initial=1e-9)]
    return samples / np.float32(max(1e-6, float(np.sqrt(np.square(loud).mean())) if len(loud) else 1.0))


def read_backing(corpus: Path | None) -> list[Path]:
    """Return the clips of music that a manifest of `gather_sounds` lists."""
    rows = map(json.loads, corpus.read_text(encoding="utf-8").splitlines()) if corpus else ()
    return [corpus.parent / row["file"] for row in rows if corpus and row["kind"] == "music"]


def main() -> None:
    """Write the songs, each voice alone, accompanied and talking, and their manifest."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path, help="what prepare_sound wrote: whose voices sing")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--fonts", type=Path, nargs="+", required=True, help="sound fonts of General MIDI")
    arguments.add_argument("--backing", type=Path, help="manifest with recorded music, for half of the songs")
    arguments.add_argument("--songs", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    by_source: dict[str, list[list[Clip]]] = {}
    for (source, _), clips in read_voices(options.manifest, "train", []).items():
        if sum(end - start for clip in clips for start, end in clip.spans) > 8:
            by_source.setdefault(source, []).append(clips)
    backing = read_backing(options.backing)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "manifest.jsonl").open("w", encoding="utf-8") as out, tempfile.TemporaryDirectory() as folder:
        for number in range(options.songs):
            rng = np.random.default_rng((options.seed, number))
            voices = list(by_source.values())[int(rng.integers(len(by_source)))]
            voice = analyse(speak(voices[int(rng.integers(len(voices)))], rng))
            beat_s = float(rng.uniform(0.35, 0.8))
            piece = draw_frame(rng, 1 / beat_s)
            places, notes = draw_tune(voice, piece, beat_s)
            sung = level((sing_together if rng.random() < CHOIR_CHANCE else sing)(voice, places, notes, rng))
            if backing and rng.random() < 0.5:
                band = read_all(backing[int(rng.integers(len(backing)))])
            else:
                band = accompany(piece, beat_s, options.fonts, Path(folder))
            song = sung * np.float32(10 ** (rng.uniform(-8, 8) / 20)) + np.resize(level(band), len(sung))
            for kind, samples in (("singing", sung), ("songs", song), ("talk", talk(voice, rng))):
                name = f"{kind}-{options.seed}-{number:04d}.flac"
                soundfile.write(options.out / name, 0.5 * samples / max(1e-6, float(np.abs(samples).max())), RATE)
                row: dict[str, Any] = {"file": name, "seconds": round(len(samples) / RATE, 2)}
                row["kind"] = "speech" if kind == "talk" else "music"
                out.write(json.dumps(row | {"licence": "of the voices", "source": f"made-{kind}"}) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
