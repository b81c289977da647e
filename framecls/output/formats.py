"""The formats of results: one class a format, which says what it can do, and one dict of all of them.

A writer serves one stream at a time: `begin`, `write` for each result, `end`. Formats with `joins` hold the results of
any number of inputs in one stream. The others hold one: a TextGrid, an npz, a label track and a list of cues have no
place for the name of a second recording, so several inputs need a folder and a file each.

Importing this is cheap, for completion and usage errors: numpy, pyarrow and rich are imported when they are needed.
"""

from __future__ import annotations

import csv
import json
import math
import mimetypes
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, ClassVar

from framecls.errors import UsageError
from framecls.results import (
    NONE,
    Alignment,
    Identification,
    Segment,
    StringResult,
    TagResult,
    TieredResult,
    add_up,
    share_of,
)
from framecls.text import SCORE_DIGITS, TIME_DIGITS, cell, encodable, field, score, seconds

if TYPE_CHECKING:
    pass

Result = TagResult | Identification | TieredResult


class Writer(ABC):
    """Writes results to a stream that is open for text (UTF-8) or, if `binary`, for bytes."""

    name: ClassVar[str]  # as -f takes it
    suffix: ClassVar[str]  # of a file that holds this format
    accepts: ClassVar[tuple[type[Result], ...]] = (TagResult, Identification, TieredResult)
    refusal: ClassVar[str] = ""  # what to say of a result of another kind
    joins: ClassVar[bool] = True  # several results may share one stream
    binary: ClassVar[bool] = False  # for a file only, never for a terminal or a pipe
    streams: ClassVar[bool] = False  # a segment can be written before the recording is over
    for_people: ClassVar[bool] = False  # drawn for a terminal, from an outline of the scores
    takes_frames: ClassVar[bool] = False  # can hold the time and the scores of every frame
    takes_totals: ClassVar[bool] = False  # can hold the time of each label
    takes_both: ClassVar[bool] = True  # at once

    def __init__(self, *, frames: bool = False, totals: bool = False) -> None:
        """Prepare a writer.

        Args:
            frames: write the time and the scores of every frame, if the format takes them.
            totals: write the time of each label, if the format takes it.
        """
        self.frames = frames and self.takes_frames
        self.totals = totals and self.takes_totals

    def begin(self, stream: IO[Any]) -> None:  # noqa: B027 (most formats have no header)
        """Write what comes before the first result."""

    def write(self, result: Result, stream: IO[Any]) -> None:
        """Write one result.

        Raises:
            UsageError: the format has no place for this kind of result.
        """
        if not isinstance(result, self.accepts):
            raise UsageError(self.refusal)
        self.write_result(result, stream)

    @abstractmethod
    def write_result(self, result: Result, stream: IO[Any]) -> None:
        """Write one result of a kind that the format accepts."""

    def end(self, stream: IO[Any]) -> None:  # noqa: B027
        """Write what comes after the last result."""


class TableWriter(Writer):
    """A table for each tagged recording, as it comes; one table of all that were identified, at the end."""

    name = "table"
    suffix = ".txt"
    for_people = True
    takes_frames = True
    takes_totals = True

    def begin(self, stream: IO[Any]) -> None:
        from framecls.output.tables import make_console

        self._identified: list[Identification] = []
        self._n_written = 0
        self._totals: Counter[str] = Counter()
        self._duration_s = 0.0
        self._console = make_console(stream)

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        from framecls.output.tables import frame_table, tag_table, tiered_table, totals_table

        if isinstance(result, Identification):
            self._identified.append(result)
            return
        if self._n_written:
            self._console.print()
        self._n_written += 1
        self._console.print(tiered_table(result) if isinstance(result, TieredResult) else tag_table(result))
        if self.totals:
            totals = add_up(result)
            self._console.print(totals_table(totals, result.duration, self._console.encoding))
            self._totals.update(totals)
            self._duration_s += result.duration
        if self.frames and isinstance(result, TagResult):
            self._console.print(frame_table(result, self._console.encoding))

    def end(self, stream: IO[Any]) -> None:
        from framecls.output.tables import identify_table, totals_table

        if self._totals and self._n_written > 1:
            self._console.print(f"\n{self._n_written} recordings")
            self._console.print(totals_table(self._totals, self._duration_s, self._console.encoding))

        if self._identified:
            self._console.print(identify_table(self._identified))


