"""`tag --string`: which phones are said, in order. N frames in, M phones out, and the network chooses M.

Any model with a CTC head will do, a frame model or a pooled one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from framecls.config import ModelConfig
from framecls.errors import UsageError
from framecls.inference.batching import Request
from framecls.inference.ctc import TokenSpan, decode_beam, decode_greedy
from framecls.inference.engine import Engine
from framecls.inference.windows import WindowOutput, frame_times
from framecls.nn.network import Network, Output
from framecls.results import Segment, StringResult

# For strings windows overlap by this much even where for labels they do not: a phone must not be cut in two.
_OVERLAP_S = 2.0
# Around a seam the windows must agree for so many frames on each side.
_AGREE_FRAMES = 3


class PhoneNetwork(nn.Module):
    """The lower part of a network, up to its CTC head, whose log-probabilities stand in place of label logits.

    Raises:
        UsageError: the network hears no phones.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        if network.phones is None:
            raise UsageError(f"the model {network.config.name} hears no phones, so it has no string: take another")
        self._network = network
        self._phones = network.phones
        window = network.config.window
        overlap_s = max(window.overlap_s, min(_OVERLAP_S, window.length_s / 2))
        self.config = replace(network.config, window=replace(window, overlap_s=overlap_s), gate="")

    def forward(self, waveform: Tensor, n_frames: Tensor) -> Output:
        """Return (batch, frame, 1 + phone) log-probabilities, blank first, as logits; see `Network.forward`."""
        x, _ = self._network.encode(self._network.extract(waveform, n_frames), n_frames)
        return Output(self._phones(x).float().log_softmax(dim=2))


def phone_engine(engine: Engine) -> Engine:
    """Return an engine on the same weights whose windows hold log-probabilities of phones.

    Raises:
        UsageError: the network hears no phones.
    """
    # All that an engine asks of a network is `config` and a call.
    network = cast(Network, PhoneNetwork(engine.network).eval())
    return Engine(network, torch.device(engine.device), engine.batch_size)


def stitch_phones(outputs: Iterable[WindowOutput], overlap: int) -> NDArray[np.float32]:
    """Join the windows of a recording, each to the next at that frame of their overlap where they agree best.

    A phone is often emitted in a single frame, and two windows may emit it in different ones. A mean of the two could
    lose it, and a seam between those frames could lose or double it. Where both agree for a few frames, neither can
    happen.

    Args:
        outputs: windows in order, laid as by `plan_windows`; (frame, 1 + phone) log-probabilities.
        overlap: frames that neighbouring windows share.

    Returns:
        (frame, 1 + phone) log-probabilities of the whole recording.
    """
    parts: list[NDArray[np.float32]] = []
    held: NDArray[np.float32] | None = None
    for output in outputs:
        rows, begin = output.logits, 0
        if held is not None:
            begin = find_seam(held[len(held) - overlap :], rows[:overlap])
            parts.append(held[: len(held) - overlap + begin])
        held = rows[begin:]
    return np.concatenate([*parts, held]) if held is not None else np.zeros((0, 1), np.float32)


def find_seam(before: NDArray[np.float32], after: NDArray[np.float32]) -> int:
    """Return the frame from which on the later of two windows counts.

    Args:
        before: (frame, symbol) log-probabilities of the shared frames in the earlier window.
        after: (frame, symbol) the same in the later one.
    """
    n = len(before)
    if not n:
        return 0
    # 1 - Bhattacharyya coefficient: 0 where both say the same, 1 where they have nothing in common.
    differs = 1 - np.exp((before.astype(np.float64) + after) / 2).sum(axis=1)
    summed = np.concatenate([[0.0], np.cumsum(differs)])
    # Not near the edges, where one of the windows sees little of what surrounds the frame.
    seams = np.arange(n // 4, n - n // 4 + 1)
    low, high = np.maximum(seams - _AGREE_FRAMES, 0), np.minimum(seams + _AGREE_FRAMES, n)
    cost = (summed[high] - summed[low]) / (high - low)
    # Of equally good seams, the one in the middle.
    return int(seams[np.argmin(cost + 1e-6 * np.abs(seams - n / 2))])


def decode(log_probs: NDArray[np.float32], beam: int) -> list[TokenSpan]:
    """Return the phones of (frame, 1 + phone) log-probabilities; a beam of 1 is greedy."""
    return decode_greedy(log_probs) if beam == 1 else decode_beam(log_probs, beam)


def spell_recording(recording: Request, config: ModelConfig, beam: int) -> StringResult:
    """Turn what a `phone_engine` says of a recording into its phones with their times.

    Args:
        recording: its windows are read here.
        config: of the model.
        beam: as `decode` takes it.
    """
    log_probs = stitch_phones(recording, recording.config.overlap_frames)
    scores, duration_s = np.exp(log_probs[:, 1:]), recording.duration_s
    return StringResult(
        **recording.facts(),
        model=config.name,
        hop=config.hop_s,
        labels=config.phones,
        segments=tuple(_segment(span, scores, config, duration_s) for span in decode(log_probs, beam)),
        times=frame_times(len(scores), config.hop_s),
        scores=scores,
    )


def _segment(span: TokenSpan, scores: NDArray[np.float32], config: ModelConfig, duration_s: float) -> Segment:
    start, end = (round(frame * config.hop_s, 6) for frame in (span.first, span.last))
    column = span.symbol - 1
    score = float(scores[span.first : span.last, column].mean())
    return Segment(start, min(end, duration_s), config.phones[column], score)
