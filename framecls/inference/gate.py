"""A gate: a frame model that says in how much of a window another model's sound, such as speech, is heard."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor
from torch.nn import functional

from framecls.config import ModelConfig
from framecls.errors import ModelError
from framecls.nn.network import Network

Count = TypeVar("Count", int, Tensor)


class Gate:
    """Find the frames of windows in which a gated model's label is heard.

    Args:
        network: the frame model, on the device of the gated one.
        gated: settings of the model whose windows are weighed.

    Raises:
        ModelError: the two do not fit: sample rate, margins, frames or labels.
    """

    def __init__(self, network: Network, gated: ModelConfig) -> None:
        own = network.config
        # A spectrum window that is shorter than the transform has zeros around it, and reads no further than itself.
        reach_samples = (own.features.window_samples - own.features.hop_samples) // 2
        fits = (
            own.features.sample_rate == gated.features.sample_rate
            and reach_samples <= gated.features.margin_samples
            and 0 in (gated.hop_samples % own.hop_samples, own.hop_samples % gated.hop_samples)
        )
        if not fits or gated.gate not in own.labels:
            raise ModelError(f"{gated.name}: the model {own.name} cannot tell it where {gated.gate!r} is heard")
        self._network = network
        self.config = own
        self._label = own.labels.index(gated.gate)
        self._hops = (gated.hop_samples, own.hop_samples)
        self._margins = (gated.features.margin_samples, own.features.margin_samples)
        self.hop_s = own.hop_s

    def hear(self, waveform: Tensor, n_frames: Tensor) -> Tensor:
        """Return (batch, frame) the logit of the label in each of the gate's frames, of `hop_s` seconds.

        Args:
            waveform: (batch, sample) as the gated network takes it.
            n_frames: (batch,) real frames, counted in the gated network's.
        """
        logits: Tensor = self._network(self._adapt_margins(waveform), self.count(n_frames)).logits[:, :, self._label]
        return logits

    def count(self, n_frames: Count) -> Count:
        """Convert a number, or several, of the gated network's frames to the gate's, the last one perhaps in part."""
        gated, own = self._hops
        return (n_frames * gated + own - 1) // own

    def _adapt_margins(self, waveform: Tensor) -> Tensor:
        """Return (batch, sample) a whole number of the gate's frames, with its margins in place of the gated ones."""
        (_, own), (margin, own_margin) = self._hops, self._margins
        n_samples = waveform.shape[1] - 2 * margin
        behind = -n_samples % own + own_margin - margin
        return functional.pad(waveform, (own_margin - margin, behind))
