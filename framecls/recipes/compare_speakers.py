"""Measure models of voices on the same recordings: the equal error rate over all pairs of a source.

The voices are those of the dev split: sources that training never heard, and voices of others that it did not. What a
voice says is joined and cut into pieces of a length; with --length 0 each clip is taken as it is. With --through they
come over a telephone, or with noise (recordings of --noise) 10 dB below the speech.

    python -m framecls.recipes.compare_speakers speaker.jsonl --model speaker,other.safetensors [--length 0,6,3] \
        [--through clean,telephone,noise --noise noise.jsonl]

The times are those of the processor for all pieces of a line, as a multiple of what they last.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.config import UNKNOWN, ReadOptions
from framecls.inference.engine import Engine, load_engine
from framecls.speakers.recognition import pool_vectors
from framecls.training.data.clips import ClipStore, open_clips
from framecls.training.data.manifest import Recording, read_manifest
from framecls.training.data.splits import split_recordings
from framecls.training.examples.augment import Samples, augment_batch
from framecls.training.examples.batch import NoiseBank
from framecls.training.examples.voices import VoiceExamples
from framecls.training.metrics import scores as metrics
from framecls.training.metrics import verification
from framecls.training.recipe import AugmentConfig, Recipe

_MOST_OF_VOICE = 60  # pieces
# Of a clip that is shorter no system can say much; the model itself refuses.
_SHORTEST_S = 1.0
# Nothing but what is named; at the same peak as it is.
_NOTHING = AugmentConfig(
    speed_chance=0, reverb_chance=0, equalize_chance=0, low_pass_chance=0, telephone_chance=0, noise_chance=0,
    gain_db=(-6.0, -6.0), clip_chance=0,
)  # fmt: skip
CONDITIONS = {
    "clean": None,
    "telephone": replace(_NOTHING, codec_chance=1, codecs=("gsm", "mulaw"), telephone_chance=1),
    "noise": replace(_NOTHING, noise_chance=1, noise_snr_db=(10.0, 10.0)),
}


def cut(
    recordings: Sequence[Recording], store: ClipStore, engine: Engine, length_s: float
) -> dict[str, tuple[list[Samples], NDArray[np.int64]]]:
    """Return for each source (sample,) pieces of a length, or whole clips where it is 0, and who speaks in them."""
    examples = VoiceExamples(recordings, engine.config, Recipe(engine.config.name, "pooled"), store)
    voices: dict[tuple[str, str], list[Recording]] = defaultdict(list)
    for recording in recordings:
        voices[recording.source, recording.label].append(recording)
    found: dict[str, tuple[list[Samples], list[int]]] = defaultdict(lambda: ([], []))
    for index, ((source, _), clips) in enumerate(sorted(voices.items())):
        pieces = examples.cut_voice(clips, length_s) if length_s else [store.read(clip.file) for clip in clips]
        pieces = [piece for piece in pieces if len(piece) >= _SHORTEST_S * store.sample_rate][:_MOST_OF_VOICE]
        found[source][0].extend(pieces)
        found[source][1].extend([index] * len(pieces))
    return {source: (pieces, np.array(who)) for source, (pieces, who) in found.items()}


def spoil(pieces: Sequence[Samples], how: AugmentConfig | None, rate: int, noise: NoiseBank | None) -> list[Samples]:
    """Return (sample,) pieces after what happened to them, the same each time."""
    if how is None:
        return list(pieces)
    rng = np.random.default_rng(0)
    draw = noise.sample if noise is not None else None
    return [augment_batch(torch.from_numpy(p).unsqueeze(0), rng, how, rate, draw)[0].numpy() for p in pieces]


def embed(engine: Engine, pieces: Sequence[Samples], rate: int) -> NDArray[np.float32]:
    """Return (piece, number) what the model makes of pieces."""
    running = engine.run(pieces, ReadOptions(sample_rate=rate))
    return np.stack([pool_vectors(windows)[0] for windows in running])


def measure(engine: Engine, pieces: Sequence[Samples], who: NDArray[np.int64], rate: int) -> str:
    """Return the equal error rate of a model as text, and how many times faster than real time it was."""
    begun_s = time.process_time()
    vectors = embed(engine, pieces, rate)
    speed = sum(map(len, pieces)) / rate / (time.process_time() - begun_s)
    pairs = verification.all_pairs(vectors, who)
    return f"{metrics.equal_error_rate(pairs.scores, pairs.same):9.2%} {speed:7.1f}x"


def main() -> None:
    """Print a line a length and source."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--model", default="speaker", help="names or files, separated by commas")
    arguments.add_argument("--length", default="0,6,3", help="seconds of a piece, separated by commas; 0: whole clips")
    arguments.add_argument("--through", default="clean", help=f"some of {', '.join(CONDITIONS)}, separated by commas")
    arguments.add_argument("--noise", type=Path, help="manifest of noise; none: made-up noise")
    arguments.add_argument(
        "--split", choices=("dev", "all"), default="dev", help="all: for a model that heard none of it"
    )
    arguments.add_argument("--cache", type=Path)
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    names = options.model.split(",")
    engines = [load_engine(name, device="cpu", threads=options.threads) for name in names]
    recordings = [recording for recording in read_manifest(options.manifest) if recording.label != UNKNOWN]
    dev = recordings if options.split == "all" else split_recordings(recordings, by="speaker").dev
    noises = read_manifest(options.noise) if options.noise else []
    titles = " ".join(f"{Path(name).stem[-18:]:>18}" for name in names)
    sys.stdout.write(f"{'':42} {'voices':>6} {'pieces':>6} {titles}\n")
    with tempfile.TemporaryDirectory() as temporary:
        store = open_clips([*dev, *noises], engines[0].config.features.sample_rate, options.cache or Path(temporary))
        for length, through in itertools.product(options.length.split(","), options.through.split(",")):
            for source, (clean, who) in cut(dev, store, engines[0], float(length)).items():
                if len(np.unique(who)) == len(who):
                    continue  # no voice has two
                bank = NoiseBank(noises, store, np.random.default_rng(0)) if noises else None
                pieces = spoil(clean, CONDITIONS[through], store.sample_rate, bank)
                cells = " ".join(measure(engine, pieces, who, store.sample_rate) for engine in engines)
                what = f"{'clips' if float(length) == 0 else f'{float(length):g} s'} of {source}, {through}"
                sys.stdout.write(f"{what[:42]:42} {len(np.unique(who)):6} {len(who):6} {cells}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
