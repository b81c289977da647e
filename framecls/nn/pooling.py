"""Many frames in, one vector out. Each pooling has `input_size` and `output_size`, and says how it weighs frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_ROWS = 4  # below which a CPU sums the product of a matrix in another order
_N_READING_LAYERS = 6


class MeanPooling(nn.Module):
    """The mean over the real frames."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = input_size

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (batch, frame, channel) to (batch, channel); mask: (batch, frame) True = real."""
        weight = mask.unsqueeze(2).to(x.dtype)
        return (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)

    def weigh(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, frame, head) the weight of each frame, one over the frames; there is one head."""
        weight = mask.unsqueeze(2).to(x.dtype)
        return weight / weight.sum(dim=1, keepdim=True).clamp(min=1)


class LastPooling(nn.Module):
    """The last real frame: all that a recurrent network remembers of those before."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = input_size

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (batch, frame, channel) to (batch, channel); mask: (batch, frame) True = real."""
        last = (mask.sum(dim=1) - 1).clamp(min=0).view(-1, 1, 1)
        return x.gather(1, last.expand(-1, 1, x.shape[2])).squeeze(1)

    def weigh(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, frame, head) the weight of each frame: one, of the last; there is one head."""
        index = torch.arange(mask.shape[1], device=mask.device)
        return (index == mask.sum(dim=1, keepdim=True) - 1).unsqueeze(2).to(x.dtype)


class StatisticsPooling(MeanPooling):
    """Mean and standard deviation over the real frames, the deviation as of a sample.

    Snyder et al. 2018, "X-Vectors: Robust DNN Embeddings for Speaker Recognition".
    """

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size)
        self.output_size = 2 * input_size

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (batch, frame, channel) to (batch, 2 * channel); mask: (batch, frame) True = real."""
        mean = super().forward(x, mask)
        squares = ((x - mean.unsqueeze(1)).square() * mask.unsqueeze(2)).sum(dim=1)
        variance = squares / (mask.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        # Clamped before the root, whose slope at zero is infinite.
        return torch.cat([mean, variance.clamp(min=1e-10).sqrt()], dim=1)


class AttentiveStatisticsPooling(nn.Module):
    """Weighted mean and standard deviation, the weights found per channel by a small network on each frame.

    Okabe et al. 2018, "Attentive Statistics Pooling for Deep Speaker Embedding"; per-channel weights as in
    Desplanques et al. 2020, "ECAPA-TDNN".
    """

    def __init__(self, input_size: int, hidden_size: int = 64) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = 2 * input_size
        self.attention = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, input_size)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (batch, frame, channel) to (batch, 2 * channel); mask: (batch, frame) True = real."""
        weight = self.weigh(x, mask)
        mean = (weight * x).sum(dim=1)
        # Clamped before the root, whose slope at zero is infinite.
        variance = (weight * (x - mean.unsqueeze(1)).square()).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=1)

    def weigh(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, frame, channel) weights, one over the frames: each channel is a head."""
        weight: Tensor = self.attention(x).masked_fill(~mask.unsqueeze(2), -math.inf).softmax(dim=1)
        return weight


