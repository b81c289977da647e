"""Write what a teacher, Resemblyzer, makes of each voice of a manifest: the vectors that `--teacher` learns from.

    pip install resemblyzer
    python -m framecls.recipes.embed_corpus speaker.jsonl --out teacher.npz --speeds 0.86,1,1.16 \
        [--project begun.safetensors]

Clips that are short are joined with others of their voice before the teacher hears them: of a single word it makes
little. Played faster or slower a voice becomes another one, so each speed has a vector of its own. The file holds, a
row a clip and speed, `files` (as the manifest names them), `speeds` and `group`: the row of `vectors` (group, number).
With --project they are brought to where the model that `from_resemblyzer` made has its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from framecls.audio import open_audio
from framecls.checkpoints.network import load_network
from framecls.errors import ModelError
from framecls.training.examples.augment import change_speed

_RATE = 16000
ENOUGH_S = 6.0  # clips are joined until they are this long
_GAP_S = 0.1
_BATCH = 96  # pieces of 1.6 s that the teacher hears at once


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


class Teacher:
    """Resemblyzer's `embed_utterance` for many recordings at once: the same numbers, sooner."""

    def __init__(self) -> None:
        from resemblyzer import VoiceEncoder

        self._encoder = VoiceEncoder("cpu", verbose=False)

    def pieces(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (piece, frame, band) what the network reads of (sample,) one recording."""
        from resemblyzer import audio, preprocess_wav

        # Of nothing but silence its own trimming leaves nothing.
        wav = preprocess_wav(samples) if len(samples) else samples
        wav = wav if len(wav) else samples
        wav_slices, mel_slices = self._encoder.compute_partial_slices(len(wav), 1.3, 0.75)
        wav = np.pad(wav, (0, max(0, wav_slices[-1].stop - len(wav))))
        mel = audio.wav_to_mel_spectrogram(wav)
        return np.stack([mel[piece] for piece in mel_slices])

    def embed(self, recordings: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Yield (number,) a unit vector for each of (sample,) recordings."""
        waiting: list[NDArray[np.float32]] = []
        for samples in recordings:
            waiting.append(self.pieces(samples))
            if sum(map(len, waiting)) >= _BATCH:
                yield from self._finish(waiting)
                waiting = []
        if waiting:
            yield from self._finish(waiting)

    def _finish(self, waiting: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        with torch.inference_mode():
            heard = self._encoder(torch.from_numpy(np.concatenate(waiting))).numpy()
        for part in np.split(heard, np.cumsum([len(pieces) for pieces in waiting])[:-1]):
            mean = part.mean(axis=0)
            yield mean / np.linalg.norm(mean)


def project(vectors: NDArray[np.float32], model: Path) -> NDArray[np.float32]:
    """Return (group, number) the teacher's vectors as the last layer of a model of `from_resemblyzer` makes them.

    Raises:
        ModelError: the file cannot be used, or its last layer reads vectors of another size.
    """
    head = load_network(model).head
    if head.in_features != vectors.shape[1]:
        sizes = f"{head.in_features} numbers, the teacher's have {vectors.shape[1]}"
        raise ModelError(f"{model}: projects vectors of {sizes}")
    with torch.inference_mode():
        return functional.normalize(head(torch.from_numpy(vectors)), dim=1).numpy()


def main() -> None:
    """Write one file of vectors."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--speeds", default="1", help="factors to play each clip at, separated by commas")
    arguments.add_argument("--project", type=Path, metavar="MODEL", help="a file that from_resemblyzer wrote")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    warnings.filterwarnings("ignore")  # of the teacher's own libraries
    torch.set_num_threads(options.threads)
    speeds = [float(speed) for speed in options.speeds.split(",")]
    rows = [json.loads(line) for line in options.manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if row.get("split") != "dev"]
    clips = {row["file"]: decode(options.manifest.parent / row["file"]) for row in rows}
    groups = group_clips(rows, {file: len(samples) / _RATE for file, samples in clips.items()})
    sys.stderr.write(f"{len(clips)} clips in {len(groups)} groups\n")
    plan = [(group, speed) for group in groups for speed in speeds]
    vectors = []
    for vector in Teacher().embed(change_speed(join([clips[file] for file in group]), speed) for group, speed in plan):
        vectors.append(vector)
        if len(vectors) % 500 == 0:
            sys.stderr.write(f"{len(vectors)} of {len(plan)}\n")
    taught = np.stack(vectors)
    table = [(file, speed, index) for index, (group, speed) in enumerate(plan) for file in group]
    np.savez(
        options.out,
        files=np.array([file for file, _, _ in table]),
        speeds=np.array([speed for _, speed, _ in table], np.float32),
        group=np.array([index for _, _, index in table], np.int32),
        vectors=(project(taught, options.project) if options.project else taught).astype(np.float16),
    )


if __name__ == "__main__":
    main()
