"""Make music: bands, solos, ensembles, pads and beats from chance and rules, played by fluidsynth.

Recorded music that may be shared is scarce too, and much of it is of one kind. Here every clip has its own key, tempo,
chords, tunes, instruments of General MIDI, sound font and room. What mma's grooves accompany (`--grooves`, the folder
with the .mma files of its library) sounds like pop, jazz and dances. Several sound fonts are better than one.

    python -m framecls.recipes.make_music --out DIR --clips 40 --seed 0 --fonts FluidR3_GM.sf2 TimGM6mb.sf2
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE = 16000
SYNTH_RATE = 44100  # that of most sampled instruments
LENGTH_S = 40.0
TICKS = 480  # of a beat
DRUMS = 9  # the channel of General MIDI that has drums in place of notes
Rng = np.random.Generator

SCALES = [(0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 5, 7, 9, 10),
          (0, 2, 3, 5, 7, 8, 11), (0, 1, 3, 5, 7, 8, 10)]  # fmt: skip
ROOTS: list[tuple[int, ...]] = [
    (0, 4, 5, 3),
    (0, 3, 4, 0),
    (0, 5, 3, 4),
    (5, 3, 0, 4),
    (1, 4, 0, 0),
    (0, 5, 1, 4),
    (0, 6, 5, 4),
    (0, 2, 3, 4),
]
# Programs of General MIDI, counted from 0.
PLUCKED = (*range(0, 16), *range(24, 32), 45, 46, 104, 105, 106, 107, 108)
SUNG = (*range(16, 24), *range(40, 45), *range(52, 55), *range(56, 88), 109, 110, 111)
PADS = (16, 18, 19, 48, 49, 50, 51, 52, 54, *range(88, 104))
BASSES = (*range(32, 40), 43, 58, 70)
ENSEMBLES = [(40, 40, 41, 42), (48, 48, 48, 48), (56, 56, 57, 58), (60, 60, 61, 61), (73, 68, 71, 70), (52, 52, 52, 52),
             (64, 65, 66, 67), (19, 19, 19, 19), (6, 6, 6, 6), (73, 40, 71, 42), (21, 22, 40, 24)]  # fmt: skip


@dataclass(frozen=True)
class Note:
    """One note; times in beats, pitch and loudness 0..127."""

    start: float
    length: float
    channel: int
    pitch: int
    loudness: int


@dataclass
class Piece:
    """What is composed so far: its frame, and the notes."""

    rng: Rng
    beats_a_bar: int
    n_bars: int
    key: int
    scale: tuple[int, ...]
    roots: tuple[int, ...]  # of the chord of each bar, steps of the scale; repeated
    programs: dict[int, int] = field(default_factory=dict)  # of the channels
    notes: list[Note] = field(default_factory=list)

    def pitch(self, step: int, octave: int) -> int:
        """Return the pitch of a step of the scale, which may lie beyond one octave."""
        return int(np.clip(self.key + 12 * octave + 12 * (step // 7) + self.scale[step % 7], 21, 108))

    def add(self, channel: int, start: float, length: float, pitch: int, loudness: float) -> None:
        """Play a note as a person does: not quite in time, not quite as loud."""
        start = max(0.0, start + self.rng.normal(0, 0.012))
        loudness = int(np.clip(loudness + self.rng.normal(0, 6), 20, 127))
        self.notes.append(Note(start, length, channel, pitch, loudness))

    def play(self, channel: int, programs: Sequence[int]) -> int:
        """Give a channel an instrument, one of some."""
        self.programs[channel] = int(self.rng.choice(programs))
        return channel


def draw_frame(rng: Rng, beats_per_s: float) -> Piece:
    """Draw key, metre and chords of a piece that is long enough for a clip."""
    beats_a_bar = int(rng.choice([3, 4, 4, 4, 4, 6]))
    roots = ROOTS[rng.integers(len(ROOTS))]
    if rng.random() < 0.5:  # a second line
        roots += ROOTS[rng.integers(len(ROOTS))]
    if rng.random() < 0.2:
        roots = tuple(int(root) for root in rng.integers(0, 7, 8))
    n_bars = int(LENGTH_S * beats_per_s / beats_a_bar) + 2
    return Piece(rng, beats_a_bar, n_bars, int(rng.integers(0, 12)), SCALES[rng.integers(len(SCALES))], roots)


def add_tune(piece: Piece, channel: int, octave: int, density: float) -> None:
    """A melody: a few rhythms and turns that come again, near the chord on the beat."""
    rng = piece.rng
    phrases = []
    for _ in range(int(rng.integers(2, 5))):
        at, phrase = 0.0, []
        while at < 2 * piece.beats_a_bar:
            length = float(rng.choice([0.25, 0.5, 0.5, 1, 1, 2, 3])) / density
            phrase.append((at, length, int(rng.choice([-2, -1, -1, 0, 1, 1, 2, 3])), rng.random() < 0.12))
            at += length
        phrases.append(phrase)
    legato, step = rng.uniform(0.5, 1.1), int(rng.integers(0, 7))
    for bar in range(0, piece.n_bars, 2):
        root = piece.roots[bar % len(piece.roots)]
        for at, length, turn, is_rest in phrases[int(rng.integers(len(phrases)))]:
            step = int(np.clip(step + turn, -4, 11))
            if at == 0:
                step = root + int(rng.choice([0, 2, 4]))
            if not is_rest:
                start = bar * piece.beats_a_bar + at
                piece.add(channel, start, length * legato, piece.pitch(step, octave), 88)


def add_chords(piece: Piece, channel: int, octave: int) -> None:
    """Chords held, struck in a rhythm, or broken."""
    rng = piece.rng
    steps = [(0, 2, 4), (0, 2, 4, 6), (0, 4, 7), (0, 2, 4, 7)][rng.integers(4)]
    way = rng.choice(["held", "struck", "broken"])
    hits = sorted(set(rng.choice(np.arange(0, piece.beats_a_bar, 0.5), int(rng.integers(2, 5)))) | {0.0})
    order, each = rng.permutation(np.resize(np.arange(len(steps)), 4)), float(rng.choice([0.25, 0.5, 0.5, 1]))
    for bar in range(piece.n_bars):
        start = bar * piece.beats_a_bar
        pitches = [piece.pitch(piece.roots[bar % len(piece.roots)] + step, octave) for step in steps]
        if way == "broken":
            for number, at in enumerate(np.arange(0, piece.beats_a_bar, each)):
                piece.add(channel, start + at, 1.5 * each, pitches[order[number % len(order)]], 75)
            continue
        for at, end in zip(hits, [*hits[1:], piece.beats_a_bar], strict=True) if way == "struck" else [(0, 4)]:
            for pitch in pitches:
                length = piece.beats_a_bar * 0.98 if way == "held" else 0.8 * (end - at)
                piece.add(channel, start + at, length, pitch, 70)


def add_bass(piece: Piece, channel: int) -> None:
    """The root, the fifth and what leads on, in a rhythm of its own."""
    rng = piece.rng
    each = float(rng.choice([0.5, 1, 1, 2, piece.beats_a_bar]))
    line = [int(rng.choice([0, 0, 0, 4, 7, 2])) for _ in np.arange(0, piece.beats_a_bar, each)]
    for bar in range(piece.n_bars):
        for number, step in enumerate(line):
            root = piece.roots[bar % len(piece.roots)] + (step if number else 0)
            piece.add(channel, bar * piece.beats_a_bar + number * each, 0.9 * each, piece.pitch(root, 3), 90)


def add_drums(piece: Piece) -> None:
    """A beat of kick, snare, hats and hand drums, with a fill now and then."""
    rng = piece.rng
    eighths = np.arange(0, piece.beats_a_bar, float(rng.choice([0.25, 0.5, 0.5, 1])))
    lanes: list[tuple[int, Sequence[float], float]] = []
    every_beat = rng.random() < 0.3
    kicks = np.arange(piece.beats_a_bar) if every_beat else np.append(0, rng.choice(eighths, int(rng.integers(1, 4))))
    lanes.append((int(rng.choice([35, 36])), list(kicks), 100))
    lanes.append((int(rng.choice([37, 38, 39, 40])), [1, 3] if piece.beats_a_bar == 4 else [piece.beats_a_bar - 1], 92))
    lanes.append((int(rng.choice([42, 42, 44, 46, 51, 69, 70])), list(eighths), 65))
    if rng.random() < 0.4:
        lanes.append((int(rng.integers(47, 82)), list(rng.choice(eighths, int(rng.integers(1, 4)))), 70))
    lanes = [lane for lane in lanes if rng.random() < 0.85] or lanes[:1]
    for bar in range(piece.n_bars):
        start = bar * piece.beats_a_bar
        if bar % 8 == 7 and rng.random() < 0.6:
            for at in np.arange(0, piece.beats_a_bar, 0.25):
                piece.add(DRUMS, start + at, 0.2, int(rng.choice([38, 41, 43, 45, 47, 50])), 70 + 8 * at)
            continue
        for drum, hits, loudness in lanes:
            for at in hits:
                piece.add(DRUMS, start + at, 0.2, drum, loudness)


def band(piece: Piece) -> None:
    """Drums, bass, chords and mostly a tune."""
    if piece.rng.random() < 0.85:
        add_drums(piece)
    add_bass(piece, piece.play(0, BASSES))
    add_chords(piece, piece.play(1, (*PLUCKED, *PADS)), 4)
    if piece.rng.random() < 0.5:
        add_chords(piece, piece.play(2, PADS), 4)
    if piece.rng.random() < 0.8:
        add_tune(piece, piece.play(3, (*SUNG, *PLUCKED)), 5, 1.0)


def solo(piece: Piece) -> None:
    """One instrument, alone or with itself."""
    add_tune(piece, piece.play(0, (*PLUCKED, *SUNG)), int(piece.rng.integers(4, 6)), piece.rng.uniform(0.7, 2))
    if piece.rng.random() < 0.7:
        piece.programs[1] = piece.programs[0]
        add_chords(piece, 1, 3)


def ensemble(piece: Piece) -> None:
    """Several voices, each with a tune of its own."""
    programs = ENSEMBLES[piece.rng.integers(len(ENSEMBLES))]
    for channel in range(int(piece.rng.integers(2, 5))):
        piece.play(channel, [programs[channel]])
        add_tune(piece, channel, (5, 5, 4, 3)[channel], piece.rng.uniform(0.4, 1.2))


def pads(piece: Piece) -> None:
    """Slow sheets of sound."""
    piece.roots = tuple(np.repeat(piece.roots, int(piece.rng.choice([1, 2, 4]))).tolist())
    for channel in range(int(piece.rng.integers(1, 4))):
        add_chords(piece, piece.play(channel, PADS), int(piece.rng.integers(3, 6)))
    if piece.rng.random() < 0.4:
        add_tune(piece, piece.play(5, (*SUNG, *PLUCKED)), 5, 0.4)


def beat(piece: Piece) -> None:
    """Drums, with little or nothing else."""
    add_drums(piece)
    if piece.rng.random() < 0.7:
        add_bass(piece, piece.play(0, BASSES))
    if piece.rng.random() < 0.5:
        add_chords(piece, piece.play(1, tuple(range(80, 104))), 4)


STYLES: dict[str, Callable[[Piece], None]] = {
    "band": band,
    "solo": solo,
    "ensemble": ensemble,
    "pads": pads,
    "beat": beat,
}


def encode_number(value: int) -> bytes:
    """Write a number as MIDI does: seven bits a byte, all but the last marked."""
    out = [value & 127]
    while value := value >> 7:
        out.append(value & 127 | 128)
    return bytes(reversed(out))


def encode_midi(piece: Piece, beats_per_s: float) -> bytes:
    """Return a piece as a MIDI file of one track."""
    events: list[tuple[int, int, bytes]] = []  # tick, order within it, message
    tempo = round(1e6 / beats_per_s).to_bytes(3, "big")
    events.append((0, 0, b"\xff\x51\x03" + tempo))
    for channel, program in piece.programs.items():
        events.append((0, 1, bytes([0xC0 | channel, program])))
        for control, most in ((1, 60), (7, 127), (91, 100), (93, 80)):  # vibrato, loudness, reverb, chorus
            least = 75 if control == 7 else 0
            events.append((0, 1, bytes([0xB0 | channel, control, int(piece.rng.integers(least, most + 1))])))
    for note in piece.notes:
        first, last = round(note.start * TICKS), round((note.start + note.length) * TICKS)
        events.append((first, 3, bytes([0x90 | note.channel, note.pitch, note.loudness])))
        events.append((max(last, first + 1), 2, bytes([0x80 | note.channel, note.pitch, 0])))
    track, now = b"", 0
    for tick, _, message in sorted(events):
        track += encode_number(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    head = b"MThd" + (6).to_bytes(4, "big") + b"".join(n.to_bytes(2, "big") for n in (0, 1, TICKS))
    return head + b"MTrk" + len(track).to_bytes(4, "big") + track


def compose(style: str, rng: Rng) -> bytes:
    """Return a MIDI file of a style."""
    beats_per_s = rng.uniform(0.8, 1.6) if style == "pads" else rng.uniform(1.1, 3.0)
    piece = draw_frame(rng, beats_per_s)
    STYLES[style](piece)
    return encode_midi(piece, beats_per_s)


def find_grooves(folder: Path) -> list[str]:
    """Return the names of mma's grooves, whatever folder within its library they are in."""
    found = [name for file in sorted(folder.glob("*.mma")) for name in _defined(file)]
    return sorted(set(found))


