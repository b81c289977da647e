"""Put the last word into a trained model file: its card, the labels it answers with, and when it says "unknown".

A network learns every label that it is given, but should answer only with those that it has shown to know. The weights
are not touched.

    python -m framecls.recipes.finish language.safetensors --recipe language --date 2026-11-23 \\
        --candidates de,en,fr --unknown 0.3 --out framecls/weights/language.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from framecls.checkpoint import load_network, save_model
from framecls.training.recipe import find_recipe, read_recipe


def main() -> None:
    """Rewrite one model file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--recipe", required=True, help="whose [card], [decision] and gate to take")
    arguments.add_argument("--date", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--candidates", default="", help="labels to answer with, separated by commas; none: all")
    arguments.add_argument("--unknown", type=float, help='below this probability the answer is "unknown"')
    arguments.add_argument("--temperature", type=float)
    options = arguments.parse_args()
    recipe, network = read_recipe(find_recipe(options.recipe)), load_network(options.model)
    config = network.config
    decision = config.decision
    if options.candidates:
        decision = replace(decision, candidates=tuple(sorted(options.candidates.split(","))))
    if options.unknown is not None:
        decision = replace(decision, thresholds={**decision.thresholds, "unknown": options.unknown})
    if options.temperature is not None:
        decision = replace(decision, temperature=options.temperature)
    card = {**recipe.card, "date": options.date, **{k: v for k, v in config.card.items() if k not in recipe.card}}
    save_model(network, options.out, config=replace(config, decision=decision, gate=recipe.gate, card=card), half=True)


if __name__ == "__main__":
    main()
