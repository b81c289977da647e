"""The words of a text and how each can be said, by the CMU Pronouncing Dictionary that pocketsphinx carries."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framecls import packages
from framecls.config import listed
from framecls.errors import TextError
from framecls.shapes import IPA, SILENCE

_DICTIONARY = "en-us/cmudict-en-us.dict"
_SAID = re.compile(r"([^\s\[\]]+)\[([^\[\]]*)\]|([^\s\[\]]+)")
_VARIANT = re.compile(r"\(\d+\)$")
_MOST_NAMED = 10


@dataclass(frozen=True)
class Word:
    """A word as it is written, and each way to say it: its phones, of the 39 of the dictionary."""

    text: str
    pronunciations: tuple[tuple[str, ...], ...]


def find_words(text: str) -> list[Word]:
    """Return the words of an English text, whatever is between them.

    Behind a word there may be its phones in brackets, `Ada[ey d ah]`; it need not be in the dictionary then.

    Raises:
        PackageError: pocketsphinx, which has the dictionary, is not installed or does not load.
        TextError: there are no words, or words that are not in the dictionary.
    """
    words: list[Word] = []
    unknown: list[str] = []
    for spelled, phones, plain in _SAID.findall(text.replace("\u2019", "'")):
        if spelled:
            words.append(Word(_bare(spelled) or spelled, (_check_phones(spelled, phones.lower().split()),)))
            continue
        for part in re.split(r"[-\u2010-\u2015/]+", plain):
            if word := _bare(part):
                said = _read_dictionary().get(word.casefold(), ())
                words.append(Word(word, said))
                unknown += [] if said else [word]
    if unknown:
        names = listed(list(dict.fromkeys(unknown)), _MOST_NAMED)
        raise TextError(f"not in the dictionary: {names}: write how it is said behind the word, as in Ada[ey d ah]")
    if not words:
        raise TextError("there are no words in the text")
    return words


def _bare(word: str) -> str:
    """Return a word without the punctuation around it; an apostrophe may be its first or last letter."""
    return re.sub(r"^[^\w']+|[^\w']+$", "", word).strip("_") if re.search(r"\w", word) else ""


def _check_phones(word: str, phones: Sequence[str]) -> tuple[str, ...]:
    wrong = [phone for phone in phones if phone not in IPA or phone == SILENCE]
    if wrong or not phones:
        what = f"{wrong[0]!r} is none of the phones of the CMU dictionary" if wrong else "no phones"
        raise TextError(f"{word}[{' '.join(phones)}]: {what}, such as in Ada[ey d ah]")
    return tuple(phones)


@functools.cache
def _read_dictionary() -> dict[str, tuple[tuple[str, ...], ...]]:
    package = packages.load("--align", "pocketsphinx")
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    for line in Path(package.get_model_path(_DICTIONARY)).read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        word = _VARIANT.sub("", word)
        found[word] = (*found.get(word, ()), tuple(phone.lower() for phone in phones))
    return found
