"""A voice that `tag -m speaker` found in a recording, to be enrolled by name. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import listed
from framecls.errors import GalleryError, UsageError, suggest

_MOST_BYTES = 2**28
# Of a voice that much is enough to know it by.
_MOST_S = 120.0
Span = tuple[float, float]  # seconds


@dataclass(frozen=True)
class FoundVoice:
    """Where in a recording one of those who were found speaks."""

    file: Path
    channel: int | None  # the only one that was heard, counted from 1
    spans: tuple[Span, ...]  # in order; alone where there is enough of that


def read_found(path: Path, label: str) -> FoundVoice:
    """Read where a speaker was found, from what `tag -m speaker` wrote as JSON or JSON lines.

    Args:
        path: what was written.
        label: of the speaker in it.

    Raises:
        UsageError: nobody in it has this label, or people of several recordings have.
        GalleryError: it cannot be read, or is nothing that `tag` wrote.
    """
    rows = _read_rows(path)
    voices = [(row, _spans(row, label)) for row in rows]
    voices = [(row, spans) for row, spans in voices if spans]
    if not voices:
        labels = sorted({str(segment["label"]) for row in rows for segment in row["segments"]})
        raise UsageError(
            f"{path}: nobody is called {label!r} in it{suggest(label, labels, f'; it has {listed(labels)}')}"
        )
    if len(voices) > 1:
        raise UsageError(
            f"{path}: there is a {label!r} in {len(voices)} of its recordings, who need not be the same: "
            "give a file with the results of one"
        )
    row, spans = voices[0]
    others = [_spans(row, other) for other in {str(segment["label"]) for segment in row["segments"]} - {label}]
    alone = list(_without(spans, sorted(chain(*others))))
    enough = sum(end - start for start, end in alone) >= min(3.0, sum(end - start for start, end in spans) / 2)
    file = Path(row["file"])
    beside = path.parent / file
    channel = row.get("channel")
    return FoundVoice(
        beside if not file.exists() and beside.exists() else file,
        channel if isinstance(channel, int) else None,
        tuple(alone if enough else spans),
    )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
        text = content.decode("utf-8")
        rows = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(x) for x in text.splitlines() if x.strip()]
        )
        # Of several models each has a tier of its own, and those who speak are in one.
        rows = [{**row, **tier} for row in rows for tier in row.get("tiers", {"": {}}).values()]
        for row in rows:
            if not isinstance(row["file"], str) or not all(_is_segment(segment) for segment in row["segments"]):
                raise ValueError("no result")
    except OSError as error:
        raise GalleryError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        wanted = "framecls tag -m speaker RECORDING -f jsonl -o FILE"
        raise GalleryError(f"{path}: not what tag wrote as JSON or JSON lines: {wanted}") from None
    return list(rows)


def _is_segment(segment: Any) -> bool:
    start, end = segment["start"], segment["end"]
    return isinstance(segment["label"], str) and 0 <= float(start) < float(end) < 1e9


def _spans(row: dict[str, Any], label: str) -> list[Span]:
    return sorted((float(s["start"]), float(s["end"])) for s in row["segments"] if s["label"] == label)


def _without(spans: Iterable[Span], others: Sequence[Span]) -> Iterator[Span]:
    """Yield the parts of spans in which none of the others, by start, holds."""
    for start, end in spans:
        for first, last in others:
            if first < end and last > start:
                if first > start:
                    yield start, first
                start = max(start, last)
        if start < end:
            yield start, end


def cut_spans(blocks: Iterable[NDArray[np.float32]], spans: Sequence[Span], sample_rate: int) -> NDArray[np.float32]:
    """Return (sample,) what (sample,) blocks that follow each other hold in spans, the first minutes of that."""
    at, wanted, pieces = 0, int(_MOST_S * sample_rate), [np.zeros(0, np.float32)]
    edges = [(round(start * sample_rate), round(end * sample_rate)) for start, end in spans]
    for block in blocks:
        pieces += [block[max(0, first - at) : max(0, last - at)] for first, last in edges if first < at + len(block)]
        at += len(block)
        if at >= edges[-1][1] or sum(map(len, pieces)) >= wanted:
            break
    return np.concatenate(pieces)[:wanted]
