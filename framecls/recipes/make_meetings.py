"""Make meetings far from the microphone: several people in one room, to learn and measure `sound` on.

Rooms are shoeboxes by pyroomacoustics, whose late reverberation goes on as noise that decays alike; people sit 1 to 6 m
from the microphone and take turns, leave pauses, and talk over each other; the microphone has noise of its own. Speech
is where the dry voices are, not where the room rings on.

    pip install pyroomacoustics
    python -m framecls.recipes.make_meetings sound.jsonl --out DIR --meetings 400 --seed 0
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from framecls.inference.segments import clean_runs, find_runs
from framecls.recipes.prepare_sound import RATE, read_all
from framecls.training.examples.augment import coloured_noise

LENGTH_S = 30.0
SPEED_OF_SOUND = 343.0  # m/s
MOST_REFLECTIONS = 25
BRIDGE_S = 0.25  # a shorter pause of all voices is part of the speech around it
Rng = np.random.Generator
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """A recording of one voice, and the spans in seconds where it speaks."""

    file: Path
    spans: list[tuple[float, float]] = field(default_factory=list)


def read_voices(manifest: Path, split: str, sources: Sequence[str]) -> dict[tuple[str, str], list[Clip]]:
    """Return the clips of each voice, by source and speaker, of one side of what prepare_sound wrote."""
    clips: dict[tuple[str, str, str], Clip] = {}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["label"] == "speech" and row["split"] == split and (not sources or row["source"] in sources):
            clip = clips.setdefault((row["source"], row["speaker"], row["file"]), Clip(manifest.parent / row["file"]))
            clip.spans.append((row["start"], row["end"]))
    voices: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    for (source, speaker, _), clip in clips.items():
        voices[source, speaker].append(clip)
    return dict(voices)


def draw_room(
    rng: Rng, n_people: int, reverb_s: tuple[float, float] = (0.3, 1.2), distance_m: tuple[float, float] = (1.0, 6.0)
) -> list[Samples]:
    """Draw a room, and return the impulse response from each person to the microphone, from the direct sound on.

    Args:
        rng: what draws.
        n_people: who are in it.
        reverb_s: least and most time in which its sound falls by 60 dB.
        distance_m: least and most of a person from the microphone.
    """
    import pyroomacoustics as pra

    size_m = rng.uniform([3.0, 3.0, 2.4], [10.0, 8.0, 3.8])
    decay_s = float(rng.uniform(*reverb_s))
    while True:
        try:
            absorption, _ = pra.inverse_sabine(decay_s, size_m)
            break
        except ValueError:  # no wall absorbs so much in a room of this size
            decay_s *= 1.15
    room = pra.ShoeBox(size_m, fs=RATE, materials=pra.Material(absorption), max_order=MOST_REFLECTIONS)
    microphone = np.append(rng.uniform(0.5, size_m[:2] - 0.5), rng.uniform(0.6, 1.6))
    room.add_microphone(microphone)
    for _ in range(n_people):
        while True:
            person = np.append(rng.uniform(0.4, size_m[:2] - 0.4), rng.uniform(1.0, 1.8))
            if distance_m[0] <= np.linalg.norm(person - microphone) <= distance_m[1]:
                break
        room.add_source(person)
    room.compute_rir()
    complete_s = MOST_REFLECTIONS * float(size_m.min()) / SPEED_OF_SOUND  # until here no reflection is missing
    responses = []
    for place, response in zip(room.sources, room.rir[0], strict=True):
        direct_s = float(np.linalg.norm(np.asarray(place.position) - microphone)) / SPEED_OF_SOUND
        first = round(direct_s * RATE) + pra.constants.get("frac_delay_length") // 2
        responses.append(ring_on(np.asarray(response[max(0, first - 8) :]), complete_s - direct_s, decay_s, rng))
    return responses


def ring_on(response: NDArray[np.float64], from_s: float, reverb_s: float, rng: Rng) -> Samples:
    """Return (sample,) a response that goes on from a time as noise, which falls by 60 dB in `reverb_s`."""
    at = min(len(response), max(400, int(from_s * RATE)))
    before = float(np.sqrt(np.square(response[at - 320 : at]).mean()))
    tail = rng.standard_normal(int(reverb_s * RATE)) * before
    tail *= 10 ** (-3 * np.arange(len(tail)) / RATE / reverb_s)
    return np.concatenate([response[:at], tail]).astype(np.float32)


def draw_turns(rng: Rng, voices: Sequence[Sequence[Clip]]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Let voices take turns; return (voice, sample) what each says, dry, and (sample,) where anybody does."""
    n_samples = int(LENGTH_S * RATE)
    said, active = np.zeros((len(voices), n_samples), np.float32), np.zeros(n_samples, bool)
    loudness_db = rng.uniform(-4, 4, len(voices))
    at = int(rng.uniform(0, 2) * RATE)
    who = 0
    while at < n_samples:
        who = int(rng.integers(len(voices))) if rng.random() < 0.7 else who
        clip = voices[who][int(rng.integers(len(voices[who])))]
        samples, spans = read_all(clip.file), sorted(clip.spans)
        first_s = spans[rng.integers(len(spans))][0]
        last_s = max(end for start, end in spans if start < first_s + 8)
        holds = np.zeros(len(samples), bool)
        for start, end in spans:
            holds[int(start * RATE) : int(end * RATE)] = True
        piece = slice(max(0, int((first_s - 0.1) * RATE)), int((last_s + 0.1) * RATE))
        samples, holds = samples[piece][: n_samples - at], holds[piece][: n_samples - at]
        power = float(np.square(samples[holds]).mean()) if holds.any() else 1.0
        said[who, at : at + len(samples)] += samples * np.float32(
            10 ** ((loudness_db[who] - 30) / 20) / max(power**0.5, 1e-4)
        )
        active[at : at + len(samples)] |= holds
        kind = rng.random()
        pause_s = rng.exponential(0.5) if kind < 0.6 else -rng.uniform(0, 1.0) if kind < 0.8 else rng.uniform(1, 6)
        at = max(0, at + len(samples) + int(pause_s * RATE))
    return said, active


