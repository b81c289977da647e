"""Measure how well `tag` with the `language` model says which language is spoken when, on recordings joined of clips.

Each has turns in two to five languages that the model is trusted with, by voices or from sources that training never
heard (see `prepare_language`), with pauses between. Printed are the share of the time of turns in which the gate hears
speech, the shares of that which are named right and wrong, and how far the changes that were found are from the true
ones; with --tune also for other chances of a change and weights of a step.

    python -m framecls.recipes.language_timelines language CORPUS/manifest.jsonl --recordings 40
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import UNKNOWN, ModelConfig, ReadOptions
from framecls.inference.engine import load_engine
from framecls.inference.identify import choose_candidates
from framecls.inference.timeline import Steps, TimelineEngine, cut_segments, decide_steps, read_steps
from framecls.recipes.prepare_language import read_rows
from framecls.recipes.trust_languages import find_pieces, read_piece
from framecls.results import Segment

RATE = 16000
_PAUSE_S = (0.3, 1.2)
_HALVED = 0.3  # share of turns that are half of a clip
_NEAR_S = 2.0  # a change that is found further from the true one is no good
_QUIET = 0.03  # of a clip's greatest amplitude: silence at its ends
# Name of a set, which clips, and how many in a turn at most.
_SETS = (("short turns", "voices", 1), ("turns", "voices", 3), ("other sources", "sources", 1))
_TUNED = {"change": (0.0005, 0.002, 0.008), "weight": (0.4, 0.75, 1.2)}


@dataclass(frozen=True)
class Turn:
    """A language over a span of a recording, in seconds."""

    start: float
    end: float
    language: str


@dataclass(frozen=True)
class Joined:
    """A recording of turns."""

    samples: NDArray[np.float32]  # (sample,)
    turns: tuple[Turn, ...]


def join_clips(clips: Mapping[str, Sequence[NDArray[np.float32]]], rng: np.random.Generator, n_clips: int) -> Joined:
    """Join clips of two to five languages, one or two turns of each; a turn has at most so many clips."""
    n_languages = int(rng.integers(2, 6))
    languages = rng.choice(sorted(clips), n_languages, replace=False).tolist()
    order = [*languages, *(rng.permutation(languages).tolist() if n_languages < 4 else [])]
    parts: list[NDArray[np.float32]] = []
    turns: list[Turn] = []
    for language in order:
        parts.append(np.zeros(round(rng.uniform(*_PAUSE_S) * RATE), np.float32))
        start = turns.pop().start if turns and turns[-1].language == language else sum(map(len, parts)) / RATE
        parts += make_turn(clips[language], rng, n_clips)
        turns.append(Turn(start, sum(map(len, parts)) / RATE, language))
    samples = np.concatenate([*parts, np.zeros(RATE // 2, np.float32)])
    return Joined(samples + rng.normal(0, 1e-4, len(samples)).astype(np.float32), tuple(turns))


def make_turn(
    clips: Sequence[NDArray[np.float32]], rng: np.random.Generator, n_clips: int
) -> list[NDArray[np.float32]]:
    """Return some clips in a row with pauses between; where one would do, it may be half a clip."""
    chosen = rng.permutation(len(clips))[: int(rng.integers(1, n_clips + 1))].tolist()
    turn = [trim(clips[number]) for number in chosen]
    if n_clips == 1 and rng.random() < _HALVED:
        return [halve(turn[0])]
    pause = np.zeros(round(_PAUSE_S[0] * RATE), np.float32)
    return [part for clip in turn for part in (clip, pause)][:-1]


def trim(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a clip without the silence at its ends, at a common level."""
    loud = np.flatnonzero(np.abs(clip) > _QUIET * np.abs(clip).max())
    clip = clip[loud[0] : loud[-1] + 1]
    return clip * np.float32(0.05 / max(float(np.sqrt(np.mean(clip**2))), 1e-6))


