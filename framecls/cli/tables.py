"""Figures of models and data as tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from framecls.output.images import PALETTE
from framecls.output.strip import ASCII_BLOCKS, BLOCKS, tick_line
from framecls.output.tables import make_table
from framecls.text import clock, escape, length

if TYPE_CHECKING:
    from framecls.results import Explanation
    from framecls.training.ladder import Ladder

_WIDEST_CONFUSION = 12  # labels of a matrix that fits a terminal
_GAP = 2  # columns between two of a table
_MOST_HEADS = 24  # rows of heads that a terminal has room for; of more, the mean of a layer
_NARROWEST_NAME = 16  # columns of a name that is broken


def figure_table(figures: dict[str, Any]) -> RenderableType:
    """Return figures by name; a dict of rows with the same keys is a table below its name."""
    parts: list[RenderableType] = []
    grid = None
    for key, value in figures.items():
        if _is_nameless(value):
            continue
        name = Text(escape(key), style="dim")
        if _has_rows(value):
            parts += [name, Padding(RowTable(value), (0, 0, 0, _GAP))]
            grid = None
            continue
        if grid is None:
            grid = Table.grid(padding=(0, _GAP, 0, 0))
            grid.add_column(min_width=max(len(escape(k)) for k, v in figures.items() if not _has_rows(v)))
            grid.add_column(overflow="fold")
            parts.append(grid)
        grid.add_row(name, show_figure(value))
    return Group(*parts)


class RowTable:
    """Rows by name with the same columns: as many columns beside each other as the width has room for, then the next.

    No name and no figure is cut; names may fold, titles break after a _.
    """

    def __init__(self, rows: dict[str, dict[str, Any]]) -> None:
        self._names = [Text(escape(name) or "none named", overflow="fold") for name in rows]
        titles = dict.fromkeys(key for row in rows.values() for key in row)
        self._columns = {title: [show_figure(row.get(title, "")) for row in rows.values()] for title in titles}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths, titles = [], []
        for title, cells in self._columns.items():
            widest = max(Measurement.get(console, options, cell).maximum for cell in cells)
            titles.append(_break_title(escape(title), widest))
            widths.append(max(widest, *map(cell_len, titles[-1].split("\n"))) + _GAP)
        spare = options.max_width - _GAP - sum(widths)
        most = spare if spare >= _NARROWEST_NAME else max(_NARROWEST_NAME, options.max_width // 3)
        name_width = min(most, max(cell_len(name.plain) for name in self._names))
        columns = list(zip(titles, self._columns.values(), widths, strict=True))
        while columns:
            table = make_table(("", "fold"))
            table.columns[0].width = name_width
            left = options.max_width - name_width - _GAP
            shown: list[list[RenderableType]] = []
            while columns and (not shown or columns[0][2] <= left):
                title, cells, width = columns.pop(0)
                left -= width
                shown.append(cells)
                table.add_column(title, justify="right", min_width=width - _GAP)
            for name, *row in zip(self._names, *shown, strict=True):
                table.add_row(name, *row)
            yield table


def _break_title(title: str, width: int) -> str:
    """Return a title in lines of at most `width` columns, as far as breaks after a _ can do that."""
    lines = [""]
    for word in re.findall("[^_]*_|[^_]+", title):
        if lines[-1] and cell_len(lines[-1] + word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _is_nameless(value: Any) -> bool:
    """Whether this is a table by name where nothing has one: what it says is said of all."""
    return isinstance(value, dict) and set(value) == {""}


def _has_rows(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(row, dict) for row in value.values())


def show_figure(value: Any) -> RenderableType:
    """Return one figure, or a table of them."""
    if _has_rows(value):
        return RowTable(value)
    if isinstance(value, dict):
        return figure_table(value)
    if value is None:
        return Text("–")
    if isinstance(value, list):
        return Text("\n".join(escape(str(line)) for line in value), overflow="fold")
    return Text(f"{value:.4f}" if isinstance(value, float) else escape(str(value)), overflow="fold")


def summarise_confusion(confusion: dict[str, dict[str, int]]) -> Any:
    """Return a confusion matrix as it is, or, where it is too wide to read, what is most often taken for what."""
    if len(confusion) <= _WIDEST_CONFUSION:
        return confusion
    pairs = [
        (count, true, said) for true, row in confusion.items() for said, count in row.items() if count and true != said
    ]
    most = sorted(pairs, key=lambda pair: -pair[0])[:_WIDEST_CONFUSION]
    return {f"{true} as {said}": count for count, true, said in most}


def survey_table(figures: dict[str, Any]) -> RenderableType:
    """Return what a manifest holds, lengths of time as people write them."""

    def shown(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shown(name, inner) for name, inner in value.items()}
        return length(value) if key.endswith("seconds") else value

    return figure_table(shown("", figures))


def ladder_table(ladder: Ladder) -> Group:
    """Return a row a rung: its dev figure, size and speed; then, where the dev set has sources, a row a source."""
    titles = (ladder.figure[:1].upper() + ladder.figure[1:], "Parameters", "Epoch", "Frames/s")
    table = make_table(("Rung", "left"), *((title, "right") for title in titles))
    for rung in ladder.rungs:
        name = rung.name if rung.encoder.kind != "attention" else f"attention/{rung.name}"
        speed = length(rung.epoch_s), f"{rung.frames_per_s:,.0f}"
        spread = f" ± {rung.spread:.3f}" if ladder.seeds > 1 else ""
        score = Text.assemble((f"{rung.score:.3f}", "bold"), spread)
        table.add_row(Text(name), score, f"{rung.parameters:,}", *speed)
    seeds = f"seed {ladder.seed}"
    if ladder.seeds > 1:
        seeds = f"mean and standard deviation of seeds {ladder.seed} to {ladder.seed + ladder.seeds - 1}"
    note = Text(
        f"{ladder.steps} steps of the same batches, {seeds}, {ladder.device}; "
        f"an epoch is as many as read {clock(ladder.train_s, 0)}, the length of the training set.",
        style="dim",
    )
    sources = list(dict.fromkeys(source for rung in ladder.rungs for source in rung.by_source))
    if not sources:
        return Group(table, Text(), note)
    by_source = make_table(("Source", "fold"), *((rung.name, "right") for rung in ladder.rungs))
    for source in sources:
        by_source.add_row(Text(escape(source)), *(f"{rung.by_source[source]:.3f}" for rung in ladder.rungs))
    return Group(table, Text(), by_source, Text(), note)


class ExplanationStrips:
    """A strip for each head of each layer, one of attention rolled out, and one of what hiding frames does."""

    def __init__(self, explanation: Explanation) -> None:
        self._explanation = explanation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from framecls.output.explanation import describe, rows_of, shade, title_of

        explanation, attention = self._explanation, self._explanation.attention
        yield Text(title_of(explanation), style="bold")
        rows = rows_of(explanation)
        n_heads = attention.weights.shape[1]
        if len(rows) > _MOST_HEADS:
            pooling = rows[len(attention.weights) * n_heads :]
            means = attention.weights[:, :, explanation.first : explanation.last].mean(axis=(1, 2))
            rows = [(f"layer {layer}", weights) for layer, weights in enumerate(means, 1)] + pooling
        strips = [(name, shade(row, explanation)) for name, row in rows]
        if explanation.pointed:
            strips.append(("rolled out", shade(explanation.relevance, explanation)))
        strips.append(("hidden: falls", shade(explanation.occlusion)))
        name_width = max(len(name) for name, _ in strips)
        n_columns = min(attention.n_frames, options.max_width - name_width - 4)
        edges = np.linspace(0, attention.n_frames, n_columns, endpoint=False).astype(int)
        blocks = ASCII_BLOCKS if options.ascii_only else BLOCKS
        for number, (name, levels) in enumerate(strips):
            heights = np.rint(np.maximum.reduceat(levels, edges) * (len(blocks) - 1)).astype(int)
            row = Text(f"  {name:<{name_width}}  ", no_wrap=True, overflow="crop")
            style = PALETTE[1] if number >= len(strips) - 2 else PALETTE[0]
            yield row.append("".join(blocks[height] for height in heights), style)
        if attention.pooling is None:
            explained = (edges >= explanation.first) & (edges < explanation.last)
            explained[np.searchsorted(edges, explanation.first, side="right") - 1] = True
            marks = "".join("^" if here else " " for here in explained).rstrip()
            yield Text(" " * (name_width + 4) + marks, no_wrap=True, overflow="crop")
        end_s = attention.start + attention.n_frames * attention.hop
        yield Text(" " * (name_width + 4) + tick_line(attention.start, end_s, n_columns), style="dim")
        for line in describe(explanation):
            yield Text(line)
