"""Listen to a recording for who speaks: where there is speech, and embeddings of short windows slid over it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from framecls.checkpoints.network import load_network
from framecls.checkpoints.registry import OVERLAP_MODEL, locate
from framecls.config import ModelConfig, WindowConfig
from framecls.inference.engine import Engine
from framecls.inference.windows import Item, Window, WindowOutput, stitch
from framecls.nn.precision import lower_voices

# What is read at once: in less the gate hears worse what is speech.
_STRETCH_S = 10.0
# A window with less speech than this says nothing of a voice.
_LEAST_SPEECH_S = 0.3
_BATCH_SIZE = 32  # of such short windows
_SURE = 20.0  # a logit


@dataclass(frozen=True, eq=False)
class Heard:
    """What a recording says of who speaks in it."""

    hop_s: float
    speech: NDArray[np.float32]  # (frame,) probability that somebody speaks
    overlap: NDArray[np.float32]  # (frame,) probability that several do
    starts: NDArray[np.int64]  # (window,) the frames at which they begin, ascending
    width: int  # frames of a window
    vectors: NDArray[np.float32]  # (window, number) of unit length


@dataclass(frozen=True, eq=False)
class _Stretch(WindowOutput):
    """What is heard in one stretch; `logits` are (window, number) the embeddings, zero of windows without speech."""

    overlap: NDArray[np.float32] | None = None  # (gate frame,) logits of that several speak


class OverlapNetwork:
    """The shipped model of overlapped speech, asked for how likely it is that several voices speak."""

    def __init__(self, device: torch.device) -> None:
        self._network = load_network(locate(OVERLAP_MODEL)).to(device)
        # Its labels are sets of voices.
        self._several = [index for index, label in enumerate(self._network.config.labels) if "+" in label]

    def hear(self, waveform: Tensor, n_samples: Tensor, margin: int, hop: int) -> NDArray[np.float32]:
        """Return (batch, frame) logits, in frames of `hop` samples.

        Args:
            waveform: (batch, sample) with margins of `margin` samples.
            n_samples: (batch,) real samples, without the margins.
            margin, hop: in samples.
        """
        features = self._network.config.features
        longest, own = waveform.shape[1] - 2 * margin, features.hop_samples
        n_frames = -(-longest // own)
        more = features.margin_samples - margin
        padded = functional.pad(waveform, (more, more + n_frames * own - longest))
        logits = self._network(padded, (n_samples + own - 1) // own).logits
        several = torch.zeros(logits.shape[2], dtype=torch.bool, device=logits.device)
        several[self._several] = True
        odds = logits[:, :, several].logsumexp(dim=2) - logits[:, :, ~several].logsumexp(dim=2)
        middles = (torch.arange(-(-longest // hop), device=logits.device) * hop + hop // 2) // own
        found: NDArray[np.float32] = odds[:, middles.clamp(max=n_frames - 1)].float().cpu().numpy()
        return found


class ListeningEngine(Engine):
    """An engine on the weights of a model of voices that embeds windows slid over the speech."""

    def __init__(self, engine: Engine, config: ModelConfig) -> None:
        """Take over an engine's network and gate; `config` may have other rules of decision than the network's."""
        super().__init__(engine.network, engine.device, engine.batch_size)
        self.gate = engine.gate
        if engine.may_lower:  # these vectors are compared with each other, and the means of many with stored ones
            self.network = copy.deepcopy(self.network)
            lower_voices(self.network)
        settings, hop_s = config.diarization, config.hop_s
        self._width, self.step_frames = round(settings.window_s / hop_s), round(settings.step_s / hop_s)
        n_steps = max(0, round((_STRETCH_S / hop_s - self._width) / self.step_frames))
        length_s = (n_steps * self.step_frames + self._width) * hop_s
        # The next stretch begins with the window after the last one of this.
        overlap_s = min((self._width - self.step_frames) * hop_s, length_s / 2)
        self.config = replace(config, window=WindowConfig(length_s, overlap_s))
        is_speech = self.gate is not None and config.features.sample_rate == 16000
        self._overlap = OverlapNetwork(self.device) if is_speech else None

    @property
    def heard_hop_s(self) -> float:
        """Seconds from one frame of `Heard.speech` to the next."""
        return self.gate.hop_s if self.gate is not None else self.config.hop_s

    def forward(self, items: list[Item]) -> list[WindowOutput]:
        """Hear where there is speech, and of how many at once, and embed the windows with some."""
        with torch.inference_mode():
            waveform, n_frames = self.pad(items)
            gated = self.hear(waveform, n_frames)
            speech = [None] * len(items) if gated is None else list(gated > 0)
            vectors = [self._embed(*row) for row in zip(waveform, n_frames.tolist(), speech, strict=True)]
            outputs: Sequence[WindowOutput] = self.outputs(items, vectors, gated)
            if self._overlap is None or self.gate is None:
                return list(outputs)
            hop, rate = self.config.hop_samples, self.config.features.sample_rate
            margin, gate_hop = self.config.features.margin_samples, round(self.gate.hop_s * rate)
            several = self._overlap.hear(waveform, n_frames * hop, margin, gate_hop)
        return [
            _Stretch(
                o.window, o.logits, o.weight_s, o.shared_s, o.gate, row[: len(o.gate)] if o.gate is not None else None
            )
            for o, row in zip(outputs, several, strict=True)
        ]

    def _embed(self, sound: Tensor, n_frames: int, speech: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """Return (window, number) the embeddings in a (sample,) stretch with its margins; speech: (gate frame,)."""
        hop, margin = self.config.hop_samples, self.config.features.margin_samples
        width = min(self._width, n_frames)
        firsts = np.arange(0, n_frames - width + 1, self.step_frames)
        kept = firsts
        if speech is not None:
            totals = np.concatenate([[0], np.cumsum(speech)])
            edges = np.stack([firsts, firsts + width]) * (self.config.hop_s / self.heard_hop_s)
            begins, ends = edges.round().astype(int).clip(0, len(speech))
            kept = firsts[(totals[ends] - totals[begins]) * self.heard_hop_s >= _LEAST_SPEECH_S]
        found = np.zeros((len(firsts), self.config.embedding), np.float32)
        for at in range(0, len(kept), _BATCH_SIZE):
            part = kept[at : at + _BATCH_SIZE]
            batch = torch.stack([sound[first * hop : (first + width) * hop + 2 * margin] for first in part.tolist()])
            lengths = torch.full((len(part),), width, device=batch.device)
            found[part // self.step_frames] = self.network(batch, lengths).logits.float().cpu().numpy()
        return found


def collect(outputs: Iterable[WindowOutput], engine: ListeningEngine) -> Heard:
    """Join what a `ListeningEngine` hears in the stretches of a recording."""
    config, hop_s = engine.config, engine.heard_hop_s
    stretches, starts, vectors = [], [np.zeros(0, int)], [np.zeros((0, config.embedding), np.float32)]
    for output in outputs:
        n_frames = round(output.window.n_frames * config.hop_s / hop_s)
        speech = np.full(n_frames, _SURE, np.float32) if output.gate is None else output.gate
        several = output.overlap if isinstance(output, _Stretch) else None
        both = np.stack([speech, np.full(len(speech), -_SURE, np.float32) if several is None else several], axis=1)
        stretches.append(replace(output, window=Window(0, len(speech)), logits=both))
        starts.append(output.window.first + engine.step_frames * np.arange(len(output.logits)))
        vectors.append(output.logits)
    rows, firsts = np.concatenate(vectors), np.concatenate(starts)
    is_heard = rows.any(axis=1)
    logits = stitch(stretches, round(config.overlap_frames * config.hop_s / hop_s)).reshape(-1, 2)
    probabilities = np.asarray(1 / (1 + np.exp(-logits)), np.float32)
    return Heard(
        hop_s=hop_s,
        speech=probabilities[:, 0],
        overlap=probabilities[:, 1],
        starts=np.round(firsts[is_heard] * config.hop_s / hop_s).astype(np.int64),
        width=round(config.diarization.window_s / hop_s),
        vectors=rows[is_heard],
    )
