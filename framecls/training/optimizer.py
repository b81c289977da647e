"""The optimizer: learning-rate schedule, parameter groups, frozen layers, initialisation from another model."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import nn

from framecls.checkpoints.file import read_weights
from framecls.errors import ConfigError, ModelError
from framecls.nn.campplus import CamPlusPlus
from framecls.nn.encoder import Encoder
from framecls.nn.network import Network
from framecls.training.recipe import Recipe

_log = logging.getLogger(__name__)
_MIN_SHARE = 0.5  # if less of the network is initialised, warn: its sizes may be set wrong
_TUNED = "features.encoder."  # prefix of the parameters of a pre-trained encoder


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to a hundredth."""
    optim = recipe.optim
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], recipe: Recipe, initialised: Collection[str] = ()
) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, and lower learning rates for pre-trained parameters.

    Args:
        parameters: to learn, by name.
        recipe: its `optim` sets the rates; a group's "share" is multiplied by the learning rate.
        initialised: names of the parameters that came from another model.
    """
    optim = recipe.optim
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for key, parameter in parameters.items():
        share = min(optim.tuned_rate if key.startswith(_TUNED) else 1.0, optim.init_rate if key in initialised else 1.0)
        groups.setdefault((share, parameter.ndim >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": own, "weight_decay": optim.weight_decay * is_matrix, "share": share}
            for (share, is_matrix), own in groups.items()
        ],
        lr=optim.learning_rate,
        betas=(0.9, 0.98),
    )


def freeze(encoder: Encoder | CamPlusPlus, n_layers: int, initialised: Collection[str]) -> None:
    """Freeze the input and the first layers of an encoder.

    Raises:
        ConfigError: some of them were not initialised from another model.
    """
    for name, module in (("input", encoder.input), *((f"layers.{i}", encoder.layers[i]) for i in range(n_layers))):
        for key, parameter in module.named_parameters():
            if f"encoder.{name}.{key}" not in initialised:
                raise ConfigError(f"optim.frozen_layers={n_layers}: --init has no {name}, which must learn")
            parameter.requires_grad_(False)


def initialise(network: Network, path: Path) -> set[str]:
    """Copy from a model file the weights whose name and shape agree; return their names.

    Layers of the encoder above those in the file start as the identity.

    Raises:
        ModelError: there is no such file, or none of its weights fits.
    """
    state = read_weights(path)
    taken = set()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key in state and state[key].shape == parameter.shape:
                parameter.copy_(state[key])
                taken.add(key)
    if not taken:
        raise ModelError(f"{path}: none of its weights fits this recipe's network")
    sizes = {key: parameter.numel() for key, parameter in network.named_parameters()}
    share = sum(sizes[key] for key in taken) / sum(sizes.values())
    if share < _MIN_SHARE:
        _log.warning("%s: only %.0f %% of this recipe's network fits it and begins with its weights", path, 100 * share)
    if layers := [int(key.split(".")[2]) for key in taken if key.startswith("encoder.layers.")]:
        network.encoder.init_identity(max(layers) + 1)
    return taken
