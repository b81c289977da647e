"""Speak text with espeak-ng and keep the time of every phone: what a phone head learns from fastest.

CTC has to find out by itself which stretch of sound is which phone, and from scratch that takes tens of hours of audio;
frames with known phones teach the same in one. espeak-ng tells, through its library, when each phone begins.

    python -m framecls.recipes.speak_aligned SYNTHETIC/manifest.jsonl --out DIR --clips 60 --seed 0

reads the rows that `speak_corpus` wrote and speaks their texts anew, with other voices, speeds and pitches of the same
set, into DIR/aligned/LANG/NNNN.flac. Rows of DIR/manifest.jsonl have `alignment`: a list of [phone, end in seconds],
"" for a pause.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from framecls.errors import FrameclsError
from framecls.recipes.phones import phone_symbols, spell_out
from framecls.recipes.speak_corpus import SAMPLE_RATE_HZ, VARIANTS

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS of espeak-ng's speak_lib.h, like the numbers below
_PHONEME_EVENTS, _IN_IPA = 0x0001, 0x0002
_EVENT_END, _EVENT_PHONEME = 0, 7
_RATE, _PITCH = 1, 3
_UTF8 = 1


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    )


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


class Speaker:
    """espeak-ng's library, which exists once in a process."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise FrameclsError("the library of espeak-ng is not installed: install it (apt install libespeak-ng1)")
        self._library = ctypes.CDLL(name)
        self.rate_hz: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _IN_IPA)
        self._samples: list[npt.NDArray[np.int16]] = []
        self._events: list[tuple[str, int]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = kind(self._receive)  # kept: the library only has its address
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            self._samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_END:
            if events[index].type == _EVENT_PHONEME:
                name = events[index].string.decode("utf-8", "ignore")
                self._events.append((name, events[index].audio_position))
            index += 1
        return 0

    def speak(
        self, voice: str, text: str, speed_wpm: int, pitch: int
    ) -> tuple[npt.NDArray[np.float32], list[tuple[str, float]]]:
        """Return (sample,) at 16 kHz, and each phone ("" for a pause) with the second at which it ends.

        Raises:
            FrameclsError: espeak-ng has no such voice.
        """
        self._samples.clear()
        self._events.clear()
        # By its name, or else by its language, as the program espeak-ng takes it.
        by_language = _Voice(languages=voice.encode())
        if self._library.espeak_SetVoiceByName(voice.encode()) and self._library.espeak_SetVoiceByProperties(
            ctypes.byref(by_language)
        ):
            raise FrameclsError(f"espeak-ng has no voice {voice}")
        self._library.espeak_SetParameter(_RATE, speed_wpm, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        wave = np.concatenate([*self._samples, np.zeros(0, np.int16)])
        alignment = align(self._events, len(wave) / self.rate_hz)
        samples = soxr.resample(wave.astype(np.float32) / 32768, self.rate_hz, SAMPLE_RATE_HZ)
        return np.asarray(samples, np.float32), alignment


def align(events: list[tuple[str, int]], duration_s: float) -> list[tuple[str, float]]:
    """Turn (phone in IPA, milliseconds at which it begins) into phones of the shared alphabet and their ends.

    What is one phone to espeak-ng and several here (an affricate, a diphthong) shares its time evenly.
    """
    alignment: list[tuple[str, float]] = []
    for (name, start_ms), end_ms in zip(events, [*(e[1] for e in events[1:]), duration_s * 1000], strict=True):
        symbols = phone_symbols(name) or [""]
        for number, symbol in enumerate(symbols, start=1):
            alignment.append((symbol, round((start_ms + (end_ms - start_ms) * number / len(symbols)) / 1000, 3)))
    return alignment


def main() -> None:
    """Write clips and manifest, the languages in turns."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path, help="what speak_corpus wrote")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--clips", type=int, default=60, help="of each language at most")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    texts: dict[str, list[str]] = defaultdict(list)
    for line in options.manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts[row["lang"]].append(row["text"])
    speaker, rng = Speaker(), random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "manifest.jsonl").open("w", encoding="utf-8") as out:
        for number in range(options.clips):
            for lang, lines in sorted(texts.items()):
                variant = rng.choice(VARIANTS)
                voice, text = spell_out(lang, lines[number % len(lines)])
                samples, alignment = speaker.speak(
                    f"{voice}+{variant}", text, rng.randint(130, 190), rng.randint(25, 75)
                )
                if len(samples) < SAMPLE_RATE_HZ:
                    continue
                name = f"aligned/{lang}/{number:04d}.flac"
                (options.out / name).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(options.out / name, samples, SAMPLE_RATE_HZ)
                row = {"file": name, "seconds": round(len(samples) / SAMPLE_RATE_HZ, 3), "kind": "speech", "lang": lang}
                row |= {"speaker": f"es-{variant}", "source": "espeak-synthetic", "licence": "synthetic", "text": text}
                row |= {"phones": " ".join(phone for phone, _ in alignment if phone), "alignment": alignment}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
