"""Speak text with the free synthesisers of Debian: fewer voices than espeak-ng's, but recorded from people.

    python -m framecls.recipes.speak_voices lines.jsonl --out DIR --minutes 6 --seed 0

`lines.jsonl` is what `speak_corpus` reads. Every voice that is installed speaks `minutes` of its language into
DIR/voices/SYSTEM-VOICE/NNNN.flac, 16 kHz mono; a row a clip is added to DIR/voices.jsonl as soon as the clip is there,
voice by voice in turns, and the same command goes on where a stopped run left off. Programs and voices that are not
there are named on standard error.

Packages: festival and the festvox-* of VOICES, flite, open-jtalk with open-jtalk-mecab-naist-jdic and hts-voice-*
(contrib; the voice "mei" is a file of the PyPI package pyopenjtalk), and from non-free, whose voices below are free all
the same, rhvoice with rhvoice-* and libttspico-utils. Other RHVoice voices may not be used or changed freely: they are
not in the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import soundfile

from framecls.errors import FrameclsError
from framecls.recipes.prepare_language import read_rows
from framecls.recipes.speak_corpus import (
    MISREAD_LANGUAGES,
    SAMPLE_RATE_HZ,
    Clip,
    Line,
    plan_clips,
    read_lines,
    read_spoken,
)

PHONES_PER_SECOND = (5.0, 25.0)
_SLOWEST, _FASTEST = 0.9, 1.15
_QUIETEST_RMS = 0.005
_SHORTEST_S, _LONGEST_S = 3.0, 12.0
_LINES_PER_MINUTE = 40  # voices of one language draw from the same lines
_SPARE = 2.0  # times as many clips are planned as should be needed: some do not fit, and some voices speak fast
_TIMEOUT_S = 60.0

# How these are read depends on words that espeak-ng and the voices choose differently.
_NO_PHONES = MISREAD_LANGUAGES | {"zh", "ja"}
_PLAIN = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "–": ",", "—": ",",
                        "…": "."})  # fmt: skip

_JAPANESE_DICTIONARY = Path("/var/lib/mecab/dic/open-jtalk/naist-jdic")
_JAPANESE_VOICES = Path("/usr/share/hts-voice")
_RHVOICE_VOICES = Path("/usr/share/RHVoice/voices")
_FESTIVAL_VOICES = Path("/usr/share/festival/voices")


@dataclass(frozen=True)
class Voice:
    """One voice of one synthesiser."""

    system: str  # rhvoice, festival, flite, pico or openjtalk
    name: str  # as the synthesiser calls it
    lang: str
    licence: str
    encoding: str = "utf-8"  # of the text that the synthesiser reads

    @property
    def speaker(self) -> str:
        return f"{self.system}-{self.name}"


def _voices(system: str, lang: str, licence: str, names: str, encoding: str = "utf-8") -> list[Voice]:
    return [Voice(system, name, lang, licence, encoding) for name in names.split()]


VOICES: tuple[Voice, ...] = (
    *_voices("rhvoice", "ru", "LGPL 2.1+", "aleksandr anna elena irina"),
    *_voices("rhvoice", "uk", "LGPL 2.1+", "anatol natalia"),
    *_voices("rhvoice", "ky", "LGPL 2.1+", "azamat nazgul"),
    *_voices("rhvoice", "eo", "LGPL 2.1+", "spomenka"),
    *_voices("rhvoice", "en", "LGPL 2.1+", "alan bdl clb slt"),
    *_voices("rhvoice", "pt", "CC BY-SA 4.0", "Leticia-F123"),
    *_voices("festival", "cs", "GPL 3+", "czech_dita czech_krb czech_machac", "iso-8859-2"),
    *_voices("festival", "cs", "GPL 2+", "czech_ph", "iso-8859-2"),
    *_voices("festival", "fi", "LGPL 2+", "hy_fi_mv_diphone suo_fi_lj_diphone", "iso-8859-15"),
    *_voices("festival", "it", "GPL 2+", "lp_diphone pc_diphone", "iso-8859-15"),
    *_voices("festival", "ca", "LGPL 2.1+", "upc_ca_ona_hts", "iso-8859-15"),
    *_voices("festival", "ru", "BSD-like", "msu_ru_nsh_clunits"),
    *_voices("festival", "hi", "GPL 2+", "hindi_NSK_diphone"),
    *_voices("festival", "mr", "GPL 2+", "marathi_NSK_diphone"),
    *_voices("festival", "te", "GPL 2+", "telugu_NSK_diphone"),
    *_voices("festival", "en", "BSD-like", "ked_diphone", "iso-8859-15"),
    *_voices("flite", "en", "BSD-like", "awb kal16 rms"),
    *_voices("pico", "en", "Apache 2.0", "en-GB en-US"),
    *_voices("pico", "de", "Apache 2.0", "de-DE"),
    *_voices("pico", "es", "Apache 2.0", "es-ES"),
    *_voices("pico", "fr", "Apache 2.0", "fr-FR"),
    *_voices("pico", "it", "Apache 2.0", "it-IT"),
    *_voices("openjtalk", "ja", "CC BY 3.0", "mei_normal nitech_jp_atr503_m001"),
)


def _rhvoice(voice: Voice, text: str, speed: float, wav: Path) -> tuple[list[str], str]:
    return ["RHVoice-test", "-p", voice.name, "-r", f"{100 * speed:.0f}", "-o", str(wav)], text


def _festival(voice: Voice, text: str, speed: float, wav: Path) -> tuple[list[str], str]:
    scheme = f"(begin (voice_{voice.name}) (Parameter.set 'Duration_Stretch {1 / speed:.3f}))"
    return ["text2wave", "-o", str(wav), "-eval", scheme], text


def _flite(voice: Voice, text: str, speed: float, wav: Path) -> tuple[list[str], str]:
    stretch = f"duration_stretch={1 / speed:.3f}"
    return ["flite", "-voice", voice.name, "--setf", stretch, "-t", text, "-o", str(wav)], ""


def _pico(voice: Voice, text: str, speed: float, wav: Path) -> tuple[list[str], str]:
    marked = f"<speed level='{100 * speed:.0f}'>{escape(text)}</speed>"
    return ["pico2wave", "-l", voice.name, "-w", str(wav), marked], ""


def _openjtalk(voice: Voice, text: str, speed: float, wav: Path) -> tuple[list[str], str]:
    model = next(iter(_JAPANESE_VOICES.glob(f"*/{voice.name}.htsvoice")), Path(voice.name))
    manner = ["-m", str(model), "-r", f"{speed:.3f}", "-ow", str(wav)]
    return ["open_jtalk", "-x", str(_JAPANESE_DICTIONARY), *manner], text


_SYSTEMS: dict[str, Callable[[Voice, str, float, Path], tuple[list[str], str]]] = {
    "rhvoice": _rhvoice,
    "festival": _festival,
    "flite": _flite,
    "pico": _pico,
    "openjtalk": _openjtalk,
}
_PROGRAMS = {
    "rhvoice": "RHVoice-test", "festival": "text2wave", "flite": "flite", "pico": "pico2wave",
    "openjtalk": "open_jtalk",
}  # fmt: skip


def is_installed(voice: Voice) -> bool:
    """Tell whether the program and the data of a voice are there."""
    if shutil.which(_PROGRAMS[voice.system]) is None:
        return False
    match voice.system:
        case "rhvoice":
            return (_RHVOICE_VOICES / voice.name).is_dir()
        case "festival":
            return any(_FESTIVAL_VOICES.glob(f"*/{voice.name}"))
        case "openjtalk":
            return _JAPANESE_DICTIONARY.is_dir() and any(_JAPANESE_VOICES.glob(f"*/{voice.name}.htsvoice"))
    return True


def speakable(voice: Voice, lines: Iterable[Line]) -> list[Line]:
    """Keep the lines that the voice can read, in plain punctuation: no digits, and nothing outside its encoding."""
    kept: list[Line] = []
    for line in lines:
        text = line.text.translate(_PLAIN)
        if any(letter.isdigit() for letter in text):
            continue
        try:
            text.encode(voice.encoding)
        except UnicodeEncodeError:
            continue
        kept.append(Line(text, line.phones))
    return kept


def plan_voice(voice: Voice, lines: Sequence[Line], seconds: float, seed: int) -> list[Clip]:
    """Plan more clips than `seconds` need, named after the voice. The same seed gives the same plan."""
    fitting = speakable(voice, lines)
    if not fitting:
        return []
    clips = plan_clips(voice.lang, fitting, _SPARE * seconds, zlib.crc32(f"{seed}:{voice.speaker}".encode()))
    named = (f"voices/{voice.speaker}/{number:04d}.flac" for number in range(len(clips)))
    return [dataclasses.replace(clip, file=file) for clip, file in zip(clips, named, strict=True)]


def speed_of(clip: Clip) -> float:
    """Map the planned speed in words a minute to 0.9 to 1.15 times the voice's own."""
    return float(np.interp(clip.speed_wpm, (130, 190), (_SLOWEST, _FASTEST)))


