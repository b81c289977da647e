"""The whole network: waveform -> feature vectors -> encoder -> one answer a frame, or one a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from framecls.config import ModelConfig
from framecls.features import FeatureExtractor, normalize
from framecls.nn.encoder import Encoder
from framecls.nn.pooling import POOLINGS


@dataclass(frozen=True)
class Output:
    """What one forward pass gives."""

    logits: Tensor  # (batch, frame, label), or (batch, label) of a pooled task
    phone_logits: Tensor | None = None  # (batch, frame, 1 + phone), blank first; None without a CTC head


class Network(nn.Module):
    """A frame or pooled classifier built from its `ModelConfig` alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.features = FeatureExtractor(config.features)
        self.encoder = Encoder(config.encoder, config.features.dim)
        size = self.encoder.output_size
        self.pooling = POOLINGS[config.pooling](size) if config.task == "pooled" else None
        self.head = nn.Linear(self.pooling.output_size if self.pooling is not None else size, len(config.labels))
        self.phones = PhoneHead(size, len(config.phones)) if config.phones else None

    def forward(self, waveform: Tensor, n_frames: Tensor) -> Output:
        """Classify a batch of windows.

        Args:
            waveform: (batch, sample) float, -1..1: `features.margin_samples`, then a whole number of frames, then
                the margin again.
            n_frames: (batch,) how many of the frames are real; the rest is padding.
        """
        return self.classify(self.features(waveform), n_frames)

    def classify(self, vectors: Tensor, n_frames: Tensor) -> Output:
        """Classify feature vectors: (batch, vector, feature), as many vectors a frame as the encoder joins."""
        mask = self._frame_mask(vectors, n_frames)
        vectors = self._normalize(vectors, n_frames)
        heard: list[Tensor] = []
        x = self.encoder(vectors, mask, self._hear_phones(heard))
        logits = self.head(x if self.pooling is None else self.pooling(x, mask))
        return Output(logits, heard[0] if heard else None)

    def _hear_phones(self, heard: list[Tensor]) -> Callable[[int, Tensor], Tensor] | None:
        if (phones := self.phones) is None:
            return None
        at_layer = self.config.phone_layer or self.config.encoder.n_layers

        def probe(n_done: int, x: Tensor) -> Tensor:
            if n_done != at_layer:
                return x
            logits, x = phones(x)
            heard.append(logits)
            return x

        return probe

    def _frame_mask(self, vectors: Tensor, n_frames: Tensor) -> Tensor:
        n_padded = vectors.shape[1] // self.config.encoder.subsampling
        return torch.arange(n_padded, device=vectors.device) < n_frames.unsqueeze(1)

    def _normalize(self, vectors: Tensor, n_frames: Tensor) -> Tensor:
        index = torch.arange(vectors.shape[1], device=vectors.device)
        mask = index < n_frames.unsqueeze(1) * self.config.encoder.subsampling
        return normalize(vectors, mask, self.config.features.normalize)


class PhoneHead(nn.Module):
    """CTC logits from the middle of an encoder, told back to the layers above, which then read phones as well as sound.

    Nozaki and Komatsu 2021, "Relaxing the Conditional Independence Assumption of CTC-based ASR by Conditioning on
    Intermediate Predictions".
    """

    def __init__(self, size: int, n_phones: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.to_logits = nn.Linear(size, 1 + n_phones)
        self.tell_back = nn.Linear(1 + n_phones, size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, frame, channel) to (batch, frame, 1 + phone) logits, blank first, and to x told of them."""
        logits = self.to_logits(self.norm(x))
        return logits, x + self.tell_back(logits.softmax(dim=2))
