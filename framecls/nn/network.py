"""The whole network: waveform -> feature vectors -> encoder -> logits per frame or per window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import EncoderConfig, FeatureConfig, ModelConfig
from framecls.nn.campplus import CamPlusPlus
from framecls.nn.encoder import AttentionLayer, Encoder
from framecls.nn.features import FeatureExtractor, normalize
from framecls.nn.pooling import MIN_ROWS, POOLINGS
from framecls.nn.wavefilters import WaveFilters


@dataclass(frozen=True)
class Output:
    """The result of a forward pass."""

    # (batch, frame, label), or (batch, label) of a pooled task, or (batch, number) unit vectors of an embedding
    logits: Tensor
    phone_logits: Tensor | None = None  # (batch, frame, 1 + phone), blank first; None without a CTC head


@dataclass
class AttentionRecord:
    """What a network attended to in a forward pass."""

    layers: list[Tensor] = field(default_factory=list)  # of the encoder, each (batch, head, query, key)
    pooling: Tensor | None = None  # (batch, frame, head) of a pooled task


@contextmanager
def recorded_attention(network: Network) -> Iterator[AttentionRecord]:
    """Record the attention weights of the forward pass in the block, which is slower for it; no other one is.

    The layers of a pre-trained encoder in place of features are not recorded.
    """
    record = AttentionRecord()

    def ask(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "need_weights": True}

    def keep(layer: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        record.layers.append(output[1])

    def keep_pooling(pooling: Any, args: tuple[Tensor, Tensor], output: Tensor) -> None:
        record.pooling = pooling.weigh(*args)

    with ExitStack() as hooks:
        for layer in network.encoder.layers:
            if isinstance(layer, AttentionLayer):
                hooks.callback(layer.register_forward_pre_hook(ask, with_kwargs=True).remove)
                hooks.callback(layer.register_forward_hook(keep).remove)
        if network.pooling is not None:
            hooks.callback(network.pooling.register_forward_hook(keep_pooling).remove)
        yield record


class Network(nn.Module):
    """A frame or pooled classifier.

    Args:
        config: its settings.
        frontend: what computes pre-trained features, a `PretrainedFrontend`; None for features of other kinds.
    """

    def __init__(self, config: ModelConfig, frontend: nn.Module | None = None) -> None:
        super().__init__()
        if (config.features.kind == "pretrained") != (frontend is not None):
            raise ValueError("pre-trained features need a frontend, and others have none")
        self.config = config
        self.features: nn.Module = make_features(config.features) if frontend is None else frontend
        self.encoder = make_encoder(config.encoder, config.features.dim)
        size = self.encoder.output_size
        self.pooling = POOLINGS[config.pooling](size) if config.task == "pooled" else None
        head_size = self.pooling.output_size if self.pooling is not None else size
        self.hidden = nn.Linear(head_size, config.embedding_hidden) if config.embedding_hidden else None
        self.head = nn.Linear(config.embedding_hidden or head_size, config.embedding or len(config.labels))
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
        """Return (batch, vector, feature), the input of `classify`; the arguments are those of `forward`."""
        vectors: Tensor = self.features(waveform, n_frames * self.config.encoder.subsampling)
        return vectors

    def classify(self, vectors: Tensor, n_frames: Tensor) -> Output:
        """Classify (batch, vector, feature) windows of `encoder.subsampling` vectors a frame."""
        x, mask, phone_logits = self.contextualize(vectors, n_frames)
        return Output(self.decide(x, mask), phone_logits)

    def contextualize(self, vectors: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run all layers; return (batch, frame, channel), the mask, and the phone logits where there is such a head."""
        x, mask = self.encode(vectors, n_frames)
        phone_logits = None
        if self.phones is not None:
            phone_logits = self.phones(x)
            x = self.phones.condition(x, phone_logits.softmax(dim=2))
        if self.phone_layer < self.config.encoder.n_layers:
            x = self.encoder.run_layers(x, mask, self.phone_layer, self.config.encoder.n_layers)
        return x, mask, phone_logits

    def encode(self, vectors: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layers below the phone head (all, without one); return (batch, frame, channel) and the mask."""
        mask = self._frame_mask(vectors.shape[1] // self.config.encoder.subsampling, n_frames)
        x = self.encoder.project(self._normalize(vectors, n_frames), mask)
        return self.encoder.run_layers(x, mask, 0, self.phone_layer), mask

    def decide(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run pooling, if there is any, and the head; return logits, or unit vectors of an embedding.

        Args:
            x: (batch, frame, channel) from `contextualize`, or parts of it.
            mask: (batch, frame) True = real.
        """
        pooled = x if self.pooling is None else self._pool(x, mask)
        if self.hidden is not None:
            pooled = functional.normalize(functional.relu(self.hidden(pooled)), dim=1)
        rows: Tensor = self.head(pooled)
        logits = rows[: x.shape[0]]  # len() would fix the number of rows in an exported graph
        logits = smooth(logits, mask, self.config.smoothing)
        # In full precision: a unit vector rounded to 8 bits points elsewhere.
        return functional.normalize(logits.float(), dim=1) if self.config.embedding else logits

    def _pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool frames to (batch, channel), with rows of zeros after the last of a small batch.

        A CPU sums the product of a matrix with few rows in another order: the rows keep the logits of a window, to the
        last bit, independent of the number of windows in its batch.
        """
        assert self.pooling is not None
        pooled: Tensor = self.pooling(x, mask)
        if torch.compiler.is_exporting():  # the number of rows is not known in a graph
            return pooled
        return functional.pad(pooled, (0, 0, 0, max(0, MIN_ROWS - len(pooled))))

    def _frame_mask(self, n_padded: int, n_frames: Tensor) -> Tensor:
        return torch.arange(n_padded, device=n_frames.device) < n_frames.unsqueeze(1)

    def _normalize(self, vectors: Tensor, n_frames: Tensor) -> Tensor:
        index = torch.arange(vectors.shape[1], device=vectors.device)
        mask = index < n_frames.unsqueeze(1) * self.config.encoder.subsampling
        return normalize(vectors, mask, self.config.features.normalize)


def smooth(logits: Tensor, mask: Tensor, width: int) -> Tensor:
    """Return (batch, frame, label) the mean of `width` frames around each, an odd number, as far as they are real.

    Args:
        logits: (batch, frame, label).
        mask: (batch, frame) True = real.
        width: 1 leaves them as they are.
    """
    if width == 1:
        return logits
    real = mask.unsqueeze(1).to(logits.dtype)
    # Each mean has the same share of padding as that of the mask.
    rows = [functional.avg_pool1d(each, width, 1, width // 2) for each in (logits.transpose(1, 2) * real, real)]
    return (rows[0] / rows[1].clamp(min=1 / width)).transpose(1, 2)


def make_features(config: FeatureConfig) -> nn.Module:
    """Build what computes features that are not pre-trained; those that are learnt are untrained."""
    return WaveFilters() if config.kind == "wavefilters" else FeatureExtractor(config)


def make_encoder(config: EncoderConfig, input_size: int) -> Encoder | CamPlusPlus:
    """Build an untrained encoder of vectors of `input_size` numbers."""
    return CamPlusPlus(config, input_size) if config.kind == "campplus" else Encoder(config, input_size)


class PhoneHead(nn.Module):
    """Compute CTC logits in the middle of an encoder, and condition the layers above on them.

    Self-conditioned CTC (Nozaki and Komatsu 2021, "Relaxing the Conditional Independence Assumption of CTC-based ASR by
    Conditioning on Intermediate Predictions").
    """

    def __init__(self, size: int, n_phones: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.to_logits = nn.Linear(size, 1 + n_phones)
        self.conditioning = nn.Linear(1 + n_phones, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, frame, channel) to (batch, frame, 1 + phone) logits, blank first."""
        logits: Tensor = self.to_logits(self.norm(x))
        return logits

    def condition(self, x: Tensor, posteriors: Tensor) -> Tensor:
        """Add to (batch, frame, channel) a projection of the (batch, frame, 1 + phone) phone posteriors."""
        projected: Tensor = self.conditioning(posteriors)
        return x + projected