class FigureWriter(Writer):
    """One figure, as wide as a page: of tags the timelines under the sound, of answers a bar for each candidate."""

    for_people = True
    _most: ClassVar[int] = 100  # recordings that a figure has room for

    def __init__(self, *, frames: bool = False, totals: bool = False) -> None:
        from framecls import packages

        super().__init__(frames=frames, totals=totals)
        packages.require(f"-f {self.name}", "matplotlib")

    def begin(self, stream: IO[Any]) -> None:
        self._results: list[TagResult | Identification] = []
        self._sounds: list[str | None] = []  # of a recording with several tiers, above the first of them

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        if len(self._results) >= self._most:
            raise UsageError(f"a figure has room for {self._most} recordings: name a folder with -o, for a figure each")
        tiers = result.tiers if isinstance(result, TieredResult) else [result]
        self._results += [replace(tier, file=result.file) for tier in tiers]
        self._sounds += [result.file, *[None] * (len(self._results) - len(self._sounds) - 1)]

    def end(self, stream: IO[Any]) -> None:
        from framecls.output.plots import identify_figure, save, tag_figure

        tagged = [result for result in self._results if isinstance(result, TagResult)]
        identified = [result for result in self._results if isinstance(result, Identification)]
        figure = identify_figure(identified) if identified else tag_figure(tagged, self._sounds)
        save(figure, stream, self.name)


class SvgWriter(FigureWriter):
    """A figure that can be scaled."""

    name = "svg"
    suffix = ".svg"


class PngWriter(FigureWriter):
    """A figure of pixels."""

    name = "png"
    suffix = ".png"
    binary = True


def as_segments(result: Result) -> tuple[Segment, ...]:
    """Return what was heard, as segments; what holds for a recording as a whole is one segment, and so is a word.

    With several models a label has its model before it.
    """
    if isinstance(result, Alignment):
        return result.words
    if isinstance(result, TagResult):
        return tuple(s for s in result.segments if s.label != NONE or NONE in result.labels)
    if isinstance(result, TieredResult):
        found = [replace(s, label=f"{tier.model}: {s.label}") for tier in result.tiers for s in as_segments(tier)]
        return tuple(sorted(found, key=lambda segment: segment.start))
    return (Segment(0.0, result.duration, result.label, result.score or 0.0),)


def as_tiers(result: Result) -> dict[str, list[Segment]]:
    """Return the segments of a result by tiers in which none overlap: one a label, or one for all."""
    if isinstance(result, Alignment):
        return {"words": list(result.words), "phones": list(result.segments)}
    if isinstance(result, TieredResult):
        tiers: dict[str, list[Segment]] = {}
        for tier in result.tiers:
            for name, own in as_tiers(tier).items():
                tiers[f"{tier.model}: {name}" if name in tiers else name] = own
        return tiers
    segments = as_segments(result)
    if isinstance(result, TagResult) and result.overlapping:
        return {label: [s for s in segments if s.label == label] for label in result.labels}
    return {result.model: list(segments)}


def as_record(result: Result, *, frames: bool = False, totals: bool = False) -> dict[str, Any]:
    """Return the JSON object of a result. Keys, their order and their units are a contract: add, never change.

    Args:
        result: what an input gave.
        frames: add "times" (frame,) and "scores" (frame, label).
        totals: add the seconds and the share of each label.
    """
    record: dict[str, Any] = {"file": result.file, **channel_of(result)}
    faults = {"truncated": result.truncated, "warnings": list(result.warnings)}
    faults = {key: value for key, value in faults.items() if value}
    if isinstance(result, TieredResult):
        tiers = {tier.model: as_record(tier, frames=frames, totals=totals) for tier in result.tiers}
        own = {name: {key: tier[key] for key in tier if key not in _SHARED} for name, tier in tiers.items()}
        return record | {"duration": _time(result.duration), "tiers": own, **faults}
    record |= {"model": result.model, "duration": _time(result.duration)}
    if isinstance(result, TagResult):
        segments = [_segment_record(s) for s in result.segments]
        record |= {"hop": _time(result.hop), "labels": list(result.labels), "segments": segments, **faults}
        record |= {"words": [_segment_record(word) for word in result.words]} if isinstance(result, Alignment) else {}
        record |= {"string": result.string} if isinstance(result, StringResult) else {}
        if totals:
            record["totals"] = {
                label: {"seconds": _time(total), "share": _score(share_of(total, result.duration))}
                for label, total in add_up(result).items()
            }
        if frames:
            record["times"] = [_time(time) for time in result.times.tolist()]
            record["scores"] = [[_score(value) for value in row] for row in result.scores.tolist()]
        return record
    top = [{"label": c.label, "score": _score(c.score)} for c in result.top]
    record |= {"label": result.label, "score": None if result.score is None else _score(result.score), "top": top}
    return record | ({"reason": result.reason} if result.score is None else {}) | faults


