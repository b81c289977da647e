"""What `tag` found in other shapes: some of the labels, one at a time, blocks without crumbs.

All of them take a result and return one, so they apply to whatever found its segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from framecls.config import listed
from framecls.errors import ConfigError
from framecls.results import NONE, Segment, TagResult

R = TypeVar("R", bound=TagResult)

# Of blocks of a programme: chosen on simulated podcasts, and checked on others.
COARSE_LABELS = ("speech", "music")  # of a model that has both; its other labels are no blocks
COARSE_GAP_S = 15.0
COARSE_DURATION_S = 4.0


def keep_labels(result: R, labels: Sequence[str]) -> R:
    """Return a result that knows only these labels, in this order; the rest of it is nobody's.

    Raises:
        ConfigError: the result does not have one of them.
    """
    for label in labels:
        if label not in result.labels:
            raise ConfigError(f"{label!r} is no label of {result.model}; it has {listed(result.labels)}")
    columns = [result.labels.index(label) for label in labels]
    outline = result.outline
    if outline is not None:
        outline = replace(outline, means=outline.means[:, columns], peaks=outline.peaks[:, columns])
    return replace(
        result,
        labels=tuple(labels),
        segments=tuple(s for s in result.segments if s.label in labels),
        scores=result.scores[:, columns],
        outline=outline,
    )


def make_exclusive(result: R, min_duration_s: float = 0.0, min_durations_s: Mapping[str, float] | None = None) -> R:
    """Return a result with one label at a time, which tiles the recording; where no label holds it is `NONE`.

    Of labels that hold at once, the first in `result.labels` counts. A piece has the score of the segment that it is
    part of; `NONE` is no label of the model, and its score is 0.

    Args:
        result: whose labels may overlap.
        min_duration_s: a shorter piece goes to the longer one of its neighbours.
        min_durations_s: the same, of some labels.
    """
    tiles = _absorb(_flatten(result), lambda label: (min_durations_s or {}).get(label, min_duration_s))
    return replace(result, segments=tuple(tile.segment() for tile in tiles), overlapping=False)


def make_coarse(
    result: R,
    min_gap_s: float | None = None,
    min_duration_s: float | None = None,
    min_durations_s: Mapping[str, float] | None = None,
) -> R:
    """Return the blocks of a programme: music or talk, one at a time, without the pauses and crumbs in them.

    Where speech and music are heard at once, it is talk.

    Args:
        result: what `sound`, or another model, found.
        min_gap_s: less than this without a label belongs to the blocks around it; None: `COARSE_GAP_S`.
        min_duration_s: a shorter block goes to its neighbours; None: `COARSE_DURATION_S`.
        min_durations_s: the same, of some labels.
    """
    gap_s = COARSE_GAP_S if min_gap_s is None else min_gap_s
    least_s = COARSE_DURATION_S if min_duration_s is None else min_duration_s
    if set(COARSE_LABELS) <= {*result.labels}:
        result = keep_labels(result, [label for label in result.labels if label in COARSE_LABELS])
    tiles = _flatten(result)
    # Pauses first, lest the words between them are taken for crumbs.
    for i, (before, tile, after) in enumerate(zip(tiles, tiles[1:], tiles[2:], strict=False), 1):
        if tile.label == NONE and before.label == after.label and tile.length < gap_s:
            tiles[i] = _yield_to(before, tile)
    shortest_s = {NONE: gap_s, **(min_durations_s or {})}
    tiles = _absorb(_join_equal(tiles), lambda label: shortest_s.get(label, least_s))
    return replace(result, segments=tuple(tile.segment() for tile in tiles), overlapping=False)


SILENCE = "sil"
# The phones of the CMU dictionary, and what the International Phonetic Alphabet writes for them in American English.
IPA = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ay": "aɪ", "b": "b", "ch": "tʃ", "d": "d", "dh": "ð",
    "eh": "ɛ", "er": "ɝ", "ey": "eɪ", "f": "f", "g": "ɡ", "hh": "h", "ih": "ɪ", "iy": "i", "jh": "dʒ", "k": "k",
    "l": "l", "m": "m", "n": "n", "ng": "ŋ", "ow": "oʊ", "oy": "ɔɪ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t",
    "th": "θ", "uh": "ʊ", "uw": "u", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ", SILENCE: SILENCE,
}  # fmt: skip


def to_ipa(result: R) -> R:
    """Return a result whose phones are written in the International Phonetic Alphabet; silence stays `sil`.

    Raises:
        ConfigError: its labels are no phones of the CMU dictionary.
    """
    for label in result.labels:
        if label not in IPA:
            raise ConfigError(f"{label!r}, a label of {result.model}, is no phone of the CMU dictionary")
    return rename(result, IPA.__getitem__)


def rename(result: R, name: Callable[[str], str]) -> R:
    """Return a result whose labels have other names."""
    segments = tuple(replace(s, label=name(s.label)) for s in result.segments)
    return replace(result, labels=tuple(map(name, result.labels)), segments=segments)


@dataclass(frozen=True)
class _Tile:
    start: float
    end: float
    label: str
    total: float  # score times seconds, of the pieces that had the label
    scored_s: float

    @property
    def length(self) -> float:
        return self.end - self.start

    def segment(self) -> Segment:
        return Segment(self.start, self.end, self.label, self.total / self.scored_s if self.scored_s else 0.0)


def _merge(one: _Tile, other: _Tile) -> _Tile:
    return _Tile(one.start, other.end, one.label, one.total + other.total, one.scored_s + other.scored_s)


def _flatten(result: TagResult) -> list[_Tile]:
    """Lay the segments of a result side by side, those of the first label on top, and `NONE` where there are none."""
    edges = np.unique([0.0, result.duration, *(t for s in result.segments for t in (s.start, s.end))])
    owner = np.full(len(edges) - 1, -1)  # the segment that each piece between two edges belongs to
    rank = {label: index for index, label in enumerate(result.labels)}
    below = sorted(range(len(result.segments)), key=lambda i: -rank.get(result.segments[i].label, len(rank)))
    for index in below:
        segment = result.segments[index]
        owner[np.searchsorted(edges, segment.start) : np.searchsorted(edges, segment.end)] = index
    tiles = []
    for start, end, index in zip(edges[:-1].tolist(), edges[1:].tolist(), owner.tolist(), strict=True):
        label, score = (NONE, 0.0) if index < 0 else (result.segments[index].label, result.segments[index].score)
        tiles.append(_Tile(start, end, label, score * (end - start), end - start))
    return _join_equal(tiles)


def _join_equal(tiles: Iterable[_Tile]) -> list[_Tile]:
    joined: list[_Tile] = []
    for tile in tiles:
        if joined and joined[-1].label == tile.label:
            joined[-1] = _merge(joined[-1], tile)
        else:
            joined.append(tile)
    return joined


def _yield_to(neighbour: _Tile, tile: _Tile) -> _Tile:
    return replace(tile, label=neighbour.label, total=0.0, scored_s=0.0)


def _absorb(tiles: list[_Tile], least_s: Callable[[str], float]) -> list[_Tile]:
    """Give tiles that are too short to the longer neighbour, the shortest of those in a row first."""
    while len(tiles) > 1:
        lengths = [math.inf, *(t.length if t.length < least_s(t.label) else math.inf for t in tiles), math.inf]
        if min(lengths) == math.inf:
            break
        changed = list(tiles)
        for i, tile in enumerate(tiles):
            if lengths[i + 1] < lengths[i] and lengths[i + 1] <= lengths[i + 2]:
                neighbour = max(tiles[i - 1 : i] + tiles[i + 1 : i + 2], key=lambda t: t.length)
                changed[i] = _yield_to(neighbour, tile)
        tiles = _join_equal(changed)
    return tiles
