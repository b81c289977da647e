"""What is in a model file: settings, and weights as they are stored. `checkpoint` makes networks of them.

safetensors holds plain arrays and strings, so reading runs no code from the file.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from framecls.config import ModelConfig, Precision, from_dict
from framecls.errors import ConfigError, ModelError, is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
# The metadata of a model is a few kilobytes, and a name and shape of a weight 150 bytes; a header that claims more is
# not one of ours.
_MAX_HEADER_BYTES = 4 * 2**20
_MAX_VERSION_DIGITS = 9
# Beside a matrix stored as 8-bit integers stands, under its name with this behind it, what to multiply each row by.
_SCALE = ".scale"
# Settings that are no more; files of earlier versions say them, and all but a few say what now always holds.
_RETIRED = {"embedding_activation": "none"}
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
    if not version.isdecimal() or len(version) > _MAX_VERSION_DIGITS or int(version) < 1:
        raise ModelError(f"{path}: a model of the unknown format {version[:20]!r}")
    if int(version) > FORMAT_VERSION:
        raise ModelError(f"{path}: of the newer format {version} (known here: up to {FORMAT_VERSION}): update framecls")
    try:
        settings = json.loads(metadata.get("config", ""))
        for name, value in _RETIRED.items():
            if isinstance(settings, dict) and settings.get(name) == value:
                del settings[name]
        return from_dict(ModelConfig, settings)
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


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of a model file as 32-bit floats.

    Raises:
        ModelError: the file is damaged.
    """
    stored = read_stored(path)
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in widen(stored).items()}


def read_stored(path: Path) -> dict[str, Tensor]:
    """Return what a model file holds, as it holds it; `widen` makes weights of it.

    Raises:
        ModelError: the file is damaged, or the system does not let it be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, MemoryError, RuntimeError, ValueError) as error:
        if fault := find_system_fault(path, error):
            raise ModelError(f"{path}: cannot be read: {fault}") from error
        if isinstance(error, RuntimeError):
            raise
        raise ModelError(f"{path}: the file is damaged or cut short: {error}") from error


def find_system_fault(path: Path, error: Exception) -> str | None:
    """Return what keeps the system from reading a file; None where it was read, and is itself at fault.

    Args:
        path: of the file.
        error: what safetensors or torch raised.
    """
    if is_out_of_memory(error):
        return "there is not enough memory; close other programs"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return os.strerror(int(number[1]))
    if not isinstance(error, OSError):
        return None
    # safetensors says that a file is not there for whatever kept it from being opened.
    try:
        with path.open("rb"):
            return str(error)
    except OSError as reason:
        return reason.strerror or str(reason)


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
