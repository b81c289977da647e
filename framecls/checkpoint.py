"""One model, one `.safetensors` file: the weights, and in its metadata everything needed to run them.

safetensors holds plain arrays and strings, so loading runs no code from the file.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from framecls.config import ModelConfig, Precision, from_dict, to_dict
from framecls.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from framecls.nn.model import Network

FORMAT_VERSION = 2
# The metadata of a model is a few kilobytes; a header that claims more is not one of ours.
_MAX_HEADER_BYTES = 16 * 2**20
# Beside a matrix stored as 8-bit integers stands, under its name with this behind it, what to multiply each row by.
_SCALE = ".scale"
_MIN_NARROWED = 2**16  # weights of the smallest matrix that is stored as 8-bit integers


def read_config(path: Path) -> ModelConfig:
    """Read what a model file says of itself, without its weights and without torch.

    Raises:
        ModelError: the file cannot be read, is no framecls model, or is of a newer format.
    """
    metadata = _read_metadata(path)
    if "framecls_format" not in metadata:
        raise ModelError(f"{path}: a safetensors file, but not a framecls model")
    version = metadata["framecls_format"]
    if not version.isdecimal() or int(version) < 1:
        raise ModelError(f"{path}: a model of the unknown format {version[:20]!r}")
    if int(version) > FORMAT_VERSION:
        raise ModelError(f"{path}: of the newer format {version} (known here: up to {FORMAT_VERSION}): update framecls")
    try:
        return from_dict(ModelConfig, json.loads(metadata.get("config", "")))
    except (ValueError, RecursionError, ConfigError) as error:
        raise ModelError(f"{path}: its settings cannot be used: {error}") from error


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
                raise ModelError(f"{path}: not a model file, or cut short")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: not a model file (its header makes no sense)") from None
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelError(f"{path}: not a model file (its header makes no sense)")
    return metadata


def load_network(path: Path) -> Network:
    """Build the network of a model file and fill it, on the CPU, ready to run.

    Raises:
        ModelError: as `read_config`, or the weights are not those that its settings call for.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from framecls.nn.model import Network

    config = read_config(path)
    try:
        state = {
            key: tensor.float() if tensor.is_floating_point() else tensor
            for key, tensor in widen(load_file(path)).items()
        }
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: the file is damaged or cut short: {error}") from error
    # Shapes only: settings may call for a network far larger than the file, and no weight is drawn to be thrown away.
    with torch.device("meta"):
        network = Network(config)
    _check_weights(network, state, str(path))
    network.load_state_dict(state, strict=False, assign=True)  # the tables of the features are no weights
    return network.eval().requires_grad_(False)


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
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{name}: the weight {key} holds numbers that are not finite")


def narrow(state: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """Return weights as a file holds them.

    As "int8", each row of a matrix (each filter of a convolution) is stored in steps of a 127th of its greatest
    weight. Biases, norms and small matrices stay 16-bit floats: they save little, and a small matrix is often the first
    one, whose columns differ by as much as what they read.
    """
    import torch

    stored = {}
    for key, tensor in state.items():
        if precision != "int8" or tensor.ndim < 2 or tensor.numel() < _MIN_NARROWED:
            stored[key] = tensor.to(torch.float32 if precision == "float32" else torch.float16)
            continue
        rows = tensor.flatten(1)
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        stored[key] = (rows / scale).round().to(torch.int8).view(tensor.shape)
        stored[key + _SCALE] = scale.squeeze(1)
    return stored


def widen(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as a network takes them; what fits no network is left for `fill` to refuse."""
    import torch

    state = {}
    for key, tensor in stored.items():
        scale = stored.get(key + _SCALE)
        if tensor.dtype == torch.int8 and scale is not None and tensor.shape[:1] == scale.shape:
            state[key] = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
        elif not (key.endswith(_SCALE) and stored.get(key.removesuffix(_SCALE), tensor).dtype == torch.int8):
            state[key] = tensor
    return state


def save_model(
    network: Network, path: Path, *, config: ModelConfig | None = None, precision: Precision = "float32"
) -> None:
    """Write a model file, whole or not at all.

    Args:
        network: its parameters are written.
        path: where to; a file there is replaced.
        config: what to write in place of `network.config` (a fuller card, say).
        precision: how matrices are stored, see `narrow`; they are widened again on loading.
    """
    from safetensors.torch import save_file

    state = {key: value.detach().cpu().contiguous() for key, value in network.named_parameters()}
    state = narrow(state, precision)
    metadata = {"framecls_format": str(FORMAT_VERSION), "config": json.dumps(to_dict(config or network.config))}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(state, temporary, metadata)
        temporary.chmod(0o644)  # safetensors writes for the owner alone, and a model is there to be shared
        os.replace(temporary, path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
