"""The ladder: what each output vector may know of the sequence grows from rung to rung.

`fc` sees its own frame, `window` a few neighbours, `attention` everything. Beside it stands `lstm`, which the lecture
sets self-attention against: it, too, hears everything before a frame, but one frame after the other, and what is long
ago only as far as it was not forgotten.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import EncoderConfig
from framecls.nn.attention import ATTENTIONS

_MIN_ROWS = 2
_ONNX_LSTM = 14  # the set of operators whose LSTM this is; later ones change nothing that is used here


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

    def add_nothing(self) -> None:
        """Make what comes out zero, from which it can learn."""
        _zero(self.layers[3])


class ConvolutionPosition(nn.Module):
    """Tell positions apart by their neighbours: a gated depthwise convolution.

    Self-attention alone is blind to order; a convolution is not (Chu et al. 2021, "Conditional Positional Encodings for
    Vision Transformers"), and it hears local patterns (Gulati et al. 2020, "Conformer"). There is no position number to
    run out of, so a sequence may be longer than any in training.
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
        # Padding must look like the nothing beyond the end of a clip.
        gated = gated * mask.unsqueeze(2)
        y: Tensor = self.dropout(self.output(functional.silu(self.middle_norm(self._convolve(gated)))))
        return y

    def _convolve(self, x: Tensor) -> Tensor:
        """Return (batch, frame, channel) what the convolution over the frames makes of x.

        As one of pictures with a single row: torch takes channels last as they are only there, and is ten times faster
        on a CPU.
        """
        line, kernel = x.transpose(1, 2).unsqueeze(2), self.depthwise.weight.unsqueeze(2)
        width = kernel.shape[3]
        local = functional.conv2d(line, kernel, self.depthwise.bias, padding=(0, width // 2), groups=len(kernel))
        return local.squeeze(2).transpose(1, 2)


class AttentionLayer(nn.Module):
    """Position, then self-attention, then fully-connected, each added to what it read (pre-norm residual)."""

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

    def pass_on(self) -> None:
        """Give out what comes in, until it learns better."""
        if self.position is not None:
            _zero(self.position.output)
        _zero(self.attention.to_output)
        self.feed_forward.add_nothing()


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
        if torch.compiler.is_exporting():  # there are no vectors beyond the last frame, but a graph cannot know it
            index = torch.arange(vectors.shape[1], device=vectors.device)
            real = (index < mask.sum(dim=1, keepdim=True) * self.subsampling).unsqueeze(1)
        else:
            real = mask.repeat_interleave(self.subsampling, dim=1).unsqueeze(1)
            vectors = vectors[:, : real.shape[2]]
        x = functional.gelu(self.first(vectors.transpose(1, 2)))
        # Padding must look like the nothing beyond the end of a clip.
        return functional.gelu(self.second(x * real)).transpose(1, 2)


def sinusoids(length: int, dim: int, device: torch.device) -> Tensor:
    """Return (length, dim) the position code of Vaswani et al. 2017: sines, then cosines, of falling frequency.

    The frequencies are spaced as in the code of that paper (tensor2tensor), as are those of Whisper.
    """
    half = (dim + 1) // 2
    rate = torch.exp(torch.arange(half, device=device, dtype=torch.float32) * (-math.log(10000.0) / max(1, half - 1)))
    angle = torch.arange(length, device=device).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]


class Encoder(nn.Module):
    """Feature vectors in, one vector a frame out."""

    def __init__(self, config: EncoderConfig, input_size: int) -> None:
        super().__init__()
        self.config = config
        self.input_size = input_size
        self.output_size = config.dim
        neighbours = 2 * config.context + 1 if config.kind == "window" else 1
        joined_size = input_size * config.subsampling * neighbours
        recurrent, convolved = config.kind == "lstm", config.stem == "convolution"
        self.input: nn.Module
        if convolved:
            self.input = ConvolutionStem(input_size, config.dim, config.subsampling)
        else:  # an LSTM begins with a linear map of what it reads itself
            self.input = nn.Identity() if recurrent else nn.Linear(joined_size, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList()
        for index in range(config.n_layers):
            if recurrent:
                self.layers.append(RecurrentLayer(config, config.dim if index or convolved else joined_size))
            else:
                self.layers.append(AttentionLayer(config) if config.kind == "attention" else PlainLayer(config))
        # What an LSTM gives lies between -1 and 1.
        self.norm: nn.Module = nn.Identity() if recurrent else nn.LayerNorm(config.dim)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            vectors: (batch, vector, feature), `subsampling` vectors a frame, zero where padded.
            mask: (batch, frame) True = real.

        Returns:
            (batch, frame, channel); what stands at padded frames means nothing.
        """
        return self.climb(self.embed(vectors, mask), mask, 0, len(self.layers))

    def climb(self, x: Tensor, mask: Tensor, first: int, last: int) -> Tensor:
        """Run the layers `[first, last)` on (batch, frame, channel); after the last of all comes the final norm."""
        for layer in self.layers[first:last]:
            x, _ = layer(x, mask)
        normed: Tensor = self.norm(x) if last == len(self.layers) else x
        return normed

    def grow(self, n_learnt: int) -> None:
        """Let the layers above the first `n_learnt`, which have learnt something, begin by changing nothing.

        So a deeper network begins where a shallower one stopped (Chen et al. 2016, "Net2Net"). What an LSTM reads does
        not go past it, so its layers begin at random.
        """
        for layer in self.layers[n_learnt:]:
            if isinstance(layer, (AttentionLayer, PlainLayer)):
                layer.pass_on()

    def attention_weights(self, vectors: Tensor, mask: Tensor) -> list[Tensor]:
        """Return for each layer (batch, head, query, key): how much each frame looked at each other frame."""
        x, found = self.embed(vectors, mask), []
        for layer in self.layers:
            x, weights = layer(x, mask, need_weights=True)
            found.append(weights)
        return found

    def embed(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, frame, channel) what the first layer reads."""
        convolved = self.config.stem == "convolution"
        x = self.input(vectors, mask) if convolved else self.input(self._join(vectors))
        if self.config.kind == "attention" and self.config.position == "sinusoidal":
            x = x + sinusoids(x.shape[1], x.shape[2], x.device)
        if convolved:
            x = x.unflatten(1, (mask.shape[1], -1)).mean(dim=2)
        y: Tensor = self.dropout(x)
        return y

    def _join(self, vectors: Tensor) -> Tensor:
        """Join the vectors of each frame, and on the window rung those of its neighbours."""
        batch, n_vectors, dim = vectors.shape
        frames = vectors.reshape(batch, n_vectors // self.config.subsampling, dim * self.config.subsampling)
        return stack_neighbours(frames, self.config.context) if self.config.kind == "window" else frames


class PlainLayer(nn.Module):
    """The fully-connected half of `AttentionLayer`, for the rungs below it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        """Map (batch, frame, channel) to the same shape; each frame is on its own, so the mask does not matter."""
        return x + self.feed_forward(self.norm(x)), None

    def pass_on(self) -> None:
        """Give out what comes in, until it learns better."""
        self.feed_forward.add_nothing()


class RecurrentLayer(nn.Module):
    """A long short-term memory that reads the frames one after the other (Hochreiter and Schmidhuber 1997).

    Bidirectional, half of its channels come from one that reads them from the last to the first.
    """

    def __init__(self, config: EncoderConfig, input_size: int) -> None:
        super().__init__()
        size = config.dim // 2 if config.bidirectional else config.dim
        self.forth = nn.LSTM(input_size, size, batch_first=True)
        self.back = nn.LSTM(input_size, size, batch_first=True) if config.bidirectional else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        """Map (batch, frame, channel) to (batch, frame, channel of the layer); mask: (batch, frame) True = real.

        Padding is behind the real frames, so reading forth comes to it last.
        """
        y = _remember(self.forth, x)
        if self.back is not None:
            y = torch.cat([y, _turn(_remember(self.back, _turn(x, mask)), mask)], dim=2)
        return self.dropout(y), None


def _turn(x: Tensor, mask: Tensor) -> Tensor:
    """Return (batch, frame, channel) the real frames in reverse order, padding left where it is."""
    index = torch.arange(mask.shape[1], device=mask.device)
    turned = torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - index, index)
    return x.gather(1, turned.unsqueeze(2).expand_as(x))


def _remember(memory: nn.LSTM, x: Tensor) -> Tensor:
    """Return (batch, frame, unit) what an LSTM makes of (batch, frame, channel)."""
    if torch.compiler.is_exporting():
        return _onnx_lstm(memory, x)
    # On a CPU one row alone is summed in another order than the same row in company.
    missing = 0 if memory.training else max(0, _MIN_ROWS - len(x))
    y: Tensor = memory(functional.pad(x, (0, 0, 0, 0, 0, missing)))[0]
    return y[: len(x)]


def _onnx_lstm(memory: nn.LSTM, x: Tensor) -> Tensor:
    """Return the same as the operator of an ONNX graph: torch's exporter takes the number of frames for a constant."""

    def reorder(parameter: Tensor) -> Tensor:  # torch: input, forget, cell, output; ONNX: input, output, forget, cell
        i, f, c, o = parameter.chunk(4)
        return torch.cat([i, o, f, c]).unsqueeze(0)

    weights = dict(memory.named_parameters())
    y: Tensor = torch.onnx.ops.symbolic(
        "LSTM",
        (
            x.transpose(0, 1),
            reorder(weights["weight_ih_l0"]),
            reorder(weights["weight_hh_l0"]),
            torch.cat([reorder(weights["bias_ih_l0"]), reorder(weights["bias_hh_l0"])], dim=1),
        ),
        {"hidden_size": memory.hidden_size},
        dtype=x.dtype,
        shape=(x.shape[1], 1, x.shape[0], memory.hidden_size),
        version=_ONNX_LSTM,
    )
    return y.squeeze(1).transpose(0, 1)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def stack_neighbours(frames: Tensor, context: int) -> Tensor:
    """Join each frame with `context` neighbours on each side; zeros stand in beyond the ends.

    Args:
        frames: (batch, frame, channel).

    Returns:
        (batch, frame, (2 * context + 1) * channel), the earliest neighbour first.
    """
    padded = functional.pad(frames, (0, 0, context, context))
    around = padded.unfold(1, 2 * context + 1, 1)  # (batch, frame, channel, neighbour)
    return around.transpose(2, 3).flatten(2)
