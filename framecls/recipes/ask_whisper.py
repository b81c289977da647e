"""Ask Whisper which language each recording of a manifest is in, for a smaller model to learn its doubts as well.

What a teacher holds for possible says more of a recording than its label alone: Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network". Every row of the training split gets `soft`: the probability of each label, from the
first step of Whisper's decoder. Clips that are short are joined with others of the same voice and asked together.

    python -m framecls.recipes.ask_whisper language.jsonl --model model.bin.part1 model.bin.part2 \
        --tokenizer tokenizer.json --recipe language --out language_soft.jsonl

`framecls.recipes.from_whisper` says where the model comes from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.inference.windows import count_frames
from framecls.nn.network import Network
from framecls.nn.pooling import ReadingPooling
from framecls.recipes.from_whisper import copy_decoder, copy_encoder, read_ctranslate2
from framecls.training.data.clips import ClipStore, open_clips
from framecls.training.data.manifest import Recording, read_manifest
from framecls.training.recipe import find_recipe, read_recipe

_GAP_S = 0.2
_LEAST = 0.01  # smaller probabilities are left out of the manifest
# Whisper's codes where they are not those of ISO 639-1, and the kind of Norwegian that its "no" is.
_TO_ISO_639_1 = {"jw": "jv", "no": "nb"}


def read_languages(tokenizer: Path) -> tuple[int, dict[str, int]]:
    """Return the token that a text begins with, and those of the languages by ISO 639-1 code, from a tokenizer.json."""
    tokens = {row["content"]: row["id"] for row in json.loads(tokenizer.read_text("utf-8"))["added_tokens"]}
    first, last = tokens["<|startoftranscript|>"], tokens["<|translate|>"]
    languages = {text[2:-2]: number for text, number in tokens.items() if first < number < last}
    return first, {_TO_ISO_639_1.get(code, code): number for code, number in languages.items()}


def pieces(recordings: Sequence[Recording], store: ClipStore, length_s: float) -> Iterator[list[Recording]]:
    """Yield groups of recordings of one voice in one language: together about a length, or the whole voice."""
    voices: dict[tuple[str, str, str], list[Recording]] = defaultdict(list)
    for recording in recordings:
        voices[recording.source, recording.speaker, recording.label].append(recording)
    for voice in voices.values():
        group: list[Recording] = []
        n_samples = 0
        for recording in voice:
            group.append(recording)
            n_samples += store.n_samples(recording.file)
            if n_samples >= length_s * store.sample_rate:
                yield group
                group, n_samples = [], 0
        if group:
            yield group


@torch.inference_mode()
def ask(
    network: Network, reading: ReadingPooling, rows: Mapping[str, Tensor], samples: NDArray[np.float32]
) -> dict[str, float]:
    """Return what the language of (sample,) audio is likely to be: ISO 639-1 code to probability.

    Args:
        network: with Whisper's encoder.
        reading: with its decoder.
        rows: (channel,) of each language's token, by code.
        samples: (sample,).
    """
    hop, margin = network.config.hop_samples, network.config.features.margin_samples
    n_frames = count_frames(len(samples), hop)
    padded = np.pad(samples, (margin, margin + n_frames * hop - len(samples)))
    encoded, mask = network.encode(network.features(torch.from_numpy(padded)[None]), torch.tensor([n_frames]))
    read = reading(encoded, mask)[0, -encoded.shape[2] :]
    shares = (torch.stack(list(rows.values())) @ read).softmax(dim=0).tolist()
    return dict(zip(rows, shares, strict=True))


def main() -> None:
    """Write the manifest again, with `soft`."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--model", type=Path, nargs="+", required=True, help="model.bin, or its parts in order")
    arguments.add_argument("--tokenizer", type=Path, required=True)
    arguments.add_argument("--recipe", required=True, help="whose features and encoder are Whisper's")
    arguments.add_argument("--skip", default="synthetic", help="sources with this in their name are not asked about")
    arguments.add_argument("--length", type=float, default=6.0, help="seconds to ask about at least, where there are")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    recordings = read_manifest(options.manifest)
    arrays = read_ctranslate2(b"".join(part.read_bytes() for part in options.model))
    labels = {recording.label for recording in recordings}
    network = Network(read_recipe(find_recipe(options.recipe)).model_config(("none", "yet"), ())).eval()
    copy_encoder(network, arrays)
    start, languages = read_languages(options.tokenizer)
    reading = ReadingPooling(network.encoder.output_size)
    copy_decoder(reading, arrays, start)
    embedding = torch.from_numpy(arrays["decoder/embeddings/weight"])
    rows = {code: embedding[number] for code, number in languages.items()}
    store = open_clips(
        recordings, network.config.features.sample_rate, options.out.with_name(f"{options.out.name}.cache")
    )
    wanted = [r for r in recordings if r.split == "train" and options.skip not in r.source]
    soft: dict[Path, dict[str, float]] = {}
    for group in pieces(wanted, store, options.length):
        gap = np.zeros(round(_GAP_S * store.sample_rate), np.float32)
        joined = np.concatenate([part for recording in group for part in (store.read(recording.file), gap)])
        longest = round(network.config.window.length_s * store.sample_rate)
        shares = ask(network, reading, rows, joined[:longest])
        known = {label: share for label, share in shares.items() if label in labels and share >= _LEAST}
        total = sum(known.values())
        answer = {label: round(share / total, 3) for label, share in known.items()} if total else {}
        soft |= {recording.file: answer for recording in group}
        sys.stderr.write(f"\r{len(soft)} of {len(wanted)}")
    with options.out.open("w", encoding="utf-8") as out:
        for line in options.manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            heard = soft.get(options.manifest.parent / row["file"])
            out.write(json.dumps(row | ({"soft": heard} if heard else {}), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