class MultiHeadStatisticsPooling(nn.Module):
    """Several heads, each with weights of its own over the frames, and mean and deviation of its own channels.

    India et al. 2019, "Self Multi-Head Attention for Speaker Recognition", with the deviations of Okabe et al. 2018.
    Frames are mapped linearly first, so that each head chooses what it collects as well as where.
    """

    def __init__(self, input_size: int, n_heads: int = 16, hidden_size: int = 128) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = 2 * input_size
        # Heads of one channel where there are few channels.
        self.n_heads = math.gcd(n_heads, input_size)
        self.attention = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, self.n_heads)
        )
        self.value = nn.Linear(input_size, input_size)
        self.norm = nn.LayerNorm(self.output_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (batch, frame, channel) to (batch, 2 * channel); mask: (batch, frame) True = real."""
        weight = self.weigh(x, mask).unsqueeze(3)
        value = self.value(x).view(*x.shape[:2], self.n_heads, -1)
        mean = (weight * value).sum(dim=1)
        variance = (weight * (value - mean.unsqueeze(1)).square()).sum(dim=1)
        pooled: Tensor = self.norm(torch.cat([mean.flatten(1), variance.clamp(min=1e-6).sqrt().flatten(1)], dim=1))
        return pooled

    def weigh(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, frame, head) weights, one over the frames."""
        weight: Tensor = self.attention(x).masked_fill(~mask.unsqueeze(2), -math.inf).softmax(dim=1)
        return weight


class ReadingLayer(nn.Module):
    """A layer of a Transformer's decoder at its first position, a query that reads the frames.

    Vaswani et al. 2017, "Attention Is All You Need". With no position before it, self-attention is a linear map.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.n_heads = math.gcd(dim, 8)
        self.own_norm, self.own = nn.LayerNorm(dim), nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, dim)
        self.to_key_value = nn.Linear(dim, 2 * dim)
        self.to_output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, query: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Map (row, channel) queries to the same shape; the first of them read (batch, frame, channel) frames."""
        query = query + self.own(self.own_norm(query))
        query = query + self.to_output(self._read(self.to_query(self.attention_norm(query)), x, mask))
        y: Tensor = query + self.feed_forward(self.feed_forward_norm(query))
        return y

    def _read(self, query: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Return (row, channel) the weighted sums of the values of the frames, zeros in rows beyond the batch.

        Keys and values are linear maps of the frames: mapping the query back, and the sum of the frames instead of each
        of them, gives the same with a hundredth of the products. The offset of the keys is lost in the softmax.
        """
        batch, dim = x.shape[0], x.shape[2]
        to_key, to_value = self.to_key_value.weight.view(2, self.n_heads, -1, dim)  # (head, channel of the head, dim)
        heads = query.view(query.shape[0], self.n_heads, -1).transpose(0, 1)
        asked = (heads @ to_key)[:, :batch].permute(1, 2, 0) / math.sqrt(heads.shape[2])  # (batch, dim, head)
        weight = (x @ asked).masked_fill(~mask.unsqueeze(2), -math.inf).softmax(dim=1)
        # Frames before channels on the left: else a CPU sums in another order where a batch is padded.
        mixed = functional.pad((x.transpose(1, 2) @ weight).permute(2, 0, 1), (0, 0, 0, query.shape[0] - batch))
        read: Tensor = (mixed @ to_value.transpose(1, 2)).transpose(0, 1).flatten(1) + self.to_key_value.bias[dim:]
        return read


class ReadingPooling(MultiHeadStatisticsPooling):
    """Multi-head statistics, and beside them what a query reads from the frames, layer by layer.

    So Whisper's decoder names the language, its first step (Radford et al. 2022, "Robust Speech Recognition via
    Large-Scale Weak Supervision"); `recipes.from_whisper` copies it.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size)
        self.query = nn.Parameter(torch.empty(input_size))
        # Not from a normal distribution: on the device "meta" that would load torch's compiler.
        nn.init.uniform_(self.query, -0.03, 0.03)
        self.layers = nn.ModuleList(ReadingLayer(input_size) for _ in range(_N_READING_LAYERS))
        self.query_norm = nn.LayerNorm(input_size)
        self.output_size = 3 * input_size

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (batch, frame, channel) to (batch, 3 * channel); mask: (batch, frame) True = real."""
        n_rows = x.shape[0] if torch.compiler.is_exporting() else max(x.shape[0], MIN_ROWS)
        query = self.query.expand(n_rows, -1)
        for layer in self.layers:
            query = layer(query, x, mask)
        return torch.cat([super().forward(x, mask), self.query_norm(query)[: x.shape[0]]], dim=1)


POOLINGS: dict[
    str,
    type[MeanPooling] | type[LastPooling] | type[AttentiveStatisticsPooling] | type[MultiHeadStatisticsPooling],
] = {
    "mean": MeanPooling,
    "last": LastPooling,
    "statistics": StatisticsPooling,
    "attentive": AttentiveStatisticsPooling,
    "multihead": MultiHeadStatisticsPooling,
    "reading": ReadingPooling,
}
