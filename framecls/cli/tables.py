"""Results as tables on a stream, with the interface of a writer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn

import rich.console
from rich.console import Group
from rich.table import Table
from rich.text import Text

from framecls.cli.console import escape
from framecls.output.tables import export_svg, identify_table, make_recorder, tag_table
from framecls.output.text import clock, length, printable
from framecls.results import Identification, TagResult

if TYPE_CHECKING:
    from framecls.training.ladder import Ladder

_WIDEST_CONFUSION = 12  # labels of a matrix that fits a terminal
_PLAIN_WIDTH = 100  # columns where there is no terminal to ask


class TableWriter:
    """A table for each recording that was tagged, as it comes; one table of all that were identified, at the end."""

    def __init__(self, frames: bool = False, times: bool = False) -> None:
        self._frames = frames
        self._times = times
        self._identified: list[Identification] = []
        self._n_written = 0

    def begin(self, stream: IO[Any]) -> None:
        """Nothing comes before the first table."""

    def write(self, result: TagResult | Identification, stream: IO[Any]) -> None:
        """Print a tagged recording, keep an identified one for `end`."""
        if isinstance(result, Identification):
            self._identified.append(result)
            return
        console = self._console(stream)
        if self._n_written:
            console.print()
        self._n_written += 1
        console.print(tag_table(result, times=self._times))
        if self._frames:
            console.print(frame_table(result, console.encoding))

    def end(self, stream: IO[Any]) -> None:
        """Print the identified recordings."""
        if self._identified:
            self._console(stream).print(identify_table(self._identified))

    def _console(self, stream: IO[Any]) -> rich.console.Console:
        return make_console(stream)


class SvgWriter(TableWriter):
    """The same tables as one picture of a terminal."""

    def __init__(self, frames: bool = False, times: bool = False) -> None:
        super().__init__(frames, times)
        self._recorder = make_recorder()

    def end(self, stream: IO[Any]) -> None:
        """Write the picture."""
        super().end(stream)
        stream.write(export_svg(self._recorder))

    def _console(self, stream: IO[Any]) -> rich.console.Console:
        return self._recorder


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
    if value is None:
        return Text("–")
    return Text(f"{value:.4f}" if isinstance(value, float) else escape(str(value)))


def summarise_confusion(confusion: dict[str, dict[str, int]]) -> Any:
    """Return a confusion matrix as it is, or, where it is too wide to read, what is most often taken for what."""
    if len(confusion) <= _WIDEST_CONFUSION:
        return confusion
    pairs = [
        (count, true, said) for true, row in confusion.items() for said, count in row.items() if count and true != said
    ]
    most = sorted(pairs, key=lambda pair: -pair[0])[:_WIDEST_CONFUSION]
    return {f"{true} as {said}": count for count, true, said in most}


def survey_table(figures: dict[str, Any]) -> Table:
    """Return what a manifest holds, lengths of time as people write them."""

    def shown(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shown(name, inner) for name, inner in value.items()}
        if isinstance(value, list):
            return "\n".join(map(str, value))
        return length(value) if key.endswith("seconds") else value

    return figure_table(shown("", figures))


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
