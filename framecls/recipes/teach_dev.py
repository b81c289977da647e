"""Make small corpora to measure `framecls train` by: six labels with 8 to 40 clips, each from at least three sources.

    python -m framecls.recipes.teach_dev CORPUS OUT

CORPUS is a folder of clips with a `manifest.jsonl` (file, seconds, kind, source, lang, speaker). Under OUT come

- `clips.jsonl`, a manifest for `train identify`, and `clips-train-N.jsonl`, `clips-test-N.jsonl` for N = 0, 1, 2: its
  clips by source, no source on both sides, every label on both;
- `audacity/` and `raven/`, the same recordings with label tracks and with selection tables for `train tag`: such clips
  laid into minutes of soft noise, most of which is unmarked; in `train-N` and `test-N` no source is on both sides.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

N_PARTS = 3
_RATE = 16000
_RECORDING_S = 60.0
_FLOOR = 10 ** (-55 / 20)  # RMS of the noise between the clips, relative to full scale
# Label -> how many clips, what they are.
LABELS: dict[str, tuple[int, dict[str, str]]] = {
    "music": (40, {"kind": "music"}),
    "effects": (32, {"kind": "noise"}),
    "german": (24, {"lang": "de"}),
    "spanish": (18, {"lang": "es"}),
    "mandarin": (12, {"lang": "zh_CN"}),
    "turkish": (8, {"lang": "tr"}),
}
RAVEN_SUFFIX = ".Table.1.selections.txt"
_SECONDS = (1.0, 12.0)  # of a clip
_MUSIC = ("wesnoth-music", "supertux-data-music", "hedgewars-data-music", "planetblupi-music-ogg", "hyperrogue-music")
_EFFECTS = ("wesnoth-1.16-data", "hedgewars-data", "freedroidrpg-data", "tuxpaint-stamps-default", "nonspeech100")


def choose_clips(rows: Iterable[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of a manifest for `train identify`, drawn evenly from the sources of each label, with their part."""
    rng = random.Random(seed)
    kept = list(rows)
    chosen = []
    for label, (n_clips, wanted) in LABELS.items():
        sources: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in kept:
            named = {"music": _MUSIC, "effects": _EFFECTS}.get(label, (row["source"],))
            fits = all(str(row.get(key, ""))[: len(value)] == value for key, value in wanted.items())
            if fits and row["source"] in named and _SECONDS[0] <= row["seconds"] <= 40:
                sources[row["source"]].append(row)
        names = sorted(sources)
        for index in range(n_clips):
            clips = sources[names[index % len(names)]]
            row = clips.pop(rng.randrange(len(clips)))
            speaker = {"speaker": f"{row['source']}/{row['speaker']}"} if row.get("speaker") else {}
            chosen.append({"file": row["file"], "label": label, "source": row["source"], **speaker})
    parts = _parts(chosen)
    return [row | {"part": parts[row["source"]]} for row in chosen]


def _parts(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Spread sources over parts so that every label is in each: those with the most labels first."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row["source"]].add(row["label"])
    parts: dict[str, int] = {}
    held = [set[str]() for _ in range(N_PARTS)]
    n_clips = [0] * N_PARTS
    for source in sorted(labels, key=lambda name: (-len(labels[name]), name)):
        part = max(range(N_PARTS), key=lambda n: (len(labels[source] - held[n]), -n_clips[n]))
        parts[source] = part
        held[part] |= labels[source]
        n_clips[part] += sum(row["source"] == source for row in rows)
    return parts


def write_manifest(rows: Iterable[dict[str, Any]], corpus: Path, path: Path) -> None:
    """Write rows as JSON lines, with whole paths of the recordings."""
    lines = [
        json.dumps({k: v for k, v in row.items() if k != "part"} | {"file": str(corpus / row["file"])}) for row in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def lay_out(
    rows: list[dict[str, Any]], corpus: Path, rng: np.random.Generator
) -> tuple[Any, list[tuple[float, float, str]]]:
    """Return (sample,) a minute of soft noise with clips in it, and the start, end and label of each."""
    n_samples = int(_RECORDING_S * _RATE)
    recording = rng.standard_normal(n_samples) * _FLOOR
    spans = []
    at = int(rng.uniform(2, 6) * _RATE)
    for row in rows:
        samples, _ = soundfile.read(corpus / row["file"], dtype="float64", always_2d=True)
        piece = samples.mean(axis=1)[: int(_SECONDS[1] * 0.5 * _RATE)]
        if at + len(piece) > n_samples:
            break
        recording[at : at + len(piece)] += piece
        spans.append((at / _RATE, (at + len(piece)) / _RATE, row["label"]))
        at += len(piece) + int(rng.uniform(4, 9) * _RATE)
    return recording.clip(-1, 1), spans


def write_recordings(rows: list[dict[str, Any]], corpus: Path, out: Path, seed: int = 0) -> None:
    """Write recordings with Audacity's label tracks and Raven's selection tables beside them."""
    rng = np.random.default_rng(seed)
    for part in range(N_PARTS):
        left = [row for row in rows if row["part"] == part]
        rng.shuffle(left)
        number = 0
        while left:
            recording, spans = lay_out(left, corpus, rng)
            left = left[len(spans) :]
            for n in range(N_PARTS):
                folder = f"test-{n}" if n == part else f"train-{n}"
                for kind, suffix, write in (("audacity", ".txt", _audacity), ("raven", RAVEN_SUFFIX, _raven)):
                    path = out / kind / folder / f"p{part}-{number:02}.flac"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    soundfile.write(path, recording, _RATE)
                    path.with_name(path.stem + suffix).write_text(write(spans), encoding="utf-8")
            number += 1


def _audacity(spans: Iterable[tuple[float, float, str]]) -> str:
    return "".join(f"{start:.6f}\t{end:.6f}\t{label}\n" for start, end, label in spans)


def _raven(spans: Iterable[tuple[float, float, str]]) -> str:
    head = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"
    rows = (
        f"{number}\tSpectrogram 1\t1\t{start:.6f}\t{end:.6f}\t0.0\t8000.0\t{label}\n"
        for number, (start, end, label) in enumerate(spans, start=1)
    )
    return head + "".join(rows)


def main() -> None:
    """Write all of it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("out", type=Path)
    options = arguments.parse_args()
    text = (options.corpus / "manifest.jsonl").read_text(encoding="utf-8")
    rows = choose_clips([json.loads(line) for line in text.splitlines()])
    options.out.mkdir(parents=True, exist_ok=True)
    write_manifest(rows, options.corpus, options.out / "clips.jsonl")
    for part in range(N_PARTS):
        write_manifest(
            [r for r in rows if r["part"] != part], options.corpus, options.out / f"clips-train-{part}.jsonl"
        )
        write_manifest([r for r in rows if r["part"] == part], options.corpus, options.out / f"clips-test-{part}.jsonl")
    write_recordings(rows, options.corpus, options.out)


if __name__ == "__main__":
    main()
