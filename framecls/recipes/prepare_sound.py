"""Make the manifest of the `sound` recipe, where in each clip its label really holds, and what teachers hear in it.

A clip of speech is not speech throughout: it has pauses, and breath and hiss at its ends. Frames count as speech where
FireRed's VAD hears a voice and the clip is loud at once: the first knows voices from clicks, the second knows to a
hundredth of a second where they stop. Music and noise count where they are loud enough to hear. Whether there is talk
or music in a clip of music or noise, FireRed and YAMNet say (`recipes.teachers`: never a dependency); clips whose label
they contradict throughout are left out; what they hear in the others is written beside the manifest, for --teacher.
They take a baby's cry for song, though: of sources whose labels are beyond doubt (--trust), nobody is asked.

    python -m framecls.recipes.prepare_sound CORPUS/manifest.jsonl MORE/manifest.jsonl --teachers DIR --out sound.jsonl
    framecls train tag sound.jsonl --teacher sound.npz --recipe sound -o sound.safetensors
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.audio import open_audio
from framecls.inference.segments import clean_runs, find_runs
from framecls.recipes.prepare_language import read_rows
from framecls.recipes.teachers import HOP_S, FireRed, YamNet

RATE = 16000
HOP = 160
LABELS = ("speech", "music", "noise")
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


class Teachers:
    """What two networks hear in a clip."""

    def __init__(self, folder: Path) -> None:
        self._yamnet, self._firered = YamNet(folder), FireRed(folder)

    def hear(self, samples: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
        """Return (frame, label) the mean of those that know a label; what nobody was asked about is not a number.

        A clip of speech was said by somebody: there only the VAD is asked, where. In one of noise both networks must
        hear a voice or music: each takes other cries for one of them.
        """
        heard = self._firered(samples)
        scores = np.full((len(heard["vad"]), len(LABELS)), np.nan, np.float32)
        if kind == "speech":
            scores[:, 0] = heard["vad"]
            return scores
        events = self._yamnet(samples)
        sung = np.maximum(heard["singing"], heard["music"])
        said = (heard["speech"] + np.minimum(heard["vad"], 1 - heard["singing"])) / 2
        for column, pair in enumerate([(events["speech"], said), (events["music"], sung)]):
            scores[:, column] = np.min(pair, axis=0) if kind == "noise" else np.mean(pair, axis=0)
        return scores


def spans(samples: NDArray[np.float32], kind: str, heard: NDArray[np.float32]) -> list[tuple[float, float]]:
    """Return the spans in seconds where a clip holds what its kind says; none: leave the clip out."""
    level_db = loudness_db(samples)
    top_db = float(np.quantile(level_db, 0.95))
    if kind == "speech":
        index = np.minimum((np.arange(len(level_db)) + 0.5) * HOP / RATE / HOP_S, len(heard) - 1).astype(int)
        runs = clean_runs(find_runs((heard[index, 0] > 0.4) & (level_db > max(top_db - 33, -75))), 5, 15)
    elif is_contradicted(kind, heard):
        return []
    else:
        runs = clean_runs(find_runs(level_db > max(top_db - 40, -75)), 3, 30)
    return [(round(first * HOP / RATE, 2), round(min(last * HOP, len(samples)) / RATE, 3)) for first, last in runs]


def is_contradicted(kind: str, heard: NDArray[np.float32]) -> bool:
    """Return whether somebody talks in a clip of music or noise, or music is played in most of one of noise."""
    talk, music = (heard[:, :2] > 0.5).mean(axis=0)
    return bool(talk > 0.15 or (kind == "noise" and music > 0.5))


def write_heard(path: Path, heard: dict[str, NDArray[np.float32]]) -> None:
    """Write what teachers heard in recordings, by path, as `framecls train tag --teacher` reads it."""
    np.savez_compressed(
        path,
        files=np.array(list(heard)),
        ends=np.cumsum([len(scores) for scores in heard.values()]),
        scores=np.concatenate([np.zeros((0, len(LABELS)), np.float32), *heard.values()]).astype(np.float16),
        labels=np.array(LABELS),
        hop=np.array(HOP_S),
    )


def main() -> None:
    """Write one row a span, and what was heard in clips of music and noise."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifests", type=Path, nargs="+", help="of clips with kind, speaker, source")
    arguments.add_argument("--teachers", type=Path, required=True, help="folder of the networks of recipes.teachers")
    arguments.add_argument(
        "--trust", nargs="*", default=[], metavar="SOURCE", help="of music or noise and nothing else"
    )
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    teachers = Teachers(options.teachers)
    voices: dict[str, int] = {}
    told: dict[str, NDArray[np.float32]] = {}
    rows: list[dict[str, Any]] = [row for manifest in options.manifests for row in read_rows(manifest)]
    with options.out.open("w", encoding="utf-8") as out:
        for row in rows:
            samples = read_all(Path(row["path"]))
            speaker = row.get("speaker") or row["file"]
            number = voices.setdefault(speaker, len(voices))
            held_out = row["source"] in DEV_SOURCES or (row["kind"] == "speech" and number % DEV_SHARE == 0)
            if len(samples) < RATE // 5:
                continue
            is_trusted = row["kind"] != "speech" and row["source"] in options.trust
            heard = np.zeros((1, len(LABELS)), np.float32) if is_trusted else teachers.hear(samples, row["kind"])
            found = spans(samples, row["kind"], heard)
            if found and row["kind"] != "speech" and not is_trusted:
                told[row["path"]] = heard
            for start, end in found:
                span = {"file": row["path"], "start": start, "end": end, "label": row["kind"], "speaker": speaker}
                span |= {"source": row["source"], "split": "dev" if held_out else "train"}
                out.write(json.dumps(span, ensure_ascii=False) + "\n")
    write_heard(options.out.with_suffix(".npz"), told)


if __name__ == "__main__":
    main()
