"""Put the last word into a trained model file: its card, the labels it keeps or trusts, when it says "unknown".

A network may learn more labels than it can be trusted with: those help it to tell the others apart. They are cut off
its head (--labels), or stay for those who ask for them with --among (--candidates). All other weights stay as they are.

    python -m framecls.recipes.finish language.safetensors --recipe language --date 2026-11-23 \\
        --candidates de,en,fr --unknown 0.3 --out framecls/weights/language.safetensors
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from framecls.checkpoints.network import load_network, rebuild, save_model
from framecls.config import UNKNOWN
from framecls.errors import ConfigError
from framecls.inference.engine import load_engine
from framecls.nn.network import Network
from framecls.recipes.compare_speakers import CONDITIONS, cut, embed, spoil
from framecls.training.data.clips import open_clips
from framecls.training.data.manifest import read_manifest
from framecls.training.examples.batch import NoiseBank
from framecls.training.metrics.report import DevReport
from framecls.training.metrics.verification import report_voices
from framecls.training.recipe import find_recipe, read_recipe

# Fitted on pieces of 3 s, a tenth of the strangers who talk for 6 s would be let in.
_FIT_LENGTH_S = 6.0
# Of a decision, what is chosen for weights and not by a recipe.
_FITTED = ("thresholds", "candidates", "other_odds", "temperature", "same_voice")


def keep_labels(network: Network, labels: Sequence[str]) -> Network:
    """Return a network that knows some of the labels only: the others' rows are cut off its head.

    Raises:
        ConfigError: the network does not know one of them.
    """
    config = network.config
    if unknown := sorted(set(labels) - set(config.labels)):
        raise ConfigError(f"{config.name} has no label {unknown[0]!r}")
    kept = [index for index, label in enumerate(config.labels) if label in labels]
    thresholds = {label: bound for label, bound in config.decision.thresholds.items() if label in labels}
    decision = replace(config.decision, thresholds=thresholds, candidates=())
    smaller = replace(config, labels=tuple(config.labels[index] for index in kept), decision=decision)
    head = {"head.weight": network.head.weight[kept], "head.bias": network.head.bias[kept]}
    return rebuild(network, smaller, head)


def fit_voices(model: Path, manifest: Path, noise: Path | None, cache: Path | None) -> DevReport:
    """Return the figures of a model of voices on those of a manifest, and what makes chances of its cosines.

    They are heard as they are, over a telephone and in noise, and each is compared with each: people are enrolled in
    one way and heard in another. Acted anger and game shouts among them would make every chance so cautious that nobody
    is named out of fifty: read speech it should be. Longer pieces of two voices are more alike than shorter ones.
    """
    engine = load_engine(model, device="cpu")
    recordings = [recording for recording in read_manifest(manifest) if recording.label != UNKNOWN]
    noises = read_manifest(noise) if noise else []
    rate = engine.config.features.sample_rate
    vectors, voices, sources = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        store = open_clips([*recordings, *noises], rate, cache or Path(temporary))
        for source, (clean, who) in cut(recordings, store, engine, _FIT_LENGTH_S).items():
            for how in CONDITIONS.values():
                bank = NoiseBank(noises, store, np.random.default_rng(0)) if noises else None
                vectors.append(embed(engine, spoil(clean, how, rate, bank), rate))
                voices.append(who)
                sources += [source] * len(who)
    return report_voices(np.concatenate(vectors), np.concatenate(voices), sources, engine.config.decision)


def main() -> None:
    """Rewrite one model file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--recipe", required=True, help="whose [card], [decision] and gate to take")
    arguments.add_argument("--date", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--labels", default="", help="labels to keep, separated by commas; none: all")
    arguments.add_argument("--candidates", default="", help="labels to answer with unless asked otherwise")
    arguments.add_argument("--unknown", type=float, help='below this probability the answer is "unknown"')
    arguments.add_argument("--temperature", type=float)
    arguments.add_argument("--fit", type=Path, metavar="MANIFEST", help="voices to fit the chances of cosines on")
    arguments.add_argument("--noise", type=Path, metavar="MANIFEST", help="noise for --fit; none: made-up noise")
    arguments.add_argument("--cache", type=Path, help="folder for the decoded recordings of --fit")
    options = arguments.parse_args()
    recipe, network = read_recipe(find_recipe(options.recipe)), load_network(options.model)
    if options.labels:
        network = keep_labels(network, options.labels.split(","))
    config = network.config
    decision = replace(recipe.decision, **{name: getattr(config.decision, name) for name in _FITTED})
    if options.candidates:
        decision = replace(decision, candidates=tuple(options.candidates.split(",")))
    if options.unknown is not None:
        decision = replace(decision, thresholds={**decision.thresholds, "unknown": options.unknown})
    if options.temperature is not None:
        decision = replace(decision, temperature=options.temperature)
    card = recipe.card | config.card | recipe.card | {"date": options.date}  # in the order of the recipe
    if options.fit:
        fitted = fit_voices(options.model, options.fit, options.noise, options.cache)
        decision = replace(decision, same_voice=fitted.decision.same_voice)
        card["dev"] = fitted.figures
    config = replace(config, decision=decision, gate=recipe.gate, card=card)
    save_model(network, options.out, config=config, precision=recipe.stored)


if __name__ == "__main__":
    main()
