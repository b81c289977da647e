"""The whole network: waveform -> feature vectors -> encoder -> one answer a frame, or one a window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import FeatureConfig, ModelConfig
from framecls.nn.encoder import Encoder
from framecls.nn.features import FeatureExtractor, normalize
from framecls.nn.listener import Listener
from framecls.nn.pooling import POOLINGS

_MIN_ROWS = 4


@dataclass(frozen=True)
class Output:
    """What one forward pass gives."""

    # (batch, frame, label), or (batch, label) of a pooled task, or (batch, number) unit vectors of an embedding
    logits: Tensor
    phone_logits: Tensor | None = None  # (batch, frame, 1 + phone), blank first; None without a CTC head


class Network(nn.Module):
    """A frame or pooled classifier built from its `ModelConfig` alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.features = FeatureExtractor(config.features, _open_encoder(config.features))
        self.encoder = Encoder(config.encoder, config.features.dim)
        size = self.encoder.output_size
        self.pooling = POOLINGS[config.pooling](size) if config.task == "pooled" else None
        told = self.pooling.output_size if self.pooling is not None else size
        self.hidden = nn.Linear(told, config.embedding_hidden) if config.embedding_hidden else None
        self.head = nn.Linear(config.embedding_hidden or told, config.embedding or len(config.labels))
        self.phones = PhoneHead(size, len(config.phones)) if config.phones else None
        self.phone_layer = config.phone_layer or config.encoder.n_layers

    def forward(self, waveform: Tensor, n_frames: Tensor) -> Output:
        """Classify a batch of windows.

        Args:
            waveform: (batch, sample) float, -1..1: `features.margin_samples`, then a whole number of frames, then
                the margin again.
            n_frames: (batch,) how many of the frames are real; the rest is padding.
        """
        return self.classify(self.extract(waveform, n_frames), n_frames)

    def extract(self, waveform: Tensor, n_frames: Tensor) -> Tensor:
        """Return (batch, vector, feature) what `classify` reads; the arguments are those of `forward`."""
        vectors: Tensor = self.features(waveform, n_frames * self.config.encoder.subsampling)
        return vectors

    def classify(self, vectors: Tensor, n_frames: Tensor) -> Output:
        """Classify feature vectors: (batch, vector, feature), as many vectors a frame as the encoder joins."""
        x, mask = self.listen(vectors, n_frames)
        if self.phones is None:
            return Output(self._decide(x, mask))
        phone_logits = self.phones(x)
        return Output(self._decide(self.phones.tell(phone_logits.softmax(dim=2), x), mask), phone_logits)

    def listen(self, vectors: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return (batch, frame, channel) what the layers up to the phones make of it, and the (batch, frame) mask."""
        mask = self._frame_mask(vectors.shape[1] // self.config.encoder.subsampling, n_frames)
        x = self.encoder.embed(self._normalize(vectors, n_frames), mask)
        return self.encoder.climb(x, mask, 0, self.phone_layer), mask

    def _decide(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.phone_layer < self.config.encoder.n_layers:
            x = self.encoder.climb(x, mask, self.phone_layer, self.config.encoder.n_layers)
        told = x if self.pooling is None else self._pool(x, mask)
        if self.hidden is not None:
            told = functional.normalize(functional.relu(self.hidden(told)), dim=1)
        rows: Tensor = self.head(told)
        logits = rows[: x.shape[0]]  # not len: a graph that is exported would be for one number of rows
        # In full precision: a direction that is rounded to 8 bits is another voice.
        return functional.normalize(logits.float(), dim=1) if self.config.embedding else logits

    def _pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, channel), with rows of zeros after the last if there are few.

        On a CPU a product with fewer rows is summed in another order: what a window gives must not depend on how many
        others it shares a batch with, to the last bit.
        """
        assert self.pooling is not None
        pooled: Tensor = self.pooling(x, mask)
        if torch.compiler.is_exporting():  # a graph is run by others, and takes any number of rows as it is
            return pooled
        return functional.pad(pooled, (0, 0, 0, max(0, _MIN_ROWS - len(pooled))))

    def _frame_mask(self, n_padded: int, n_frames: Tensor) -> Tensor:
        return torch.arange(n_padded, device=n_frames.device) < n_frames.unsqueeze(1)

    def _normalize(self, vectors: Tensor, n_frames: Tensor) -> Tensor:
        index = torch.arange(vectors.shape[1], device=vectors.device)
        mask = index < n_frames.unsqueeze(1) * self.config.encoder.subsampling
        return normalize(vectors, mask, self.config.features.normalize)


def _open_encoder(config: FeatureConfig) -> Listener | None:
    """Return the encoder of a framecls model, where features are its vectors."""
    own = config.kind == "pretrained" and config.pretrained.family == "framecls"
    return Listener(config.pretrained) if own else None


class PhoneHead(nn.Module):
    """CTC logits from the middle of an encoder, told back to the layers above.

    Those then read phones as well as sound (Nozaki and Komatsu 2021, "Relaxing the Conditional Independence Assumption
    of CTC-based ASR by Conditioning on Intermediate Predictions").
    """

    def __init__(self, size: int, n_phones: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.to_logits = nn.Linear(size, 1 + n_phones)
        self.tell_back = nn.Linear(1 + n_phones, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, frame, channel) to (batch, frame, 1 + phone) logits, blank first."""
        logits: Tensor = self.to_logits(self.norm(x))
        return logits

    def tell(self, phones: Tensor, x: Tensor) -> Tensor:
        """Return what the layers above read: x, and in its channels (batch, frame, 1 + phone) probabilities."""
        told: Tensor = self.tell_back(phones)
        return x + told