def _segment_record(segment: Segment) -> dict[str, Any]:
    times = {"start": _time(segment.start), "end": _time(segment.end)}
    return {**times, "label": segment.label, "score": _score(segment.score)}


# What an object says of its recording, and not of a tier.
_SHARED = {"file", "channel", "model", "duration", "truncated", "warnings"}


def channel_of(result: Result) -> dict[str, int]:
    """Return the "channel" column of a result of a single channel, else none; a run has such results only, or none."""
    return {} if result.channel is None else {"channel": result.channel}


def _time(value: float) -> float:
    return round(float(value), TIME_DIGITS)


def _score(value: float) -> float:
    return round(float(value), SCORE_DIGITS)


# Text stays readable: escaped is only what cannot be encoded, and what some readers take for the end of a line.
_JSON_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def dump_json(record: dict[str, Any]) -> str:
    """Return a JSON object as one line that can be encoded."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return _JSON_ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class JsonWriter(Writer):
    """One array with an object for each result."""

    name = "json"
    suffix = ".json"
    takes_frames = True
    takes_totals = True

    def begin(self, stream: IO[Any]) -> None:
        self._separator = "\n"
        stream.write("[")

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        record = as_record(result, frames=self.frames, totals=self.totals)
        stream.write(self._separator + dump_json(record))
        self._separator = ",\n"

    def end(self, stream: IO[Any]) -> None:
        stream.write("]\n" if self._separator == "\n" else "\n]\n")


class JsonLinesWriter(Writer):
    """One object a line for each result."""

    name = "jsonl"
    suffix = ".jsonl"
    streams = True
    takes_frames = True
    takes_totals = True

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        stream.write(dump_json(as_record(result, frames=self.frames, totals=self.totals)) + "\n")


class _LineFeeds:
    """Ends the rows of a csv.writer in a line feed alone.

    With such a `lineterminator` Python 3.11 would not quote a carriage return inside a file's name.
    """

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream

    def write(self, row: str) -> None:
        self._stream.write(row.removesuffix("\r\n") + "\n")


class CsvWriter(Writer):
    """A table with one header.

    tag: `file,start,end,label,score`, a row for each segment; a recording without segments has no row.
    tag --frames: `file,time,LABEL,…`, a row for each frame, with a probability in each label's column.
    tag --totals: `file,label,seconds,share`, a row for each label.
    tag --align: `file,tier,start,end,label,score`, a row for each of the `words`, then for each of the `phones`.
    identify: `file,duration,label,score,label_1,score_1,label_2,score_2,…,reason`, a row for each recording. The
    numbered columns are the candidates from the likeliest down; `label` is the answer. Where that is "unknown", it has
    no score but a reason. Where a single channel was heard, its number is a column after the file. With several models
    `model` comes before the start.

    A file or label that a spreadsheet would take for a formula, such as `=1+1.wav`, has an apostrophe before it.
    """

    name = "csv"
    suffix = ".csv"
    streams = True
    takes_frames = True
    takes_totals = True
    takes_both = False
    delimiter: ClassVar[str] = ","

    def begin(self, stream: IO[Any]) -> None:
        self._has_header = False

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        rows = csv.writer(_LineFeeds(stream), delimiter=self.delimiter)
        if not self._has_header:
            rows.writerow(["file", *channel_of(result), *self._columns(result)])
            self._has_header = True
        head = [cell(result.file), *map(str, channel_of(result).values())]
        rows.writerows([*head, *row] for row in self._rows(result))

    def _columns(self, result: Result) -> list[str]:
        if isinstance(result, Identification):
            ranks = [f"{column}_{rank}" for rank in range(1, len(result.top) + 1) for column in ("label", "score")]
            return ["duration", "label", "score", *ranks, "reason"]
        if isinstance(result, TieredResult):
            return ["model", *self._columns(result.tiers[0])]
        if self.totals:
            return ["label", "seconds", "share"]
        if self.frames:
            return ["time", *map(cell, result.labels)]
        return [*(["tier"] if isinstance(result, Alignment) else []), "start", "end", "label", "score"]

    def _rows(self, result: Result) -> list[list[str]]:
        if isinstance(result, Identification):
            top = [text for c in result.top for text in (cell(c.label), score(c.score))]
            of_label = score(result.score) if result.score is not None else ""
            return [[seconds(result.duration), cell(result.label), of_label, *top, result.reason or ""]]
        if isinstance(result, TieredResult):
            return [[cell(tier.model), *row] for tier in result.tiers for row in self._rows(tier)]
        if self.totals:
            totals = add_up(result).items()
            return [[cell(label), seconds(s), score(share_of(s, result.duration))] for label, s in totals]
        if self.frames:
            frames = zip(result.times.tolist(), result.scores.tolist(), strict=True)
            return [[seconds(time), *map(score, row)] for time, row in frames]
        tiers = as_tiers(result).items() if isinstance(result, Alignment) else [(None, result.segments)]
        return [
            [*([] if tier is None else [tier]), seconds(s.start), seconds(s.end), cell(s.label), score(s.score)]
            for tier, segments in tiers
            for s in segments
        ]


class TsvWriter(CsvWriter):
    """As csv, with tabs between the columns."""

    name = "tsv"
    suffix = ".tsv"
    delimiter = "\t"


class TextGridWriter(Writer):
    """Praat's long text format.

    Labels that may overlap get one interval tier each; else there is one tier, named after the model. Empty intervals
    fill the rest, so each tier tiles the recording.
    """

    name = "textgrid"
    suffix = ".TextGrid"
    joins = False

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        tiers = as_tiers(result)
        end = seconds(result.duration)
        head = [
            'File type = "ooTextFile"',
            'Object class = "TextGrid"',
            "",
            "xmin = 0",
            f"xmax = {end}",
            "tiers? <exists>",
        ]
        lines = [*head, f"size = {len(tiers)}", "item []:"]
        for number, (name, own) in enumerate(tiers.items(), 1):
            lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
            lines += ["        xmin = 0", f"        xmax = {end}"]
            intervals = tile(own, result.duration)
            lines.append(f"        intervals: size = {len(intervals)}")
            for index, (start_s, end_s, text) in enumerate(intervals, 1):
                lines += [f"        intervals [{index}]:", f"            xmin = {seconds(start_s)}"]
                lines += [f"            xmax = {seconds(end_s)}", f"            text = {_quoted(text)}"]
        stream.write("\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    return '"' + field(text).replace('"', '""') + '"'


def tile(segments: Sequence[Segment], duration_s: float) -> list[tuple[float, float, str]]:
    """Return (start, end, text) intervals that cover `[0, duration_s)`; between the segments the text is empty."""
    duration_s = _time(duration_s)
    intervals: list[tuple[float, float, str]] = []
    cursor = 0.0
    for segment in segments:
        start, end = max(_time(segment.start), cursor), min(_time(segment.end), duration_s)
        if end <= start:
            continue
        if start > cursor:
            intervals.append((cursor, start, ""))
        intervals.append((start, end, segment.label))
        cursor = end
    if cursor < duration_s or not intervals:
        intervals.append((cursor, duration_s, ""))
    return intervals


class RttmWriter(Writer):
    """NIST Rich Transcription Time Marked: a SPEAKER line for each segment, its label in the place of the speaker.

    The file id is the file's name without folder and suffix, which is what scoring tools look for. A second file of
    that name in one stream takes its whole path instead, so that no two recordings are mixed. White space in ids and
    labels becomes `_`.
    """

    name = "rttm"
    suffix = ".rttm"
    streams = True

    def begin(self, stream: IO[Any]) -> None:
        self._files: dict[str, str] = {}  # id -> file

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        file_id = self._file_id(result.file)
        for s in as_segments(result):
            length = seconds(_time(s.end) - _time(s.start))
            name = _word(s.label)
            name = name.replace(":_", ":", 1) if isinstance(result, TieredResult) else name
            sure = "<NA>" if isinstance(result, Identification) and result.score is None else score(s.score)
            place = f"{result.channel or 1} {seconds(s.start)} {length}"
            stream.write(f"SPEAKER {file_id} {place} <NA> <NA> {name} {sure} <NA>\n")

    def _file_id(self, file: str) -> str:
        path = _word(file)
        candidates = [_word(PurePath(file).stem), path]
        file_id = next((i for i in candidates if self._files.get(i, file) == file), None)
        number = 2
        while file_id is None:
            if self._files.get(f"{path}_{number}", file) == file:
                file_id = f"{path}_{number}"
            number += 1
        self._files[file_id] = file
        return file_id


def _word(text: str) -> str:
    return field(text).replace(" ", "_") or "_"


class AudacityWriter(Writer):
    """A label track of Audacity: start, end and label between tabs."""

    name = "audacity"
    suffix = ".txt"
    joins = False
    streams = True

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        for s in as_segments(result):
            stream.write(f"{seconds(s.start)}\t{seconds(s.end)}\t{field(s.label)}\n")


class RavenWriter(Writer):
    """A selection table of Raven; a selection has the band that the model hears, as far as the recording has it."""

    name = "raven"
    suffix = ".selections.txt"
    joins = False
    streams = True

    def begin(self, stream: IO[Any]) -> None:
        self._n_written = 0
        columns = ("Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Annotation", "Score")
        stream.write("\t".join(("Selection", "View", "Channel", *columns)) + "\n")

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        low_hz, high_hz = getattr(result, "band_hz", None) or (0.0, math.inf)
        high_hz = min(high_hz, result.audio.sample_rate / 2 if result.audio is not None else _DEFAULT_TOP_HZ)
        for s in as_segments(result):
            self._n_written += 1
            place = f"{self._n_written}\tSpectrogram 1\t{result.channel or 1}"
            span = f"{seconds(s.start)}\t{seconds(s.end)}\t{low_hz:g}\t{high_hz:g}"
            stream.write(f"{place}\t{span}\t{field(s.label)}\t{score(s.score)}\n")


_DEFAULT_TOP_HZ = 8000.0


class VttWriter(Writer):
    """WebVTT: a cue for each segment."""

    name = "vtt"
    suffix = ".vtt"
    joins = False

    def begin(self, stream: IO[Any]) -> None:
        stream.write("WEBVTT\n")

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        for s in as_segments(result):
            start_ms, end_ms = _span_ms(s)
            text = field(s.label).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            stream.write(f"\n{_cue_time(start_ms)} --> {_cue_time(end_ms)}\n{text}\n")


class SrtWriter(Writer):
    """SubRip: a numbered subtitle for each segment."""

    name = "srt"
    suffix = ".srt"
    joins = False

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        for number, s in enumerate(as_segments(result), 1):
            start, end = (_cue_time(time_ms, ",") for time_ms in _span_ms(s))
            stream.write(f"{number}\n{start} --> {end}\n{field(s.label)}\n\n")


def _span_ms(segment: Segment) -> tuple[int, int]:
    """Return where a segment starts and ends in milliseconds; it ends after it starts."""
    start_ms = round(segment.start * 1000)
    return start_ms, max(round(segment.end * 1000), start_ms + 1)


def _cue_time(time_ms: int, point: str = ".") -> str:
    minutes, ms = divmod(time_ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


class ElanWriter(Writer):
    """An annotation file of ELAN, in the tiers of a TextGrid; ELAN's times are whole milliseconds."""

    name = "elan"
    suffix = ".eaf"
    joins = False

    def __init__(self, *, frames: bool = False, totals: bool = False) -> None:
        from framecls import packages

        super().__init__(frames=frames, totals=totals)
        self._elan: Any = packages.load("elan", "pympi", "pympi-ling").Elan

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        document = self._elan.Eaf(author="framecls")
        document.adocument["DATE"] = _NO_DATE
        document.remove_tier("default")
        if result.file != "-":
            kind = mimetypes.guess_type(result.file)[0] or "unknown"
            document.add_linked_file(Path(result.file).absolute().as_uri(), mimetype=kind)
        for name, segments in as_tiers(result).items():
            document.add_tier(field(name))
            for segment in segments:
                document.add_annotation(field(name), *_span_ms(segment), field(segment.label))
        stream.write('<?xml version="1.0" encoding="UTF-8"?>\n' + self._elan.to_string(document) + "\n")


