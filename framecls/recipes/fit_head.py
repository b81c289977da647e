"""Train pooling and head of a pooled model on an encoder that stays as it is.

An encoder that has learnt from far more speech than there is here needs no more of ours; what is to be learnt is which
of its vectors to look at, and what they say. So each example goes through the encoder once, its vectors are kept, and
many epochs over them cost little. The targets are half the labels and half what a teacher holds for possible, where the
manifest has that (`soft`, see `ask_whisper`).

    python -m framecls.recipes.fit_head language_soft.jsonl --init whisper.safetensors --recipe language \
        --noise noise.jsonl --date 2026-11-23 --out language.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.checkpoints.network import save_model
from framecls.errors import ConfigError
from framecls.nn.network import Network
from framecls.nn.pooling import MultiHeadStatisticsPooling
from framecls.training.examples.loader import dev_batches, make_examples
from framecls.training.examples.pooled import PooledExamples
from framecls.training.job import Job, prepare
from framecls.training.metrics.measure import measure
from framecls.training.optimizer import initialise
from framecls.training.recipe import OptimConfig, find_recipe, read_recipe

_BATCH = 32  # examples a step
_DROPOUT = 0.2
_N_SCALED = 500  # examples that the scale of the vectors is taken from


@dataclass(frozen=True)
class Kept:
    """What the encoder made of examples."""

    vectors: list[Tensor]  # of each example (frame, channel), as 16-bit floats
    targets: Tensor  # (example,) label index
    soft: Tensor  # (example, label) a teacher's probabilities, all 0 where nobody was asked


class Head(nn.Module):
    """Pooling and head of a network, fed with vectors of unit variance and taught with dropout."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        assert network.pooling is not None
        self.pooling, self.head, self.dropout = network.pooling, network.head, nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (example, frame, channel) to (example, label) logits; mask: (example, frame) True = real."""
        logits: Tensor = self.head(self.dropout(self.pooling(self.dropout(x), mask)))
        return logits


@torch.inference_mode()
def encode(network: Network, examples: PooledExamples, n_examples: int, *, low: bool) -> Kept:
    """Run examples through the encoder, in 16-bit floats if `low`."""
    vectors: list[Tensor] = []
    targets, soft = [], []
    number = 0
    while len(vectors) < n_examples:
        batch = examples.make_batch(number)
        features = network.extract(batch.waveform, batch.n_frames)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            x, _ = network.encode(features, batch.n_frames)
        vectors += [row[:n].half().clone() for row, n in zip(x, batch.n_frames.tolist(), strict=True)]
        targets.append(batch.targets)
        soft.append(
            batch.soft_targets if batch.soft_targets is not None else torch.zeros(len(x), len(network.config.labels))
        )
        number += 1
        sys.stderr.write(f"\r{len(vectors)} of {n_examples} examples heard")
    sys.stderr.write("\n")
    return Kept(vectors, torch.cat(targets), torch.cat(soft))


def fit(network: Network, kept: Kept, optim: OptimConfig, epochs: int) -> None:
    """Train pooling and head; what scales the vectors is folded into the first maps of the pooling.

    Raises:
        ConfigError: the pooling is not of the kind that maps vectors linearly first.
    """
    if network.config.pooling != "multihead":
        raise ConfigError("fit_head wants a recipe with pooling = multihead")
    torch.manual_seed(optim.seed)
    some = torch.cat(kept.vectors[:_N_SCALED]).float()
    mean, deviation = some.mean(dim=0), some.std(dim=0) + 1e-5
    module = Head(network).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=optim.learning_rate, weight_decay=optim.weight_decay)
    chunks = _chunks(kept.vectors)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, optim.learning_rate, total_steps=epochs * len(chunks) + 1, pct_start=0.1
    )
    wanted = _blend(kept, optim.soft_weight)
    for epoch in range(epochs):
        for index in np.random.default_rng((optim.seed, epoch)).permutation(len(chunks)):
            ids = chunks[index]
            x, mask = _pad([(kept.vectors[i].float() - mean) / deviation for i in ids])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=optim.precision == "bfloat16"):
                logits = module(x, mask)
            loss = functional.cross_entropy(logits.float(), wanted[ids], label_smoothing=optim.label_smoothing)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        sys.stderr.write(f"epoch {epoch + 1}: loss {float(loss.detach()):.3f}\n")
    _fold(network, mean, deviation)


def _blend(kept: Kept, soft_weight: float) -> Tensor:
    """Return (example, label) the label, and a teacher's word where there is one."""
    hard = functional.one_hot(kept.targets, kept.soft.shape[1]).float()
    asked = kept.soft.any(dim=1, keepdim=True)
    return torch.where(asked, (1 - soft_weight) * hard + soft_weight * kept.soft, hard)


def _chunks(vectors: Sequence[Tensor]) -> list[list[int]]:
    """Return batches of examples of about one length."""
    order = sorted(range(len(vectors)), key=lambda i: len(vectors[i]))
    return [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]


def _pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (example, frame, channel), zeros where padded, and the (example, frame) mask."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True), mask


def _fold(network: Network, mean: Tensor, deviation: Tensor) -> None:
    """Make the first maps of the pooling take vectors as the encoder gives them."""
    pooling = network.pooling
    assert isinstance(pooling, MultiHeadStatisticsPooling)
    with torch.no_grad():
        for layer in (pooling.attention[0], pooling.value):
            assert isinstance(layer, nn.Linear)
            layer.weight.div_(deviation)
            layer.bias.sub_(layer.weight @ mean)


def main() -> None:
    """Fit, measure and write one model."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--init", type=Path, required=True, help="a model whose encoder is taken as it is")
    arguments.add_argument("--recipe", required=True)
    arguments.add_argument("--noise", type=Path)
    arguments.add_argument("--date", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--examples", type=int, default=6000)
    arguments.add_argument("--epochs", type=int, default=6)
    options = arguments.parse_args()
    recipe = read_recipe(find_recipe(options.recipe))
    data = prepare(Job(options.manifest, options.out, recipe, noise=options.noise))
    data = replace(data, config=replace(data.config, gate=""))
    network = Network(data.config).eval()
    initialise(network, options.init)
    examples = make_examples(data, recipe, dev=False)
    if not isinstance(examples, PooledExamples):
        raise ConfigError(f"{recipe.name} is not a recipe of a pooled task")
    kept = encode(network, examples, options.examples, low=recipe.optim.precision == "bfloat16")
    fit(network, kept, recipe.optim, options.epochs)
    report = measure(network, dev_batches(data, recipe))
    sys.stdout.write(f"{report.figures}\n")
    card = {**recipe.card, "date": options.date, "dev": report.figures}
    config = replace(data.config, gate=recipe.gate, decision=report.decision, card=card)
    save_model(network, options.out, config=config, precision=recipe.stored)


if __name__ == "__main__":
    main()
