"""Encoders of four kinds, the rungs of the ladder: what each output vector depends on.

`fc` sees its own frame, `window` a few neighbours, `attention` every frame. `lstm`, which the lecture compares with
self-attention, reads one frame after the other, and knows earlier frames as far as its state keeps them.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import EncoderConfig
from framecls.nn.attention import ATTENTIONS

_MIN_ROWS = 2
_ONNX_LSTM_OPSET = 14  # later versions of the operator change nothing that is used here


class FeedForward(nn.Module):
    """Two fully-connected layers on each position alone."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(config.dim, config.ff_dim),
            nn.GELU() if config.activation == "gelu" else nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ff_dim, config.dim),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, frame, channel) to the same shape."""
        y: Tensor = self.layers(x)
        return y

    def init_zero_output(self) -> None:
        """Set the last layer to zero, so that the block adds nothing until it has learnt."""
        _zero(self.layers[3])


class ConvolutionPosition(nn.Module):
    """Encode position by a gated depthwise convolution over neighbouring frames.

    Self-attention alone ignores order; a convolution does not (Chu et al. 2021, "Conditional Positional Encodings for
    Vision Transformers"), and it models local patterns (Gulati et al. 2020, "Conformer"). Without position numbers a
    sequence may be longer than any in training.
    """

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.middle_norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, frame, channel) what to add to x; mask: (batch, frame) True = real."""
        gated = functional.glu(self.gate(self.norm(x)), dim=2)
        # Zero, as the convolution pads beyond the end of a clip.
        gated = gated * mask.unsqueeze(2)
        y: Tensor = self.dropout(self.output(functional.silu(self.middle_norm(self._convolve(gated.float())))))
        return y

    def _convolve(self, x: Tensor) -> Tensor:
        """Convolve (batch, frame, channel) over the frames.

        As images of one row: only there does torch take channels last without a copy, ten times faster on a CPU.
        """
        line, kernel = x.transpose(1, 2).unsqueeze(2), self.depthwise.weight.unsqueeze(2)
        width = kernel.shape[3]
        local = functional.conv2d(line, kernel, self.depthwise.bias, padding=(0, width // 2), groups=len(kernel))
        return local.squeeze(2).transpose(1, 2)


class AttentionLayer(nn.Module):
    """Position, self-attention, feed-forward, each a pre-norm residual."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.position = (
            ConvolutionPosition(config.dim, config.kernel, config.dropout) if config.position == "convolution" else None
        )
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = ATTENTIONS[config.score](config.dim, config.n_heads)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor, *, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Map (batch, frame, channel) to the same shape; the weights are as `Attention.forward` gives them."""
        if self.position is not None:
            x = x + self.position(x, mask)
        attended, weights = self.attention(self.attention_norm(x), mask, need_weights=need_weights)
        x = x + self.dropout(attended)
        return x + self.feed_forward(self.feed_forward_norm(x)), weights

    def init_identity(self) -> None:
        """Initialise the layer to the identity: both residuals add zero."""
        if self.position is not None:
            _zero(self.position.output)
        _zero(self.attention.to_output)
        self.feed_forward.init_zero_output()


class ConvolutionStem(nn.Module):
    """Two convolutions of width 3, the second of stride 2, as Whisper begins (Radford et al. 2022, "Robust Speech
    Recognition via Large-Scale Weak Supervision").
    """

    def __init__(self, input_size: int, dim: int, subsampling: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(input_size, dim, 3, padding=1)
        self.second = nn.Conv1d(dim, dim, 3, padding=1, stride=2)
        self.subsampling = subsampling

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, vector, feature), zero where padded, to (batch, vector / 2, channel); mask: (batch, frame)."""
        if torch.compiler.is_exporting():  # repeat_interleave with a length that is not known does not export
            index = torch.arange(vectors.shape[1], device=vectors.device)
            real = (index < mask.sum(dim=1, keepdim=True) * self.subsampling).unsqueeze(1)
        else:
            real = mask.repeat_interleave(self.subsampling, dim=1).unsqueeze(1)
            vectors = vectors[:, : real.shape[2]]
        x = functional.gelu(self.first(vectors.transpose(1, 2)))
        # Zero, as the convolution pads beyond the end of a clip.
        return functional.gelu(self.second(x * real)).transpose(1, 2)


def sinusoids(length: int, dim: int, device: torch.device) -> Tensor:
    """Return (length, dim) sinusoidal position encodings: sines, then cosines, of falling frequency.

    Vaswani et al. 2017; the frequencies are spaced as in the code of that paper (tensor2tensor) and in Whisper.
    """
    half = (dim + 1) // 2
    rate = torch.exp(torch.arange(half, device=device, dtype=torch.float32) * (-math.log(10000.0) / max(1, half - 1)))
    angle = torch.arange(length, device=device).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]


class Encoder(nn.Module):
    """Map feature vectors to one vector per frame."""

    def __init__(self, config: EncoderConfig, input_size: int) -> None:
        super().__init__()
        self.config = config
        self.input_size = input_size
        self.output_size = (config.dim, *config.tail)[-1]
        neighbours = 2 * config.context + 1 if config.kind == "window" else 1
        joined_size = input_size * config.subsampling * neighbours
        recurrent, convolved = config.kind == "lstm", config.stem == "convolution"
        self.input: nn.Module
        if convolved:
            self.input = ConvolutionStem(input_size, config.dim, config.subsampling)
        else:  # an LSTM has an input projection of its own
            self.input = nn.Identity() if recurrent else nn.Linear(joined_size, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList()
        for index in range(config.n_layers):
            if recurrent:
                self.layers.append(RecurrentLayer(config, config.dim if index or convolved else joined_size))
            else:
                self.layers.append(AttentionLayer(config) if config.kind == "attention" else PlainLayer(config))
        # The output of an LSTM lies in -1..1 already.
        self.norm: nn.Module = nn.Identity() if recurrent else nn.LayerNorm(config.dim)
        if config.tail:
            sizes = pairwise((config.dim, *config.tail))
            self.norm = nn.Sequential(*(part for pair in sizes for part in (nn.Linear(*pair), nn.LeakyReLU())))

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            vectors: (batch, vector, feature), `subsampling` vectors a frame, zero where padded.
            mask: (batch, frame) True = real.

        Returns:
            (batch, frame, channel); values at padded frames are undefined.
        """
        return self.run_layers(self.project(vectors, mask), mask, 0, len(self.layers))

    def run_layers(self, x: Tensor, mask: Tensor, first: int, last: int) -> Tensor:
        """Run layers `[first, last)` on (batch, frame, channel), and after the very last the final norm."""
        for layer in self.layers[first:last]:
            x, _ = layer(x, mask)
        normed: Tensor = self.norm(x) if last == len(self.layers) else x
        return normed

    def init_identity(self, first: int) -> None:
        """Initialise the layers from `first` on to identities.

        So a deeper network begins where a shallower one stopped (Chen et al. 2016, "Net2Net"). Recurrent layers have no
        residual connection and stay random.
        """
        for layer in self.layers[first:]:
            if isinstance(layer, (AttentionLayer, PlainLayer)):
                layer.init_identity()

    def project(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, vector, feature) to (batch, frame, channel), the input of the first layer."""
        convolved = self.config.stem == "convolution"
        x = self.input(vectors, mask) if convolved else self.input(self._join(vectors))
        if self.config.kind == "attention" and self.config.position == "sinusoidal":
            x = x + sinusoids(x.shape[1], x.shape[2], x.device)
        if convolved:
            x = x.unflatten(1, (mask.shape[1], -1)).mean(dim=2)
        y: Tensor = self.dropout(x.float())  # the path of the residuals is never in low precision
        return y

    def _join(self, vectors: Tensor) -> Tensor:
        """Concatenate the vectors of each frame, for the `window` kind with those of its neighbours."""
        batch, n_vectors, dim = vectors.shape
        frames = vectors.reshape(batch, n_vectors // self.config.subsampling, dim * self.config.subsampling)
        return stack_neighbours(frames, self.config.context) if self.config.kind == "window" else frames


class PlainLayer(nn.Module):
    """The feed-forward half of `AttentionLayer`, for `fc` and `window`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        """Map (batch, frame, channel) to the same shape; frames are independent, so the mask is not used."""
        return x + self.feed_forward(self.norm(x)), None

    def init_identity(self) -> None:
        """Initialise the layer to the identity: its residual adds zero."""
        self.feed_forward.init_zero_output()


class RecurrentLayer(nn.Module):
    """An LSTM (Hochreiter and Schmidhuber 1997); if bidirectional, half of the channels read backwards."""

    def __init__(self, config: EncoderConfig, input_size: int) -> None:
        super().__init__()
        size = config.dim // 2 if config.bidirectional else config.dim
        self.forth = nn.LSTM(input_size, size, batch_first=True)
        self.back = nn.LSTM(input_size, size, batch_first=True) if config.bidirectional else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        """Map (batch, frame, channel) to (batch, frame, channel of the layer); mask: (batch, frame) True = real."""
        y = _run_lstm(self.forth, x)
        if self.back is not None:
            y = torch.cat([y, _reverse(_run_lstm(self.back, _reverse(x, mask)), mask)], dim=2)
        return self.dropout(y), None


def _reverse(x: Tensor, mask: Tensor) -> Tensor:
    """Reverse the real frames of (batch, frame, channel); padding stays behind them."""
    index = torch.arange(mask.shape[1], device=mask.device)
    reversed_index = torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - index, index)
    return x.gather(1, reversed_index.unsqueeze(2).expand_as(x))


def _run_lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Map (batch, frame, channel) to (batch, frame, unit)."""
    if torch.compiler.is_exporting():
        return _onnx_lstm(lstm, x)
    # A CPU sums a batch of one row in another order than the same row in a larger batch.
    missing = 0 if lstm.training else max(0, _MIN_ROWS - len(x))
    y: Tensor = lstm(functional.pad(x, (0, 0, 0, 0, 0, missing)))[0]
    return y[: len(x)]


def _onnx_lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Run an LSTM as the ONNX operator: torch's exporter would take the number of frames for a constant."""

    def reorder(parameter: Tensor) -> Tensor:  # torch: input, forget, cell, output; ONNX: input, output, forget, cell
        i, f, c, o = parameter.chunk(4)
        return torch.cat([i, o, f, c]).unsqueeze(0)

    weights = dict(lstm.named_parameters())
    y: Tensor = torch.onnx.ops.symbolic(
        "LSTM",
        (
            x.transpose(0, 1),
            reorder(weights["weight_ih_l0"]),
            reorder(weights["weight_hh_l0"]),
            torch.cat([reorder(weights["bias_ih_l0"]), reorder(weights["bias_hh_l0"])], dim=1),
        ),
        {"hidden_size": lstm.hidden_size},
        dtype=x.dtype,
        shape=(x.shape[1], 1, x.shape[0], lstm.hidden_size),
        version=_ONNX_LSTM_OPSET,
    )
    return y.squeeze(1).transpose(0, 1)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def stack_neighbours(frames: Tensor, context: int) -> Tensor:
    """Concatenate each frame with `context` neighbours on each side, zeros beyond the ends.

    Args:
        frames: (batch, frame, channel).

    Returns:
        (batch, frame, (2 * context + 1) * channel), the earliest neighbour first.
    """
    padded = functional.pad(frames, (0, 0, context, context))
    around = padded.unfold(1, 2 * context + 1, 1)  # (batch, frame, channel, neighbour)
    return around.transpose(2, 3).flatten(2)
