"""Build the network of a model file, and write one: the weights, and in the metadata all that is needed to run them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from framecls.checkpoints.file import FORMAT_VERSION, quantize, read_config, read_stored, read_weights
from framecls.config import ModelConfig, Precision, to_dict
from framecls.errors import ModelError
from framecls.replacing import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from framecls.nn.network import Network


def load_network(path: Path) -> Network:
    """Build the network of a model file and fill it, on the CPU, ready to run.

    Raises:
        ModelError: as `read_config`, or the weights are not those that its settings call for.
    """
    import torch

    from framecls.checkpoints.frontends import build_frontend
    from framecls.nn.network import Network

    config = read_config(path)
    state = read_weights(path)
    frontend = build_frontend(config.features.pretrained, state) if config.features.kind == "pretrained" else None
    # Without memory for weights: settings may ask for a network far larger than the file.
    with torch.device("meta"):
        network = Network(config, frontend)
    _check_weights(network, state, str(path))
    network.load_state_dict(state, strict=False, assign=True)  # the tables of the features are no weights
    return network.eval().requires_grad_(False)


def new_network(config: ModelConfig, source: str = "") -> Network:
    """Build an untrained network; a pre-trained encoder in it has its weights.

    Args:
        config: its settings, as `frontends.look_up` completed them.
        source: where a pre-trained encoder comes from, as the recipe says it.

    Raises:
        ModelError: the encoder cannot be read or fetched.
    """
    from framecls.checkpoints.frontends import open_frontend
    from framecls.nn.network import Network

    features = config.features
    return Network(config, open_frontend(features.pretrained, source) if features.kind == "pretrained" else None)


def fill(network: Network, state: Mapping[str, Tensor], name: str) -> None:
    """Copy weights into a network, strict about names, shapes and values.

    Raises:
        ModelError: a name is missing or left over, a shape differs, or a weight is not finite.
    """
    import torch

    _check_weights(network, state, name)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            parameter.copy_(state[key])


def rebuild(network: Network, config: ModelConfig, changed: Mapping[str, Tensor]) -> Network:
    """Build a network of other settings with the weights of this one, except those given by name.

    Raises:
        ModelError: as `fill`.
    """
    from framecls.nn.network import Network

    rebuilt = Network(config, copy.deepcopy(network.features) if config.features.kind == "pretrained" else None)
    fill(rebuilt, {**dict(network.named_parameters()), **changed}, config.name)
    return rebuilt.eval().requires_grad_(False)


def _check_weights(network: Network, state: Mapping[str, Tensor], name: str) -> None:
    wanted = dict(network.named_parameters())
    if missing := sorted(wanted.keys() - state.keys()):
        raise ModelError(f"{name}: {len(missing)} weights are missing, such as {missing[0]}")
    if extra := sorted(state.keys() - wanted.keys()):
        raise ModelError(f"{name}: {len(extra)} weights belong to no part of the network, such as {extra[0]}")
    for key, parameter in wanted.items():
        tensor = state[key]
        if tensor.shape != parameter.shape or not tensor.is_floating_point():
            raise ModelError(f"{name}: the weight {key} has shape {list(tensor.shape)}, not {list(parameter.shape)}")
        # Not `isfinite().all()`, which takes many times as long.
        if not all(bool(edge.isfinite()) for edge in tensor.aminmax()):
            raise ModelError(f"{name}: the weight {key} holds numbers that are not finite")


def save_model(
    network: Network, path: Path, *, config: ModelConfig | None = None, precision: Precision = "float32"
) -> None:
    """Write a model file, whole or not at all.

    Args:
        network: its parameters are written.
        path: where to; a file there is replaced.
        config: what to write in place of `network.config` (a fuller card, say).
        precision: how matrices are stored, see `quantize`.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.named_parameters()}
    _write(quantize(state, precision), path, config or network.config)


def save_settings(model: Path, path: Path, config: ModelConfig) -> None:
    """Write a model file with other settings and the stored weights of another, unchanged.

    Raises:
        ModelError: the other file is damaged, or this one cannot be written.
    """
    _write(read_stored(model), path, config)


def _write(stored: Mapping[str, Tensor], path: Path, config: ModelConfig) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Defaults, too: a model goes on as it was trained and measured when a later version has other defaults.
    metadata = {"framecls_format": str(FORMAT_VERSION), "config": json.dumps(to_dict(config))}
    try:
        with replacing(path) as temporary:
            save_file(dict(stored), temporary, metadata)
            temporary.chmod(0o644)  # safetensors writes for the owner alone, and a model is there to be shared
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"{path}: cannot be written: {why}") from error
