"""From frames to a string: CTC decoding, greedy and by beam search (Graves et al. 2006, "Connectionist Temporal
Classification").

A network with a CTC head gives each frame one of its symbols or, with index 0, the *blank*. A symbol for each frame, an
*alignment*, stands for the string that is left when repeated symbols are joined and blanks removed.
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
# Symbols less likely than this do not extend a prefix in a frame: nearly all of them, nearly everywhere.
_MIN_LOG_PROB = math.log(1e-3)
# Prefixes so much less likely than the best (natural logarithm) are pruned even where the beam has room.
_MAX_BEHIND = 10.0


@dataclass(frozen=True)
class TokenSpan:
    """One symbol of a string, and the frames `[first, last)` that the likeliest alignment gives it."""

    symbol: int
    first: int
    last: int


def decode_greedy(log_probs: NDArray[np.floating]) -> list[TokenSpan]:
    """Return the string of the likeliest alignment: the best symbol of each frame.

    Args:
        log_probs: (frame, 1 + symbol) natural logarithms, blank first.
    """
    best = log_probs.argmax(axis=1)
    cuts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)] if len(best) else [0]
    return [TokenSpan(int(best[first]), first, last) for first, last in pairwise(cuts) if best[first] != BLANK]


class _Chain(NamedTuple):
    """The symbols of an alignment so far, as a list linked from its last one: alignments share their beginnings."""

    symbol: int
    first: int
    last: int
    before: _Chain | None


class _PathSum(NamedTuple):
    """The alignments of one prefix that end in a blank, or those that end in its last symbol."""

    log_prob: float  # of all of them together
    best_log_prob: float  # of the likeliest one
    best: _Chain | None  # the symbols of the likeliest one


_NEVER = _PathSum(-math.inf, -math.inf, None)


@dataclass(eq=False, slots=True)
class _Prefix:
    """The beginning of a string; equal beginnings are one object."""

    symbol: int
    children: dict[int, _Prefix] = field(default_factory=dict)

    def child(self, symbol: int) -> _Prefix:
        if symbol not in self.children:
            self.children[symbol] = _Prefix(symbol)
        return self.children[symbol]


# For each prefix: the alignments that end in a blank, and those that end in its last symbol.
_Beam = dict[_Prefix, tuple[_PathSum, _PathSum]]


def decode_beam(
    log_probs: NDArray[np.floating], width: int, min_log_prob: float = _MIN_LOG_PROB, max_behind: float = _MAX_BEHIND
) -> list[TokenSpan]:
    """Return the likeliest string, all its alignments counted together: prefix beam search (Hannun et al. 2014).

    Args:
        log_probs: (frame, 1 + symbol) natural logarithms, blank first.
        width: prefixes that are kept from frame to frame.
        min_log_prob: symbols less likely than this do not extend a prefix in a frame.
        max_behind: prefixes so much less likely than the best are pruned.

    Returns:
        the string, with the times of its likeliest alignment among those that were kept.
    """
    beam = search(log_probs, width, min_log_prob, max_behind)
    chain = max((_add_up(*sums) for sums in beam.values()), key=lambda total: total.log_prob).best
    spans = []
    while chain is not None:
        spans.append(TokenSpan(chain.symbol, chain.first, chain.last))
        chain = chain.before
    return spans[::-1]


def search(log_probs: NDArray[np.floating], width: int, min_log_prob: float, max_behind: float) -> _Beam:
    """Return the prefixes that are left in the beam after the last frame; the arguments are those of `decode_beam`."""
    beam: _Beam = {_Prefix(BLANK): (_PathSum(0.0, 0.0, None), _NEVER)}
    likely = log_probs[:, 1:] >= min_log_prob
    for frame, row in enumerate(log_probs):
        symbols = (np.flatnonzero(likely[frame]) + 1).tolist()
        beam = _prune(_step(beam, frame, row.tolist(), symbols), width, max_behind)
        if len(beam) == 1:
            # No other prefix can come back, so the tree begins anew, without what was pruned.
            [(prefix, sums)] = beam.items()
            beam = {_Prefix(prefix.symbol): sums}
    return beam


def _step(beam: _Beam, frame: int, row: list[float], symbols: list[int]) -> _Beam:
    """Extend each prefix of the beam by a frame: with a blank, with its last symbol again, or with a new one."""
    extended: _Beam = {}
    for prefix, (blank, symbol) in beam.items():
        either = _add_up(blank, symbol)
        _merge(extended, prefix, 0, _extend(either, row[BLANK], either.best))
        if symbol.best is not None:
            repeated = symbol.best._replace(last=frame + 1)
            _merge(extended, prefix, 1, _extend(symbol, row[prefix.symbol], repeated))
        for new in symbols:
            # Between two equal symbols there is a blank, or they would be one.
            before = blank if new == prefix.symbol else either
            if before.log_prob > -math.inf:
                chain = _Chain(new, frame, frame + 1, before.best)
                _merge(extended, prefix.child(new), 1, _extend(before, row[new], chain))
    return extended


def _extend(paths: _PathSum, log_prob: float, best: _Chain | None) -> _PathSum:
    return _PathSum(paths.log_prob + log_prob, paths.best_log_prob + log_prob, best)


def _add_up(one: _PathSum, other: _PathSum) -> _PathSum:
    """Return two sets of alignments as one."""
    if one.log_prob < other.log_prob:
        one, other = other, one
    if other.log_prob == -math.inf:
        return one
    total = one.log_prob + math.log1p(math.exp(other.log_prob - one.log_prob))
    likelier = one if one.best_log_prob >= other.best_log_prob else other
    return _PathSum(total, likelier.best_log_prob, likelier.best)


def _merge(beam: _Beam, prefix: _Prefix, end: int, paths: _PathSum) -> None:
    """Add alignments to those of a prefix that end alike: 0, in a blank; 1, in its last symbol."""
    blank, symbol = beam.get(prefix, (_NEVER, _NEVER))
    beam[prefix] = (_add_up(blank, paths), symbol) if end == 0 else (blank, _add_up(symbol, paths))


def _prune(beam: _Beam, width: int, max_behind: float) -> _Beam:
    totals = {prefix: _add_up(*sums).log_prob for prefix, sums in beam.items()}
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
