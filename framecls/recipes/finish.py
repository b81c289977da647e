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

from framecls.checkpoints.network import load_network, rebuild, save_model
from framecls.errors import ConfigError
from framecls.inference.engine import load_engine
from framecls.nn.network import Network
from framecls.training.metrics.evaluate import Test, fit_decision
from framecls.training.metrics.report import DevReport
from framecls.training.recipe import find_recipe, read_recipe

# Fitted on pieces of 3 s, a tenth of the strangers who talk for 6 s would be let in.
_FIT_LENGTH_S = 6.0


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


def fit_voices(model: Path, manifest: Path, cache: Path | None) -> DevReport:
    """Return the figures of a model of voices on those of a manifest, and what makes chances of its cosines.

    Acted anger and game shouts among them would make every chance so cautious that nobody is named out of fifty: read
    speech it should be. Longer pieces of two voices are more alike than shorter ones.
    """
    with tempfile.TemporaryDirectory() as temporary:
        test = Test(manifest, cache or Path(temporary), "all", length_s=_FIT_LENGTH_S)
        return fit_decision(load_engine(model, device="cpu"), test)


def main() -> None:
    """Rewrite one model file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--recipe", required=True, help="whose [card], [decision] and gate to take")
    arguments.add_argument("--date", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--labels", default="", help="labels to keep, separated by commas; none: all")
    arguments.add_argument("--candidates", default="", help="labels to answer with unless asked otherwise; none: all")
    arguments.add_argument("--unknown", type=float, help='below this probability the answer is "unknown"')
    arguments.add_argument("--temperature", type=float)
    arguments.add_argument("--fit", type=Path, metavar="MANIFEST", help="voices to fit the chances of cosines on")
    arguments.add_argument("--cache", type=Path, help="folder for the decoded recordings of --fit")
    options = arguments.parse_args()
    recipe, network = read_recipe(find_recipe(options.recipe)), load_network(options.model)
    if options.labels:
        network = keep_labels(network, options.labels.split(","))
    config = network.config
    decision = replace(
        recipe.decision,
        thresholds=config.decision.thresholds,
        temperature=config.decision.temperature,
        same_voice=config.decision.same_voice,
    )
    if options.candidates:
        decision = replace(decision, candidates=tuple(options.candidates.split(",")))
    if options.unknown is not None:
        decision = replace(decision, thresholds={**decision.thresholds, "unknown": options.unknown})
    if options.temperature is not None:
        decision = replace(decision, temperature=options.temperature)
    card = {**recipe.card, "date": options.date, **{k: v for k, v in config.card.items() if k not in recipe.card}}
    if options.fit:
        fitted = fit_voices(options.model, options.fit, options.cache)
        decision = replace(decision, same_voice=fitted.decision.same_voice)
        card["dev"] = fitted.figures
    config = replace(config, decision=decision, gate=recipe.gate, card=card)
    save_model(network, options.out, config=config, precision=recipe.stored)


if __name__ == "__main__":
    main()
