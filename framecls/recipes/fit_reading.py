"""Let a pooled model of languages read as Whisper's decoder does, beside what its own head makes of the frames.

The first step of the decoder is a query that reads the vectors of the encoder, and answers with a language: it has
learnt that from 680,000 hours, not from a few voices a language. What it says is averaged with what the head says. Its
rows, one a language, are moved to the clips of one source where all languages are recorded alike (FLEURS): otherwise it
names the languages of the web too often, and does not know some at all.

    python -m framecls.recipes.fit_reading language.safetensors language.jsonl --tokenizer tokenizer.json \
        --whisper model.bin.part1 model.bin.part2 --date 2026-11-30 --out read.safetensors

The first model is what `fit_head` and `finish` wrote; `from_whisper` names the packages that carry the other files. It
takes four minutes of CPU time. `trust_languages` chooses the thresholds anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from framecls.checkpoints.network import load_network, rebuild, save_model
from framecls.inference.windows import count_frames
from framecls.nn.network import Network
from framecls.nn.pooling import ReadingPooling
from framecls.recipes.ask_whisper import read_languages
from framecls.recipes.from_whisper import copy_decoder, read_ctranslate2
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.examples.loader import dev_batches
from framecls.training.job import Job, prepare
from framecls.training.metrics.measure import measure
from framecls.training.recipe import find_recipe, read_recipe

_SOURCE = "fleurs"
_SHORTEST_S = 3.0  # of what is left of a clip after windows that are full
_WEIGHT = 0.35  # of what is read in the mean of both, as was best on dev
_PENALTY = 1.0  # of the squared distance of the rows from those of Whisper; a third of it gives the same figures
_ITERATIONS = 60


def with_reading(network: Network, arrays: Mapping[str, NDArray[np.float32]], start: int) -> Network:
    """Return a network whose pooling reads, too; its head does not listen to that yet.

    Args:
        network: with multi-head pooling.
        arrays: of Whisper.
        start: number of the token that the decoder begins with.
    """
    size = network.encoder.output_size
    pooling = ReadingPooling(size)
    copy_decoder(pooling, arrays, start)
    changed = {f"pooling.{key}": value for key, value in pooling.state_dict().items()}
    changed |= {key: value for key, value in network.named_parameters() if key.startswith("pooling.")}
    changed["head.weight"] = functional.pad(network.head.weight, (0, size))
    return rebuild(network, replace(network.config, pooling="reading"), changed)


@torch.no_grad()
def read_clips(network: Network, clips: Sequence[Recording], store: ClipStore) -> tuple[Tensor, Tensor]:
    """Return what is read from the windows of clips, (window, channel), and the (window,) index of its label."""
    hop, margin = network.config.hop_samples, network.config.features.margin_samples
    longest, size = round(network.config.window.length_s * store.sample_rate), network.encoder.output_size
    rows, labels = [], []
    for number, clip in enumerate(clips, start=1):
        samples = store.read(clip.file)
        for first in range(0, len(samples), longest):
            window = samples[first : first + longest]
            if first and len(window) < _SHORTEST_S * store.sample_rate:
                continue
            n_frames = count_frames(len(window), hop)
            padded = np.pad(window, (margin, margin + n_frames * hop - len(window)))
            lengths = torch.tensor([n_frames])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                encoded, mask = network.encode(network.extract(torch.from_numpy(padded)[None], lengths), lengths)
            assert network.pooling is not None
            rows.append(network.pooling(encoded.float(), mask)[0, -size:])
            labels.append(network.config.labels.index(clip.label))
        sys.stderr.write(f"\r{number} of {len(clips)} clips read")
    sys.stderr.write("\n")
    return torch.stack(rows), torch.tensor(labels)


def fit_rows(read: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (label, channel) rows, and the biases, that tell languages apart and are near those of Whisper.

    Args:
        read: (window, channel).
        labels: (window,) index.
        rows: (label, channel) where they begin.
    """
    moved = torch.zeros_like(rows, requires_grad=True)
    bias = torch.zeros(len(rows), requires_grad=True)
    optimizer = torch.optim.LBFGS([moved, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = functional.cross_entropy(functional.linear(read, rows + moved, bias), labels)
        total: Tensor = error + _PENALTY * moved.square().sum() + 1e-4 * bias.square().sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return (rows + moved).detach(), bias.detach()


def whisper_rows(labels: Sequence[str], embedding: Tensor, languages: Mapping[str, int]) -> Tensor:
    """Return (label, channel) the rows of Whisper's answers, their mean for a language that it does not know.

    Args:
        labels: ISO 639-1 codes.
        embedding: (token, channel).
        languages: Whisper's, and their tokens.
    """
    known = {code: embedding[number] for code, number in languages.items()}
    mean = torch.stack([known[label] for label in labels if label in known]).mean(dim=0)
    return torch.stack([known.get(label, mean) for label in labels])


def main() -> None:
    """Fit, measure and write one model."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("manifest", type=Path, help="what `prepare_language` wrote")
    arguments.add_argument("--whisper", type=Path, nargs="+", required=True, help="model.bin, or its parts in order")
    arguments.add_argument("--tokenizer", type=Path, required=True)
    arguments.add_argument("--recipe", default="language")
    arguments.add_argument("--date", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    recipe = read_recipe(find_recipe(options.recipe))
    data = prepare(Job(options.manifest, options.out, recipe))
    arrays = read_ctranslate2(b"".join(part.read_bytes() for part in options.whisper))
    start, languages = read_languages(options.tokenizer)
    network = with_reading(load_network(options.model), arrays, start)
    clips = [clip for clip in data.train if clip.source == _SOURCE and clip.label in network.config.labels]
    embedding = torch.from_numpy(arrays["decoder/embeddings/weight"])
    rows, bias = fit_rows(
        *read_clips(network, clips, data.store), whisper_rows(network.config.labels, embedding, languages)
    )
    with torch.no_grad():
        network.head.weight.mul_(1 - _WEIGHT)[:, -rows.shape[1] :] = _WEIGHT * rows
        network.head.bias.mul_(1 - _WEIGHT).add_(_WEIGHT * bias)
    report = measure(network, dev_batches(data, recipe))
    sys.stdout.write(f"{report.figures}\n")
    decision = replace(network.config.decision, temperature=report.decision.temperature)
    card = {**network.config.card, "date": options.date, "dev": report.figures}
    config = replace(network.config, decision=decision, card=card)
    save_model(network, options.out, config=config, precision=recipe.stored)


if __name__ == "__main__":
    main()
