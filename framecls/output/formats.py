"""Results for other programs: one class a format, one dict that picks.

A writer serves one stream at a time: `begin`, `write` for each result, `end`. Formats with `joins` hold the results of
any number of inputs in one stream. The others hold one: a TextGrid, an npz, a label track and a list of cues have no
place for the name of a second recording, so several inputs need a folder and a file each.
"""

from __future__ import annotations

import csv
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import PurePath
from typing import IO, Any, ClassVar

import numpy as np

from framecls import packages
from framecls.errors import UsageError
from framecls.output.files import atomic_write, mirrored_path
from framecls.output.text import SCORE_DIGITS, TIME_DIGITS, cell, encodable, one_line, score, seconds
from framecls.results import Identification, Segment, StringResult, TagResult

__all__ = ["WRITERS", "Writer", "as_record", "atomic_write", "make_writer", "mirrored_path"]

Result = TagResult | Identification


class Writer(ABC):
    """Writes results to a stream that is open for text (UTF-8) or, if `binary`, for bytes."""

    suffix: ClassVar[str]  # of a file that holds this format
    binary: ClassVar[bool] = False  # for a file only, never for a terminal or a pipe
    joins: ClassVar[bool] = True  # several results may share one stream
    accepts: ClassVar[tuple[type[Result], ...]] = (TagResult, Identification)

    @property
    def refusal(self) -> str:
        """What is said of a result that the format has no place for."""
        return f"{self.suffix[1:]} holds the scores of frames, which identify does not give; use another format"

    def begin(self, stream: IO[Any]) -> None:  # noqa: B027 (most formats have nothing to say here)
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


def make_writer(format: str) -> Writer:
    """Return the writer of a format.

    Raises:
        UsageError: there is no such format.
        PackageError: the format needs a package that is not installed, or does not load.
    """
    if format not in WRITERS:
        raise UsageError(f"there is no format {format!r}; choose one of table, {', '.join(WRITERS)}")
    return WRITERS[format]()


def as_segments(result: Result) -> tuple[Segment, ...]:
    """Return the segments of a result; what holds for a recording as a whole is one segment."""
    if isinstance(result, TagResult):
        return result.segments
    return (Segment(0.0, result.duration, result.label, result.score or 0.0),)


def as_record(result: Result) -> dict[str, Any]:
    """Return the JSON object of a result. Keys, their order and their units are a contract: add, never change."""
    record: dict[str, Any] = {"file": result.file, **channel_of(result)}
    record |= {"model": result.model, "duration": _time(result.duration)}
    remarks = {"truncated": result.truncated, "warnings": list(result.warnings)}
    remarks = {key: value for key, value in remarks.items() if value}
    if isinstance(result, TagResult):
        segments = [
            {"start": _time(s.start), "end": _time(s.end), "label": s.label, "score": _score(s.score)}
            for s in result.segments
        ]
        record |= {"hop": _time(result.hop), "labels": list(result.labels), "segments": segments, **remarks}
        return record | {"string": result.string} if isinstance(result, StringResult) else record
    top = [{"label": c.label, "score": _score(c.score)} for c in result.top]
    record |= {"label": result.label, "score": None if result.score is None else _score(result.score), "top": top}
    return record | ({"reason": result.reason} if result.score is None else {}) | remarks


def channel_of(result: Result) -> dict[str, int]:
    """Return the column of the channel, of a result that is of one alone; all results of a run are, or none is."""
    return {} if result.channel is None else {"channel": result.channel}


def _time(value: float) -> float:
    return round(float(value), TIME_DIGITS)


def _score(value: float) -> float:
    return round(float(value), SCORE_DIGITS)


# Text stays readable; only what cannot be encoded or what some readers take for the end of a line is escaped.
_JSON_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _dump(result: Result) -> str:
    return escape_json(json.dumps(as_record(result), ensure_ascii=False, allow_nan=False))


def escape_json(text: str) -> str:
    """Return JSON that was written without ASCII escapes, as one line that can be encoded."""
    return _JSON_ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class JsonWriter(Writer):
    """One array with an object for each result."""

    suffix = ".json"

    def begin(self, stream: IO[Any]) -> None:
        self._separator = "\n"
        stream.write("[")

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        stream.write(self._separator + _dump(result))
        self._separator = ",\n"

    def end(self, stream: IO[Any]) -> None:
        stream.write("]\n" if self._separator == "\n" else "\n]\n")


