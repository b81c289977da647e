"""Writers that give every frame's probabilities too, for the formats that have a place for them."""

from __future__ import annotations

import io
import json
from typing import IO, Any

from framecls.errors import UsageError
from framecls.output.formats import (
    CsvWriter,
    JsonLinesWriter,
    JsonWriter,
    NpzWriter,
    Result,
    TsvWriter,
    Writer,
    channel_of,
)
from framecls.output.text import SCORE_DIGITS, TIME_DIGITS, cell, score, seconds
from framecls.results import TagResult


def make_frame_writer(format: str) -> Writer:
    """Return the writer that gives every frame in a format.

    Raises:
        UsageError: the format has no place for frames.
    """
    if format not in FRAME_WRITERS:
        raise UsageError(f"the format {format!r} has no place for frames; choose one of {', '.join(FRAME_WRITERS)}")
    return FRAME_WRITERS[format]()


def _append_frames(record: str, result: Result) -> str:
    """Add "times" (frame,) and "scores" (frame, label) to a JSON object that is text; its other keys stay the same."""
    assert isinstance(result, TagResult)
    times = [round(time, TIME_DIGITS) for time in result.times.tolist()]
    scores = [[round(value, SCORE_DIGITS) for value in row] for row in result.scores.tolist()]
    body, brace, end = record.rpartition("}")
    return f'{body}, "times": {json.dumps(times)}, "scores": {json.dumps(scores)}{brace}{end}'


class FrameJsonWriter(JsonWriter):
    """As json; each object has "times" and "scores" too."""

    accepts = (TagResult,)

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        record = io.StringIO()
        super().write_result(result, record)
        stream.write(_append_frames(record.getvalue(), result))


class FrameJsonLinesWriter(JsonLinesWriter):
    """As jsonl; each object has "times" and "scores" too."""

    accepts = (TagResult,)

    def write_result(self, result: Result, stream: IO[Any]) -> None:
        record = io.StringIO()
        super().write_result(result, record)
        stream.write(_append_frames(record.getvalue(), result))


class FrameCsvWriter(CsvWriter):
    """A row a frame: `file,time,LABEL,…` with a probability in each label's column."""

    accepts = (TagResult,)

    def _header(self, result: Result) -> list[str]:
        assert isinstance(result, TagResult)
        return ["file", *channel_of(result), "time", *map(cell, result.labels)]

    def _rows(self, result: Result) -> list[list[str]]:
        assert isinstance(result, TagResult)
        head = [cell(result.file), *map(str, channel_of(result).values())]
        frames = zip(result.times.tolist(), result.scores.tolist(), strict=True)
        return [[*head, seconds(time), *map(score, row)] for time, row in frames]


class FrameTsvWriter(FrameCsvWriter):
    """As csv, with tabs between the columns."""

    suffix = TsvWriter.suffix
    delimiter = TsvWriter.delimiter


FRAME_WRITERS: dict[str, type[Writer]] = {
    "json": FrameJsonWriter,
    "jsonl": FrameJsonLinesWriter,
    "csv": FrameCsvWriter,
    "tsv": FrameTsvWriter,
    "npz": NpzWriter,  # always has them
}
