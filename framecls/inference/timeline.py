"""`tag` with a pooled model: which of its labels holds when, in the parts of a recording that its gate lets through.

The encoder reads whole windows. Spans of its frames, one around each step of the timeline, are pooled as a whole
recording would be. A hidden Markov model that expects few changes then cuts the recording into runs of steps (Rabiner
1989, "A Tutorial on Hidden Markov Models and Selected Applications in Speech Recognition"), and each run is given its
label as a recording of its own would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from framecls.config import UNKNOWN, ModelConfig
from framecls.inference.batching import Request
from framecls.inference.engine import Engine
from framecls.inference.identify import Choice, Ranking, find_rejection, share_out
from framecls.inference.segments import OutlineMaker, clean_runs, find_runs
from framecls.inference.tag import DEFAULT_THRESHOLD
from framecls.inference.windows import Item, Window, WindowOutput, frame_times, stitch
from framecls.results import Candidate, Segment, TagResult

# A change is placed in the longest pause that is no further from where the steps put it.
_NEAR_S = 1.5
# One step alone rules no label out.
_LEAST_LOG = float(np.log(1e-4))
_N_PASSES = 4
# Of a recording, of which any label may be spoken.
_LEAST_SHARE = 1e-3


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


def smooth(
    evidence: NDArray[np.float64], change: float, prior: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return (step, state) how likely each state is in each step, given all steps: the forward-backward algorithm.

    Args:
        evidence: (step, state) log-likelihoods.
        change: the chance that another state follows, each as likely as any other; with a prior, that the next state
            is drawn from it.
        prior: (state,) how likely each state is beforehand, summing to one; None: all are alike.
    """
    n_states = evidence.shape[1]
    likelihood = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    if prior is None:
        prior = np.full(n_states, 1 / n_states)
        change = min(1.0, change * n_states / max(1, n_states - 1))
    forth, back = np.empty_like(likelihood), np.empty_like(likelihood)
    state, ahead = prior, np.ones(n_states)
    for step, row in enumerate(likelihood):
        forth[step] = state  # given the steps before
        seen = state * row
        state = change * prior + (1 - change) * seen / seen.sum()
    for step in range(len(likelihood) - 1, -1, -1):
        back[step] = ahead  # of the steps after, up to a factor
        seen = ahead * likelihood[step]
        ahead = (change * (prior @ seen) + (1 - change) * seen) / seen.max()
    posterior = forth * likelihood * back
    smoothed: NDArray[np.float64] = posterior / posterior.sum(axis=1, keepdims=True)
    return smoothed


def find_runs_of_labels(steps: Steps, config: ModelConfig, choice: Choice) -> list[tuple[int, int]]:
    """Return the steps `[first, last)` of the runs in which one label is the likeliest, all labels being possible.

    Few labels occur in one recording: those of the first pass are the likelier in the next, as the speakers in the
    diarization of Landini et al. 2022, "Bayesian HMM clustering of x-vector sequences (VBx)".
    """
    settings, decision = config.timeline, config.decision
    trusted = np.isin(config.labels, decision.candidates or config.labels)
    chosen = np.isin(np.arange(len(config.labels)), choice.indices)
    usual = np.where(trusted, 1.0, decision.other_odds) * np.where(chosen, 1.0, choice.other_odds)
    logs = steps.logits.astype(np.float64) / decision.temperature
    logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
    evidence = np.maximum(logs, _LEAST_LOG) * (settings.weight * steps.shares)[:, None]
    occurs = np.ones(len(usual))
    for _ in range(_N_PASSES):
        prior = usual * occurs
        found = smooth(evidence, settings.change, prior / prior.sum())
        heard = steps.shares @ found
        occurs = heard / max(float(heard.sum()), 1e-9) + _LEAST_SHARE
    edges = [0, *(np.flatnonzero(np.diff(found.argmax(axis=1))) + 1).tolist(), len(found)]
    return list(pairwise(edges))


def decide_steps(steps: Steps, config: ModelConfig, choice: Choice) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Decide which label that can be the answer holds in each step, or "unknown", which comes after all of them.

    A run of steps is a recording of its own: its mean logits decide, as in `identify`.

    Returns:
        (step,) the number of the state, and (step, state) how likely each is in the run that the step belongs to.
    """
    n_labels = len(choice.indices)
    states, scores = np.full(len(steps.logits), n_labels), np.zeros((len(steps.logits), n_labels + 1))
    for first, last in find_runs_of_labels(steps, config, choice):
        shares = steps.shares[first:last]
        if not shares.any():  # nothing is heard, so nothing changes
            states[first:last], scores[first:last] = (states[first - 1], scores[first - 1]) if first else (n_labels, 0)
            continue
        logits = np.average(steps.logits[first:last], axis=0, weights=shares) * config.timeline.sharpness
        found, rest = share_out(logits, config, choice)
        best = int(found.argmax())
        ranking = Ranking((Candidate(config.labels[choice.indices[best]], float(found[best])),), float(rest), "")
        is_named = find_rejection(ranking, float(shares.sum()) * steps.hop_s, config) is None
        states[first:last] = best if is_named else n_labels
        scores[first:last] = [*found, 1 - found[best]]
    return states, scores


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
    decided = decide_steps(steps, config, choice)
    names = (*(config.labels[index] for index in choice.indices), UNKNOWN)
    segments = cut_segments(steps, decided, names, config, duration_s)
    labels = tuple(dict.fromkeys(segment.label for segment in segments))
    columns = decided[1][:, [names.index(label) for label in labels]].astype(np.float32)
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
    steps: Steps,
    decided: tuple[NDArray[np.intp], NDArray[np.float64]],
    names: Sequence[str],
    config: ModelConfig,
    duration_s: float,
) -> list[Segment]:
    """Return the segments, in order: what the gate lets through, cut where the label changes.

    Args:
        steps: where the gate hears what it listens to.
        decided: what `decide_steps` gave.
        names: of the states.
        config: the least lengths of segments and of gaps between two of one label.
        duration_s: of the recording.
    """
    states, scores = decided
    begins = place_changes(steps, states)
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
