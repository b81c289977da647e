"""Text to phones in many languages, on one small alphabet that all of them share.

espeak-ng writes each language in its own dialect of the IPA, some with ASCII stand-ins. A network that learns phones
needs one alphabet for all of them: `phone_symbols` keeps the base letters, folds the rare ones into a near neighbour,
and drops what is not a sound of its own (stress, length, tone, diacritics, aspiration).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from framecls import packages
from framecls.errors import FrameclsError

_VOWELS = "i y ɨ ʉ ɯ u ɪ ʊ e ø ɵ ɤ o ə ɛ œ ɜ ʌ ɔ æ ɐ a ɑ ɒ"
_STOPS_AND_NASALS = "p b t d ʈ ɖ c ɟ k ɡ q ʔ m n ɳ ɲ ŋ"
_FRICATIVES = "β f v θ ð s z ʃ ʒ ʂ ʐ ɕ ʑ ç x ɣ χ ʁ ħ ʕ h ɬ"
_LIQUIDS_AND_GLIDES = "r ɾ ɽ ʋ ɹ ɻ j ɥ w l ɭ ʎ"

PHONES: tuple[str, ...] = tuple(f"{_VOWELS} {_STOPS_AND_NASALS} {_FRICATIVES} {_LIQUIDS_AND_GLIDES}".split())
"""The inventory, in a fixed order: what `phone_symbols` answers is made of these and nothing else."""

_FOLD: dict[str, str] = {
    # Letters that few languages use, and the neighbour that hears most alike.
    "ɘ": "ə", "ɚ": "əɹ", "ɝ": "ɜɹ", "ɞ": "ɜ", "ᵻ": "ɪ", "ᵿ": "ʊ", "ʏ": "y", "ɶ": "œ", "ε": "ɛ", "ɿ": "ɨ",
    "ɓ": "b", "ɗ": "d", "ʄ": "ɟ", "ɠ": "ɡ", "g": "ɡ", "ɢ": "ɡ", "ʛ": "ɡ", "ʡ": "ʔ", "ʢ": "ʕ", "ɱ": "m",
    "ɴ": "ŋ", "ʙ": "b",
    "ɸ": "f", "ʝ": "j", "ɦ": "h", "ɧ": "ʃ", "ʜ": "ħ", "ʍ": "w", "ɰ": "ɣ", "ʀ": "ʁ", "ɺ": "ɾ", "ɼ": "r",
    "ɫ": "l", "ʟ": "l", "ɮ": "l", "ʦ": "ts", "ʣ": "dz", "ʧ": "tʃ", "ʤ": "dʒ", "ʨ": "tɕ", "ʥ": "dʑ",
    # ASCII stand-ins that espeak-ng leaves in some languages.
    "S": "ʃ", "Z": "ʒ", "N": "ŋ", "X": "χ", "A": "ɑ", "E": "ɛ", "I": "ɪ", "O": "ɔ", "U": "ʊ", "V": "ʌ", "@": "ə",
    "T": "θ", "D": "ð", "C": "ç", "J": "ɟ", "L": "ʎ", "H": "ɥ", "Q": "ɣ", "R": "ʁ", "?": "ʔ",
}  # fmt: skip

# espeak-ng writes some retroflex sounds, and the vowel of Mandarin "shi", as a letter and a dot.
_DOTTED = {"s.": "ʂ", "z.": "ʐ", "t.": "ʈ", "d.": "ɖ", "n.": "ɳ", "l.": "ɭ", "r.": "ɽ", "i.": "ɨ"}
_DOTTED_PATTERN = re.compile("|".join(re.escape(dotted) for dotted in _DOTTED))
_LANGUAGE_SWITCH = re.compile(r"\([a-z][a-z0-9-]*\)")
_NOT_A_SOUND = re.compile(r"[ˈˌ]")
_KNOWN = frozenset(PHONES)

_VOICE = {
    "en": "en-us", "es": "es-419", "fr": "fr-fr", "zh": "cmn", "zh-cn": "cmn", "zh-tw": "cmn", "pt": "pt-br",
    "sr-latin": "sr", "no": "nb", "nn": "nb", "iw": "he", "in": "id", "tl": "fil",
}  # fmt: skip

# Bengali letters that Unicode normalisation always takes apart; espeak-ng then reads out the name of the dot.
_WHOLE_LETTERS = {"\u09a1\u09bc": "\u09dc", "\u09a2\u09bc": "\u09dd", "\u09af\u09bc": "\u09df"}
_HAN = re.compile("[\u3400-\u9fff]")

# espeak-ng reads standard input in pieces of 1000 bytes and would cut a longer line inside a word.
_MAX_LINE_BYTES = 900


class UnspokenLanguageError(FrameclsError):
    """A language that espeak-ng has no voice for."""


def phone_symbols(ipa: str) -> list[str]:
    """Reduce espeak-ng's IPA to a list of PHONES.

    A phone that follows itself is given once: it is one long sound, and length is dropped everywhere else too.
    """
    plain = _NOT_A_SOUND.sub("", _LANGUAGE_SWITCH.sub(" ", ipa))
    plain = _DOTTED_PATTERN.sub(lambda match: _DOTTED[match.group()], plain)
    # NFD would also take the c with cedilla apart, which is a letter of the IPA and no diacritic.
    letters = unicodedata.normalize("NFD", plain).replace("c\u0327", "ç")
    phones: list[str] = []
    for letter in letters:
        for phone in _FOLD.get(letter, letter):
            if phone in _KNOWN and (not phones or phones[-1] != phone):
                phones.append(phone)
    return phones


def espeak_voice(lang: str) -> str:
    """Name the espeak-ng voice of a language code such as `de`, `pt_BR` or `sr@latin`."""
    code = lang.lower().replace("_", "-").replace("@", "-")
    return _VOICE.get(code, code)


def to_ipa(lang: str, text: str) -> str:
    """Read one text aloud as IPA, on one line.

    Raises:
        UnspokenLanguageError: espeak-ng has no voice for the language.
        FrameclsError: espeak-ng is not installed.
    """
    voice, line = spell_out(lang, text)
    return " ".join(_espeak(voice, [], line).split())


def to_ipa_many(lang: str, texts: Sequence[str]) -> list[str]:
    """Read many texts of one language with few runs of espeak-ng, an IPA line for each, in order.

    Raises:
        UnspokenLanguageError: espeak-ng has no voice for the language.
        FrameclsError: espeak-ng is not installed.
    """
    by_voice: dict[str, list[tuple[int, str]]] = {}
    for index, text in enumerate(texts):
        voice, line = spell_out(lang, text)
        by_voice.setdefault(voice, []).append((index, line))
    answer = [""] * len(texts)
    for voice, numbered in by_voice.items():
        short = [(index, line) for index, line in numbered if line and len(line.encode()) <= _MAX_LINE_BYTES]
        for (index, _), ipa in zip(short, _read_lines(voice, [line for _, line in short]), strict=True):
            answer[index] = ipa
        for index, line in numbered:
            if len(line.encode()) > _MAX_LINE_BYTES:
                answer[index] = " ".join(_espeak(voice, [], line).split())
    return answer


def spell_out(lang: str, text: str) -> tuple[str, str]:
    """Return the espeak-ng voice and the text as that voice reads it best: pinyin for Mandarin, kana for Japanese.

    espeak-ng names kanji ("Chinese letter") instead of reading them, and reads much of its own pinyin as English.

    Raises:
        PackageError: the text needs pypinyin or pykakasi, and it is not installed or does not load.
    """
    line = " ".join(text.split())
    for apart, whole in _WHOLE_LETTERS.items():
        line = line.replace(apart, whole)
    voice = espeak_voice(lang)
    if voice == "cmn" and _HAN.search(line):
        pypinyin = _reader("pypinyin")
        # Spaces between characters are taken out first, so that words of several characters get their own reading.
        joined = re.sub("(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])", "", line)
        syllables = pypinyin.lazy_pinyin(joined, style=pypinyin.Style.TONE3, neutral_tone_with_five=True)
        return "cmn-latn-pinyin", " ".join(" ".join(syllables).split())
    if voice == "ja" and _HAN.search(line):
        return voice, " ".join(word["hira"] for word in _kakasi().convert(line))
    return voice, line


def _reader(name: str) -> Any:
    return packages.load("a reading of these characters", name)


@cache
def _kakasi() -> Any:
    return _reader("pykakasi").kakasi()


def _read_lines(voice: str, lines: list[str]) -> list[str]:
    """Read lines in one run: espeak-ng answers a line a clause, so an empty line between texts tells them apart."""
    if len(lines) <= 1:
        return [" ".join(_espeak(voice, [], line).split()) for line in lines]
    spoken = _espeak(voice, lines, None)
    blocks = [" ".join(block.split()) for block in spoken.split("\n\n") if block.strip()]
    if len(blocks) == len(lines):
        return blocks
    # Some text is silent, or holds a silent clause: halve until every text is matched with its own answer.
    middle = len(lines) // 2
    return _read_lines(voice, lines[:middle]) + _read_lines(voice, lines[middle:])


def _espeak(voice: str, lines: list[str], text: str | None) -> str:
    program = shutil.which("espeak-ng")
    if program is None:
        raise FrameclsError("espeak-ng is not installed: install it (apt install espeak-ng) to turn text into phones")
    command = [program, "-q", "--ipa", "-v", voice]
    if text is not None:
        command += ["--", text]
    fed = "".join(f"{line}\n\n" for line in lines)
    done = subprocess.run(command, input=fed, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise UnspokenLanguageError(
            f"espeak-ng has no voice {voice!r}: leave this language out, or see `espeak-ng --voices`"
        )
    return done.stdout
