"""Make the shipped `speaker` model of Resemblyzer's weights.

Resemblyzer (Apache 2.0; Wan et al. 2018, "Generalized End-to-End Loss for Speaker Verification") has heard thousands of
voices, which no corpus of ours comes near. Its network is a stack of LSTMs that reads 1.6 s: the recipe `speaker`
describes it. The features are the same numbers but for two things: our frames lie half a hop later, and each window's
level is raised where it is low, not that of the whole recording, so that a stream needs no end.

    pip download --no-deps resemblyzer==0.1.4 && unzip Resemblyzer-0.1.4-py3-none-any.whl
    grep librispeech speaker.jsonl > read.jsonl
    python -m framecls.recipes.from_resemblyzer resemblyzer/pretrained.pt --dev read.jsonl --unknown 0.3 \\
        --date 2026-11-23 --out speaker.safetensors

What makes chances of cosines, and from which chance on a name is given, is fitted on voices of a manifest that
`prepare_speaker` wrote, all of them unheard: read sentences. Acted anger and game shouts among them would make every
chance so cautious that nobody is named out of fifty. The fit lets in 1 % of strangers where all of these voices are
enrolled; 0.3 lets in less than that also where a few are.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from framecls.checkpoint import fill, load_network, save_model
from framecls.config import UNKNOWN
from framecls.engine import load_engine
from framecls.errors import ModelError
from framecls.nn.model import Network
from framecls.training.evaluate import Test, fit_decision
from framecls.training.recipe import find_recipe, read_recipe

# Its own score of a pair, from the cosine: used in its training only.
_UNUSED = {"similarity_weight", "similarity_bias"}
# Longer pieces of two voices are more alike: fitted on 3 s, a tenth of the strangers who talk for 6 s are let in.
_DEV_LENGTH_S = 6.0


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of Resemblyzer, by its names; no code in the file is run.

    Raises:
        ModelError: the file cannot be read, or is no checkpoint of Resemblyzer's.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in found["model_state"].items() if name not in _UNUSED}
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: no checkpoint of Resemblyzer's: {error}") from None


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same weights by our names: of layer N, lstm.KIND_lN is encoder.layers.N.forth.KIND_l0."""
    state = {}
    for name, tensor in weights.items():
        module, _, kind = name.partition(".")
        if module == "lstm":
            kind, _, layer = kind.rpartition("_l")
            state[f"encoder.layers.{layer}.forth.{kind}_l0"] = tensor
        else:
            state[name.replace("linear.", "head.")] = tensor
    return state


def begin(path: Path, recipe: str) -> Network:
    """Build the network of a recipe with Resemblyzer's weights.

    Raises:
        ModelError: the two are not of one shape.
    """
    network = Network(read_recipe(find_recipe(recipe)).model_config((), ()))
    fill(network, translate(read_weights(path)), str(path))
    return network.eval().requires_grad_(False)


def main() -> None:
    """Write the model file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", type=Path, help="resemblyzer/pretrained.pt")
    arguments.add_argument("--recipe", default="speaker")
    arguments.add_argument("--dev", type=Path, help="manifest of unheard voices, to fit the decisions on")
    arguments.add_argument("--cache", type=Path, help="folder for decoded recordings")
    arguments.add_argument("--unknown", type=float, help='below this chance the answer is "unknown"; none: as fitted')
    arguments.add_argument("--date", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    stored = read_recipe(find_recipe(options.recipe)).stored
    save_model(begin(options.weights, options.recipe), options.out, precision=stored)
    network = load_network(options.out)
    config = replace(network.config, card={**network.config.card, "date": options.date})
    if options.dev:
        with tempfile.TemporaryDirectory() as temporary:
            test = Test(options.dev, options.cache or Path(temporary), "all", length_s=_DEV_LENGTH_S)
            decision = fit_decision(load_engine(options.out, device="cpu"), test).decision
        config = replace(config, decision=decision)
    if options.unknown is not None:
        config = replace(config, decision=replace(config.decision, thresholds={UNKNOWN: options.unknown}))
    save_model(network, options.out, config=config, precision=stored)


if __name__ == "__main__":
    main()