class JsonLinesWriter(Writer):
    """One object a line for each result."""

    suffix = ".jsonl"

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        stream.write(_dump(result) + "\n")


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
    identify: `file,duration,label,score,label_1,score_1,label_2,score_2,…,reason`, a row for each recording. The
    numbered columns are the candidates from the likeliest down; `label` is the answer. Where that is "unknown", it has
    no score but a reason. Where one channel alone was heard, its number is a column after the file.

    A file or label that a spreadsheet would take for a formula, such as `=1+1.wav`, has an apostrophe before it.
    """

    suffix = ".csv"
    delimiter: ClassVar[str] = ","

    def begin(self, stream: IO[Any]) -> None:
        self._has_header = False

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        rows = csv.writer(_LineFeeds(stream), delimiter=self.delimiter)
        if not self._has_header:
            rows.writerow(self._header(result))
            self._has_header = True
        rows.writerows(self._rows(result))

    def _header(self, result: Result) -> list[str]:
        if isinstance(result, TagResult):
            return ["file", *channel_of(result), "start", "end", "label", "score"]
        ranks = [f"{column}_{rank}" for rank in range(1, len(result.top) + 1) for column in ("label", "score")]
        return ["file", *channel_of(result), "duration", "label", "score", *ranks, "reason"]

    def _rows(self, result: Result) -> list[list[str]]:
        head = [cell(result.file), *map(str, channel_of(result).values())]
        if isinstance(result, TagResult):
            return [[*head, seconds(s.start), seconds(s.end), cell(s.label), score(s.score)] for s in result.segments]
        top = [text for c in result.top for text in (cell(c.label), score(c.score))]
        of_label = score(result.score) if result.score is not None else ""
        return [[*head, seconds(result.duration), cell(result.label), of_label, *top, result.reason or ""]]


class TsvWriter(CsvWriter):
    """As csv, with tabs between the columns."""

    suffix = ".tsv"
    delimiter = "\t"


class TextGridWriter(Writer):
    """Praat's long text format.

    Labels that may overlap get one interval tier each; else there is one tier, named after the model. Empty intervals
    fill the rest, so each tier tiles the recording.
    """

    suffix = ".TextGrid"
    joins = False

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        segments = as_segments(result)
        if isinstance(result, TagResult) and result.overlapping:
            tiers = {label: [s for s in segments if s.label == label] for label in result.labels}
        else:
            tiers = {result.model: list(segments)}
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
    return '"' + one_line(text).replace('"', '""') + '"'


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

    suffix = ".rttm"

    def begin(self, stream: IO[Any]) -> None:
        self._files: dict[str, str] = {}  # id -> file

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        file_id = self._file_id(result.file)
        for s in as_segments(result):
            length = seconds(_time(s.end) - _time(s.start))
            name = _word(s.label)
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
    return one_line(text).replace(" ", "_") or "_"


class AudacityWriter(Writer):
    """A label track of Audacity: start, end and label between tabs."""

    suffix = ".txt"
    joins = False

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        for s in as_segments(result):
            stream.write(f"{seconds(s.start)}\t{seconds(s.end)}\t{one_line(s.label)}\n")


class VttWriter(Writer):
    """WebVTT: a cue for each segment."""

    suffix = ".vtt"
    joins = False

    def begin(self, stream: IO[Any]) -> None:
        stream.write("WEBVTT\n")

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        for s in as_segments(result):
            start_ms = round(s.start * 1000)
            end_ms = max(round(s.end * 1000), start_ms + 1)  # a cue must end after it starts
            text = one_line(s.label).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            stream.write(f"\n{_cue_time(start_ms)} --> {_cue_time(end_ms)}\n{text}\n")


def _cue_time(time_ms: int) -> str:
    minutes, ms = divmod(time_ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}.{ms % 1000:03d}"


class NpzWriter(Writer):
    """NumPy arrays: `times` (frame,) seconds at frame centres, `scores` (frame, label), `labels` (label,)."""

    suffix = ".npz"
    binary = True
    joins = False
    accepts = (TagResult,)

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        assert isinstance(result, TagResult)
        np.savez_compressed(stream, times=result.times, scores=result.scores, labels=np.array(result.labels, np.str_))


class TextWriter(Writer):
    """A line a recording: its name, a tab, and the phones that were heard, with spaces between."""

    suffix = ".txt"
    accepts = (StringResult,)

    @property
    def refusal(self) -> str:
        return "text holds the phones of a recording, which only tag --string gives; use another format"

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        assert isinstance(result, StringResult)
        stream.write(f"{one_line(result.file)}\t{one_line(result.string)}\n")


def _encodable_record(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encodable_record(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_encodable_record(v) for v in value]
    return encodable(value) if isinstance(value, str) else value


class ParquetWriter(Writer):
    """An Apache Parquet table: a row for each segment, or for each recording with its candidates as a list."""

    suffix = ".parquet"
    binary = True
    _rows_a_group: ClassVar[int] = 50_000

    def __init__(self) -> None:
        self._arrow: Any = packages.load("parquet", "pyarrow")
        self._parquet: Any = packages.load("parquet", "pyarrow.parquet")

    def begin(self, stream: IO[Any]) -> None:
        self._rows: list[dict[str, Any]] = []
        self._schema: Any = None
        self._file: Any = None

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        if self._schema is None:
            self._schema = self._tag_schema() if isinstance(result, TagResult) else self._identify_schema()
            if result.channel is not None:
                self._schema = self._schema.insert(1, self._arrow.field("channel", self._arrow.int64()))
        record = _encodable_record(as_record(result))
        if isinstance(result, TagResult):
            source = {"file": record["file"], **channel_of(result), "model": record["model"]}
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
    "text": TextWriter,
    "json": JsonWriter,
    "jsonl": JsonLinesWriter,
    "csv": CsvWriter,
    "tsv": TsvWriter,
    "textgrid": TextGridWriter,
    "rttm": RttmWriter,
    "audacity": AudacityWriter,
    "vtt": VttWriter,
    "npz": NpzWriter,
    "parquet": ParquetWriter,
}
