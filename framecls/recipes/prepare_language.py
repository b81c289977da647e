"""Make the manifest of the `language` recipe: ISO 639-1 labels, and two honest dev sets.

The dev set of *voices* holds out one voice of each language that has at least three in FLEURS, the source with equal
recording conditions. The dev set of *sources* is made of sources that training never hears at all.

    python -m framecls.recipes.prepare_language CORPUS/manifest.jsonl [SYNTHETIC/manifest.jsonl] \
        --out language.jsonl --noise-out noise.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Voice and microphone say the language in these: one voice a language, or a licence for measuring only.
DEV_SOURCES = {
    "tuxpaint-stamps", "asterisk-prompt-es-co", "asterisk-prompt-fr-armelle", "asterisk-prompt-it-menardi-wav",
    "emodb", "turev-db", "lt-speech-commands", "hedgewars-voices",
}  # fmt: skip
# espeak-ng spells these out or leaves their vowels out, so the synthesiser said something else.
MISREAD = {"he", "th", "zh", "ja", "my"}
# Single syllables, digits and wake words hold too little language to learn it from.
LEFT_OUT = {"audio-cmn-syllables", "picovoice-wakeword", "fsdd"}
NOISE_DEV_SOURCES = {"wesnoth-music", "nonspeech100", "noisex92"}
TO_ISO_639_1 = {"fil": "tl", "ckb": "ku", "no": "nb"}
# Seconds of one language that a source of plenty keeps with --thin: what is heard several times over need not be much.
MOST_S = {
    "espeak-synthetic": 200, "picovoice-barista": 600, "precise-community": 600, "gcompris-voices": 420,
    "arabic-speech-commands": 600, "rhasspy-kerstin": 500, "fillets-ng": 900, "rhvoice-synthetic": 300,
    "festival-synthetic": 300,
}  # fmt: skip
MIN_DEV_VOICES = 3
LONGEST_S = 30.0


def iso_code(code: str) -> str | None:
    """Return the ISO 639-1 code of a language as a source names it, or None where there is none."""
    base = code.replace("@", "_").replace("-", "_").split("_")[0].lower()
    code = TO_ISO_639_1.get(base, base)
    return code if len(code) == 2 else None


def dev_voices(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the FLEURS voices to hold out: the one with the second most clips of each language with enough voices."""
    clips: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["source"] == "fleurs":
            clips[row["lang"]][row["speaker"]] += 1
    enough = [voices for voices in clips.values() if len(voices) >= MIN_DEV_VOICES]
    return {sorted(voices, key=lambda voice: (-voices[voice], voice))[1] for voices in enough}


def thin(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out, at random, what a source has of a language beyond `MOST_S`."""
    shuffled = list(rows)
    random.Random(0).shuffle(shuffled)
    spent_s: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in shuffled:
        key = (row["source"], row.get("lang", ""))
        if spent_s[key] + row["seconds"] <= MOST_S.get(row["source"], math.inf):
            spent_s[key] += row["seconds"]
            kept.append(row)
    return sorted(kept, key=lambda row: str(row["path"]))


def read_rows(manifest: Path) -> list[dict[str, Any]]:
    """Read JSON lines; where they are of clips, `path` becomes a clip's absolute path."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return [row | {"path": os.path.abspath(manifest.parent / row["file"])} if "file" in row else row for row in rows]


def main() -> None:
    """Write one row a clip."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifests", type=Path, nargs="+")
    arguments.add_argument("--thin", action="store_true", help="keep less of sources of plenty, for the second half")
    arguments.add_argument("--labels", default="", help="languages to keep, separated by commas; none: all")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--noise-out", type=Path, required=True)
    options = arguments.parse_args()
    rows = [row for manifest in options.manifests for row in read_rows(manifest)]
    held_out = dev_voices(row for row in rows if row.get("kind") != "noise")
    labels = Counter(iso_code(row["lang"]) for row in rows if row["source"] == "fleurs")
    wanted = set(filter(None, options.labels.split(","))) or labels
    if options.thin:
        rows = thin(rows)
    with options.out.open("w", encoding="utf-8") as out, options.noise_out.open("w", encoding="utf-8") as noise:
        for row in rows:
            if row.get("kind") in {"noise", "music"}:
                if row["source"] not in NOISE_DEV_SOURCES:
                    noise.write(json.dumps({"file": row["path"], "label": row["kind"], "source": row["source"]}) + "\n")
                continue
            label = iso_code(row["lang"])
            if label is None or label not in wanted or row["source"] in LEFT_OUT or row["seconds"] > LONGEST_S:
                continue
            if row["source"] == "kokoro-synthetic" and ("(" in row["ipa"] or label in MISREAD):
                continue
            dev = row["source"] in DEV_SOURCES or row.get("speaker") in held_out
            clip = {"file": row["path"], "label": label, "speaker": row.get("speaker") or row["file"]}
            clip |= {"source": row["source"], "split": "dev" if dev else "train"}
            out.write(json.dumps(clip, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
