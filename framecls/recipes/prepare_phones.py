"""Make the manifest of the `phones` recipe: which of the 39 ARPAbet phones is spoken when, in English recordings.

What is said comes from `write_down`, how a word is pronounced from the CMU dictionary (flite spells out those that are
not in it), and when each phone sounds from forced alignment by pocketsphinx. Beside the recordings flite speaks some of
the same sentences and tells the times itself: few voices, but not one phone of them is misplaced.

    pip install pocketsphinx            # and the program flite
    python -m framecls.recipes.prepare_phones texts.jsonl --spoken DIR --sentences 300 --out phones.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecls.audio import open_audio

SAMPLE_RATE = 16000
ARPABET: tuple[str, ...] = (
    "aa", "ae", "ah", "ao", "aw", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy", "jh", "k",
    "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
)  # fmt: skip
SILENCE = "sil"
_FRAME_S = 0.01  # of pocketsphinx
_LONGEST_PHONE_S, _LONGEST_PAUSE_S = 0.5, 2.0  # longer, and something was said that is not in the text
_MOST_PHONES_PER_S = 18.0  # more, and some of the text was not said
_LEAST_SCORE = -0.6  # mean logarithm of the recogniser's probabilities, below which its text is not trusted
_VOICES = ("awb", "kal16", "rms", "slt")
_STRETCH = (0.8, 1.3)
# What flite tells apart and the dictionary does not.
_OF_FLITE = {"ax": "ah", "pau": SILENCE, "h#": SILENCE, "brth": SILENCE}
DEV_SHARE = 10  # of the voices, one in so many
DEV_SOURCES = {"fleurs"}

Phones = list[tuple[str, float]]  # each with the second at which it ends


def read_samples(file: Path) -> NDArray[np.float32]:
    """Return (sample,) all of a recording."""
    with open_audio(file, SAMPLE_RATE) as stream:
        return np.concatenate([*stream.blocks(30.0), np.zeros(0, np.float32)])


def to_words(text: str) -> list[str]:
    """Return the words of a text; numbers stay as they are, for flite to read out."""
    plain = text.lower().replace("\u2019", "'")
    return re.findall(r"[a-z]+(?:'[a-z]+)*|\d[\d,]*(?:st|nd|rd|th)?", plain)


def join_phones(phones: Iterable[tuple[str, float]]) -> Phones:
    """Join neighbouring silences; a phone that follows itself stays two."""
    joined: Phones = []
    for phone, end_s in phones:
        if joined and phone == joined[-1][0] == SILENCE:
            joined.pop()
        joined.append((phone, round(end_s, 3)))
    return joined


def read_flite(text: str) -> Phones:
    """Read what `flite -psdur` prints, phones and the seconds at which they end, in the dictionary's phones."""
    pairs = (word.rpartition(":") for word in text.split())
    return join_phones((_OF_FLITE.get(phone, phone), float(end)) for phone, _, end in pairs)


class Aligner:
    """Forced alignment with pocketsphinx."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        wide = {"beam": 1e-80, "pbeam": 1e-80, "wbeam": 1e-60}
        self._decoder = Decoder(samprate=SAMPLE_RATE, lm=None, loglevel="FATAL", bestpath=False, **wide)

    def __call__(self, samples: NDArray[np.float32], words: list[str]) -> Phones | None:
        """Return the phones of (sample,) audio, None where the words do not fit it."""
        for word in words:
            if self._decoder.lookup_word(word) is None:
                phones = [phone for phone, _ in read_flite(_run_flite(word)) if phone != SILENCE]
                self._decoder.add_word(word, " ".join(phones).upper(), True)
        data = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
        try:
            self._decoder.set_align_text(" ".join(words))
            self._listen(data)
            if self._decoder.hyp() is None:
                return None
            self._decoder.set_alignment()  # of phones within the words that were found
            self._listen(data)
            alignment = self._decoder.get_alignment()
        except RuntimeError:  # no path through the words
            return None
        found = []
        for word in alignment:
            for phone in word:
                name = phone.name.lower()
                found.append((name if name in ARPABET else SILENCE, (phone.start + phone.duration) * _FRAME_S))
        return check(join_phones(found))

    def _listen(self, data: bytes) -> None:
        self._decoder.start_utt()
        self._decoder.process_raw(data, full_utt=True)
        self._decoder.end_utt()


def check(phones: Phones) -> Phones | None:
    """Return phones, or None where one of them, or a pause between them, is too long to be true, or all too short."""
    n_spoken = sum(phone != SILENCE for phone, _ in phones)
    if not n_spoken or n_spoken / phones[-1][1] > _MOST_PHONES_PER_S:
        return None
    start_s = 0.0
    for number, (phone, end_s) in enumerate(phones):
        longest_s = _LONGEST_PAUSE_S if phone == SILENCE else _LONGEST_PHONE_S
        at_edge = phone == SILENCE and number in (0, len(phones) - 1)
        if end_s - start_s > longest_s and not at_edge:
            return None
        start_s = end_s
    return phones


def _run_flite(text: str, *options: str) -> str:
    command = ["flite", "-o", "none", "-psdur", *options, "-t", text]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def speak(sentences: Iterable[str], folder: Path, seed: int) -> Iterator[tuple[Path, str, Phones]]:
    """Have flite speak sentences; yield the file, the voice and the phones of each."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for number, sentence in enumerate(sentences):
        voice, stretch = draw.choice(_VOICES), draw.uniform(*_STRETCH)
        file = folder / f"{number:04d}.wav"
        said = _run_flite(sentence, "-voice", voice, "--setf", f"duration_stretch={stretch:.2f}", "-o", str(file))
        length_s = len(read_samples(file)) / SAMPLE_RATE  # the last pause is cut short
        yield file, voice, [(phone, min(end_s, length_s)) for phone, end_s in read_flite(said)]


def rows(file: Path, phones: Phones, **rest: str) -> Iterator[str]:
    """Yield a line of the manifest for each phone."""
    start_s = 0.0
    for phone, end_s in phones:
        if end_s > start_s:
            yield json.dumps({"file": str(file), "start": start_s, "end": end_s, "label": phone, **rest}) + "\n"
        start_s = end_s


def main() -> None:
    """Write one row a phone."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("texts", type=Path, help="what `write_down` wrote: file, text, score, speaker, source")
    arguments.add_argument("--spoken", type=Path, required=True, help="folder for what flite speaks")
    arguments.add_argument("--sentences", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    align, texts = Aligner(), []
    voices: dict[str, int] = {}
    left_out = 0
    with options.out.open("w", encoding="utf-8") as out:
        for line in options.texts.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            words = to_words(row["text"])
            number = voices.setdefault(row["speaker"], len(voices))
            held_out = row["source"] in DEV_SOURCES or number % DEV_SHARE == 0
            phones = align(read_samples(Path(row["file"])), words) if words and row["score"] >= _LEAST_SCORE else None
            if phones is None:
                left_out += 1
                continue
            if not held_out:
                texts.append(" ".join(words))
            rest = {"speaker": row["speaker"], "source": row["source"], "split": "dev" if held_out else "train"}
            out.writelines(rows(Path(row["file"]), phones, **rest))
        chosen = random.Random(options.seed).choices([text for text in texts if len(text) > 20], k=options.sentences)
        for file, voice, phones in speak(chosen, options.spoken, options.seed):
            rest = {"speaker": f"flite-{voice}", "source": "flite-synthetic", "split": "train"}
            out.writelines(rows(file, phones, **rest))
    sys.stderr.write(f"{left_out} recordings were left out: doubtful words, or no alignment\n")


if __name__ == "__main__":
    main()
