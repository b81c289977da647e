"""Make what the shipped `speaker` model begins with: Resemblyzer's weights, and a projection to what tells voices.

Resemblyzer (Apache 2.0; Wan et al. 2018, "Generalized End-to-End Loss for Speaker Verification") has heard thousands of
voices, which no corpus of ours comes near. Its network is a stack of LSTMs that reads 1.6 s: the recipe `speaker`
describes it. The features are the same numbers but for two things: our frames lie half a hop later, and each window's
level is raised where it is low, not that of the whole recording, so that a stream needs no end.

Over a telephone and in noise its vectors say more of the line and of the noise than of the voice. So they are projected
by linear discriminant analysis to where one voice, heard through all that the recipe's [augment] does to it, is most
alike and voices differ most (Fisher 1936; as in Dehak et al. 2011, "Front-End Factor Analysis for Speaker
Verification"). Training goes on from there.

    pip download --no-deps resemblyzer==0.1.4 && unzip Resemblyzer-0.1.4-py3-none-any.whl
    python -m framecls.recipes.from_resemblyzer resemblyzer/pretrained.pt speaker.jsonl --noise noise.jsonl \\
        --out begun.safetensors
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from framecls.checkpoints.network import fill, rebuild, save_model
from framecls.config import ModelConfig
from framecls.errors import ModelError
from framecls.nn.network import Network
from framecls.training.data.clips import open_clips
from framecls.training.data.manifest import read_manifest, split_recordings
from framecls.training.examples.batch import IGNORED, Batch
from framecls.training.examples.voices import VoiceExamples
from framecls.training.recipe import find_recipe, read_recipe

# Its own score of a pair, from the cosine: used in its training only.
_UNUSED = {"similarity_weight", "similarity_bias"}
# How much of the mean variance is added to each: few voices do not show in which directions a voice never varies.
_SHRINKAGE = 0.3


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
            state[name.replace("linear.", "hidden.")] = tensor
    return state


def begin(path: Path, config: ModelConfig) -> Network:
    """Build the network of a model of voices whose vectors are Resemblyzer's.

    Raises:
        ModelError: the two are not of one shape.
    """
    network = Network(replace(config, embedding=config.embedding_hidden))
    unchanged = {"head.weight": torch.eye(config.embedding_hidden), "head.bias": torch.zeros(config.embedding_hidden)}
    fill(network, translate(read_weights(path)) | unchanged, str(path))
    return network.eval().requires_grad_(False)


def discriminate(vectors: Tensor, classes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Find the linear projection that makes classes differ most for what they vary in themselves.

    Args:
        vectors: (item, number).
        classes: (item,) which class each is of; those with a single item are left out.
        size: numbers after the projection.

    Returns:
        (number,) the mean of all, and (number, size) what the rest is multiplied with; the best direction comes last.
    """
    index = _count_through(classes)
    several = index.bincount()[index] > 1
    vectors, index = vectors[several].double(), _count_through(classes[several])
    n_classes = int(index.max()) + 1
    means = torch.zeros(n_classes, vectors.shape[1], dtype=torch.float64).index_add_(0, index, vectors)
    means /= index.bincount().unsqueeze(1)
    rest = vectors - means[index]
    within = rest.T @ rest / (len(vectors) - n_classes)
    within += _SHRINKAGE * within.diagonal().mean() * torch.eye(len(within), dtype=torch.float64)
    # Where a class varies as much in every direction, the directions in which classes differ are those of their means.
    whiten = torch.linalg.inv(torch.linalg.cholesky(within)).T
    directions = torch.linalg.eigh(torch.cov((means @ whiten).T)).eigenvectors[:, -size:]
    return vectors.mean(dim=0).float(), (whiten @ directions).float()


def _count_through(classes: Tensor) -> Tensor:
    """Return (item,) numbers of classes from 0 on, none left out."""
    return torch.unique(classes, return_inverse=True)[1]  # type: ignore[no-any-return]


def project(network: Network, batches: Iterable[Batch], size: int) -> Network:
    """Return the network with its vectors projected to what tells the voices of some batches."""
    heard, voices = [], []
    for batch in batches:
        known = batch.targets != IGNORED
        heard.append(network(batch.waveform[known], batch.n_frames[known]).logits)
        voices.append(batch.targets[known])
    mean, matrix = discriminate(torch.cat(heard), torch.cat(voices), size)
    head = {"head.weight": matrix.T, "head.bias": -mean @ matrix}
    return rebuild(network, replace(network.config, embedding=size), head)


def main() -> None:
    """Write the model file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", type=Path, help="resemblyzer/pretrained.pt")
    arguments.add_argument("manifest", type=Path, help="as prepare_speaker writes it")
    arguments.add_argument("--noise", type=Path, help="manifest of noise; none: made-up noise")
    arguments.add_argument("--recipe", default="speaker")
    arguments.add_argument("--batches", type=int, default=400)
    arguments.add_argument("--cache", type=Path, help="folder for decoded recordings")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    recipe = read_recipe(find_recipe(options.recipe))
    train = split_recordings(read_manifest(options.manifest), recipe.optim.seed, "speaker").train
    noise = read_manifest(options.noise) if options.noise else []
    config = recipe.model_config((), ())
    with tempfile.TemporaryDirectory() as temporary:
        store = open_clips([*train, *noise], config.features.sample_rate, options.cache or Path(temporary))
        examples = VoiceExamples(train, config, recipe, store, noise)
        batches = (examples.make_batch(number) for number in range(options.batches))
        network = project(begin(options.weights, config), batches, config.embedding)
    save_model(network, options.out, precision="float32")


if __name__ == "__main__":
    main()
