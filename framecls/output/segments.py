"""Writers that give one segment at a time, while the recording that it is in goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO, Any

import numpy as np

from framecls.output.formats import Writer, as_record, channel_of, dump_json, make_writer
from framecls.results import Segment, TagResult


class SegmentWriter:
    """Writes the segments of one recording, each as its format writes a segment of a whole result."""

    def __init__(
        self,
        format: str,
        model: str,
        labels: Sequence[str],
        hop_s: float,
        shape: Callable[[TagResult], TagResult] = lambda result: result,
    ) -> None:
        """Prepare a writer.

        Args:
            format: a key of `WRITERS`.
            model, labels, hop_s: as of a `TagResult`.
            shape: returns what is written of a result of one segment.
        """
        self._shape = shape
        self._writer: Writer = make_writer(format)
        self._is_json = format == "jsonl"
        empty = np.zeros((0, len(labels)))
        self._frame = TagResult("", model, 0.0, hop_s, tuple(labels), (), empty[:, 0], empty.astype(np.float32))

    def begin(self, stream: IO[Any]) -> None:
        """Write what comes before the first segment of a run."""
        self._writer.begin(stream)

    def write(self, file: str, channel: int | None, segment: Segment, stream: IO[Any]) -> None:
        """Write one segment of a file, or of one channel of it.

        In jsonl that is an object with "file", "channel" if there is any, "model", "start", "end", "label" and "score".
        """
        result = replace(self._frame, file=file, channel=channel, duration=segment.end, segments=(segment,))
        result = self._shape(result)
        if not result.segments:
            return
        if not self._is_json:
            self._writer.write(result, stream)
            return
        record = as_record(result)
        [row] = record["segments"]
        line = {"file": file, **channel_of(result), "model": record["model"], **row}
        stream.write(dump_json(line) + "\n")
