"""Write what a teacher, a model of voices, makes of each voice of a manifest: the vectors that `--teacher` learns from.

    python -m framecls.recipes.embed_corpus speaker.jsonl --out teacher.npz --speeds 0.86,1,1.16 [--model speaker]

Clips that are short are joined with others of their voice before the teacher hears them: of a single word it makes
little. Played faster or slower a voice becomes another one, so each speed has a vector of its own. The file holds, a
row a clip and speed, `files` (as the manifest names them), `speeds` and `group`: the row of `vectors` (group, number).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.audio import open_audio
from framecls.config import ReadOptions
from framecls.inference.engine import load_engine
from framecls.speakers.recognition import pool_vectors
from framecls.training.examples.augment import change_speed

_RATE = 16000
ENOUGH_S = 6.0  # clips are joined until they are this long
_GAP_S = 0.1


def group_clips(rows: Iterable[Mapping[str, Any]], seconds: Mapping[str, float]) -> list[list[str]]:
    """Return lists of files of one voice each, with `ENOUGH_S` of sound where the voice has as much.

    Args:
        rows: of a manifest: `file`, `source` and `speaker`.
        seconds: the length of each file.
    """
    voices: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        voices[row.get("source", ""), row.get("speaker") or row["file"]].append(row["file"])
    groups = []
    for files in voices.values():
        groups.append([files[0]])
        for file in files[1:]:
            if sum(seconds[name] for name in groups[-1]) >= ENOUGH_S:
                groups.append([])
            groups[-1].append(file)
    return groups


def join(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return (sample,) clips one after the other, a short pause behind each."""
    gap = np.zeros(int(_GAP_S * _RATE), np.float32)
    return np.concatenate([piece for part in parts for piece in (part, gap)])


def decode(file: Path) -> NDArray[np.float32]:
    """Return (sample,) a whole recording at 16 kHz."""
    with open_audio(file, _RATE) as stream:
        return np.concatenate([np.zeros(0, np.float32), *stream.blocks(30.0)])


def main() -> None:
    """Write one file of vectors."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--speeds", default="1", help="factors to play each clip at, separated by commas")
    arguments.add_argument("--model", default="speaker")
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    teacher = load_engine(options.model, device="cpu", threads=options.threads)
    speeds = [float(speed) for speed in options.speeds.split(",")]
    rows = [json.loads(line) for line in options.manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if row.get("split") != "dev"]
    clips = {row["file"]: decode(options.manifest.parent / row["file"]) for row in rows}
    groups = group_clips(rows, {file: len(samples) / _RATE for file, samples in clips.items()})
    sys.stderr.write(f"{len(clips)} clips in {len(groups)} groups\n")
    plan = [(group, speed) for group in groups for speed in speeds]
    voices = (change_speed(join([clips[file] for file in group]), speed) for group, speed in plan)
    vectors = []
    for windows in teacher.run(voices, ReadOptions(sample_rate=_RATE)):
        vector = pool_vectors(windows)[0]
        vectors.append(vector / np.linalg.norm(vector))
        if len(vectors) % 500 == 0:
            sys.stderr.write(f"{len(vectors)} of {len(plan)}\n")
    table = [(file, speed, index) for index, (group, speed) in enumerate(plan) for file in group]
    np.savez(
        options.out,
        files=np.array([file for file, _, _ in table]),
        speeds=np.array([speed for _, speed, _ in table], np.float32),
        group=np.array([index for _, _, index in table], np.int32),
        vectors=np.stack(vectors).astype(np.float16),
    )


if __name__ == "__main__":
    main()
