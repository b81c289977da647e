"""Listen to a recording for who speaks: where there is speech, and embeddings of short windows slid over it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.config import ModelConfig, WindowConfig
from framecls.inference.engine import Engine
from framecls.inference.windows import Item, Window, WindowOutput, stitch

# What is read at once: in less the gate hears worse what is speech.
_STRETCH_S = 10.0
# A window with less speech than this says nothing of a voice.
_LEAST_SPEECH_S = 0.3
_BATCH_SIZE = 32  # of such short windows


@dataclass(frozen=True, eq=False)
class Heard:
    """What a recording says of who speaks in it."""

    hop_s: float
    speech: NDArray[np.float32]  # (frame,) probability that somebody speaks
    starts: NDArray[np.int64]  # (window,) the frames at which they begin, ascending
    width: int  # frames of a window
    vectors: NDArray[np.float32]  # (window, number) of unit length


class ListeningEngine(Engine):
    """An engine on the weights of a model of voices that embeds windows slid over the speech."""

    def __init__(self, engine: Engine, config: ModelConfig) -> None:
        """Take over an engine's network and gate; `config` may have other rules of decision than the network's."""
        super().__init__(engine.network, engine.device, engine.batch_size)
        self.gate = engine.gate
        settings, hop_s = config.diarization, config.hop_s
        self._width, self.step_frames = round(settings.window_s / hop_s), round(settings.step_s / hop_s)
        n_steps = max(0, round((_STRETCH_S / hop_s - self._width) / self.step_frames))
        length_s = (n_steps * self.step_frames + self._width) * hop_s
        # The next stretch begins with the window after the last one of this.
        overlap_s = min((self._width - self.step_frames) * hop_s, length_s / 2)
        self.config = replace(config, window=WindowConfig(length_s, overlap_s))

    @property
    def heard_hop_s(self) -> float:
        """Seconds from one frame of `Heard.speech` to the next."""
        return self.gate.hop_s if self.gate is not None else self.config.hop_s

    def forward(self, items: list[Item]) -> list[WindowOutput]:
        """Hear where there is speech, and embed the windows with some; logits are (window, number), zero of others."""
        with torch.inference_mode():
            waveform, n_frames = self.pad(items)
            gated = self.hear(waveform, n_frames)
            speech = [None] * len(items) if gated is None else list(gated > 0)
            vectors = [self._embed(*row) for row in zip(waveform, n_frames.tolist(), speech, strict=True)]
            return self.outputs(items, vectors, gated)

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
        speech = np.full(n_frames, np.inf, np.float32) if output.gate is None else output.gate
        stretches.append(replace(output, window=Window(0, len(speech)), logits=speech[:, None]))
        starts.append(output.window.first + engine.step_frames * np.arange(len(output.logits)))
        vectors.append(output.logits)
    rows, firsts = np.concatenate(vectors), np.concatenate(starts)
    is_heard = rows.any(axis=1)
    logits = stitch(stretches, round(config.overlap_frames * config.hop_s / hop_s))
    return Heard(
        hop_s=hop_s,
        speech=np.asarray(1 / (1 + np.exp(-logits[:, 0])), np.float32) if len(logits) else np.zeros(0, np.float32),
        starts=np.round(firsts[is_heard] * config.hop_s / hop_s).astype(np.int64),
        width=round(config.diarization.window_s / hop_s),
        vectors=rows[is_heard],
    )
