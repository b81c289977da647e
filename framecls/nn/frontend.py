"""Pre-trained speech encoders as frames: wav2vec 2.0, HuBERT, WavLM and XLS-R, in the form that torchaudio has them.

Their convolutions turn 25 ms of sound into a vector every 20 ms, as a spectrogram does, and their self-attention has
learnt from thousands of hours what matters in speech. The vectors of one of its layers, or a learnt mix of all, stand
in place of log-mel energies, at the same times. Where the weights are:

- an encoder of torchaudio that stays as it is, is only named in a model file: torch fetches its weights once, and reads
  them from its cache from then on;
- so is that of a framecls model which ships in the package (`nn.listener` runs it): its file is there already;
- one that was tuned, or came from a file of the user's own, is carried in the model file.

What a source says of its encoder, and how its weights are read: `encoder_sources`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.checkpoints.frontends import State, build, check_weights, open_bundle, read_weights
from framecls.config import PretrainedConfig


class PretrainedEncoder(nn.Module):
    """Waveform in, vectors of an encoder that learnt elsewhere out.

    What is not tuned neither learns nor drops anything out.

    Args:
        config: which layers of which encoder.
        named: the encoder where a model file only names it: it belongs to this model alone, and never learns.
        carried: the encoder where it is a part of the model.
    """

    def __init__(self, config: PretrainedConfig, named: Any = None, carried: Any = None) -> None:
        super().__init__()
        self.config = config
        self.mix = nn.Parameter(torch.zeros(config.n_layers)) if not config.layer else None
        # A list hides an encoder that is only named: it is no part of this model's weights, nor of its file.
        self._named = [named]
        self.carried = carried
        if carried is not None:
            carried.requires_grad_(config.tuned)

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Switch dropout on or off; in an encoder that is not tuned it stays off."""
        super().train(mode)
        if self.carried is not None and not self.config.tuned:
            self.carried.eval()
        return self

    def take(self, source: str) -> None:
        """Fill an encoder that its model carries with the weights that a source has; else there is nothing to do.

        Raises:
            ModelError: they cannot be read or fetched, or do not fit.
        """
        if self.carried is not None:
            take_weights(self.carried, self.source_weights(source), source)

    def source_weights(self, source: str) -> State:
        """Return the weights that a source has, by the names that the carried encoder has for them."""
        raise NotImplementedError

    def inner(self, device: torch.device) -> Any:
        """Return the encoder, on a device."""
        return self.carried if self.carried is not None else self._named[0].to(device)

    def join(self, layers: Sequence[Tensor]) -> Tensor:
        """Make one (batch, vector, feature) of those of all layers that are run: the last, or a learnt mix.

        Each vector has mean 0 and variance 1.
        """
        if self.mix is None:
            last: Tensor = functional.layer_norm(layers[-1], layers[-1].shape[-1:])
            return last
        even = [functional.layer_norm(layer, layer.shape[-1:]) for layer in layers]
        mixed = torch.stack(even, dim=-1) @ self.mix.softmax(dim=0)
        whole: Tensor = functional.layer_norm(mixed, mixed.shape[-1:])
        return whole


class SpeechEncoder(PretrainedEncoder):
    """An encoder of torchaudio's classes."""

    def __init__(self, config: PretrainedConfig) -> None:
        # It has weights of its own also where those of the rest are only shapes yet.
        with torch.device("cpu"):
            named = open_bundle(config.bundle, config.n_layers) if config.named else None
        super().__init__(config, named, None if config.named else build(config))
        if self.carried is not None:
            # The convolutions stay as they are also when the rest is tuned, as is usual with these encoders.
            self.carried.feature_extractor.requires_grad_(False)

    def source_weights(self, source: str) -> State:
        """See `PretrainedEncoder`."""
        return read_weights(self.config, source)

    def forward(self, waveform: Tensor, n_vectors: Tensor | None = None) -> Tensor:
        """Return the vectors of a batch.

        Examples of different lengths go through one length at a time: some of these encoders normalise over time, and
        none of them is to hear padding.

        Args:
            waveform: (batch, sample) float, -1..1, with the margins of the features.
            n_vectors: (batch,) how many vectors are real; None: all.

        Returns:
            (batch, vector, feature), each vector of mean 0 and variance 1; zero where padded.
        """
        width, hop = self.config.kernel_samples, self.config.hop_samples
        longest = (waveform.shape[1] - width) // hop + 1
        counts = [longest] * len(waveform) if n_vectors is None else n_vectors.tolist()
        vectors = waveform.new_zeros(len(waveform), longest, self.config.dim)
        for count in sorted(set(counts) - {0}):
            rows = torch.tensor([row for row, own in enumerate(counts) if own == count], device=waveform.device)
            heard = self._hear(waveform[rows, : (count - 1) * hop + width])
            padded = functional.pad(heard, (0, 0, 0, longest - count))
            vectors = vectors.index_copy(0, rows, padded.to(vectors.dtype))
        return vectors

    def _hear(self, waveform: Tensor) -> Tensor:
        if self.config.normalize_waveform:
            waveform = functional.layer_norm(waveform, waveform.shape[1:])
        with torch.set_grad_enabled(self.config.tuned and torch.is_grad_enabled()):
            layers, _ = self.inner(waveform.device).extract_features(waveform)
        return self.join(layers)


def take_weights(carried: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill an encoder with weights.

    Raises:
        ModelError: some are missing or have other shapes.
    """
    check_weights(carried, state, source)
    wanted = {key: state[key] for key, _ in carried.named_parameters()}
    carried.load_state_dict(wanted, strict=False)  # tables of features are no weights
