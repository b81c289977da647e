"""Results as tables on a stream, with the interface of a writer."""

from __future__ import annotations

import os
from typing import IO, Any, NoReturn

import rich.console
from rich.table import Table
from rich.text import Text

from framecls.cli.console import escape
from framecls.output.tables import identify_table, tag_table
from framecls.output.text import clock, printable
from framecls.results import Identification, TagResult

_PLAIN_WIDTH = 100  # columns where there is no terminal to ask


class TableWriter:
    """A table for each recording that was tagged, as it comes; one table of all that were identified, at the end."""

    def __init__(self, frames: bool = False) -> None:
        self._frames = frames
        self._identified: list[Identification] = []
        self._n_written = 0

    def begin(self, stream: IO[Any]) -> None:
        """Nothing comes before the first table."""

    def write(self, result: TagResult | Identification, stream: IO[Any]) -> None:
        """Print a tagged recording, keep an identified one for `end`."""
        if isinstance(result, Identification):
            self._identified.append(result)
            return
        console = make_console(stream)
        if self._n_written:
            console.print()
        self._n_written += 1
        console.print(tag_table(result))
        if self._frames:
            console.print(frame_table(result, console.encoding))

    def end(self, stream: IO[Any]) -> None:
        """Print the identified recordings."""
        if self._identified:
            make_console(stream).print(identify_table(self._identified))


class Console(rich.console.Console):
    """A rich console that leaves a reader who went away to the command line's own handling."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise what the write raised; rich itself would end the process with status 1."""
        raise BrokenPipeError


def make_console(stream: IO[Any]) -> Console:
    """Return a console on a stream: as wide as the terminal, or wide enough to be read in a file."""
    asked = stream.isatty() or "COLUMNS" in os.environ
    return Console(file=stream, highlight=False, width=None if asked else _PLAIN_WIDTH)


def frame_table(result: TagResult, encoding: str) -> Table:
    """Return a row a frame: the middle of it in time, and each label's probability."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Time", justify="right", no_wrap=True)
    for label in result.labels:
        table.add_column(printable(label, encoding), justify="right", no_wrap=True)
    for time, scores in zip(result.times.tolist(), result.scores.tolist(), strict=True):
        table.add_row(clock(time, 3), *(f"{score:.2f}" for score in scores))
    return table


def figure_table(figures: dict[str, Any]) -> Table:
    """Return figures by name; a dict of rows with the same keys becomes a table with a column a key."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for key, value in figures.items():
        table.add_row(Text(escape(key), style="dim"), show_figure(value))
    return table


def show_figure(value: Any) -> Text | Table:
    """Return one figure, or a table of them."""
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        columns = list(dict.fromkeys(key for row in value.values() for key in row))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("")
        for column in columns:
            table.add_column(escape(column), justify="right", no_wrap=True)
        for name, row in value.items():
            table.add_row(Text(escape(name)), *(show_figure(row.get(column, "")) for column in columns))
        return table
    if isinstance(value, dict):
        return figure_table(value)
    return Text(f"{value:.4f}" if isinstance(value, float) else escape(str(value)))