def halve(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what comes before the quietest tenth of a second in the middle third of a clip."""
    hop = RATE // 10
    levels = np.square(clip[: len(clip) // hop * hop]).reshape(-1, hop).mean(axis=1)
    third = len(levels) // 3
    return clip[: (third + int(levels[third : 2 * third].argmin())) * hop] if third else clip


def read_clips(manifest: Path, config: ModelConfig) -> dict[str, dict[str, list[NDArray[np.float32]]]]:
    """Return the clips of trusted languages by language: those of held-out voices, and those of other sources."""
    found: dict[str, dict[str, list[NDArray[np.float32]]]] = {"voices": defaultdict(list), "sources": defaultdict(list)}
    rows = [row for row in read_rows(manifest) if row["kind"] == "speech"]
    for piece in find_pieces(rows, config.labels):
        if piece.language in config.decision.candidates:
            kind = "voices" if piece.source == "fleurs" else "sources"
            found[kind][piece.language].append(read_piece(piece))
    return found


@dataclass
class Counts:
    """What was found in recordings."""

    turn_s: float = 0.0
    right_s: float = 0.0
    wrong_s: float = 0.0  # another language
    heard_s: float = 0.0  # in which the gate hears speech
    n_changes: int = 0
    n_false: int = 0  # changes between languages that are near no true one
    distances_s: list[float] | None = None  # of the true changes that were found

    def add(self, turns: Sequence[Turn], segments: Sequence[Segment]) -> None:
        """Compare the segments of one recording with its turns."""
        for turn in turns:
            self.turn_s += turn.end - turn.start
            for segment in segments:
                both = max(0.0, min(turn.end, segment.end) - max(turn.start, segment.start))
                self.heard_s += both
                self.right_s += both * (segment.label == turn.language)
                self.wrong_s += both * (segment.label not in (turn.language, UNKNOWN))
        named = [segment for segment in segments if segment.label != UNKNOWN]
        found = changes([Turn(s.start, s.end, s.label) for s in named])
        self.distances_s = self.distances_s or []
        for at in (true := changes(turns)):
            nearest = min((abs(at - other) for other in found), default=np.inf)
            self.distances_s.append(float(nearest))
        self.n_changes += len(true)
        self.n_false += sum(min((abs(at - other) for other in true), default=np.inf) > _NEAR_S for at in found)

    def figures(self) -> dict[str, float]:
        """Return which share of turns is heard, of that what is named right and wrong, and how changes are found."""
        distances = np.array(self.distances_s or [np.inf])
        found = distances[distances <= _NEAR_S]
        return {
            "minutes": round(self.turn_s / 60, 1),
            "heard": round(self.heard_s / self.turn_s, 3),
            "right": round(self.right_s / max(self.heard_s, 1e-9), 3),
            "wrong": round(self.wrong_s / max(self.heard_s, 1e-9), 3),
            "changes": self.n_changes,
            f"within_{_NEAR_S:g}_s": round(len(found) / max(1, len(distances)), 3),
            "median_s": round(float(np.median(found)), 2) if len(found) else float("nan"),
            "false_a_minute": round(self.n_false / self.turn_s * 60, 2),
        }


def changes(turns: Sequence[Turn]) -> list[float]:
    """Return the seconds in the middle between turns of two languages."""
    return [(a.end + b.start) / 2 for a, b in pairwise(turns) if a.language != b.language]


def measure(heard: Sequence[tuple[Joined, Steps]], config: ModelConfig, *, among: bool = False) -> dict[str, float]:
    """Return the figures of recordings; `among`: told which languages are spoken in each, and two others."""
    counts = Counts()
    rng = np.random.default_rng(0)
    for joined, steps in heard:
        spoken = {turn.language for turn in joined.turns}
        others = rng.choice(sorted({*config.decision.candidates} - spoken), 2, replace=False).tolist()
        choice = choose_candidates(config, [*sorted(spoken), *others] if among else None)
        names = (*(config.labels[index] for index in choice.indices), UNKNOWN)
        duration_s = len(joined.samples) / RATE
        counts.add(joined.turns, cut_segments(steps, decide_steps(steps, config, choice), names, config, duration_s))
    return counts.figures()


def hear(engine: TimelineEngine, recordings: Sequence[Joined]) -> Iterator[tuple[Joined, Steps]]:
    """Yield recordings with what the network says of their steps."""
    requests = engine.run((joined.samples for joined in recordings), ReadOptions(sample_rate=RATE))
    for joined, request in zip(recordings, requests, strict=True):
        yield joined, read_steps(request, engine)


def main() -> None:
    """Print the figures as JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model")
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--recordings", type=int, default=40, help="of each set")
    arguments.add_argument("--tune", action="store_true", help="try other chances and weights")
    options = arguments.parse_args()
    engine = load_engine(options.model, device="cpu")
    config = engine.config
    clips = read_clips(options.manifest, config)
    figures: dict[str, Any] = {"timeline": vars(config.timeline)}
    for name, kind, n_clips in _SETS:
        rng = np.random.default_rng(1)
        recordings = [join_clips(clips[kind], rng, n_clips) for _ in range(options.recordings)]
        heard = list(hear(TimelineEngine(engine, config), recordings))
        figures[name] = measure(heard, config)
        figures[f"{name}, among"] = measure(heard, config, among=True)
        for change in _TUNED["change"] if options.tune else ():
            for weight in _TUNED["weight"]:
                other = replace(config, timeline=replace(config.timeline, change=change, weight=weight))
                figures[f"{name}, change {change}, weight {weight}"] = measure(heard, other)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
