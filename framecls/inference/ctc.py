"""From frames to a string: CTC decoding, greedy and by beam search (Graves et al. 2006, "Connectionist Temporal
Classification").

A network with a CTC head says of each frame one of its symbols or, with index 0, nothing: the *blank*. A row of such
answers, an *alignment*, stands for the string that is left when repeated symbols are joined and blanks taken out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLANK = 0
# Symbols less likely than this in a frame are not tried there: nearly all of them, nearly everywhere.
_MIN_LOG_PROB = math.log(1e-3)
# Strings so much less likely than the best (natural logarithm) are given up before the beam is full.
_MAX_BEHIND = 10.0


@dataclass(frozen=True)
class TokenSpan:
    """One symbol of a string, and the frames `[first, last)` in which the likeliest alignment says it."""

    symbol: int
    first: int
    last: int


def decode_greedy(log_probs: NDArray[np.floating]) -> list[TokenSpan]:
    """Return the string of the likeliest alignment: the best symbol of every frame.

    Args:
        log_probs: (frame, 1 + symbol) natural logarithms, blank first.
    """
    best = log_probs.argmax(axis=1)
    cuts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)] if len(best) else [0]
    return [TokenSpan(int(best[first]), first, last) for first, last in pairwise(cuts) if best[first] != BLANK]


class _Chain(NamedTuple):
    """What an alignment has said so far, the last symbol first: strings share what they have in common."""

    symbol: int
    first: int
    last: int
    before: _Chain | None


class _Ending(NamedTuple):
    """All alignments of one string that end alike, in a blank or in its last symbol."""

    log_prob: float  # of all of them together
    best: float  # of the likeliest one
    said: _Chain | None  # by the likeliest one


_NEVER = _Ending(-math.inf, -math.inf, None)


@dataclass(eq=False, slots=True)
class _Prefix:
    """The beginning of a string; equal beginnings are one object."""

    symbol: int
    longer: dict[int, _Prefix] = field(default_factory=dict)

    def child(self, symbol: int) -> _Prefix:
        if symbol not in self.longer:
            self.longer[symbol] = _Prefix(symbol)
        return self.longer[symbol]


# For each beginning: the alignments that end in a blank, and those that end in its last symbol.
_Beam = dict[_Prefix, tuple[_Ending, _Ending]]


def decode_beam(
    log_probs: NDArray[np.floating], width: int, min_log_prob: float = _MIN_LOG_PROB, max_behind: float = _MAX_BEHIND
) -> list[TokenSpan]:
    """Return the likeliest string, all its alignments counted together: prefix beam search (Hannun et al. 2014).

    Args:
        log_probs: (frame, 1 + symbol) natural logarithms, blank first.
        width: strings that are kept from frame to frame.
        min_log_prob: symbols less likely than this in a frame begin nothing there.
        max_behind: strings so much less likely than the best are given up.

    Returns:
        the string, with the times of its likeliest alignment among those that were kept.
    """
    beam = search(log_probs, width, min_log_prob, max_behind)
    _, said = max(((_either(*endings), endings) for endings in beam.values()), key=lambda pair: pair[0].log_prob)
    spoken, chain = [], _either(*said).said
    while chain is not None:
        spoken.append(TokenSpan(chain.symbol, chain.first, chain.last))
        chain = chain.before
    return spoken[::-1]


def search(log_probs: NDArray[np.floating], width: int, min_log_prob: float, max_behind: float) -> _Beam:
    """Return the strings that are left in the beam after the last frame; the arguments are those of `decode_beam`."""
    beam: _Beam = {_Prefix(BLANK): (_Ending(0.0, 0.0, None), _NEVER)}
    likely = log_probs[:, 1:] >= min_log_prob
    for frame, row in enumerate(log_probs):
        symbols = (np.flatnonzero(likely[frame]) + 1).tolist()
        beam = _prune(_step(beam, frame, row.tolist(), symbols), width, max_behind)
        if len(beam) == 1:
            # Nothing shorter can come back, so what else was tried on the way here is forgotten.
            [(prefix, endings)] = beam.items()
            beam = {_Prefix(prefix.symbol): endings}
    return beam


def _step(beam: _Beam, frame: int, row: list[float], symbols: list[int]) -> _Beam:
    """Let each string of the beam go on for a frame: with a blank, with its last symbol, or with a new one."""
    grown: _Beam = {}
    for prefix, (blank, symbol) in beam.items():
        either = _either(blank, symbol)
        _add(grown, prefix, 0, _go_on(either, row[BLANK], either.said))
        if symbol.said is not None:
            longer = symbol.said._replace(last=frame + 1)
            _add(grown, prefix, 1, _go_on(symbol, row[prefix.symbol], longer))
        for new in symbols:
            # A symbol that is said twice has a blank between, or it would be one.
            before = blank if new == prefix.symbol else either
            if before.log_prob > -math.inf:
                chain = _Chain(new, frame, frame + 1, before.said)
                _add(grown, prefix.child(new), 1, _go_on(before, row[new], chain))
    return grown


def _go_on(ending: _Ending, log_prob: float, said: _Chain | None) -> _Ending:
    return _Ending(ending.log_prob + log_prob, ending.best + log_prob, said)


def _either(one: _Ending, other: _Ending) -> _Ending:
    """Return two sets of alignments as one."""
    if one.log_prob < other.log_prob:
        one, other = other, one
    if other.log_prob == -math.inf:
        return one
    together = one.log_prob + math.log1p(math.exp(other.log_prob - one.log_prob))
    likelier = one if one.best >= other.best else other
    return _Ending(together, likelier.best, likelier.said)


def _add(beam: _Beam, prefix: _Prefix, how: int, ending: _Ending) -> None:
    blank, symbol = beam.get(prefix, (_NEVER, _NEVER))
    beam[prefix] = (_either(blank, ending), symbol) if how == 0 else (blank, _either(symbol, ending))


def _prune(beam: _Beam, width: int, max_behind: float) -> _Beam:
    totals = {prefix: _either(*endings).log_prob for prefix, endings in beam.items()}
    floor = max(totals.values()) - max_behind
    kept = [prefix for prefix in sorted(totals, key=lambda p: -totals[p])[:width] if totals[prefix] >= floor]
    return {prefix: beam[prefix] for prefix in kept}


@dataclass(frozen=True)
class Edits:
    """What turns one string into another with the fewest changes."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def total(self) -> int:
        """All changes."""
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: Edits) -> Edits:
        return Edits(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def count_edits(truth: Sequence[str], heard: Sequence[str]) -> Edits:
    """Count the fewest edits that turn the true string into the recognised one (Levenshtein)."""
    from rapidfuzz.distance import Levenshtein

    counts = Counter(edit.tag for edit in Levenshtein.editops(truth, heard))
    return Edits(counts["replace"], counts["delete"], counts["insert"])
