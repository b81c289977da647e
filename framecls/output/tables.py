"""Render results for people with rich: tables, and a coloured timeline strip above them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from framecls.config import UNKNOWN
from framecls.output.images import PALETTE, QUIET_LABELS
from framecls.output.languages import LANGUAGES
from framecls.output.strip import ASCII_BLOCKS, BLOCKS, TierLine, block_levels, outline_of, tick_line, tier_lines
from framecls.results import (
    Alignment,
    AudioInfo,
    Identification,
    Segment,
    StringResult,
    TagResult,
    TieredResult,
    share_of,
)
from framecls.text import clock, length, printable

Renderable: TypeAlias = RenderableType

_PLAIN_WIDTH = 100  # columns where there is no terminal to ask
STRIP_MIN_WIDTH = 60  # columns of a terminal from which on a strip says something
_MAX_ROWS = 8  # labels that get a row each; more share a tier of text
_MAX_TIER_LINES = 8  # a tier of more lines hides the table below it
_MAX_LABEL = 14
_GOOD_FILE_WIDTH = 22  # a file's name that is longer may fold
_GAP = "  "
_HEADER_STYLE = "dim"
# Columns of `identify_table` after the file: where its name has no room, the score's bar goes first.
_CHOICES = (
    ("label", "score", "bar", "others", "length"),
    ("label", "score", "others", "length"),
    ("label", "score", "others"),
    ("label", "score"),
)

_QUIET_STYLE = "bright_black"


def tag_table(result: TagResult) -> Renderable:
    """Return a result of `tag` as something that rich can print.

    Colour, characters and the strip follow the console it is printed on: the strip is drawn on a terminal of at least
    60 columns, in ASCII where the encoding has no blocks.
    """
    return _TagTable(result)


def tiered_table(result: TieredResult) -> Renderable:
    """Return what several models found as something that rich can print: a strip each, and a table of all segments."""
    return _TieredTable(result)


def identify_table(results: Sequence[Identification]) -> Renderable:
    """Return the results of `identify` as one table that rich can print."""
    return _IdentifyTable(tuple(results))


class _WholeTable(Table):
    """A table that shows all of every cell: where columns that are kept whole have no room, they fold, too."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = -len(_GAP)
        for column in self.columns:
            cells = [console.measure(cell, options=options) for cell in (column.header, *column.cells)]
            needed += len(_GAP) + max(cell.maximum if column.no_wrap else 1 for cell in cells)
        for column in self.columns:
            column.no_wrap &= needed <= options.max_width
        yield from super().__rich_console__(console, options)


def make_table(*columns: tuple[str, Literal["left", "right", "fold"]]) -> Table:
    """Return a table without a frame, of columns that stand left or right and are kept whole, or that fold."""
    table = _WholeTable(box=None, padding=(0, len(_GAP), 0, 0), pad_edge=False, header_style=_HEADER_STYLE)
    for title, kind in columns:
        justify: Literal["left", "right"] = "right" if kind == "right" else "left"
        table.add_column(title, justify=justify, no_wrap=kind != "fold", overflow="fold")
    return table


def frame_table(result: TagResult, encoding: str) -> Table:
    """Return a row for each frame: its centre in seconds, and the probability of each label."""
    table = make_table(*((title, "right") for title in ("Time", *(printable(x, encoding) for x in result.labels))))
    for time, scores in zip(result.times.tolist(), result.scores.tolist(), strict=True):
        table.add_row(clock(time, 3), *(f"{score:.2f}" for score in scores))
    return table


def totals_table(totals: Mapping[str, float], duration_s: float, encoding: str) -> Table:
    """Return a row for each label that is heard: its seconds, and their share of the duration; the longest first."""
    table = make_table(("  Total", "left"), ("Length", "right"), ("Share", "right"))
    for label, total in sorted(totals.items(), key=lambda item: -item[1]):
        if total:
            table.add_row(Text(f"  {printable(label, encoding)}"), length(total), f"{share_of(total, duration_s):.1%}")
    return table


