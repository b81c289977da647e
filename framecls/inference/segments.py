"""From the probabilities of frames to labelled segments, while the frames come."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from framecls.results import Outline, Segment


def find_runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the half-open runs `[first, last)` where a (frame,) mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def clean_runs(runs: Sequence[tuple[int, int]], min_length: int, min_gap: int) -> list[tuple[int, int]]:
    """Join runs less than `min_gap` frames apart, then drop those shorter than `min_length` frames."""
    joined: list[tuple[int, int]] = []
    for first, last in runs:
        if joined and first - joined[-1][1] < min_gap:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return [run for run in joined if run[1] - run[0] >= min_length]


@dataclass(frozen=True)
class SegmentRules:
    """How frames become segments."""

    hop_s: float
    duration_s: float = math.inf  # infinite while it is not known
    min_frames: int = 0
    min_gap_frames: int = 0
    # Of labels that have numbers of their own.
    min_frames_of: Mapping[str, int] = field(default_factory=dict)
    min_gap_frames_of: Mapping[str, int] = field(default_factory=dict)

    def least(self, label: str) -> int:
        """Return the frames of the shortest segment of a label."""
        return self.min_frames_of.get(label, self.min_frames)

    def gap(self, label: str) -> int:
        """Return the frames of the shortest gap between two segments of a label."""
        return self.min_gap_frames_of.get(label, self.min_gap_frames)

    def segment(self, run: tuple[int, int], label: str, score: float) -> Segment:
        """Return the run as a segment that ends with the file at the latest."""
        first, last = run
        # To the microsecond: without the rounding errors of binary fractions.
        end = min(round(last * self.hop_s, 6), self.duration_s)
        return Segment(round(first * self.hop_s, 6), end, label, score)


class Segmenter(ABC):
    """Turn the frames of a recording into segments while they come; how they are cut into pieces does not matter."""

    def __init__(self, labels: Sequence[str], rules: SegmentRules) -> None:
        self.labels = tuple(labels)
        self.rules = rules

    @abstractmethod
    def push(self, scores: NDArray[np.float32]) -> list[Segment]:
        """Take the next (frame, label) probabilities; return the segments that no later frame can change."""

    @abstractmethod
    def finish(self, duration_s: float) -> list[Segment]:
        """Return the segments that were still open at the end of the recording."""


@dataclass
class _OpenRun:
    """A run of one label that later frames may still lengthen: frames `[first, last)`, then a gap up to now."""

    first: int
    last: int
    total: float  # of the label's probabilities over the run
    gap_total: float = 0.0  # over the gap


class OverlappingSegmenter(Segmenter):
    """Give each label its own segments where its probability reaches its threshold.

    Runs less than the rules' gap apart are joined, then those of less than their least frames dropped. A segment is
    final once its label has been away for the gap.
    """

    def __init__(self, labels: Sequence[str], thresholds: Sequence[float], rules: SegmentRules) -> None:
        super().__init__(labels, rules)
        self._thresholds = tuple(thresholds)
        self._open: list[_OpenRun | None] = [None] * len(self.labels)
        self._position = 0

    def push(self, scores: NDArray[np.float32]) -> list[Segment]:
        """See Segmenter; what becomes final in one call comes by start, then in the order of the labels."""
        found = [
            segment
            for column in range(len(self.labels))
            for segment in self._push_label(column, np.ascontiguousarray(scores[:, column]))
        ]
        self._position += len(scores)
        return order_segments(found, self.labels)

    def _push_label(self, column: int, scores: NDArray[np.float32]) -> Iterator[Segment]:
        totals = np.concatenate(([0.0], np.cumsum(scores, dtype=np.float64)))
        min_gap = self.rules.gap(self.labels[column])
        done = 0  # frames of this piece that are in the open run or its gap
        for first, last in find_runs(scores >= self._thresholds[column]):
            run = self._open[column]
            start, end = self._position + first, self._position + last
            # A run may go on from the previous piece.
            if run is not None and (start == run.last or start - run.last < min_gap):
                run.total += run.gap_total + float(totals[last] - totals[done])
                run.last, run.gap_total = end, 0.0
            else:
                if run is not None:
                    yield from self._close(column, run)
                self._open[column] = _OpenRun(start, end, float(totals[last] - totals[first]))
            done = last
        run = self._open[column]
        if run is not None:
            run.gap_total += float(totals[-1] - totals[done])
            gap = self._position + len(scores) - run.last
            if gap > 0 and gap >= min_gap:
                yield from self._close(column, run)
                self._open[column] = None

    def _close(self, column: int, run: _OpenRun, rules: SegmentRules | None = None) -> Iterator[Segment]:
        length = run.last - run.first
        if length >= self.rules.least(self.labels[column]):
            rules = rules or self.rules
            yield rules.segment((run.first, run.last), self.labels[column], run.total / length)

    def finish(self, duration_s: float) -> list[Segment]:
        """See Segmenter."""
        rules = replace(self.rules, duration_s=duration_s)
        runs = [(column, run) for column, run in enumerate(self._open) if run is not None]
        self._open = [None] * len(self.labels)
        found = [segment for column, run in runs for segment in self._close(column, run, rules)]
        return order_segments(found, self.labels)


@dataclass
class _Tile:
    """Frames `[first, last)` of one label."""

    first: int
    last: int
    label: int
    totals: NDArray[np.float64]  # (label,) sum of the probabilities over its frames

    @property
    def length(self) -> int:
        return self.last - self.first


class TilingSegmenter(Segmenter):
    """Give each frame its likeliest label and tile the recording with runs of equal labels.

    A run of less than its label's least frames goes to whichever neighbour its own frames find likelier; there are no
    gaps. A run that is long enough stays whatever comes, so what lies between two of those is final once the second is
    long enough.
    """

    def __init__(self, labels: Sequence[str], rules: SegmentRules) -> None:
        super().__init__(labels, rules)
        # The last run that is long enough, if there was one yet, and the short ones since; the last may still grow.
        self._tiles: list[_Tile] = []
        self._least = [rules.least(label) for label in self.labels]
        self._position = 0

    def push(self, scores: NDArray[np.float32]) -> list[Segment]:
        """See Segmenter; segments come in order."""
        if not len(scores):
            return []
        best = scores.argmax(axis=1)
        cuts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist()]
        totals = np.add.reduceat(scores, cuts, axis=0, dtype=np.float64)
        found: list[Segment] = []
        for first, last, total in zip(cuts, [*cuts[1:], len(scores)], totals, strict=True):
            tile = _Tile(self._position + first, self._position + last, int(best[first]), total)
            found += self._add(tile)
        self._position += len(scores)
        return found

    def _add(self, tile: _Tile) -> list[Segment]:
        if self._tiles and self._tiles[-1].label == tile.label:
            _extend(self._tiles[-1], tile)
        else:
            self._tiles.append(tile)
        if len(self._tiles) == 1 or self._tiles[-1].length < self._least[self._tiles[-1].label]:
            return []
        final = self._absorb_short()
        self._tiles = final[-1:]
        return [self._segment(each, self.rules) for each in final[:-1]]

    def _absorb_short(self) -> list[_Tile]:
        tiles = self._tiles
        for length in range(1, max(self._least)):  # the shortest go first, so that what they join may survive
            tiles = _absorb_tiles(tiles, length, self._least)
        return tiles

    def _segment(self, tile: _Tile, rules: SegmentRules) -> Segment:
        score = float(tile.totals[tile.label] / tile.length)
        return rules.segment((tile.first, tile.last), self.labels[tile.label], score)

    def finish(self, duration_s: float) -> list[Segment]:
        """See Segmenter."""
        rules = replace(self.rules, duration_s=duration_s)
        final, self._tiles = self._absorb_short(), []
        return [self._segment(tile, rules) for tile in final]


def _extend(tile: _Tile, other: _Tile) -> None:
    tile.last = other.last
    tile.totals = tile.totals + other.totals


def _absorb_tiles(tiles: list[_Tile], length: int, least: Sequence[int]) -> list[_Tile]:
    """Give each tile of `length` frames, fewer than its label's least, to a neighbour in one pass, and join equals."""
    short = [tile.length == length < least[tile.label] for tile in tiles]
    if not any(short):
        return tiles
    joined: list[_Tile] = []
    for index, tile in enumerate(tiles):
        if short[index] and len(tiles) > 1:
            neighbours = [*joined[-1:], *tiles[index + 1 : index + 2]]
            label = max((each.label for each in neighbours), key=lambda label: float(tile.totals[label]))
            tile = replace(tile, label=label)
        if joined and joined[-1].label == tile.label:
            _extend(joined[-1], tile)
        else:
            joined.append(replace(tile))
    return joined


