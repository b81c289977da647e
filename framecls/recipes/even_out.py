"""Even out what the vectors of one voice vary in: within-class covariance normalisation, in the last layer of a model.

Over a telephone or in noise the vector of a voice moves, and in some directions more than in others. Seen through the
inverse of how it varies it moves alike in all of them (Hatch et al. 2006, "Within-class covariance normalization for
SVM-based speaker recognition"), so cosines count least where lines and microphones differ most.

    python -m framecls.recipes.even_out begun.safetensors even.jsonl --noise noise.jsonl --out even.safetensors
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.checkpoints.network import load_network, rebuild, save_model
from framecls.inference.engine import Engine
from framecls.nn.network import Network
from framecls.recipes.compare_speakers import CONDITIONS, cut, spoil
from framecls.training.data.clips import open_clips
from framecls.training.data.manifest import read_manifest
from framecls.training.examples.augment import Samples
from framecls.training.examples.batch import NoiseBank

_LENGTH_S = 3.0
_MOST_OF_VOICE = 3  # pieces
# How much of the mean variance is added to each: a hundred voices that read do not show all that a voice does.
_SHRINKAGE = 3.0


def embed_raw(network: Network, piece: Samples) -> Tensor:
    """Return (number,) what the last layer makes of (sample,) one window, before it gets unit length."""
    hop, margin = network.config.hop_samples, network.config.features.margin_samples
    n_frames = torch.tensor([-(-len(piece) // hop)])
    waveform = torch.zeros(1, int(n_frames) * hop + 2 * margin)
    waveform[0, margin : margin + len(piece)] = torch.from_numpy(piece)
    x, mask, _ = network.contextualize(network.extract(waveform, n_frames), n_frames)
    vector: Tensor = network.head(network.pooling(x, mask) if network.pooling is not None else x)
    return vector[0]


def even_out(vectors: Tensor, voices: NDArray[np.int64]) -> Tensor:
    """Return (number, number) what vectors are multiplied with for each voice to vary alike in all directions.

    Args:
        vectors: (piece, number).
        voices: (piece,) who speaks.
    """
    classes = torch.unique(torch.from_numpy(voices), return_inverse=True)[1]
    counts = classes.bincount().unsqueeze(1)
    sums = torch.zeros(len(counts), vectors.shape[1], dtype=torch.float64)
    sums.index_add_(0, classes, vectors.double())
    rest = vectors.double() - (sums / counts)[classes]
    within = rest.T @ rest / (len(rest) - len(counts))
    within += _SHRINKAGE * within.diagonal().mean() * torch.eye(len(within), dtype=torch.float64)
    matrix: Tensor = torch.linalg.inv(torch.linalg.cholesky(within)).T
    return matrix.float()


def evened(network: Network, pieces: Sequence[Samples], voices: NDArray[np.int64]) -> Network:
    """Return the network with its last layer evened out on pieces of some voices."""
    with torch.inference_mode():
        matrix = even_out(torch.stack([embed_raw(network, piece) for piece in pieces]), voices)
        head = {"head.weight": matrix.T @ network.head.weight, "head.bias": network.head.bias @ matrix}
    return rebuild(network, network.config, head)


def main() -> None:
    """Write the model file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("manifest", type=Path, help="voices, of one source")
    arguments.add_argument("--noise", type=Path, help="manifest of noise; none: made-up noise")
    arguments.add_argument("--cache", type=Path, help="folder for decoded recordings")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    network = load_network(options.model)
    rate = network.config.features.sample_rate
    recordings, noises = read_manifest(options.manifest), read_manifest(options.noise) if options.noise else []
    with tempfile.TemporaryDirectory() as temporary:
        store = open_clips([*recordings, *noises], rate, options.cache or Path(temporary))
        ((clean, who),) = cut(recordings, store, Engine(network, torch.device("cpu")), _LENGTH_S).values()
        first = [index for index, voice in enumerate(who) if (who[:index] == voice).sum() < _MOST_OF_VOICE]
        pieces: list[Samples] = []
        for how in CONDITIONS.values():
            bank = NoiseBank(noises, store, np.random.default_rng(0)) if noises else None
            pieces += spoil([clean[index] for index in first], how, rate, bank)
    save_model(evened(network, pieces, np.tile(who[first], len(CONDITIONS))), options.out)


if __name__ == "__main__":
    main()
