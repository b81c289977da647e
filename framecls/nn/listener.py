"""The lower layers of a framecls model as frames: what one model has learnt to hear, another can build on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framecls.checkpoints.frontends import State, check_weights, read_lower_part
from framecls.config import PretrainedConfig
from framecls.nn.encoder import Encoder
from framecls.nn.features import FeatureExtractor, normalize
from framecls.nn.frontend import PretrainedEncoder, take_weights


class LowerPart(nn.Module):
    """Features and the first layers of an encoder."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.how = config.own_features.normalize
        self.features = FeatureExtractor(config.own_features)
        self.encoder = Encoder(config.own_encoder, config.own_features.dim)
        self.encoder.norm = nn.Identity()  # it is for what comes out of the last layer of the whole

    def forward(self, waveform: Tensor, n_frames: Tensor | None) -> list[Tensor]:
        """Return for each layer (batch, frame, channel); the arguments are those of `Listener.forward`."""
        vectors = self.features(waveform)
        subsampling = self.encoder.config.subsampling
        longest = vectors.shape[1] // subsampling
        if n_frames is None:
            n_frames = torch.full((len(waveform),), longest, device=waveform.device)
        mask = torch.arange(longest, device=waveform.device) < n_frames.unsqueeze(1)
        vectors = normalize(vectors, mask.repeat_interleave(subsampling, dim=1), self.how)
        x, found = self.encoder.embed(vectors, mask), []
        for layer in self.encoder.layers:
            x, _ = layer(x, mask)
            found.append(x)
        return found


def _open_shipped(config: PretrainedConfig) -> LowerPart:
    """Return the lower part of a model that ships with the package, without gradients; each call gives another.

    Raises:
        ModelError: it is not the one that the settings were made for.
    """
    state = read_lower_part(config, config.source)
    with torch.device("meta"):  # its settings may call for a network far larger than the file
        check_weights(LowerPart(config), state, config.source)
    part = LowerPart(config).float()  # whatever torch's default type is
    take_weights(part, state, config.source)
    return part.eval().requires_grad_(False)


class Listener(PretrainedEncoder):
    """Waveform in, vectors of the lower part of a framecls model out."""

    def __init__(self, config: PretrainedConfig) -> None:
        # It has weights of its own also where those of the rest are only shapes yet.
        with torch.device("cpu"):
            named = _open_shipped(config) if config.named else None
        super().__init__(config, named, None if config.named else LowerPart(config))

    def source_weights(self, source: str) -> State:
        """See `PretrainedEncoder`."""
        return read_lower_part(self.config, source)

    def forward(self, waveform: Tensor, n_vectors: Tensor | None = None) -> Tensor:
        """Return the vectors of a batch.

        Args:
            waveform: (batch, sample) float, -1..1, with the margins of the features.
            n_vectors: (batch,) how many vectors are real; None: all.

        Returns:
            (batch, vector, feature), each vector of mean 0 and variance 1; zero where padded.
        """
        with torch.set_grad_enabled(self.config.tuned and torch.is_grad_enabled()):
            layers = self.inner(waveform.device)(waveform, n_vectors)
        vectors = self.join(layers)
        if n_vectors is None:
            return vectors
        return vectors * (torch.arange(vectors.shape[1], device=vectors.device) < n_vectors.unsqueeze(1)).unsqueeze(2)
