"""`tag` with a pooled model: which of its labels holds when, in the parts of a recording that its gate lets through.

The encoder reads whole windows. Spans of its frames, one around each step of the timeline, are pooled as a whole
recording would be. A hidden Markov model that expects few changes then finds how likely each label is in each step,
given all others (Rabiner 1989, "A Tutorial on Hidden Markov Models and Selected Applications in Speech Recognition").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from framecls.config import UNKNOWN, ModelConfig
from framecls.inference.batching import Request
from framecls.inference.engine import Engine
from framecls.inference.identify import Choice, share_out
from framecls.inference.segments import OutlineMaker, clean_runs, find_runs
from framecls.inference.tag import DEFAULT_THRESHOLD
from framecls.inference.windows import Item, Window, WindowOutput, frame_times, stitch
from framecls.results import Segment, TagResult

# A change is placed in the longest pause that is no further from where the steps put it.
_NEAR_S = 1.5
# Added to probabilities before their logarithm: one step alone rules no label out.
_FLOOR = 1e-4


class TimelineEngine(Engine):
    """An engine on the weights of a pooled model that gives logits for each step of a timeline."""

    def __init__(self, engine: Engine, config: ModelConfig) -> None:
        """Take over an engine's network and gate; `config` may have other rules of decision than the network's."""
        super().__init__(engine.network, engine.device, engine.batch_size)
        self.gate = engine.gate
        self.step_frames = max(1, round(config.timeline.hop_s / config.hop_s))
        step_s = self.step_frames * config.hop_s
        # Windows hold a whole number of steps, and so do their overlaps.
        n_steps = max(1, round(config.window.length_s / step_s))
        n_shared = min(round(config.timeline.overlap_s / step_s), n_steps // 2)
        window = replace(config.window, length_s=n_steps * step_s, overlap_s=n_shared * step_s)
        self.config = replace(config, window=window)

    @property
    def step_s(self) -> float:
        """Seconds from one step to the next."""
        return self.step_frames * self.config.hop_s

    def forward(self, items: list[Item]) -> list[WindowOutput]:
        """Run the network, and the gate, on a batch of windows; logits are (step, label)."""
        with torch.inference_mode():
            waveform, n_frames = self.pad(items)
            x, mask, _ = self.network.contextualize(self.network.extract(waveform, n_frames), n_frames)
            # One window at a time: its spans overlap, and hold some times as many numbers as it does.
            logits = [self._pool_spans(*row) for row in zip(x, mask, n_frames.tolist(), strict=True)]
            return self.outputs(items, logits, self.hear(waveform, n_frames))

    def _pool_spans(self, x: Tensor, mask: Tensor, n_frames: int) -> NDArray[np.float32]:
        """Return (step, label) logits of the spans of one window: (frame, channel), (frame,) True = real."""
        step = self.step_frames
        reach = max(0, round((self.config.timeline.span_s / self.config.hop_s - step) / 2))
        behind = reach + -n_frames % step
        spans = functional.pad(x[:n_frames], (0, 0, reach, behind)).unfold(0, step + 2 * reach, step).transpose(1, 2)
        real = functional.pad(mask[:n_frames], (reach, behind)).unfold(0, step + 2 * reach, step)
        logits: NDArray[np.float32] = self.network.decide(spans, real).float().cpu().numpy()
        return logits


@dataclass(frozen=True, eq=False)
class Steps:
    """What a network says of each step of a recording."""

    logits: NDArray[np.float32]  # (step, label)
    heard: NDArray[np.bool_]  # (frame,) of the gate: where its label is heard; without a gate of the model: everywhere
    clear: NDArray[np.bool_]  # (frame,) the same before short gaps were closed
    hop_s: float  # seconds of a step
    frame_s: float  # seconds of a frame

    @property
    def shares(self) -> NDArray[np.float64]:
        """Return (step,) the share of each step in which the gate's label is heard."""
        per_step = round(self.hop_s / self.frame_s)
        padded = np.zeros(len(self.logits) * per_step)
        padded[: len(self.heard)] = self.heard[: len(padded)]
        shares: NDArray[np.float64] = padded.reshape(-1, per_step).mean(axis=1)
        return shares