def order_segments(segments: Iterable[Segment], labels: Sequence[str]) -> list[Segment]:
    """Return segments by start, then in the order of `labels`."""
    rank = {label: index for index, label in enumerate(labels)}
    return sorted(segments, key=lambda s: (s.start, rank[s.label]))


class OutlineMaker:
    """Keep a recording's scores at a resolution that falls as it gets longer, in memory that does not grow."""

    def __init__(self, n_labels: int, hop_s: float, n_columns: int = 2048) -> None:
        """Start an outline of at most `n_columns` columns, an even number."""
        self._hop_s = hop_s
        self._width = 1  # frames of a column
        self._counts = np.zeros(n_columns, np.int64)
        self._totals = np.zeros((n_columns, n_labels))
        self._peaks = np.zeros((n_columns, n_labels), np.float32)
        self._n_frames = 0

    def push(self, scores: NDArray[np.float32]) -> None:
        """Take the next (frame, label) probabilities."""
        while len(scores):
            if self._n_frames == self._width * len(self._counts):
                self._halve()
            room = self._width * len(self._counts) - self._n_frames
            piece, scores = scores[:room], scores[room:]
            columns = (self._n_frames + np.arange(len(piece))) // self._width
            starts = np.flatnonzero(np.diff(columns, prepend=-1))
            where = columns[starts]
            self._counts[where] += np.diff(starts, append=len(piece))
            self._totals[where] += np.add.reduceat(piece, starts, axis=0, dtype=np.float64)
            self._peaks[where] = np.maximum(self._peaks[where], np.maximum.reduceat(piece, starts, axis=0))
            self._n_frames += len(piece)

    def _halve(self) -> None:
        half = len(self._counts) // 2
        for array, join in ((self._counts, np.add), (self._totals, np.add), (self._peaks, np.maximum)):
            array[:half] = join(array[::2], array[1::2])
            array[half:] = 0
        self._width *= 2

    def finish(self) -> Outline:
        """Return the outline of what has come."""
        n_columns = -(-self._n_frames // self._width)
        counts = self._counts[:n_columns]
        firsts = np.arange(n_columns) * self._width
        return Outline(
            times=(firsts + counts / 2) * self._hop_s,
            means=(self._totals[:n_columns] / counts[:, None]).astype(np.float32),
            peaks=self._peaks[:n_columns].copy(),
        )
