"""Make the manifest of the `speaker` recipe: what each voice says, some voices and some whole sources held out.

A row's label is the voice, "unknown" where a source does not tell voices apart: such a clip is not told from the
others, but a teacher's vector can be learnt from it.

    python -m framecls.recipes.prepare_speaker CORPUS/manifest.jsonl [SYNTHETIC/voices.jsonl] \
        --out speaker.jsonl --noise-out noise.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framecls.config import UNKNOWN
from framecls.recipes.prepare_language import LONGEST_S, NOISE_DEV_SOURCES, read_rows

# Whole sources that training never hears: acted sentences, single words, game shouts.
DEV_SOURCES = {"emodb", "lt-speech-commands", "turev-db", "hedgewars-voices"}
# Of these, some voices are held out: read sentences under conditions that training knows.
SPLIT_SOURCES = {"librispeech-train-clean-100": 100}
LEFT_OUT = {"audio-cmn-syllables"}
# Seconds of one voice that training keeps: many voices teach more than much of one.
MOST_OF_VOICE_S = 90.0


def hold_out(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the voices of `SPLIT_SOURCES` to hold out: chosen by a digest of their names, the same ones always."""
    voices: dict[str, set[str]] = {source: set() for source in SPLIT_SOURCES}
    for row in rows:
        if row["source"] in voices and row.get("speaker"):
            voices[row["source"]].add(row["speaker"])
    return {
        voice
        for source, names in voices.items()
        for voice in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[: SPLIT_SOURCES[source]]
    }


def choose(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the manifest rows of a corpus's speech: file, label, speaker, source, split."""
    speech = [row for row in rows if row.get("kind", "speech") == "speech" and row["source"] not in LEFT_OUT]
    held_out = hold_out(speech)
    spent_s: Counter[str] = Counter()
    chosen = []
    for row in speech:
        voice = row.get("speaker") or row["file"]
        dev = row["source"] in DEV_SOURCES or voice in held_out
        too_much = not dev and spent_s[voice] + row["seconds"] > MOST_OF_VOICE_S
        if row["seconds"] > LONGEST_S or too_much:
            continue
        spent_s[voice] += row["seconds"]
        chosen.append({
            "file": str(row["path"]), "label": row.get("speaker") or UNKNOWN, "speaker": voice,
            "source": row["source"], "split": "dev" if dev else "train",
        })  # fmt: skip
    return chosen


def main() -> None:
    """Write one row a clip."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifests", type=Path, nargs="+")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--noise-out", type=Path, required=True)
    options = arguments.parse_args()
    rows = [row for manifest in options.manifests for row in read_rows(manifest)]
    with options.out.open("w", encoding="utf-8") as out:
        for clip in choose(rows):
            out.write(json.dumps(clip, ensure_ascii=False) + "\n")
    with options.noise_out.open("w", encoding="utf-8") as out:
        for row in rows:
            if row.get("kind") in {"noise", "music"} and row["source"] not in NOISE_DEV_SOURCES:
                clip = {"file": row["path"], "label": row["kind"], "source": row["source"]}
                out.write(json.dumps(clip, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
