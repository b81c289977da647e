"""What an answer drew on: attention weights, and what hiding frames does to the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from framecls.config import DEFAULT_READING, ModelConfig, ReadOptions
from framecls.errors import ConfigError, UsageError
from framecls.inference.engine import Engine, name_source
from framecls.inference.identify import posteriors
from framecls.inference.windows import Item, cut_windows
from framecls.nn.encoder import AttentionLayer
from framecls.nn.network import Network, recorded_attention
from framecls.results import Attention, Explanation, Segment

_N_HIDDEN = 50  # parts of a window that are hidden one after the other, at most
_LEAST_HIDDEN_S = 0.1  # seconds of a part, where there are more frames than parts
_SHARE = 0.5  # of the relevance that the frames pointed at hold, if they are
_MAX_POINTED = 0.2  # of all frames
_N_DRAWS = 5  # of as many other frames
_LEAST = 1e-12  # a probability, as far as log-odds are concerned


def attend(engine: Engine, source: object, at_s: float, options: ReadOptions = DEFAULT_READING) -> Attention:
    """Return what the frames of the window around a moment attended to.

    Raises:
        UsageError: the recording does not last so long.
        AudioError: it cannot be read.
    """
    item = _find_window(engine, source, at_s, options)
    return _Explainer(engine, item, name_source(source)).attention


def explain(
    engine: Engine,
    source: object,
    span: Segment,
    label: str | None = None,
    options: ReadOptions = DEFAULT_READING,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Explain the answer at the frames of a segment, in the window around its middle.

    Args:
        engine: the model.
        source: the recording.
        span: of what to explain; of no length: the frame there. A pooled model explains its answer for the window.
        label: to explain; None: the likeliest.
        options: how the recording is read.
        progress: called with how often the network has read the window with frames hidden, and how often it will.

    Raises:
        UsageError: the recording does not last so long.
        ConfigError: the model has no such label.
        AudioError: the recording cannot be read.
    """
    labels = engine.config.labels
    if label is not None and label not in labels:
        raise ConfigError(f"{label!r} is no label of {engine.config.name}: it has {', '.join(labels) or 'none'}")
    item = _find_window(engine, source, (span.start + span.end) / 2, options)
    return _Explainer(engine, item, name_source(source), progress).explain(span, label)


def _find_window(engine: Engine, source: object, at_s: float, options: ReadOptions) -> Item:
    """Return the window in which a moment is furthest from the ends, of those that `tag` would cut."""
    config = engine.config
    frame = int(at_s / config.hop_s)
    if not (np.isfinite(at_s) and at_s >= 0):
        raise UsageError(f"at {at_s:g} s: a time in the recording, 0 or more")
    item: Item | None = None
    with engine.open(source, options) as stream:  # type: ignore[arg-type]
        for item in cut_windows(stream.blocks(), config):
            if frame < item[0].first + item[0].n_frames - config.overlap_frames // 2:
                return item
    if item is None or frame >= item[0].first + item[0].n_frames:
        end_s = (item[0].first + item[0].n_frames) * config.hop_s if item is not None else 0.0
        raise UsageError(f"{name_source(source)}: there is nothing at {at_s:g} s, it ends at {end_s:.2f} s")
    return item


