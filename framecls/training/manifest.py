"""The list of what to learn from: JSON lines or CSV, one labelled span a row."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from framecls.errors import ManifestError

Split = Literal["train", "dev"]
_FIELDS = ("file", "start", "end", "label", "speaker", "source", "split", "phones", "alignment", "soft")
_DEV_SHARE = 0.15
# As many problems as fit a screen; the rest are counted.
_MAX_PROBLEMS = 10
_MAX_SECONDS = 1e9
_MAX_NAME = 300  # letters of a file's name in a message


@dataclass(frozen=True)
class Span:
    """A label over `[start_s, end_s)` of a recording; end_s None: to its end."""

    label: str
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Recording:
    """One file of a manifest and all that is said of it."""

    file: Path
    spans: tuple[Span, ...]
    speaker: str  # the file's own name where the manifest names nobody
    source: str = ""
    split: Split | None = None
    phones: tuple[str, ...] = ()
    alignment: tuple[tuple[str, float], ...] = ()  # each phone, "" for a pause, and the second at which it ends
    soft: tuple[tuple[str, float], ...] = ()  # labels and how likely a teacher holds them; none: nobody was asked

    @property
    def label(self) -> str:
        """The label of a recording that has one throughout."""
        return self.spans[0].label


def read_manifest(path: Path) -> list[Recording]:
    """Read a manifest and group its rows by file.

    A row has `file` (relative to the manifest's folder, or absolute) and `label`, and may have `start` and `end`
    (seconds), `speaker`, `source`, `split` ("train" or "dev"), `phones` (symbols with spaces between) and, in JSON,
    `alignment` (a list of [phone, second at which it ends], "" for a pause) and `soft` (label to probability, as a
    teacher sees it).

    Raises:
        ManifestError: it cannot be read, or some rows cannot be used; the message lists them.
    """
    problems: list[str] = []
    grouped: dict[Path, Recording] = {}
    for where, row in _read_rows(path):
        try:
            recording = _parse_row(row, path.parent)
        except ManifestError as error:
            problems.append(f"{where}: {error}")
            continue
        known = grouped.get(recording.file)
        spans = (*known.spans, *recording.spans) if known else recording.spans
        grouped[recording.file] = replace(known or recording, spans=spans)
    problems += [f"{str(file)[:_MAX_NAME]}: there is no such file" for file in grouped if not _is_file(file)]
    if problems:
        shown = "; ".join(problems[:_MAX_PROBLEMS])
        more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        raise ManifestError(f"{path}: {shown}{more}")
    if not grouped:
        raise ManifestError(f"{path}: there is no row in it")
    return list(grouped.values())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a loop of links
        return False


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        if path.exists() and not (path.is_file() or path.is_fifo()):
            raise ManifestError(f"{path}: a manifest must be a text file")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ManifestError(f"{path}: cannot be read: {reason}") from error
    if path.suffix.lower() in {".csv", ".tsv"}:
        rows = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            for number, row in enumerate(rows, start=2):
                yield f"line {number}", {key: value for key, value in row.items() if value not in ("", None)}
        except csv.Error as error:
            raise ManifestError(f"{path}: not a table: {error}") from error
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"line {number}", _parse_json(line)


def _parse_json(line: str) -> dict[str, Any]:
    """Return the object on a line, empty if there is none: its fields are then reported missing."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _parse_row(row: dict[str, Any], folder: Path) -> Recording:
    for field in ("file", "label"):
        if not isinstance(row.get(field), str) or not row[field]:
            raise ManifestError(f"no {field} in this row (the fields are {', '.join(_FIELDS)})")
    start_s, end_s = _seconds(row, "start") or 0.0, _seconds(row, "end")
    if end_s is not None and end_s <= start_s:
        raise ManifestError(f"end {end_s} is not after start {start_s}")
    split = row.get("split")
    if split not in (None, "train", "dev"):
        raise ManifestError(f"split {split!r} is neither train nor dev")
    return Recording(
        file=folder / row["file"],
        spans=(Span(row["label"], start_s, end_s),),
        speaker=str(row.get("speaker") or row["file"]),
        source=str(row.get("source") or ""),
        split=split,
        phones=tuple(str(row.get("phones") or "").split()),
        alignment=_parse_alignment(row.get("alignment")),
        soft=_parse_soft(row.get("soft")),
    )


def _parse_soft(value: Any) -> tuple[tuple[str, float], ...]:
    try:
        soft = tuple((str(label), float(share)) for label, share in (value or {}).items())
    except (AttributeError, TypeError, ValueError):
        raise ManifestError("soft is not a table of label to probability") from None
    if soft and not (all(share >= 0 for _, share in soft) and abs(sum(share for _, share in soft) - 1) < 0.05):
        raise ManifestError("soft: the probabilities do not sum to 1")
    return soft


def _parse_alignment(value: Any) -> tuple[tuple[str, float], ...]:
    try:
        alignment = tuple((str(phone), float(end)) for phone, end in value or ())
    except (TypeError, ValueError, OverflowError):
        raise ManifestError("alignment is not a list of [phone, seconds]") from None
    if not all(0 <= end < _MAX_SECONDS for _, end in alignment):
        raise ManifestError("alignment: a phone does not end at a time in seconds")
    if any(before[1] > after[1] for before, after in pairwise(alignment)):
        raise ManifestError("alignment: the phones are not in order of time")
    return alignment


def _seconds(row: dict[str, Any], field: str) -> float | None:
    value = row.get(field)
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < _MAX_SECONDS:
        raise ManifestError(f"{field} {value!r} is not a time in seconds")
    return seconds


def split_by_speaker(recordings: Sequence[Recording], seed: int = 0) -> tuple[list[Recording], list[Recording]]:
    """Return the recordings to learn from and those to measure on.

    Recordings whose split the manifest gives stay there. Of the others, about one speaker in seven goes to the dev set
    with all that he or she says: a voice heard in training is no test.
    """
    train: list[Recording] = []
    dev: list[Recording] = []
    for recording in recordings:
        digest = hashlib.sha256(f"{seed}:{recording.speaker}".encode("utf-8", "surrogateescape")).digest()
        drawn = int.from_bytes(digest[:4], "big") / 2**32
        to_dev = recording.split == "dev" if recording.split else drawn < _DEV_SHARE
        (dev if to_dev else train).append(recording)
    return train, dev


def find_labels(recordings: Iterable[Recording]) -> tuple[str, ...]:
    """Return the labels that occur, sorted."""
    return tuple(sorted({span.label for recording in recordings for span in recording.spans}))


def find_phones(recordings: Iterable[Recording]) -> tuple[str, ...]:
    """Return the phone symbols that occur, sorted."""
    return tuple(sorted({phone for recording in recordings for phone in recording.phones}))


def check_labels(recordings: Iterable[Recording], labels: Sequence[str]) -> None:
    """Raise a ManifestError that names the labels which a model does not have."""
    if unknown := sorted(set(find_labels(recordings)) - set(labels)):
        raise ManifestError(f"unknown labels: {', '.join(unknown[:_MAX_PROBLEMS])}; the model has {', '.join(labels)}")
