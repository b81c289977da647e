"""Measure a model of voices and Resemblyzer on the same recordings: the equal error rate over all pairs of a source.

The voices are those of the dev split: sources that training never heard, and voices of others that it did not. What a
voice says is joined and cut into pieces of a length; with --length 0 each clip is taken as it is.

    pip install resemblyzer
    python -m framecls.recipes.compare_speakers speaker.jsonl --model speaker [--length 0,6,3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecls.engine import Engine, load_engine
from framecls.identification import pool_windows
from framecls.recipes.embed_corpus import Teacher
from framecls.training import verification
from framecls.training.augment import Samples
from framecls.training.clips import ClipStore, open_clips
from framecls.training.manifest import Recording, read_manifest, split_recordings
from framecls.training.recipe import Recipe
from framecls.training.voices import VoiceExamples

_MOST_OF_VOICE = 60  # pieces
# Of a clip that is shorter no system can say much; the model itself refuses.
_SHORTEST_S = 1.0


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


def embed(engine: Engine, pieces: Sequence[Samples], rate: int) -> NDArray[np.float32]:
    """Return (piece, number) what the model makes of pieces."""
    vectors = []
    for piece in pieces:
        with engine.open(piece, rate) as stream:
            vectors.append(pool_windows(engine.run(stream))[0])
    return np.stack(vectors)


def main() -> None:
    """Print a line a length and source."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--model", default="speaker")
    arguments.add_argument("--length", default="0,6,3", help="seconds of a piece, separated by commas; 0: whole clips")
    arguments.add_argument("--cache", type=Path)
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    warnings.filterwarnings("ignore")  # of the teacher's own libraries
    engine = load_engine(options.model, device="cpu", threads=options.threads)
    teacher = Teacher()
    dev = split_recordings(read_manifest(options.manifest), by="speaker").dev
    sys.stdout.write(f"{'':30} {'voices':>6} {'pieces':>6} {engine.config.name:>12} {'resemblyzer':>12}\n")
    with tempfile.TemporaryDirectory() as temporary:
        store = open_clips(dev, engine.config.features.sample_rate, options.cache or Path(temporary))
        for text in options.length.split(","):
            for source, (pieces, who) in cut(dev, store, engine, float(text)).items():
                if len(np.unique(who)) == len(who):
                    continue  # no voice has two
                systems = (embed(engine, pieces, store.sample_rate), np.stack(list(teacher.embed(pieces))))
                rates = [verification.equal_error_rate(verification.all_pairs(vectors, who)) for vectors in systems]
                what = f"{'clips' if float(text) == 0 else f'{float(text):g} s'} of {source}"
                line = f"{what[:30]:30} {len(np.unique(who)):6} {len(who):6}"
                sys.stdout.write(f"{line} {rates[0]:12.2%} {rates[1]:12.2%}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
