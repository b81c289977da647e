"""CAM++: a densely connected time-delay network whose layers are gated by their context.

Wang et al. 2023, "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking". Batch
normalisations are folded into the linear maps before them, or kept as one factor and offset a channel where an
activation follows.

What is padding is zero before every convolution over time and left out of every mean, so a window gives the same
vectors whatever it is batched with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import EncoderConfig

# Layers, and the dilation of their convolutions, of each block.
_BLOCKS = ((12, 1), (24, 2), (16, 2))
_BANDS_A_BAND = 8  # that the convolutions over bands make one of
_SEGMENT_FRAMES = 100  # the context of a frame is the mean of its segment, and that of the whole window


class CamPlusPlus(nn.Module):
    """Map feature vectors, two a frame, to one vector per frame; used as `Encoder` is.

    Args:
        config: `dim` is that of the paper's network, 512, or scales all of its widths; `n_layers` counts its blocks.
        input_size: bands of a vector.
    """

    def __init__(self, config: EncoderConfig, input_size: int) -> None:
        super().__init__()
        self.config = config
        self.input_size = input_size
        growth, size = config.dim // 16, config.dim // 4
        self.bands = Bands(growth)
        n_bands = -(-input_size // _BANDS_A_BAND)
        self.input = nn.Conv1d(n_bands * growth, size, 5, stride=2, padding=2)
        self.layers = nn.ModuleList()
        for n_layers, dilation in _BLOCKS[: config.n_layers]:
            self.layers.append(Block(size, growth, n_layers, dilation))
            size = (size + n_layers * growth) // 2
        self.output_size = size

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Encode a batch; see `Encoder.forward`."""
        return self.run_layers(self.project(vectors, mask), mask, 0, len(self.layers))

    def project(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, vector, feature) to (batch, frame, channel), the input of the first block."""
        vectors = vectors.to(self.input.weight.dtype)  # which may be lower
        x = self.bands(vectors, mask.repeat_interleave(2, dim=1).to(vectors.dtype))
        return functional.relu(self.input(x.transpose(1, 2))).transpose(1, 2)

    def run_layers(self, x: Tensor, mask: Tensor, first: int, last: int) -> Tensor:
        """Run blocks `[first, last)` on (batch, frame, channel), and after the very last an activation."""
        context = context_weights(mask, x.dtype)
        for block in self.layers[first:last]:
            x = block(x, mask.unsqueeze(2).to(x.dtype), context)
        return functional.relu(x).float() if last == len(self.layers) else x

    def init_identity(self, first: int) -> None:
        """Leave the blocks random: they have no residual connection."""


class Bands(nn.Module):
    """A small residual network over bands and time, which makes one band of eight."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, n_channels, 3, padding=1)
        self.blocks = nn.ModuleList(BandBlock(n_channels, stride) for stride in (2, 1, 2, 1))
        self.last = nn.Conv2d(n_channels, n_channels, 3, stride=(1, 2), padding=1)

    def forward(self, vectors: Tensor, real: Tensor) -> Tensor:
        """Map (batch, vector, band) to (batch, vector, channel of each band); real: (batch, vector) 0 or 1."""
        real = real[:, None, :, None]
        x = functional.relu(self.first(vectors.unsqueeze(1))) * real
        x = x.contiguous(memory_format=torch.channels_last)  # a third faster on a CPU
        for block in self.blocks:
            x = block(x, real)
        return (functional.relu(self.last(x)) * real).permute(0, 2, 3, 1).flatten(2)


class BandBlock(nn.Module):
    """Two convolutions over time and bands, added to what they read; a stride of 2 halves the bands."""

    def __init__(self, n_channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_channels, n_channels, 3, stride=(1, stride), padding=1)
        self.second = nn.Conv2d(n_channels, n_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(n_channels, n_channels, 1, stride=(1, stride)) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Map (batch, channel, vector, band) to the same, or half the bands; real: (batch, 1, vector, 1) 0 or 1."""
        y = functional.relu(self.first(x)) * real
        return functional.relu(self.second(y) + self.shortcut(x)) * real


class Block(nn.Module):
    """Layers that each add channels to all those before them, then half as many channels."""

    def __init__(self, input_size: int, growth: int, n_layers: int, dilation: int) -> None:
        super().__init__()
        sizes = [input_size + index * growth for index in range(n_layers + 1)]
        self.layers = nn.ModuleList(DenseLayer(size, growth, dilation) for size in sizes[:-1])
        self.norm = ScaleShift(sizes[-1])
        self.output = nn.Linear(sizes[-1], sizes[-1] // 2)

    def forward(self, x: Tensor, real: Tensor, context: Tensor) -> Tensor:
        """Map (batch, frame, channel) to another number of channels; the arguments are those of `DenseLayer`."""
        for layer in self.layers:
            x = torch.cat([x, layer(x, real, context)], dim=2)
        y: Tensor = self.output(functional.relu(self.norm(x)))
        return y


class DenseLayer(nn.Module):
    """A bottleneck, and a convolution over time whose channels are gated by the context of a frame."""

    def __init__(self, input_size: int, growth: int, dilation: int) -> None:
        super().__init__()
        size = 4 * growth
        self.norm = ScaleShift(input_size)
        self.bottleneck = nn.Linear(input_size, size)
        self.local = nn.Conv1d(size, growth, 3, padding=dilation, dilation=dilation, bias=False)
        self.squeeze = nn.Linear(size, size // 2)
        self.excite = nn.Linear(size // 2, growth)

    def forward(self, x: Tensor, real: Tensor, context: Tensor) -> Tensor:
        """Return the channels to add.

        Args:
            x: (batch, frame, channel).
            real: (batch, frame, 1) 0 or 1.
            context: as `context_weights` gives them.

        Returns:
            (batch, frame, added channel).
        """
        narrow = functional.relu(self.bottleneck(functional.relu(self.norm(x)))) * real
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(context @ narrow))))
        segment = torch.arange(x.shape[1], device=x.device) // _SEGMENT_FRAMES
        y: Tensor = self.local(narrow.transpose(1, 2)).transpose(1, 2) * gate[:, segment]
        return y


class ScaleShift(nn.Module):
    """A factor and an offset for each channel: batch normalisation with fixed statistics."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., channel) to the same shape."""
        return torch.addcmul(self.bias, x, self.weight)


def context_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (batch, segment, frame) weights that sum the mean of a segment and that of the window.

    Args:
        mask: (batch, frame) True = real; others weigh nothing.
        dtype: of the weights.
    """
    frame = torch.arange(mask.shape[1], device=mask.device) // _SEGMENT_FRAMES
    segment = torch.arange(mask.shape[1] // _SEGMENT_FRAMES + 1, device=mask.device)
    window = mask.unsqueeze(1).to(dtype)
    own = window * (frame == segment.unsqueeze(1))
    return own / own.sum(dim=2, keepdim=True).clamp(min=1) + window / window.sum(dim=2, keepdim=True).clamp(min=1)
