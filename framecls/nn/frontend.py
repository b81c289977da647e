"""Pre-trained encoders in place of log-mel features, at the same times.

Such an encoder has learnt from many hours what matters in sound. The vectors of one of its layers, or a learnt mix of
all, are what the network reads. `LowerLayers` are those of a framecls model, `TransformersEncoder` runs an audio
encoder of Hugging Face's transformers; `checkpoints.frontends` builds and fills both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import EncoderConfig, FeatureConfig, PretrainedConfig
from framecls.errors import ConfigError
from framecls.nn.encoder import Encoder
from framecls.nn.features import FeatureExtractor, normalize


class LowerLayers(nn.Module):
    """The features and first layers of a framecls model."""

    def __init__(self, features: FeatureConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.features = FeatureExtractor(features)
        self.encoder = Encoder(encoder, features.dim)
        self.encoder.norm = nn.Identity()  # it belongs after the last layer of the whole model

    def forward(self, waveform: Tensor, n_vectors: Tensor | None) -> list[Tensor]:
        """Return for each layer (batch, vector, channel); the arguments are those of `PretrainedFrontend.forward`."""
        vectors = self.features(waveform)
        subsampling = self.encoder.config.subsampling
        longest = vectors.shape[1] // subsampling
        if n_vectors is None:
            n_vectors = torch.full((len(waveform),), longest, device=waveform.device)
        mask = torch.arange(longest, device=waveform.device) < n_vectors.unsqueeze(1)
        vectors = normalize(vectors, mask.repeat_interleave(subsampling, dim=1), self.features.config.normalize)
        x, outputs = self.encoder.project(vectors, mask), []
        for layer in self.encoder.layers:
            x, _ = layer(x, mask)
            outputs.append(x)
        return outputs

    def tunable(self) -> nn.Module:
        """Return the part that learns where the encoder is tuned: all of it."""
        return self


class TransformersEncoder(nn.Module):
    """An audio encoder of transformers.

    Args:
        model: of a class of transformers that returns `hidden_states`.
        config: the grid of its vectors.
        layers: the path in the model of its stack of self-attention layers.
        prepare: maps (batch, sample) waveforms to the input of the model.
        select: maps (batch, position, channel) hidden states to (batch, vector, channel), from the first vector on.
        most_vectors: that it gives of a window; None: any number.
    """

    def __init__(
        self,
        model: nn.Module,
        config: PretrainedConfig,
        layers: str,
        prepare: Callable[[Tensor], Tensor],
        select: Callable[[Tensor], Tensor],
        most_vectors: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config = model, config
        self._layers, self._prepare, self._select, self._most_vectors = layers, prepare, select, most_vectors

    def forward(self, waveform: Tensor, n_vectors: Tensor | None) -> list[Tensor]:
        """Return for each layer (batch, vector, channel), zero where padded.

        Windows of different lengths go through one length at a time: some of these encoders normalise over time, and
        none is to read padding that it was not trained with.

        Raises:
            ConfigError: the windows are longer than what the encoder reads at once.
        """
        width, hop = self.config.window_samples, self.config.hop_samples
        longest = (waveform.shape[1] - width) // hop + 1
        if self._most_vectors is not None and longest > self._most_vectors:
            longest_s = self._most_vectors * hop / 16000
            raise ConfigError(f"{self.config.source} reads at most {longest_s:g} s at once: make window.length_s less")
        counts = [longest] * len(waveform) if n_vectors is None else n_vectors.tolist()
        shape = (len(waveform), longest, self.config.dim)
        outputs = [waveform.new_zeros(shape) for _ in range(self.config.n_layers)]
        for count in sorted(set(counts) - {0}):
            rows = torch.tensor([row for row, own in enumerate(counts) if own == count], device=waveform.device)
            inputs = self._prepare(waveform[rows, : (count - 1) * hop + width])
            for index, states in enumerate(self._run(inputs)):
                vectors = functional.pad(self._select(states)[:, :count], (0, 0, 0, longest - count))
                outputs[index] = outputs[index].index_copy(0, rows, vectors.to(waveform.dtype))
        return outputs

    def _run(self, inputs: Tensor) -> Sequence[Tensor]:
        """Return for each layer (batch, position, channel) hidden states."""
        states: Sequence[Tensor] = self.model(inputs, output_hidden_states=True).hidden_states
        return states[1:]  # the first is what layer 1 reads

    def tunable(self) -> nn.Module:
        """Return the part that learns where the encoder is tuned: self-attention, not the convolutions before it."""
        return self.model.get_submodule(self._layers)


class TorchaudioEncoder(TransformersEncoder):
    """An encoder of torchaudio, which differs in how it is run."""

    def _run(self, inputs: Tensor) -> Sequence[Tensor]:
        layers: Sequence[Tensor] = self.model.extract_features(inputs)[0]  # type: ignore[operator]
        return layers


class PretrainedFrontend(nn.Module):
    """Map waveforms to the vectors of a pre-trained encoder, which learns only if it is tuned.

    Args:
        config: which layers of which encoder.
        encoder: the encoder. One that is carried is a part of this module; one that is not has no parameters here, so
            that neither an optimizer nor a model file sees them.
    """

    def __init__(self, config: PretrainedConfig, encoder: LowerLayers | TransformersEncoder) -> None:
        super().__init__()
        self.config = config
        # Its weights are real also where those of the rest have only shapes yet.
        self.mix = nn.Parameter(torch.zeros(config.n_layers, device="cpu")) if not config.layer else None
        self.encoder = encoder if config.carried else None
        self._unregistered = [] if config.carried else [encoder.eval()]  # a list hides it from torch
        encoder.requires_grad_(False)
        if config.tuned:
            encoder.tunable().requires_grad_(True)

    def train(self, mode: bool = True) -> PretrainedFrontend:
        """Switch dropout on or off; in an encoder that is not tuned it stays off."""
        super().train(mode)
        if self.encoder is not None and not self.config.tuned:
            self.encoder.eval()
        return self

    def forward(self, waveform: Tensor, n_vectors: Tensor | None = None) -> Tensor:
        """Return the vectors of a batch.

        Args:
            waveform: (batch, sample) float, -1..1, with the margins of the features.
            n_vectors: (batch,) how many vectors are real; None: all.

        Returns:
            (batch, vector, feature), each vector of mean 0 and variance 1; zero where padded.
        """
        layers = self._run(waveform, n_vectors)
        return self._masked(layers[-1] if self.mix is None else self._mixed(layers, self.mix), n_vectors)

    def layers(self, waveform: Tensor, n_vectors: Tensor | None = None) -> list[Tensor]:
        """Return the vectors of each layer; arguments and shapes are those of `forward`."""
        return [self._masked(layer, n_vectors) for layer in self._run(waveform, n_vectors)]

    def _run(self, waveform: Tensor, n_vectors: Tensor | None) -> list[Tensor]:
        """Return for each layer (batch, vector, feature), each vector normalised."""
        encoder = self.encoder if self.encoder is not None else self._unregistered[0].to(waveform.device)
        with torch.set_grad_enabled(self.config.tuned and torch.is_grad_enabled()):
            layers = encoder(waveform, n_vectors)
        wanted = layers if self.mix is not None else layers[-1:]
        return [functional.layer_norm(layer, layer.shape[-1:]) for layer in wanted]

    def _mixed(self, layers: Sequence[Tensor], mix: Tensor) -> Tensor:
        """Return the learnt mix of normalised layers, normalised."""
        mixed = torch.stack(list(layers), dim=-1) @ mix.softmax(dim=0)
        return functional.layer_norm(mixed, mixed.shape[-1:])

    def _masked(self, vectors: Tensor, n_vectors: Tensor | None) -> Tensor:
        """Return vectors with zeros where padded."""
        if n_vectors is None:
            return vectors
        return vectors * (torch.arange(vectors.shape[1], device=vectors.device) < n_vectors.unsqueeze(1)).unsqueeze(2)
