"""Where the words of a known text are said: forced alignment of their phones with the posteriors of frames.

The likeliest way through a graph of states, one a frame, by the Viterbi algorithm (Forney 1973). The graph of a text
has the pronunciations of each word side by side and a pause between two words, which may be left out. Posteriors of
frames are used, not those of the CTC head: its peaks say in which order phones come, and less well when they begin and
end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from framecls.errors import TextError, UsageError
from framecls.inference.words import Word
from framecls.results import Alignment, Segment, TagResult
from framecls.shapes import IPA, SILENCE

_LEAST_PROBABILITY = 1e-6  # of a phone in a frame: no single one forbids a path
_DOUBTFUL = 0.5  # mean probability of all phones below which the text is hardly what is said
# A text may be a few seconds behind or ahead before it is given up: a wrong phone costs some nats a frame.
_BEAM = 2000.0


@dataclass
class Graph:
    """States, each of which says a symbol; a path begins in one of `first` and ends in one of `last`."""

    symbols: list[int] = field(default_factory=list)  # of the states
    before: list[list[int]] = field(default_factory=list)  # the states from which each can be entered, but for itself
    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)

    def add(self, symbol: int, before: Sequence[int]) -> int:
        """Add a state and return its number."""
        self.symbols.append(symbol)
        self.before.append(list(before))
        return len(self.symbols) - 1


def find_path(log_probs: NDArray[np.floating], graph: Graph, beam: float = _BEAM) -> tuple[NDArray[np.int64], float]:
    """Return the state of each frame on the likeliest path through a graph, and the path's log-probability.

    A state holds for at least one frame. Without any path the log-probability is minus infinity.

    Args:
        log_probs: (frame, symbol) natural logarithms; at least one frame.
        graph: at least one state; where neighbours have near numbers, time and memory grow with the frames alone.
        beam: states that are so much less likely than the best of a frame (natural logarithm) are given up, but for
            those between two that are not.
    """
    n_frames, n_states, symbols = len(log_probs), len(graph.symbols), np.array(graph.symbols)
    ways = np.full((n_states, 1 + max(map(len, graph.before))), n_states)  # (state, way in); last: no such state
    for state, before in enumerate(graph.before):
        ways[state, : 1 + len(before)] = [state, *before]
    known = ways < n_states
    steps = (np.arange(n_states)[:, None] - ways)[known]
    forward, backward = max(0, int(steps.max())), max(0, -int(steps.min()))  # the longest steps to another state
    best = np.full(n_states + 1, -np.inf)
    best[graph.first] = log_probs[0, symbols[graph.first]]
    low, high = min(graph.first), max(graph.first) + 1  # only these states are alive
    came: list[tuple[int, NDArray[np.unsignedinteger]]] = []  # of each frame but the first: from `low` on, the way in
    for row in log_probs[1:]:
        low, high = max(0, low - backward), min(n_states, high + forward)
        totals = best[ways[low:high]]
        choice = totals.argmax(axis=1)
        came.append((low, choice.astype(np.min_scalar_type(ways.shape[1]))))
        now = totals[np.arange(high - low), choice] + row[symbols[low:high]]
        alive = np.flatnonzero(now > now.max() - beam)
        if not len(alive):
            return np.zeros(n_frames, np.int64), -np.inf
        best[low:high] = -np.inf
        low, high, now = low + int(alive[0]), low + int(alive[-1]) + 1, now[alive[0] : alive[-1] + 1]
        best[low:high] = now
    path = np.zeros(n_frames, np.int64)
    path[-1] = max(graph.last, key=lambda state: best[state])
    log_prob = float(best[path[-1]])
    if log_prob > -np.inf:
        for frame in range(n_frames - 1, 0, -1):
            first, choices = came[frame - 1]
            path[frame - 1] = ways[path[frame], choices[path[frame] - first]]
    return path, log_prob


class _Place(NamedTuple):
    """The phone of a word that a state says; word -1: a pause."""

    word: int
    phone: str


def make_graph(words: Sequence[Word], labels: Sequence[str]) -> tuple[Graph, list[_Place]]:
    """Return the graph of a text, and what each of its states says.

    Args:
        words: at least one.
        labels: what the symbols are called; all phones and the silence among them.
    """
    graph, places = Graph(), [_Place(-1, SILENCE)]
    pause = graph.add(labels.index(SILENCE), [])
    graph.first = [pause]
    ends = [pause]  # the states from which the next word can begin
    for number, word in enumerate(words):
        word_ends = []
        for phones in word.pronunciations:
            before = ends
            for position, phone in enumerate(phones):
                before = [graph.add(labels.index(phone), before)]
                places.append(_Place(number, phone))
                if number == position == 0:
                    graph.first += before
            word_ends += before
        ends = [*word_ends, graph.add(labels.index(SILENCE), word_ends)]
        places.append(_Place(-1, SILENCE))
    graph.last = ends
    return graph, places


def check_phones(labels: Sequence[str], model: str) -> None:
    """Refuse a model that a text cannot be placed with.

    Raises:
        UsageError: its labels are not the phones of the CMU dictionary and `sil`.
    """
    if {*labels} != {*IPA}:
        raise UsageError(f"the model {model} does not hear the phones of English frame by frame: take phones")


def place_words(result: TagResult, words: Sequence[Word]) -> Alignment:
    """Return where in a recording words are said.

    Args:
        result: what a model of phones found in it, with the scores of its frames.
        words: what `find_words` returned.

    Raises:
        UsageError: the model's labels are not the phones of the CMU dictionary and `sil`.
        TextError: the text is too long for the recording, or both together are.
    """
    check_phones(result.labels, result.model)
    graph, places = make_graph(words, result.labels)
    n_frames = len(result.scores)
    log_probs = np.log(np.maximum(result.scores, _LEAST_PROBABILITY))
    path, log_prob = find_path(log_probs, graph) if n_frames else (np.zeros(0, np.int64), -np.inf)
    if log_prob == -np.inf:
        least_s = sum(min(map(len, word.pronunciations)) for word in words) * result.hop
        if least_s <= result.duration:
            raise TextError("the text does not fit the recording: is it what is said?")
        said = f"{len(words)} words need at least {least_s:.2f} s, and it has {result.duration:.2f} s"
        raise TextError(f"the text is too long for the recording: {said}")
    found = result.scores[np.arange(n_frames), np.array(graph.symbols)[path]]
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), n_frames]
    runs = [(places[path[first]], first, last) for first, last in pairwise(edges) if places[path[first]].word >= 0]

    def segment(label: str, first: int, last: int) -> Segment:
        end = min(round(last * result.hop, 6), result.duration)
        return Segment(round(first * result.hop, 6), end, label, float(found[first:last].mean()))

    by_word = [(words[number].text, list(group)) for number, group in groupby(runs, key=lambda run: run[0].word)]
    mean = float(np.concatenate([found[first:last] for _, first, last in runs]).mean())
    doubt = f"the text may not be what is said: its phones have a mean probability of {mean:.2f}"
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(TagResult)}
    fields["segments"] = tuple(segment(place.phone, first, last) for place, first, last in runs)
    fields["warnings"] = (*result.warnings, *([doubt] if mean < _DOUBTFUL else []))
    return Alignment(**fields, words=tuple(segment(text, group[0][1], group[-1][2]) for text, group in by_word))
