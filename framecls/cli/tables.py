"""Figures of models and data as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rich.console
from rich.cells import cell_len
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from framecls.output.text import clock, escape, length

if TYPE_CHECKING:
    from framecls.training.ladder import Ladder

_WIDEST_CONFUSION = 12  # labels of a matrix that fits a terminal
_GAP = 2  # columns between two of a table
_NARROWEST_NAME = 16  # columns of a name that is broken


class FigureTable:
    """Figures by name; a dict of rows with the same keys is a table, beside its name where it fits and below if not."""

    def __init__(self, figures: dict[str, Any]) -> None:
        self._figures = [
            (Text(escape(key), style="dim"), show_figure(value))
            for key, value in figures.items()
            if not _is_nameless(value)
        ]
        self._key_width = max((cell_len(key.plain) for key, _ in self._figures), default=0)

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        left = options.max_width - self._key_width - _GAP
        grid = self._make_grid()
        for key, value in self._figures:
            if isinstance(value, Text) or Measurement.get(console, options, value).minimum <= left:
                grid.add_row(key, value)
                continue
            yield from (grid, key, Padding(value, (0, 0, 0, _GAP)))
            grid = self._make_grid()
        yield grid

    def __rich_measure__(self, console: rich.console.Console, options: ConsoleOptions) -> Measurement:
        sizes = [Measurement.get(console, options, value) for _, value in self._figures]
        left = self._key_width + _GAP
        least, most = max((s.minimum for s in sizes), default=0), max((s.maximum for s in sizes), default=0)
        return Measurement(left + least, left + most)

    def _make_grid(self) -> Table:
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        grid.add_column(min_width=self._key_width)
        grid.add_column(overflow="fold")
        return grid


class RowTable:
    """Rows by name with the same columns: as many columns beside each other as the width has room for, then the next.

    No name and no figure is cut; names may break.
    """

    def __init__(self, rows: dict[str, dict[str, Any]]) -> None:
        self._names = [Text(escape(name) or "none named", overflow="fold") for name in rows]
        columns = dict.fromkeys(key for row in rows.values() for key in row)
        self._columns: list[_Column] = []
        for column in columns:
            cells = [show_figure(row.get(column, "")) for row in rows.values()]
            self._columns.append(_Column(escape(column), cells))
        self._name_width = max(cell_len(name.plain) for name in self._names)

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        for broken in (False, True):  # no title is broken for nothing
            waiting = [(column, column.width(console, options, broken=broken)) for column in self._columns]
            spare = options.max_width - _GAP - sum(width + _GAP for _, width in waiting)
            if spare >= self._name_width:
                break
        wanted = spare if spare >= _NARROWEST_NAME else max(_NARROWEST_NAME, options.max_width // 3)
        name_width = min(self._name_width, wanted)
        while waiting:
            table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim")
            table.add_column("", width=name_width)
            left, shown = options.max_width - name_width - _GAP, list[_Column]()
            while waiting and (not shown or waiting[0][1] + _GAP <= left):
                column, width = waiting.pop(0)
                left -= width + _GAP
                shown.append(column)
                table.add_column(column.break_title(width), justify="right", min_width=width)
            for index, name in enumerate(self._names):
                table.add_row(name, *(column.cells[index] for column in shown))
            yield table

    def __rich_measure__(self, console: rich.console.Console, options: ConsoleOptions) -> Measurement:
        least, most = (
            self._name_width + _GAP + sum(c.width(console, options, broken=broken) + _GAP for c in self._columns)
            for broken in (True, False)
        )
        return Measurement(least, most)


@dataclass(frozen=True)
class _Column:
    title: str
    cells: Sequence[RenderableType]

    def width(self, console: rich.console.Console, options: ConsoleOptions, *, broken: bool = True) -> int:
        """Return the columns of the terminal that it takes: its title may be broken after a _, its cells may not."""
        widths = [Measurement.get(console, options, cell).maximum for cell in self.cells]
        return max([*widths, *(cell_len(word) for word in (self._words() if broken else [self.title]))])

    def break_title(self, width: int) -> str:
        """Return the title in lines of at most `width`."""
        lines = [""]
        for word in self._words():
            if lines[-1] and cell_len(lines[-1] + word) > width:
                lines.append("")
            lines[-1] += word
        return "\n".join(lines)

    def _words(self) -> list[str]:
        *first, last = self.title.split("_")
        return [*(f"{word}_" for word in first), last]


def _is_nameless(value: Any) -> bool:
    """Whether this is a table by name where nothing has one: what it says is said of all."""
    return isinstance(value, dict) and set(value) == {""}


def show_figure(value: Any) -> RenderableType:
    """Return one figure, or a table of them."""
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        return RowTable(value)
    if isinstance(value, dict):
        return FigureTable(value)
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


def survey_table(figures: dict[str, Any]) -> FigureTable:
    """Return what a manifest holds, lengths of time as people write them."""

    def shown(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shown(name, inner) for name, inner in value.items()}
        return length(value) if key.endswith("seconds") else value

    return FigureTable(shown("", figures))


def ladder_table(ladder: Ladder) -> Group:
    """Return a row a rung: its dev figure, size and speed; then, where the dev set has sources, a row a source."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("Rung", no_wrap=True)
    for column in (ladder.figure[:1].upper() + ladder.figure[1:], "Parameters", "Epoch", "Frames/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for rung in ladder.rungs:
        name = rung.name if rung.encoder.kind != "attention" else f"attention/{rung.name}"
        speed = length(rung.epoch_s), f"{rung.frames_per_s:,.0f}"
        table.add_row(Text(name), Text(f"{rung.score:.3f}", style="bold"), f"{rung.parameters:,}", *speed)
    note = Text(
        f"{ladder.steps} steps of the same batches, seed {ladder.seed}, {ladder.device}; "
        f"an epoch is as many as read {clock(ladder.train_s, 0)}, the length of the training set.",
        style="dim",
    )
    sources = list(dict.fromkeys(source for rung in ladder.rungs for source in rung.by_source))
    if not sources:
        return Group(table, Text(), note)
    return Group(table, Text(), _source_table(ladder, sources), Text(), note)


def _source_table(ladder: Ladder, sources: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("Source", overflow="fold")
    for rung in ladder.rungs:
        table.add_column(rung.name, justify="right", no_wrap=True)
    for source in sources:
        table.add_row(Text(escape(source)), *(f"{rung.by_source[source]:.3f}" for rung in ladder.rungs))
    return table