def _defined(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8", errors="replace")
    names = re.findall(r"^DefGroove\s+(\S+)", text, re.MULTILINE)
    return [name for name in names if not re.search(r"Intro|End|Fill|Metro|None|Tacet", name)]


def accompany(grooves: Sequence[str], rng: Rng, folder: Path) -> bytes:
    """Let mma play random chords in a groove, and perhaps another after it.

    Raises:
        subprocess.CalledProcessError: mma cannot play it.
    """
    chords = ["{}", "{}m", "{}7", "{}m7", "{}maj7", "{}6"]
    names = rng.choice(["C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B"], 4, replace=False)
    used = [str(rng.choice(chords)).format(name) for name in names]
    tempo = int(rng.integers(70, 190))
    lines = [f"Tempo {tempo}"]
    for _ in range(2):
        lines.append(f"Groove {rng.choice(grooves)}")
        lines += [f"{rng.choice(used)}" for _ in range(round(LENGTH_S * tempo / 60 / 3 / 2) + 1)]
    (folder / "song.mma").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["mma", "-f", str(folder / "song.mid"), str(folder / "song.mma")]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "song.mid").read_bytes()


def render(midi: bytes, font: Path, rng: Rng, folder: Path) -> NDArray[np.float32]:
    """Return (sample,) what a MIDI file sounds like, in a room that is drawn, at most `LENGTH_S`, peak 0.5."""
    (folder / "piece.mid").write_bytes(midi)
    room = {"room-size": rng.uniform(0, 1), "damp": rng.uniform(0, 1), "level": rng.uniform(0, 0.9)}
    command = ["fluidsynth", "-q", "-n", "-i", "-g", "0.3", "-r", str(SYNTH_RATE), "-F", str(folder / "piece.wav")]
    for name, value in room.items():
        command += ["-o", f"synth.reverb.{name}={value:.2f}"]
    subprocess.run([*command, str(font), str(folder / "piece.mid")], check=True, capture_output=True)
    samples, rate = soundfile.read(
        folder / "piece.wav", frames=int(LENGTH_S * SYNTH_RATE), dtype="float32", always_2d=True
    )
    music = soxr.resample(samples.mean(axis=1), rate, RATE)
    return np.asarray(music * (0.5 / max(1e-6, float(np.abs(music).max()))), np.float32)


def main() -> None:
    """Write the clips and their manifest."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--fonts", type=Path, nargs="+", required=True, help="sound fonts of General MIDI")
    arguments.add_argument("--grooves", type=Path, help="folder of .mma files; none: no accompaniments by mma")
    arguments.add_argument("--clips", type=int, default=40, help="of each kind")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    grooves = find_grooves(options.grooves) if options.grooves else []
    kinds = [*STYLES, *(["groove"] if grooves else [])]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for index, kind in enumerate(kinds):
            (options.out / kind).mkdir(parents=True, exist_ok=True)
            for number in range(options.clips):
                rng = np.random.default_rng((options.seed, index, number))
                font = options.fonts[int(rng.integers(len(options.fonts)))]
                midi = accompany(grooves, rng, Path(name)) if kind == "groove" else compose(kind, rng)
                music = render(midi, font, rng, Path(name))
                file = f"{kind}/{number:03d}.flac"
                soundfile.write(options.out / file, music, RATE)
                row = {"file": file, "seconds": round(len(music) / RATE, 2), "kind": "music", "licence": "MIT"}
                rows.append(row | {"source": f"made-{kind}"})
    (options.out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
