"""Make the manifest of the `sound` recipe: where in each clip its label really holds.

A clip of speech is not speech throughout: it has pauses, and breath and hiss at its ends. Frames count as speech where
silero-vad (MIT licence, a teacher here, never a dependency) hears a voice and the clip is loud at once: the first knows
voices from clicks, the second knows to a hundredth of a second where they stop. Music and noise count where they are
loud enough to hear. Clips of music or noise in which silero-vad hears somebody talk are left out.

    pip install silero-vad
    python -m framecls.recipes.prepare_sound CORPUS/manifest.jsonl NOISES/manifest.jsonl --out sound.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.audio import open_audio
from framecls.inference.segments import clean_runs, find_runs
from framecls.recipes.prepare_language import read_rows

RATE = 16000
HOP = 160
VAD_CHUNK = 512
# Whole sources that training never hears.
DEV_SOURCES = {
    "emodb", "turev-db", "lt-speech-commands", "hedgewars-voices", "asterisk-prompt-it-menardi-wav",
    "wesnoth-music", "singularity-music", "asterisk-moh-opsound-wav", "planetblupi-music-ogg",
    "nonspeech100", "noisex92", "lt-commands-background",
}  # fmt: skip
DEV_SHARE = 10  # of the voices of the other speech sources, one in so many


def read_all(file: Path) -> NDArray[np.float32]:
    """Decode a whole clip: (sample,)."""
    with open_audio(file, RATE) as stream:
        return np.concatenate([*stream.blocks(30.0), np.zeros(0, np.float32)])


def loudness_db(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (frame,) the level of each 10 ms, smoothed over 30 ms."""
    n_frames = math.ceil(len(samples) / HOP)
    power = np.square(np.resize(np.pad(samples, (0, n_frames * HOP - len(samples))), (n_frames, HOP))).mean(axis=1)
    smooth = np.convolve(power, np.ones(3) / 3, mode="same")
    return 10 * np.log10(np.maximum(smooth, 1e-12))


def voiced_frames(vad: Any, samples: NDArray[np.float32], n_frames: int) -> NDArray[np.bool_]:
    """Return (frame,) where silero-vad hears a voice, a chunk early and late."""
    with torch.inference_mode():
        chance = vad.audio_forward(torch.from_numpy(samples), sr=RATE)[0].numpy()
    heard = chance > 0.35
    heard = heard | np.append(heard[1:], False) | np.append(False, heard[:-1])
    index = np.minimum((np.arange(n_frames) * HOP + HOP // 2) // VAD_CHUNK, len(heard) - 1)
    return np.asarray(heard[index])


def spans(samples: NDArray[np.float32], kind: str, vad: Any) -> list[tuple[float, float]]:
    """Return the spans in seconds where a clip holds what its kind says; none: leave the clip out."""
    level_db = loudness_db(samples)
    top_db = float(np.quantile(level_db, 0.95))
    voiced = voiced_frames(vad, samples, len(level_db))
    if kind == "speech":
        runs = clean_runs(find_runs(voiced & (level_db > max(top_db - 33, -75))), 5, 15)
    elif voiced.mean() > 0.15:
        return []
    else:
        runs = clean_runs(find_runs(level_db > max(top_db - 40, -75)), 3, 30)
    return [(round(first * HOP / RATE, 2), round(min(last * HOP, len(samples)) / RATE, 3)) for first, last in runs]


def main() -> None:
    """Write one row a span."""
    from silero_vad import load_silero_vad

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifests", type=Path, nargs="+", help="of clips with kind, speaker, source")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    vad = load_silero_vad()
    voices: dict[str, int] = {}
    rows = [row for manifest in options.manifests for row in read_rows(manifest)]
    with options.out.open("w", encoding="utf-8") as out:
        for row in rows:
            samples = read_all(Path(row["path"]))
            speaker = row.get("speaker") or row["file"]
            number = voices.setdefault(speaker, len(voices))
            held_out = row["source"] in DEV_SOURCES or (row["kind"] == "speech" and number % DEV_SHARE == 0)
            for start, end in spans(samples, row["kind"], vad) if len(samples) >= RATE // 5 else []:
                span = {"file": row["path"], "start": start, "end": end, "label": row["kind"], "speaker": speaker}
                span |= {"source": row["source"], "split": "dev" if held_out else "train"}
                out.write(json.dumps(span, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
