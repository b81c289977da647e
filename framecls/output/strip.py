"""Compute the timeline strip: heights of blocks, ticks of the time axis, cells of tiers; `tables` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecls.results import Outline, Segment, TagResult
from framecls.text import clock

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#"
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_TICK_GAP = 5  # columns free after a tick's text, at least
_LIKELY = 0.5


def outline_of(result: TagResult) -> Outline:
    """Return the outline of a result, or its frames where they were kept."""
    return result.outline or Outline(result.times, result.scores, result.scores)


def block_levels(outline: Outline, duration_s: float, n_columns: int) -> NDArray[np.int64]:
    """Return (column, label) the height 0..7 of each block.

    A block shows the mean probability of its part of the outline. A label that is likelier than not in any frame is
    never shown as absent: what the table lists can be found in the strip.

    Args:
        outline: at least one column.
        duration_s: seconds that the columns share.
        n_columns: width of the strip.
    """
    edges = np.linspace(0, duration_s, n_columns + 1)
    first = np.searchsorted(outline.times, edges[:-1])
    last = np.searchsorted(outline.times, edges[1:])
    levels = np.zeros((n_columns, outline.means.shape[1]), np.int64)
    top = len(BLOCKS) - 1
    for column in range(n_columns):
        here = slice(first[column], last[column])
        if first[column] == last[column]:  # columns are narrower than the outline's: the nearest stands for the column
            middle = (edges[column] + edges[column + 1]) / 2
            nearest = int(np.abs(outline.times - middle).argmin())
            here = slice(nearest, nearest + 1)
        level = np.rint(outline.means[here].mean(axis=0) * top).astype(np.int64)
        levels[column] = np.clip(np.maximum(level, outline.peaks[here].max(axis=0) >= _LIKELY), 0, top)
    return levels


def tick_line(start_s: float, end_s: float, n_columns: int) -> str:
    """Return the time axis under a strip from `start_s` to `end_s`: round times, each beginning at its own column."""
    per_second = n_columns / max(end_s - start_s, 1e-9)
    digits = {step: 0 if step >= 1 else 1 for step in STEPS_S}
    room = {step: len(clock(end_s, digits[step])) + _TICK_GAP for step in STEPS_S}
    step = next((step for step in STEPS_S if step * per_second >= room[step]), STEPS_S[-1])
    line = ""
    for index in range(int(np.ceil(start_s / step - 1e-9)), int(end_s / step + 1e-9) + 1):
        column = round((index * step - start_s) * per_second)
        text = clock(index * step, digits[step])
        if column >= len(line) and column + len(text) <= n_columns:
            line = line.ljust(column) + text
    return line


@dataclass(frozen=True)
class Cell:
    """Columns `[first, last)` of a tier; `segment` is None in a gap."""

    first: int
    last: int
    segment: Segment | None


@dataclass(frozen=True)
class TierLine:
    """One line of a tier: its span in seconds, and its cells from left to right."""

    start_s: float
    end_s: float
    n_columns: int
    cells: tuple[Cell, ...]


def tier_lines(segments: Sequence[Segment], duration_s: float, n_columns: int) -> list[TierLine]:
    """Lay out segments of many short labels as text, in as many lines as it takes to read most of them.

    Args:
        segments: ordered, without overlap.
        duration_s: seconds of the recording.
        n_columns: width of a full line.
    """
    if not segments or duration_s <= 0:
        return []
    # A segment of mean length has room for a mark, a label of three letters or more, and some to spare for short ones.
    room = 2 + max(3.0, sum(len(segment.label) for segment in segments) / len(segments))
    wanted_s = n_columns * duration_s / (room * len(segments))
    line_s = max((step for step in STEPS_S if step <= wanted_s), default=STEPS_S[0])
    if duration_s <= line_s:
        line_s = duration_s
    n_lines = max(1, int(np.ceil(duration_s / line_s - 1e-9)))
    return [
        _tier_line(segments, i * line_s, min((i + 1) * line_s, duration_s), n_columns / line_s) for i in range(n_lines)
    ]


def _tier_line(segments: Sequence[Segment], start_s: float, end_s: float, per_second: float) -> TierLine:
    n_columns = max(1, round((end_s - start_s) * per_second))
    cells: list[Cell] = []
    cursor = 0
    for segment in segments:
        if segment.end <= start_s or segment.start >= end_s:
            continue
        first = max(cursor, round((segment.start - start_s) * per_second))
        last = min(n_columns, round((segment.end - start_s) * per_second))
        if last <= first:
            continue
        if first > cursor:
            cells.append(Cell(cursor, first, None))
        cells.append(Cell(first, last, segment))
        cursor = last
    if cursor < n_columns:
        cells.append(Cell(cursor, n_columns, None))
    return TierLine(start_s, end_s, n_columns, tuple(cells))