# ELAN wants one; equal results are equal files.
_NO_DATE = "1970-01-01T00:00:00+00:00"


class NpzWriter(Writer):
    """NumPy arrays: `times` (frame,) seconds at frame centres, `scores` (frame, label), `labels` (label,).

    With several models each has its own, such as `sound.times`.
    """

    name = "npz"
    suffix = ".npz"
    binary = True
    joins = False
    accepts = (TagResult, TieredResult)
    refusal = "npz holds the scores of frames, which framecls identify does not give: choose another"
    takes_frames = True

    def __init__(self, *, frames: bool = True, totals: bool = False) -> None:
        super().__init__(frames=True)

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        import numpy as np

        tiers = {f"{tier.model}.": tier for tier in result.tiers} if isinstance(result, TieredResult) else {"": result}
        arrays: dict[str, Any] = {}
        for prefix, tier in tiers.items():
            assert isinstance(tier, TagResult)
            arrays |= {f"{prefix}times": tier.times, f"{prefix}scores": tier.scores}
            arrays[f"{prefix}labels"] = np.array(tier.labels, np.str_)
        np.savez_compressed(stream, **arrays)


class TextWriter(Writer):
    """A line a recording: its name, a tab, and the phones that were heard, with spaces between."""

    name = "text"
    suffix = ".txt"
    accepts = (StringResult,)
    refusal = "text holds strings of phones: add --string to framecls tag, or choose another"

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        assert isinstance(result, StringResult)
        stream.write(f"{field(result.file)}\t{field(result.string)}\n")