def make_console(stream: IO[Any]) -> Console:
    """Return a console on a stream: as wide as the terminal, or wide enough to be read in a file."""
    asked = stream.isatty() or "COLUMNS" in os.environ
    return Console(file=stream, highlight=False, width=None if asked else _PLAIN_WIDTH)


@dataclass(frozen=True)
class _TagTable:
    result: TagResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts: tuple[RenderableType, ...]
        if isinstance(self.result, Alignment):
            parts = (*self.strip(options), *self._words(self.result, options))
        elif isinstance(self.result, StringResult):
            parts = tuple(self._string(self.result, options))
        else:
            parts = (*self.strip(options), *self._segments(options))
        for part in (self._header(options), *parts):
            yield from console.render(part, options)

    def _string(self, result: StringResult, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the phones as running text."""
        if not result.segments:
            yield Text("  no phones heard", style="italic")
            return
        string = printable(result.string, options.encoding)
        for line in _pack((f"{phone} " for phone in string.split(" ")), options.max_width - 2):
            yield Text(f"  {line}", no_wrap=True, overflow="crop")

    def _header(self, options: ConsoleOptions) -> Text:
        return _header(self.result, options)

    def strip(self, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the lines of the strip, none where there is no room."""
        result = self.result
        if not options.is_terminal or options.max_width < STRIP_MIN_WIDTH:
            return
        if not outline_of(result).times.size or result.duration <= 0 or not result.labels:
            return
        if len(result.labels) <= _MAX_ROWS:
            yield from self._rows(options)
        elif not result.overlapping:
            segments = result.words if isinstance(result, Alignment) else result.segments
            lines = tier_lines(segments, result.duration, options.max_width - 4)
            if len(lines) <= _MAX_TIER_LINES:
                for line in lines:
                    yield self._tier(line, options)
                    yield Text("  " + tick_line(line.start_s, line.end_s, line.n_columns), style="dim")

    def _rows(self, options: ConsoleOptions) -> Iterator[RenderableType]:
        result = self.result
        names = [printable(label, options.encoding) for label in result.labels]
        label_width = min(max(map(cell_len, names)), _MAX_LABEL)
        n_columns = options.max_width - label_width - 6
        blocks = ASCII_BLOCKS if options.ascii_only else BLOCKS
        levels = block_levels(outline_of(result), result.duration, n_columns)
        for column, name in enumerate(names):
            row = Text("  ", no_wrap=True, overflow="crop")
            row.append(set_cell_size(name, label_width) + "  ", _style(result.labels, column))
            for level in levels[:, column].tolist():
                row.append(blocks[level], _style(result.labels, column) if level else _QUIET_STYLE)
            yield row
        yield Text(" " * (label_width + 4) + tick_line(0, result.duration, n_columns), style="dim")

    def _tier(self, line: TierLine, options: ConsoleOptions) -> Text:
        mark = "|" if options.ascii_only else "▏"
        row = Text("  ", no_wrap=True, overflow="crop")
        for cell in line.cells:
            room = cell.last - cell.first
            if cell.segment is None:
                row.append(" " * room)
                continue
            begins = cell.segment.start >= line.start_s
            name = (mark if begins else " ") + printable(cell.segment.label, options.encoding)
            text = set_cell_size(name if cell_len(name) <= room else name[0], room)
            row.append(text, _label_style(self.result, cell.segment.label))
        return row

    def _words(self, result: Alignment, options: ConsoleOptions) -> Iterator[Text]:
        """Yield a line a word: its times, its score and, where there is room, its phones."""
        rows, phones = [["Start", "End", "Word", "Score", "Phones"]], list(result.segments[::-1])
        for word in result.words:
            said = []
            while phones and phones[-1].start < word.end:
                said.append(phones.pop().label)
            text = printable(word.label, options.encoding)
            own = printable(" ".join(said), options.encoding)
            rows.append([clock(word.start), clock(word.end), text, f"{word.score:.2f}", own])
        if 2 + _natural_width(rows) > options.max_width:
            rows = [row[:4] for row in rows]
        room = max(1, options.max_width - 2 - _natural_width([row[:2] + row[3:] for row in rows]) - len(_GAP))
        folded = [[*row[:2], "\n".join(fold(row[2], room)), *row[3:]] for row in rows]
        yield from _lines([[Text(cell) for cell in row] for row in folded], {0, 1, 3})

    def _segments(self, options: ConsoleOptions) -> Iterator[RenderableType]:
        result = self.result
        if not result.segments:
            yield Text(f"  {_nothing(result, options.encoding)}", style="italic")
            return
        names = {label: printable(label, options.encoding) for label in {s.label for s in result.segments}}
        rows = [["Start", "End", "Length", "Label", "Score"]]
        for s in result.segments:
            rows.append([clock(s.start), clock(s.end), length(s.end - s.start), names[s.label], _score(result, s)])
        right = {0, 1, 2, 4}
        if 2 + _natural_width(rows) > options.max_width:  # the length follows from start and end
            rows, right = [row[:2] + row[3:] for row in rows], {0, 1, 3}
        gap = _GAP if 2 + _natural_width(rows) <= options.max_width else " "
        label = len(rows[0]) - 2
        room = options.max_width - 2 - _natural_width([r[:label] + r[label + 1 :] for r in rows], gap) - len(gap)
        folded = {name: "\n".join(fold(name, max(room, 1))) for name in {r[label] for r in rows}}
        styles = ["", *(_label_style(result, s.label) for s in result.segments)]
        cells = [[Text(c) for c in row] for row in rows]
        for row, source, style in zip(cells, rows, styles, strict=True):
            row[label] = Text(folded[source[label]], style)
        yield from _lines(cells, right, gap=gap)


@dataclass(frozen=True)
class _TieredTable:
    result: TieredResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in (_header(self.result, options), *self._strips(options), *self._segments(options)):
            yield from console.render(part, options)

    def _strips(self, options: ConsoleOptions) -> Iterator[RenderableType]:
        for tier in self.result.tiers:
            strip = list(_TagTable(tier).strip(options))
            if strip:
                yield Text(f"  {printable(tier.model, options.encoding)}", style=_HEADER_STYLE)
                yield from strip

    def _segments(self, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield a row for each segment of each model, by their starts, its label in the model's column.

        Where there is no room for a column a model, one has the models' names, and the next their labels.
        """
        tiers = self.result.tiers
        names = [printable(tier.model, options.encoding) for tier in tiers]
        found = [(s, column) for column, tier in enumerate(tiers) for s in tier.segments]
        found.sort(key=lambda pair: pair[0].start)
        labels = [
            Text(printable(s.label, options.encoding), _label_style(tiers[column], s.label)) for s, column in found
        ]
        start = [Text("Start"), *(Text(clock(s.start)) for s, _ in found)]
        end = [Text("End"), *(Text(clock(s.end)) for s, _ in found)]
        score = [Text("Score"), *(Text(_score(tiers[column], s)) for s, column in found)]
        own = [
            [Text(name), *(label if column == n else Text() for label, (_, column) in zip(labels, found, strict=True))]
            for n, name in enumerate(names)
        ]
        indent, gap = "  ", _GAP
        if sum(_width(cells) + len(_GAP) for cells in (start, end, *own, score)) > options.max_width:
            model, indent, gap = [Text("Model"), *(Text(names[column]) for _, column in found)], "", " "
            room = options.max_width - sum(_width(cells) + 1 for cells in (start, end, model, score))
            own = [model, [Text("Label"), *(Text("\n".join(fold(x.plain, max(room, 1))), x.style) for x in labels)]]
        if found:
            rows = list(zip(start, end, *own, score, strict=True))
            yield from _lines(rows, {0, 1, len(own) + 2}, indent, gap)
        for name, tier in zip(names, tiers, strict=True):
            if not tier.segments:
                yield Text(f"  {name}: {_nothing(tier, options.encoding)}", style="italic")


@dataclass(frozen=True)
class _IdentifyTable:
    results: tuple[Identification, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._table(options):
            yield from console.render(line, options)

    def _table(self, options: ConsoleOptions) -> Iterator[Text]:
        if not self.results:
            return
        languages = are_languages(self.results)
        title = "Language" if languages else "Speaker" if all(r.model == "speaker" for r in self.results) else "Label"
        channels = ["" if r.channel is None else f" channel {r.channel}" for r in self.results]
        names = [printable(r.file, options.encoding) for r in self.results]
        files = ["File", *map("".join, zip(names, channels, strict=True))]
        columns = {
            "label": [Text(title), *(_answer(r, languages, options) for r in self.results)],
            "score": [Text("Score"), *(Text(f"{r.score:.2f}" if r.score is not None else "") for r in self.results)],
            "bar": [Text(), *(_bar(r.score or 0.0, options) for r in self.results)],
            "others": [Text("Runners-up"), *(_runners_up(r, options) for r in self.results)],
            "length": [Text("Length"), *(Text(clock(r.duration, 1)) for r in self.results)],
        }
        wanted = min(max(map(cell_len, files)), max(_GOOD_FILE_WIDTH, options.max_width // 4))
        for chosen in _CHOICES:
            room = max(1, options.max_width - sum(_width(columns[name]) + len(_GAP) for name in chosen))
            if room >= wanted:
                break
        cells = [[Text("\n".join(fold(file, room))) for file in files], *(columns[name] for name in chosen)]
        right = {i for i, name in enumerate(chosen, 1) if name == "length"}
        yield from _lines([list(row) for row in zip(*cells, strict=True)], right, indent="")


def _header(result: TagResult | TieredResult, options: ConsoleOptions) -> Text:
    file = printable(result.file, options.encoding)
    name = Text("\n".join(fold(file, options.max_width)), style="bold")
    facts = [clock(result.duration, 1), *_audio_facts(result.audio)]
    facts += [f"channel {result.channel}"] if result.channel is not None else []
    model = Text(printable(result.model, options.encoding), style="dim")
    details = Text("   ".join(facts))
    gap = options.max_width - name.cell_len - details.cell_len - model.cell_len - 3
    if gap >= 3:
        return Text.assemble(name, "   ", details, " " * gap, model)
    # Too long for one line: the name gets a line of its own.
    return Text.assemble(name, "\n  ", details, "   ", model, overflow="fold")


def fold(name: str, width: int) -> list[str]:
    """Break a name into lines of at most `width` columns, behind a `/`, a space or a dash where there is one."""
    return _pack(re.findall(r"[^/\s_-]*[/\s_-]|[^/\s_-]+", name), width)


def _pack(pieces: Iterable[str], width: int) -> list[str]:
    lines = [""]
    for piece in pieces:
        if lines[-1] and cell_len(lines[-1]) + cell_len(piece.rstrip()) > width:
            lines.append("")
        while cell_len(piece.rstrip()) > width:
            head = next(k for k in range(len(piece), 0, -1) if cell_len(piece[:k]) <= width or k == 1)
            lines[-1] = piece[:head]
            lines.append("")
            piece = piece[head:]
        lines[-1] += piece
    return [line.rstrip() for line in lines if line] or [""]


def _width(cells: Iterable[Text]) -> int:
    return max(cell_len(line) for cell in cells for line in cell.plain.split("\n"))


def _natural_width(rows: Sequence[Sequence[str]], gap: str = _GAP) -> int:
    return sum(max(map(cell_len, column)) for column in zip(*rows, strict=True)) + len(gap) * (len(rows[0]) - 1)


def _lines(rows: Sequence[Sequence[Text]], right: set[int], indent: str = "  ", gap: str = _GAP) -> Iterator[Text]:
    """Lay cells out in columns under a header row, without a frame.

    rich's own Table is ten times slower, which shows with the phones of an hour, and fills lines up with blanks.

    Args:
        rows: the header first; a cell may have several lines.
        right: columns whose cells stand on the right.
    """
    widths = [_width(column) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [cell.split("\n", allow_blank=True) if "\n" in cell.plain else [cell] for cell in row]
        for k in range(max(map(len, cells))):
            line = Text(indent, style="" if number else _HEADER_STYLE, no_wrap=True, overflow="crop")
            blanks = 0  # before the next text, so that no line ends in blanks
            for column, cell in enumerate(cells):
                text = cell[k] if k < len(cell) else Text()
                spare = widths[column] - text.cell_len
                if text.plain:
                    line.append(" " * (blanks + (spare if column in right else 0)))
                    line.append_text(text)
                    blanks = (0 if column in right else spare) + len(gap)
                else:
                    blanks += spare + len(gap)
            yield line


def _answer(result: Identification, languages: bool, options: ConsoleOptions) -> Text:
    label = printable(result.label, options.encoding)
    name = LANGUAGES.get(result.label, "") if languages and options.max_width >= STRIP_MIN_WIDTH else ""
    whole = f"{label} {printable(name, options.encoding)}" if name else label
    if result.reason is not None:
        whole = f"{label}: {printable(result.reason, options.encoding)}"
    text = Text("\n".join(fold(whole, max(_MAX_LABEL, options.max_width // 3))))
    text.stylize(_QUIET_STYLE if result.label == UNKNOWN else "bold", 0, len(label) if name else None)
    return text


def are_languages(results: Sequence[Identification]) -> bool:
    """Return whether the labels are language codes: all are in the list, and the model is not the one of voices."""
    labels = {label for r in results for label in (r.label, *(c.label for c in r.top))} - {UNKNOWN}
    return bool(labels) and labels <= LANGUAGES.keys() and all(r.model != "speaker" for r in results)


def _audio_facts(audio: AudioInfo | None) -> list[str]:
    if audio is None:
        return []
    names = {1: "mono", 2: "stereo"}
    return [f"{audio.sample_rate / 1000:g} kHz {names.get(audio.channels, f'{audio.channels} channels')}"]


def _style(labels: Sequence[str], index: int) -> str:
    return _QUIET_STYLE if labels[index] in QUIET_LABELS else PALETTE[index % len(PALETTE)]


def _score(result: TagResult, segment: Segment) -> str:
    return f"{segment.score:.2f}" if segment.label in result.labels else ""


def _label_style(result: TagResult, label: str) -> str:
    return _style(result.labels, result.labels.index(label)) if label in result.labels else ""


def _nothing(result: TagResult, encoding: str) -> str:
    names = [printable(label, encoding) for label in result.labels]
    if not 1 <= len(names) <= _MAX_ROWS:
        return "nothing found"
    return f"no {', '.join(names[:-1])} or {names[-1]} found" if len(names) > 1 else f"no {names[0]} found"


def _bar(score: float, options: ConsoleOptions) -> Text:
    width = 6
    eighths = round(max(0.0, min(score, 1.0)) * width * 8)
    full, rest = divmod(eighths, 8)
    if options.ascii_only:
        return Text("#" * round(eighths / 8), PALETTE[0])
    return Text("█" * full + ("", *"▏▎▍▌▋▊▉")[rest], PALETTE[0])


def _runners_up(result: Identification, options: ConsoleOptions) -> Text:
    others = [f"{printable(c.label, options.encoding)} {c.score:.2f}" for c in result.top if c.label != result.label]
    return Text("\n".join(_pack((f"{o}, " for o in others), max(18, options.max_width // 4))).rstrip(","))