class _Explainer:
    """One window, the vectors that the network reads of it, and what it attends to."""

    def __init__(
        self, engine: Engine, item: Item, file: str, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._progress = progress
        self._n_done = self._n_planned = 0  # readings of the window with frames hidden
        self._engine, self._network, self._config = engine, engine.network, engine.config
        window = item[0]
        self._n_frames = n_frames = window.n_frames
        with torch.inference_mode(), recorded_attention(engine.network) as record:
            waveform, self._lengths = engine.pad([item])
            self._vectors = self._network.extract(waveform, self._lengths)
            logits = self._network.classify(self._vectors, self._lengths).logits.float().cpu().numpy()[0]
        self._logits = logits[:n_frames] if logits.ndim == 2 else logits
        layers = [layer[0, :, :n_frames, :n_frames].float().cpu().numpy() for layer in record.layers]
        if not attends(engine.network):
            layers = []
        pooling = record.pooling[0, :n_frames].float().T.cpu().numpy() if record.pooling is not None else None
        self.attention = Attention(
            file=file,
            model=self._config.name,
            start=window.first * self._config.hop_s,
            hop=self._config.hop_s,
            labels=self._config.labels,
            weights=np.stack(layers) if layers else np.zeros((0, 0, n_frames, n_frames), np.float32),
            pooling=pooling,
            scores=np.zeros(0) if self._config.embedding else to_chances(self._logits, self._config),
            n_frames=n_frames,
            samples=self._sound(item[1]),
            sample_rate=self._config.features.sample_rate,
            encoder=self._config.features.pretrained.source if self._config.features.kind == "pretrained" else "",
        )

    def _sound(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (sample,) the window without its margins, of a model that reads sound."""
        margin = self._config.features.margin_samples
        whole = samples[margin : margin + self._n_frames * self._config.hop_samples]
        return whole if samples.ndim == 1 else np.zeros(0, np.float32)

    def explain(self, span: Segment, label: str | None) -> Explanation:
        """Return the explanation of a label, or of the likeliest, at the frames of a span."""
        config, attention = self._config, self.attention
        self._first, self._last = 0, self._n_frames
        if config.task == "frame":
            start, end = ((time_s - attention.start) / config.hop_s for time_s in (span.start, span.end))
            self._first = min(max(0, int(start + 1e-6)), self._n_frames - 1)
            self._last = max(self._first + 1, min(int(np.ceil(end - 1e-6)), self._n_frames))
        if not config.embedding:
            scores = np.atleast_2d(attention.scores)[slice(self._first, self._last) if attention.pooling is None else 0]
            best = int(np.atleast_2d(scores).mean(axis=0).argmax())
            self._label = config.labels.index(label) if label is not None else best
        relevance = self._relevance()
        score, sureness = self._judge(self._logits[None])
        pointed = self._point(relevance) if len(attention.weights) or self._is_weighed() else ()
        n_parts = min(_N_HIDDEN, self._n_frames)
        if self._n_frames > _N_HIDDEN:
            n_parts = max(1, min(n_parts, int(self._n_frames * config.hop_s / _LEAST_HIDDEN_S)))
        parts = np.array_split(np.arange(self._n_frames), n_parts)
        self._n_planned = n_parts + (1 + _N_DRAWS if pointed else 0)
        return Explanation(
            attention=attention,
            first=self._first,
            last=self._last,
            label="" if config.embedding else config.labels[self._label],
            score=float(score[0]),
            relevance=relevance,
            occlusion=self._occlude(parts, float(sureness[0])),
            pointed=pointed,
            score_without=float(self._hide([pointed])[0][0]) if pointed else None,
            score_without_others=self._hide_others(pointed) if pointed else None,
        )

    def _is_weighed(self) -> bool:
        """Whether there is a pooling that learnt its weights, and gives frames more than one."""
        weights = self.attention.pooling
        learnt = self._config.task == "pooled" and self._config.pooling in ("attentive", "multihead", "reading")
        return learnt and weights is not None and bool(np.ptp(weights, axis=1).any())

    def _relevance(self) -> NDArray[np.float64]:
        flow = self.attention.rollout()
        if self.attention.pooling is not None:
            return np.asarray(self.attention.pooling.mean(axis=0, dtype=np.float64) @ flow)
        return np.asarray(flow[self._first : self._last].mean(axis=0))

    def _others(self) -> NDArray[np.int64]:
        """Return the frames that are not explained themselves; of a pooled model all."""
        frames = np.arange(self._n_frames)
        explained = (frames >= self._first) & (frames < self._last)
        return frames if self._config.task == "pooled" else frames[~explained]

    def _point(self, relevance: NDArray[np.float64]) -> tuple[int, ...]:
        """Return the fewest frames that hold half of the relevance of others, a fifth of all frames at most."""
        frames = self._others()
        order = frames[np.argsort(-relevance[frames], kind="stable")]
        held = np.cumsum(relevance[order])
        n_pointed = int(np.searchsorted(held, _SHARE * held[-1])) + 1 if len(order) else 0
        return tuple(order[: min(n_pointed, max(1, int(_MAX_POINTED * self._n_frames)))].tolist())

    def _hide_others(self, pointed: Sequence[int]) -> float | None:
        """Return the mean score where as many other frames are hidden, chosen by chance."""
        rest = np.setdiff1d(self._others(), pointed)
        if not len(rest):
            return None
        rng = np.random.default_rng(0)
        draws = [rng.choice(rest, min(len(pointed), len(rest)), replace=False) for _ in range(_N_DRAWS)]
        return float(self._hide(draws)[0].mean())

    def _occlude(self, parts: Sequence[NDArray[np.int64]], sureness: float) -> NDArray[np.float64]:
        """Return (frame,) by how much the answer is less sure where the part of the window around a frame is hidden."""
        return np.repeat(sureness - self._hide(parts)[1], list(map(len, parts)))

    @torch.inference_mode()
    def _hide(self, sets: Sequence[Sequence[int] | NDArray[np.int64]]) -> tuple[NDArray[np.float64], ...]:
        """Return (set,) score and sureness where the vectors of a set of frames are the mean of all in the window."""
        per_frame = self._config.encoder.subsampling
        mean = self._vectors[0, : self._n_frames * per_frame].mean(dim=0)
        logits = []
        for first in range(0, len(sets), self._engine.batch_size):
            some = sets[first : first + self._engine.batch_size]
            batch = self._vectors.repeat(len(some), 1, 1)
            for row, frames in zip(batch, some, strict=True):
                row.unflatten(0, (-1, per_frame))[torch.as_tensor(np.array(frames), device=row.device)] = mean
            output = self._network.classify(batch, self._lengths.expand(len(some))).logits.float().cpu().numpy()
            logits.append(output[:, : self._n_frames] if output.ndim == 3 else output)
            self._n_done += len(some)
            if self._progress is not None:
                self._progress(self._n_done, self._n_planned)
        return self._judge(np.concatenate(logits))

    def _judge(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (item,) the score of what is explained, and how sure that is: log-odds, or the cosine itself."""
        if self._config.embedding:
            cosines = np.asarray(logits @ self._logits, np.float64)
            return cosines, cosines
        chances = to_chances(logits, self._config)[..., self._label]
        sure = np.clip(chances, _LEAST, 1 - _LEAST)
        odds = np.log(sure) - np.log1p(-sure)
        if chances.ndim == 1:
            return chances, odds
        return tuple(values[:, self._first : self._last].mean(axis=1) for values in (chances, odds))


def attends(network: Network) -> bool:
    """Return whether a layer of attention adds anything: a head that stayed the linear probe has layers that do not."""
    layers = [layer for layer in network.encoder.layers if isinstance(layer, AttentionLayer)]
    # Of whatever kind the linear layer is on this machine.
    return any(bool(value.any()) for layer in layers for value in layer.attention.to_output.parameters())


def to_chances(logits: NDArray[np.float32], config: ModelConfig) -> NDArray[np.float64]:
    """Return (..., label) the probabilities of logits, in double precision: log-odds of what is nearly sure differ."""
    if config.overlapping:
        return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64) / config.decision.temperature)))
    return posteriors(logits, config)