def speak_clip(voice: Voice, clip: Clip, out: Path) -> dict[str, Any] | None:
    """Write one clip and return its manifest row, or None where the voice did not say the text well.

    Raises:
        FrameclsError: the program of the voice is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "clip.wav"
        command, fed = _SYSTEMS[voice.system](voice, clip.text, speed_of(clip), wav)
        try:
            subprocess.run(command, input=fed.encode(voice.encoding), capture_output=True, timeout=_TIMEOUT_S)
        except FileNotFoundError:
            raise FrameclsError(f"{command[0]} is not installed: install it to speak with {voice.speaker}") from None
        except subprocess.TimeoutExpired:
            return None
        if not wav.exists() or wav.stat().st_size <= 44:
            return None
        speech = read_spoken(wav.read_bytes())
    seconds = len(speech) / SAMPLE_RATE_HZ
    slowest, fastest = PHONES_PER_SECOND
    if not _SHORTEST_S <= seconds <= _LONGEST_S or not slowest <= len(clip.phones) / seconds <= fastest:
        return None
    if float(np.sqrt(np.mean(speech**2))) < _QUIETEST_RMS:
        return None
    path = out / clip.file
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return _row(voice, clip, seconds)


def _row(voice: Voice, clip: Clip, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "file": clip.file,
        "seconds": round(seconds, 3),
        "kind": "speech",
        "lang": voice.lang,
        "speaker": voice.speaker,
        "source": f"{voice.system}-synthetic",
        "licence": voice.licence,
        "text": clip.text,
    }
    return row if voice.lang in _NO_PHONES else row | {"phones": " ".join(clip.phones)}


def write_corpus(
    voices: Sequence[Voice], lines: Mapping[str, Sequence[Line]], out: Path, minutes: float, seed: int
) -> int:
    """Speak `minutes` with every voice under `out`, and return the number of new clips.

    Raises:
        FrameclsError: the program of a voice is not installed.
    """
    manifest = out / "voices.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(manifest) if manifest.exists() else []
    spoken_s = {voice: sum(row["seconds"] for row in rows if row["speaker"] == voice.speaker) for voice in voices}
    there = {row["file"] for row in rows}
    plans = {voice: plan_voice(voice, lines.get(voice.lang, ()), 60 * minutes, seed) for voice in voices}
    written = 0
    with manifest.open("a", encoding="utf-8") as added:
        for turn in range(max(map(len, plans.values()), default=0)):
            for voice, plan in plans.items():
                if turn >= len(plan) or plan[turn].file in there or spoken_s[voice] >= 60 * minutes:
                    continue
                if row := speak_clip(voice, plan[turn], out):
                    added.write(json.dumps(row, ensure_ascii=False) + "\n")
                    added.flush()
                    spoken_s[voice] += row["seconds"]
                    written += 1
    return written


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help='JSON lines: {"lang": "de", "text": "Guten Morgen."}')
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and voices.jsonl")
    parser.add_argument("--minutes", type=float, default=6.0, help="speech of each voice (default 6)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    voices = [voice for voice in VOICES if is_installed(voice)]
    missing = [voice.speaker for voice in VOICES if voice not in voices]
    if missing:
        sys.stderr.write(f"not installed: {', '.join(missing)}\n")
    langs = {voice.lang for voice in voices}
    rows = [row for row in read_rows(options.lines) if row.get("lang") in langs]
    lines = read_lines(rows, max(1, round(_LINES_PER_MINUTE * options.minutes)), options.seed)
    write_corpus(voices, lines, options.out, options.minutes, options.seed)


if __name__ == "__main__":
    main()
