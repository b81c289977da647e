"""Read model files: the settings in their metadata, and their weights.

A model is one safetensors file, which holds plain arrays and strings, so reading runs no code from it.
"""

from __future__ import annotations

import hashlib
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

FORMAT_VERSION = 3
# Metadata takes a few kilobytes, and the name and shape of a weight 150 bytes: no model has a longer header.
_MAX_HEADER_BYTES = 4 * 2**20
_MAX_VERSION_DIGITS = 9
_SCALE = ".scale"  # the suffix of the name of a quantized matrix' scales, one a row
_MIN_QUANTIZED = 2**16  # weights of the smallest matrix that is quantized


def read_config(path: Path) -> ModelConfig:
    """Read the settings of a model file, without its weights and without torch.

    Raises:
        ModelError: the file cannot be read, is no framecls model, or is of another version of the format.
    """
    metadata = _read_metadata(path)
    if "framecls_format" not in metadata:
        raise ModelError(f"{path}: a safetensors file, but not a framecls model")
    version = metadata["framecls_format"]
    if not version.isdecimal() or len(version) > _MAX_VERSION_DIGITS or int(version) < 1:
        raise ModelError(f"{path}: a model of the unknown format {version[:20]!r}")
    if int(version) > FORMAT_VERSION:
        raise ModelError(f"{path}: of the newer format {version} (known here: {FORMAT_VERSION}): update framecls")
    if int(version) < FORMAT_VERSION:
        raise ModelError(f"{path}: of format {version}, from before the first release: train the model again")
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


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of a model file as 32-bit floats.

    Raises:
        ModelError: the file is damaged.
    """
    stored = read_stored(path)
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in dequantize(stored).items()}


def read_stored(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a model file as they are stored; `dequantize` makes weights of them.

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


def digest_weights(stored: Mapping[str, Tensor]) -> str:
    """Return a hash of the names, types, shapes and values of weights."""
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(stored.items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def find_system_fault(path: Path, error: Exception) -> str | None:
    """Return why the system cannot read a file; None if it can, and the content is at fault.

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
    # safetensors reports every failure to open a file as one that is not there.
    try:
        with path.open("rb"):
            return str(error)
    except OSError as reason:
        return reason.strerror or str(reason)


def quantize(state: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """Convert weights to what a file stores.

    "int8" stores each row of a matrix (each filter of a convolution) in steps of a 127th of its greatest weight.
    Biases, norms and small matrices become 16-bit floats: they take little room, and a small matrix is often the input
    layer, whose columns differ in scale as its features do.
    """
    import torch

    stored = {}
    for key, tensor in state.items():
        if precision != "int8" or tensor.ndim < 2 or tensor.numel() < _MIN_QUANTIZED:
            stored[key] = tensor.to(torch.float32 if precision == "float32" else torch.float16)
            continue
        rows = tensor.flatten(1)
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        stored[key] = (rows / scale).round().to(torch.int8).view(tensor.shape)
        stored[key + _SCALE] = scale.squeeze(1)
    return stored


def dequantize(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply quantized matrices by their scales; a matrix without fitting scales is returned as it is."""
    import torch

    state = {}
    for key, tensor in stored.items():
        scale = stored.get(key + _SCALE)
        if tensor.dtype == torch.int8 and scale is not None and tensor.shape[:1] == scale.shape:
            state[key] = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
        elif not (key.endswith(_SCALE) and stored.get(key.removesuffix(_SCALE), tensor).dtype == torch.int8):
            state[key] = tensor
    return state