def read_steps(recording: Request, engine: TimelineEngine) -> Steps:
    """Read what a `TimelineEngine` says of the windows of a recording, cross-faded where they overlap."""
    n_step, overlap = engine.step_frames, engine.config.overlap_frames
    rows: list[WindowOutput] = []
    gates: list[WindowOutput] = []
    for output in recording:
        first = output.window.first
        rows.append(replace(output, window=Window(first // n_step, len(output.logits))))
        if engine.gate is not None and output.gate is not None:
            window = Window(engine.gate.count(first), len(output.gate))
            gates.append(WindowOutput(window, output.gate[:, None], output.weight_s))
    logits = stitch(rows, overlap // n_step)
    if engine.gate is None:
        everywhere = np.ones(len(logits) * n_step, np.bool_)
        return Steps(logits, everywhere, everywhere, engine.step_s, engine.config.hop_s)
    gate, decision = engine.gate, engine.gate.config.decision
    logit = stitch(gates, gate.count(overlap))[:, 0] / decision.temperature
    threshold = decision.thresholds.get(engine.config.gate, DEFAULT_THRESHOLD)
    clear = 1 / (1 + np.exp(-logit)) >= threshold
    heard = np.zeros_like(clear)
    least, gap = (round(seconds / gate.hop_s) for seconds in (decision.min_duration_s, decision.min_gap_s))
    for first, last in clean_runs(find_runs(clear), least, gap):
        heard[first:last] = True
    return Steps(logits, heard, clear, engine.step_s, gate.hop_s)


def smooth(evidence: NDArray[np.float64], change: float) -> NDArray[np.float64]:
    """Return (step, state) how likely each state is in each step, given all steps: the forward-backward algorithm.

    Args:
        evidence: (step, state) log-likelihoods.
        change: the chance that another state follows, each as likely as any other.
    """
    n_states = evidence.shape[1]
    likelihood = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    other = change / max(1, n_states - 1)
    passes = []
    for rows in (likelihood, likelihood[::-1]):
        state, found = np.full(n_states, 1 / n_states), np.empty_like(rows)
        for step, row in enumerate(rows):
            found[step] = state  # given the steps before
            state = state * row
            state = other + (1 - change - other) * state / state.sum()
        passes.append(found)
    posterior = passes[0] * likelihood * passes[1][::-1]
    smoothed: NDArray[np.float64] = posterior / posterior.sum(axis=1, keepdims=True)
    return smoothed


def decide_steps(steps: Steps, config: ModelConfig, choice: Choice) -> NDArray[np.float64]:
    """Return (step, candidate and unknown) how likely each label that can be the answer is, and that none of them is.

    Steps in which the gate hears nothing say nothing. "unknown" is as likely as all that cannot be the answer, and at
    least as its threshold.
    """
    scores, rest = share_out(steps.logits, config, choice)
    unknown = np.maximum(rest, config.decision.thresholds.get(UNKNOWN, 0.0))
    logs = np.log(np.concatenate([scores, unknown[:, None]], axis=1) + _FLOOR)
    return smooth(logs * (config.timeline.weight * steps.shares)[:, None], config.timeline.change)


def place_changes(steps: Steps, states: NDArray[np.intp]) -> list[tuple[float, int]]:
    """Return the seconds at which each run of states begins, and its state; changes are moved into pauses nearby."""
    begins: list[tuple[float, int]] = [(0.0, int(states[0]))]
    pauses = np.array(find_runs(~steps.clear)).reshape(-1, 2) * steps.frame_s
    for step in np.flatnonzero(np.diff(states)) + 1:
        at = float(step) * steps.hop_s
        near = pauses[(pauses[:, 1] > at - _NEAR_S) & (pauses[:, 0] < at + _NEAR_S)]
        if len(near):
            start, end = near[np.argmax(near[:, 1] - near[:, 0])]
            at = float(np.clip(at, start, end)) if end - start > 2 * _NEAR_S else float(start + end) / 2
        begins.append((max(at, begins[-1][0]), int(states[step])))
    return begins


def tag_timeline(recording: Request, engine: TimelineEngine, choice: Choice, *, keep_scores: bool) -> TagResult:
    """Turn what a `TimelineEngine` says of a recording into segments of its labels, none where the gate hears nothing.

    Args:
        recording: its windows are read here.
        engine: that it runs on.
        choice: which labels can be found; "unknown" can always.
        keep_scores: keep the probabilities of all steps.
    """
    config = engine.config
    steps = read_steps(recording, engine)
    duration_s = recording.duration_s
    scores = decide_steps(steps, config, choice)
    names = (*(config.labels[index] for index in choice.indices), UNKNOWN)
    segments = cut_segments(steps, scores, names, config, duration_s)
    labels = tuple(dict.fromkeys(segment.label for segment in segments))
    columns = scores[:, [names.index(label) for label in labels]].astype(np.float32)
    outline = OutlineMaker(len(labels), steps.hop_s)
    outline.push(columns * steps.shares[:, None].astype(np.float32))
    kept = columns if keep_scores else columns[:0]
    facts = recording.facts()
    if not steps.heard.any():
        facts["notes"] += (f"no {config.gate} is heard in it",)
    return TagResult(
        **facts,
        model=config.name,
        hop=steps.hop_s,
        labels=labels,
        segments=tuple(segments),
        times=frame_times(len(kept), steps.hop_s),
        scores=kept,
        outline=None if keep_scores else outline.finish(),
    )


def cut_segments(
    steps: Steps, scores: NDArray[np.float64], names: Sequence[str], config: ModelConfig, duration_s: float
) -> list[Segment]:
    """Return the segments, in order: what the gate lets through, cut where the likeliest label changes.

    Args:
        steps: where the gate hears what it listens to.
        scores: (step, state) posteriors.
        names: of the states.
        config: the least lengths of segments and of gaps between two of one label.
        duration_s: of the recording.
    """
    begins = place_changes(steps, scores.argmax(axis=1))
    spans = zip(begins, [*(at for at, _ in begins[1:]), duration_s], strict=True)
    runs = np.array(find_runs(steps.heard)).reshape(-1, 2) * steps.frame_s
    decision = config.decision
    gaps_s = [max(config.timeline.min_gap_s, decision.min_gaps_s.get(name, decision.min_gap_s)) for name in names]
    pieces: list[tuple[float, float, int]] = []  # start, end, state
    for (start, state), end in spans:
        for first, last in np.clip(runs[(runs[:, 1] > start) & (runs[:, 0] < end)], start, end).tolist():
            if pieces and pieces[-1][2] == state and first - pieces[-1][1] < gaps_s[state]:
                pieces[-1] = (pieces[-1][0], last, state)
            else:
                pieces.append((first, last, state))
    found = []
    for first, last, state in pieces:
        last = min(last, duration_s)
        least_s = decision.min_durations_s.get(names[state], decision.min_duration_s)
        if last - first >= max(least_s, 1e-6):
            here = slice(int(first / steps.hop_s), max(int(first / steps.hop_s) + 1, round(last / steps.hop_s)))
            score = float(np.average(scores[here, state], weights=steps.shares[here] + 1e-9))
            found.append(Segment(round(first, 6), round(last, 6), names[state], score))
    return found
