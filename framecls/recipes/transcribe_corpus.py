"""Write the phones of every clip of a corpus manifest whose words are known.

    python -m framecls.recipes.transcribe_corpus manifest.jsonl --out phones.jsonl

The manifest has a JSON object a line: `file`, `lang`, `source`, `seconds`, `text`, and `ipa` where a synthesiser was
given IPA. One line `{"file": ..., "phones": "p1 p2 ..."}` is written for each clip that passes. Left out are languages
that espeak-ng does not speak or misreads, texts that are not what is said (slots, glosses), and clips where the text
cannot be right because it would be spoken impossibly fast or slowly.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from framecls.errors import ManifestError
from framecls.recipes.phones import UnspokenLanguageError, phone_symbols, to_ipa_many

# espeak-ng reads Hebrew without its unwritten vowels, Thai partly letter by letter, and hardly anything of Burmese.
MISREAD_LANGUAGES = frozenset({"he", "th", "my"})

PHONES_PER_SECOND = (3.0, 30.0)  # people speak at about 10 to 15; single words with silence around them come out slower
_SHORTEST_CLIP_S = 0.2
_LONGEST_SYNTHETIC_S = 23.99  # longer synthetic clips were cut off before their text ended

# The text of these sources says word for word what is heard.
_VERBATIM = frozenset({
    "fleurs", "rhasspy-kerstin", "fsdd", "lt-speech-commands", "picovoice-wakeword", "gcompris-voices",
    "precise-community", "kokoro-synthetic", "espeak-synthetic",
})  # fmt: skip

# File names became texts in this source; these are the words.
_SPOKEN_FORM = {
    "heycomputer": "hey computer", "heysavant": "hey savant", "heychatterbox": "hey chatterbox",
}  # fmt: skip

# The Arabic commands are labelled in English. These are the ones whose Arabic word leaves no doubt, with the vowel
# marks that espeak-ng needs.
_ARABIC_COMMAND = {
    "zero": "صِفْر", "one": "وَاحِد", "two": "اِثْنَان", "three": "ثَلَاثَة", "four": "أَرْبَعَة", "five": "خَمْسَة", "six": "سِتَّة",
    "seven": "سَبْعَة", "eight": "ثَمَانِيَة", "nine": "تِسْعَة", "yes": "نَعَم", "no": "لَا", "right": "يَمِين", "left": "يَسَار",
}  # fmt: skip


def spoken_text(row: Mapping[str, Any]) -> str | None:
    """Say what is heard in a clip, or None where its manifest row does not tell."""
    text, source = row.get("text"), row.get("source")
    if not text or row.get("lang") in MISREAD_LANGUAGES:
        return None
    if source == "arabic-speech-commands":
        return _ARABIC_COMMAND.get(text)
    if source not in _VERBATIM:
        return None
    if source == "precise-community" and row["lang"] != "en":
        return None
    return _SPOKEN_FORM.get(text, str(text).replace("_", " "))


def is_plausible(n_phones: int, seconds: float) -> bool:
    """Tell whether this many phones can be spoken in this time."""
    slowest, fastest = PHONES_PER_SECOND
    return seconds >= _SHORTEST_CLIP_S and slowest <= n_phones / seconds <= fastest


def transcribe(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield `{"file", "phones"}` for every row that can be transcribed and is plausible.

    Raises:
        FrameclsError: espeak-ng is not installed.
    """
    texts: dict[str, list[tuple[Mapping[str, Any], str]]] = defaultdict(list)
    for row in rows:
        if row.get("ipa"):
            # A synthesiser that is given "(en)" says "en", and one that stops at its longest clip leaves words out.
            if "(" not in row["ipa"] and row["seconds"] < _LONGEST_SYNTHETIC_S:
                yield from _kept(row, row["ipa"])
            continue
        text = spoken_text(row)
        if text is not None:
            texts[row["lang"]].append((row, text))
    for lang, clips in texts.items():
        try:
            spoken = to_ipa_many(lang, [text for _, text in clips])
        except UnspokenLanguageError:
            continue
        for (row, _), ipa in zip(clips, spoken, strict=True):
            yield from _kept(row, ipa)


def _kept(row: Mapping[str, Any], ipa: str) -> Iterator[dict[str, str]]:
    phones = phone_symbols(ipa)
    if is_plausible(len(phones), row["seconds"]):
        yield {"file": row["file"], "phones": " ".join(phones)}


def read_rows(manifest: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines manifest.

    Raises:
        ManifestError: the manifest cannot be read, or a line is no JSON object.
    """
    try:
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ManifestError(f"cannot read {manifest} as JSON lines ({error}): give one JSON object a line") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ManifestError(f"{manifest} holds a line that is no JSON object: give one JSON object a line")
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="JSON lines: file, lang, source, seconds, text or ipa")
    parser.add_argument("--out", type=Path, required=True, help="where to write the phones, as JSON lines")
    options = parser.parse_args(arguments)
    with options.out.open("w", encoding="utf-8") as out:
        for row in transcribe(read_rows(options.manifest)):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