def _encodable_record(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encodable_record(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_encodable_record(v) for v in value]
    return encodable(value) if isinstance(value, str) else value


class ParquetWriter(Writer):
    """An Apache Parquet table: a row for each segment, or for each recording with its candidates as a list."""

    name = "parquet"
    suffix = ".parquet"
    binary = True
    _rows_a_group: ClassVar[int] = 50_000

    def __init__(self, *, frames: bool = False, totals: bool = False) -> None:
        from framecls import packages

        super().__init__(frames=frames)
        self._arrow: Any = packages.load("parquet", "pyarrow")
        self._parquet: Any = packages.load("parquet", "pyarrow.parquet")

    def begin(self, stream: IO[Any]) -> None:
        self._rows: list[dict[str, Any]] = []
        self._schema: Any = None
        self._file: Any = None

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        for tier in result.tiers if isinstance(result, TieredResult) else [result]:
            self._write(replace(tier, file=result.file), stream)

    def _write(self, result: TagResult | Identification, stream: IO[Any]) -> None:
        if self._schema is None:
            self._schema = self._tag_schema() if isinstance(result, TagResult) else self._identify_schema()
            if isinstance(result, Alignment):
                self._schema = self._schema.insert(1, self._arrow.field("tier", self._arrow.string()))
            if result.channel is not None:
                self._schema = self._schema.insert(1, self._arrow.field("channel", self._arrow.int64()))
        record = _encodable_record(as_record(result))
        if isinstance(result, TagResult):
            source = {"file": record["file"], **channel_of(result), "model": record["model"]}
            if isinstance(result, Alignment):
                self._rows += [{**source, "tier": "words"} | word for word in record["words"]]
                source["tier"] = "phones"
            self._rows += [source | segment for segment in record["segments"]]
        else:
            self._rows.append(record)
        if len(self._rows) >= self._rows_a_group:
            self._flush(stream)

    def end(self, stream: IO[Any]) -> None:
        self._flush(stream)
        self._file.close()

    def _flush(self, stream: IO[Any]) -> None:
        if self._file is None:
            self._schema = self._schema if self._schema is not None else self._tag_schema()
            self._file = self._parquet.ParquetWriter(stream, self._schema)
        self._file.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _tag_schema(self) -> Any:
        text, number = self._arrow.string(), self._arrow.float64()
        return self._arrow.schema(
            [("file", text), ("model", text), ("start", number), ("end", number), ("label", text), ("score", number)]
        )

    def _identify_schema(self) -> Any:
        text, number = self._arrow.string(), self._arrow.float64()
        top = self._arrow.list_(self._arrow.struct([("label", text), ("score", number)]))
        head = [("file", text), ("model", text), ("duration", number), ("label", text), ("score", number)]
        return self._arrow.schema([*head, ("top", top), ("reason", text)])


WRITERS: dict[str, type[Writer]] = {
    kind.name: kind
    for kind in (
        TableWriter,
        SvgWriter,
        PngWriter,
        JsonWriter,
        JsonLinesWriter,
        CsvWriter,
        TsvWriter,
        TextWriter,
        TextGridWriter,
        RttmWriter,
        AudacityWriter,
        RavenWriter,
        VttWriter,
        SrtWriter,
        ElanWriter,
        NpzWriter,
        ParquetWriter,
    )
}


def make_writer(format: str, *, frames: bool = False, totals: bool = False) -> Writer:
    """Return a new writer of a format.

    Args:
        format: a key of `WRITERS`.
        frames, totals: as a `Writer` takes them.

    Raises:
        PackageError: the format needs a package that is not installed, or does not load.
    """
    return WRITERS[format](frames=frames, totals=totals)
