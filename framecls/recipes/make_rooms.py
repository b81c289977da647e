"""Take the noise of rooms and microphones out of the pauses of recorded speech, to learn `noise` from.

What a recording holds while nobody speaks is what users' recordings hold too: air, traffic behind a window, a laptop's
fan, breath, a mouse. It is faint; on its own and at full level it is noise, and no package carries as many rooms.

    python -m framecls.recipes.make_rooms sound.jsonl --sources fleurs librispeech-train-clean-100 --out DIR

`sound.jsonl` is the manifest that prepare_sound made; its dev recordings stay untouched.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from framecls.recipes.prepare_sound import HOP, RATE, loudness_db, read_all

MARGIN_S = 0.12  # of a pause, beside what was said
LEAST_S = 0.25  # of one pause
LEAST_CLIP_S = 1.2  # of the pauses of a recording together
FLOOR_DB = -70.0  # softer than this is a gate that closed, or digital silence
BELOW_DB = 12.0  # louder than this much below what was said may be somebody who speaks on
FADE_S = 0.02


def pauses(spans: Sequence[tuple[float, float]], length_s: float) -> list[tuple[float, float]]:
    """Return what lies between spans of speech in seconds, before and behind them, well clear of them."""
    ends = [-MARGIN_S, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), length_s + MARGIN_S]
    clear = [(end + MARGIN_S, start - MARGIN_S) for end, start in zip(ends, starts, strict=True)]
    return [(first, last) for first, last in clear if last - first >= LEAST_S]


def join(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join (sample,) parts, each faded into the next."""
    n_fade = int(FADE_S * RATE)
    ramp = np.sin(np.linspace(0, np.pi / 2, n_fade, dtype=np.float32))  # noise keeps its power: sin² + cos² = 1
    joined = parts[0]
    for part in parts[1:]:
        seam = joined[-n_fade:] * ramp[::-1] + part[:n_fade] * ramp
        joined = np.concatenate([joined[:-n_fade], seam, part[n_fade:]])
    return joined


def room_of(samples: NDArray[np.float32], spans: Sequence[tuple[float, float]]) -> NDArray[np.float32] | None:
    """Return (sample,) the pauses of a recording as one clip, peak 0.5; None: too little of them is noise."""
    level_db = loudness_db(samples)
    said_db = float(np.quantile(level_db, 0.9))
    parts = []
    for first, last in pauses(spans, len(samples) / RATE):
        part_db = level_db[int(first * RATE / HOP) : int(last * RATE / HOP)]
        if part_db.min() > FLOOR_DB and part_db.max() < said_db - BELOW_DB:
            parts.append(samples[int(first * RATE) : int(last * RATE)])
    if sum(map(len, parts)) < LEAST_CLIP_S * RATE:
        return None
    room = join(parts)
    return np.asarray(room * (0.5 / max(1e-6, float(np.abs(room).max()))), np.float32)


def read_speech(manifest: Path, sources: Sequence[str]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Return the spans of speech in each recording of some sources that is not dev: by source and file."""
    spans: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["label"] == "speech" and row["split"] == "train" and row["source"] in sources:
            spans[row["source"], row["file"]].append((row["start"], row["end"]))
    return spans


def main() -> None:
    """Write the clips and their manifest."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path, help="what prepare_sound wrote")
    arguments.add_argument("--sources", nargs="+", required=True, help="of speech, in rooms and not in a studio")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    rows: list[dict[str, object]] = []
    for (source, file), spans in sorted(read_speech(options.manifest, options.sources).items()):
        room = room_of(read_all(Path(file)), sorted(spans))
        if room is None:
            continue
        (options.out / source).mkdir(parents=True, exist_ok=True)
        name = f"{source}/{len(rows):04d}.flac"
        soundfile.write(options.out / name, room, RATE)
        rows.append(
            {"file": name, "seconds": round(len(room) / RATE, 2), "kind": "noise"}
            | {"source": f"pauses-{source}", "licence": f"that of {source}"}
        )
    (options.out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