def microphone_noise(rng: Rng, n_samples: int) -> Samples:
    """Draw (sample,) hiss, and in some hum, of unit power."""
    noise = coloured_noise(rng, n_samples)
    if rng.random() < 0.3:
        mains_hz, time_s = float(rng.choice([50.0, 60.0])), np.arange(n_samples) / RATE
        for harmonic in range(1, 8):
            hum = np.sin(2 * np.pi * (mains_hz * harmonic * time_s + rng.random()))
            noise = noise + (rng.uniform(0, 0.6) / harmonic * hum).astype(np.float32)
    return np.asarray(noise / max(1e-6, float(noise.std())), np.float32)


def make_meeting(
    rng: Rng, voices: dict[tuple[str, str], list[Clip]], snr_db: tuple[float, float] = (6.0, 40.0)
) -> tuple[Samples, list[tuple[float, float]]]:
    """Return (sample,) a meeting, peak 0.7, and the spans in seconds where anybody speaks.

    Args:
        rng: what draws.
        voices: clips of each, by source and speaker.
        snr_db: least and most power of the speech over the microphone's own noise.
    """
    by_source: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in voices:
        by_source[key[0]].append(key)
    sources = list(by_source)
    chosen = []
    for _ in range(int(rng.integers(1, 6))):
        of_source = by_source[sources[rng.integers(len(sources))]]
        chosen.append(voices[of_source[rng.integers(len(of_source))]])
    said, active = draw_turns(rng, chosen)
    heard = np.zeros(said.shape[1], np.float32)
    for dry, response in zip(said, draw_room(rng, len(chosen)), strict=True):
        heard += fftconvolve(dry, response)[: len(heard)].astype(np.float32)
    power = float(np.square(heard[active]).mean()) if active.any() else 1.0
    heard += microphone_noise(rng, len(heard)) * np.float32((power * 10 ** (-rng.uniform(*snr_db) / 10)) ** 0.5)
    runs = clean_runs(find_runs(active), 1, int(BRIDGE_S * RATE))
    spans = [(round(first / RATE, 3), round(last / RATE, 3)) for first, last in runs]
    return heard * np.float32(0.7 / max(1e-6, float(np.abs(heard).max()))), spans


def main() -> None:
    """Write the meetings and their manifest, of the form that prepare_sound writes."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path, help="what prepare_sound wrote")
    arguments.add_argument("--split", choices=("train", "dev"), default="train", help="whose voices to hear")
    arguments.add_argument("--sources", nargs="*", default=[], help="of the voices; none: all")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--meetings", type=int, default=400, help="of half a minute each")
    # Noise that can be heard is no speech: recordings that `sound` learns speech from have little of it.
    arguments.add_argument("--snr", type=float, nargs=2, default=(6.0, 40.0), help="dB over the microphone's noise")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    voices = read_voices(options.manifest, options.split, options.sources)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "manifest.jsonl").open("w", encoding="utf-8") as out:
        for number in range(options.meetings):
            samples, spans = make_meeting(np.random.default_rng((options.seed, number)), voices, options.snr)
            name = f"{options.seed}-{number:04d}.flac"
            soundfile.write(options.out / name, samples, RATE)
            for start, end in spans:
                row = {"file": name, "start": start, "end": end, "label": "speech", "speaker": name}
                out.write(json.dumps(row | {"source": f"meetings-{options.seed}", "split": options.split}) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
