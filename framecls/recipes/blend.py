"""Write the model between two: one that another was trained from, and that other.

Training for what is rare, telephones and noise, forgets some of what was known of the usual. The mean of the weights
before and after keeps most of both (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").

    python -m framecls.recipes.blend begun.safetensors trained.safetensors --share 0.4 --out blended.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from framecls.checkpoints.network import load_network, rebuild, save_model
from framecls.errors import ModelError
from framecls.nn.network import Network


def blend(before: Network, after: Network, share: float) -> Network:
    """Return the network whose weights are those of `before`, moved by a share of the way to those of `after`.

    Raises:
        ModelError: the two are not of one shape.
    """
    here = {key: value.detach() for key, value in before.named_parameters()}
    there = {key: value.detach() for key, value in after.named_parameters()}
    if {key: value.shape for key, value in here.items()} != {key: value.shape for key, value in there.items()}:
        raise ModelError(f"{before.config.name} and {after.config.name} are not of one shape: there is nothing between")
    return rebuild(after, after.config, {key: here[key].lerp(there[key], share) for key in here})


def main() -> None:
    """Write the model file, with the settings of the second."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("before", type=Path)
    arguments.add_argument("after", type=Path)
    arguments.add_argument("--share", type=float, required=True, help="0: as before; 1: as after")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    between = blend(load_network(options.before), load_network(options.after), options.share)
    save_model(between, options.out, precision="float32")


if __name__ == "__main__":
    main()
