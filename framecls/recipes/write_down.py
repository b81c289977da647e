"""Write down what is said in English recordings, with Whisper: texts for `prepare_phones` where a corpus has none.

    pip install faster-whisper
    python -m framecls.recipes.write_down CORPUS/manifest.jsonl --model FOLDER --out texts.jsonl \
        --sources librispeech-train-clean-100 fleurs picovoice-barista --most 260

FOLDER holds a Whisper model as CTranslate2 has it: model.bin, tokenizer.json (`from_whisper` says where it comes from).
A run that was cut off goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.recipes.prepare_language import read_rows
from framecls.recipes.prepare_phones import SAMPLE_RATE, read_samples

_SHORTEST_S, _LONGEST_S = 1.0, 30.0
_PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


class Writer:
    """A Whisper model."""

    def __init__(self, folder: Path) -> None:
        import ctranslate2
        from faster_whisper.feature_extractor import FeatureExtractor
        from tokenizers import Tokenizer

        self._model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=1)
        self._features = FeatureExtractor()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._prompt = [self._tokenizer.token_to_id(token) for token in _PROMPT]
        self._array: Any = ctranslate2.StorageView.from_array

    def __call__(self, samples: NDArray[np.float32]) -> tuple[str, float]:
        """Return what is said in (sample,) audio, and the mean logarithm of its tokens' probabilities."""
        # With silence up to 30 s, as it was trained: without, it writes a text over and over again.
        padded = np.pad(samples, (0, max(0, round(_LONGEST_S * SAMPLE_RATE) - len(samples))))
        mel = self._features(padded)[:, : round(_LONGEST_S * 100)]
        encoded = self._model.encode(self._array(np.ascontiguousarray(mel[None], np.float32)))
        [found] = self._model.generate(encoded, [self._prompt], beam_size=5, max_length=200, return_scores=True)
        return self._tokenizer.decode(found.sequences_ids[0]).strip(), float(found.scores[0])


def wanted(rows: Sequence[dict[str, Any]], sources: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Return the English rows of some sources that are neither very short nor longer than Whisper hears at once."""
    chosen = []
    for source in sources:
        own = [row for row in rows if row["source"] == source and row.get("lang", "").startswith("en")]
        chosen += [row for row in own if _SHORTEST_S <= row["seconds"] <= _LONGEST_S][:most]
    return chosen


def main() -> None:
    """Write one row a recording."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--sources", nargs="+", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--most", type=int, default=10**9, help="recordings of a source at most")
    options = arguments.parse_args()
    write = Writer(options.model)
    before = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    done = {json.loads(line)["file"] for line in before}
    rows = wanted(read_rows(options.manifest), options.sources, options.most)
    rows = [row for row in rows if row["path"] not in done]
    with options.out.open("a", encoding="utf-8") as out:
        for number, row in enumerate(rows, start=1):
            text, score = write(read_samples(Path(row["path"])))
            known = {"speaker": row.get("speaker") or row["file"], "source": row["source"]}
            line = {"file": row["path"], "text": text, "score": round(score, 3), **known}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stderr.write(f"\r{number} of {len(rows)}")


if __name__ == "__main__":
    main()
