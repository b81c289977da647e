"""Fit the head of a pooled model on a trained encoder by logistic regression: convex, quick, and frugal with data.

A head that learns by gradient steps together with a deep network needs far more voices than there are recordings of
most languages. How often an encoder heard each phone tells languages apart by a linear rule, which a few minutes of
each suffice for, and little of voice or microphone is left in it. Everything below the head stays as it is.

    python -m framecls.recipes.fit_head thin.jsonl --init phones.safetensors --recipe language --noise noise.jsonl \
        --date 2026-11-23 --out language.safetensors
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from framecls.checkpoint import load_network, save_model
from framecls.errors import ConfigError
from framecls.nn.model import Network
from framecls.nn.pooling import MeanPooling
from framecls.training.examples import Batch, PooledExamples
from framecls.training.loop import Data, Job, dev_batches, make_examples, prepare
from framecls.training.measure import measure
from framecls.training.recipe import find_recipe, read_recipe


def take_encoder(network: Network, heard: Network) -> None:
    """Copy the layers up to the phones, and the phone head, from a network that may go on above them.

    Raises:
        ConfigError: the two do not fit, or the network has layers above the phones.
    """
    if not network.config.phone_bottleneck or network.phone_layer != len(network.encoder.layers):
        raise ConfigError("the phone head must sit on the last layer, with a bottleneck")
    source = dict(heard.named_parameters())
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.startswith(("encoder.input.", "encoder.layers.", "phones.norm.", "phones.to_logits.")):
                if key not in source or source[key].shape != parameter.shape:
                    raise ConfigError(f"{heard.config.name} has no weight {key} of the right shape")
                parameter.copy_(source[key])
        # The phone head has a norm of its own, which a plain norm before it does not disturb.
        network.encoder.norm.weight.fill_(1.0)
        network.encoder.norm.bias.zero_()


@torch.inference_mode()
def pooled(network: Network, batch: Batch) -> NDArray[np.float32]:
    """Return (example, 1 + phone) the share of each phone in a batch."""
    if network.phones is None:
        raise ConfigError("the network hears no phones")
    x, mask = network.listen(network.features(batch.waveform), batch.n_frames)
    pool = MeanPooling(len(network.config.phones) + 1)
    shares: NDArray[np.float32] = pool(network.phones(x).softmax(dim=2), mask).numpy()
    return shares


def fit(network: Network, examples: PooledExamples, n_examples: int, strength: float) -> None:
    """Set head and phone feedback to the regularised logistic regression of the labels on the shares of phones."""
    features: list[NDArray[np.float32]] = []
    labels: list[int] = []
    while len(labels) < n_examples:
        batch = examples.make_batch(len(features))
        features.append(pooled(network, batch))
        labels += batch.targets.tolist()
    scaler = StandardScaler()
    rule = LogisticRegression(C=strength, max_iter=500).fit(scaler.fit_transform(np.concatenate(features)), labels)
    weights = rule.coef_ / scaler.scale_
    bias = rule.intercept_ - weights @ scaler.mean_
    assert network.phones is not None
    n_phones = weights.shape[1]
    with torch.no_grad():
        # What is told back is the phones themselves, in the first channels of a frame.
        network.phones.tell_back.weight.copy_(torch.eye(network.encoder.output_size, n_phones))
        network.phones.tell_back.bias.zero_()
        network.head.weight.zero_()
        network.head.weight[:, :n_phones] = torch.from_numpy(weights)
        network.head.bias.copy_(torch.from_numpy(bias))


def main() -> None:
    """Fit, measure and write one model."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--init", type=Path, required=True, help="a model that hears phones")
    arguments.add_argument("--recipe", required=True)
    arguments.add_argument("--noise", type=Path)
    arguments.add_argument("--date", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--examples", type=int, default=8000)
    arguments.add_argument("--strength", type=float, default=0.01, help="inverse of the regularisation")
    options = arguments.parse_args()
    recipe, heard = read_recipe(find_recipe(options.recipe)), load_network(options.init)
    job = Job(options.manifest, options.out, recipe, noise=options.noise)
    data: Data = prepare(job)
    data = replace(data, config=replace(data.config, phones=heard.config.phones, gate=""))
    network = Network(data.config).eval()
    take_encoder(network, heard)
    examples = make_examples(data, recipe, dev=False)
    if not isinstance(examples, PooledExamples):
        raise ConfigError(f"{recipe.name} is not a recipe of a pooled task")
    fit(network, examples, options.examples, options.strength)
    report = measure(network, dev_batches(data, recipe))
    sys.stdout.write(f"{report.figures}\n")
    card = {**recipe.card, "date": options.date, "dev": report.figures}
    config = replace(data.config, gate=recipe.gate, decision=report.decision, card=card)
    save_model(network, options.out, config=config, precision="float16")


if __name__ == "__main__":
    main()
