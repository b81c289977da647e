"""Recordings with their labels: read from a manifest or label files, and grouped by file."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from framecls.errors import ManifestError
from framecls.training.data.labels import ARRAY_SUFFIXES, Found, LabelSettings, Row, Split, read_rows

_log = logging.getLogger(__name__)

_MAX_NAME = 300  # characters of a file name in a message


@dataclass(frozen=True)
class Span:
    """A label over `[start_s, end_s)` of a recording; end_s None: to its end."""

    label: str
    start_s: float = 0.0
    end_s: float | None = None
    where: str = field(default="", compare=False)  # its row, for messages
    band_hz: tuple[float, ...] = ()  # lowest and highest frequency, where they are marked


@dataclass(frozen=True)
class Section:
    """The part of a file that a recording consists of."""

    file: Path
    start_s: float
    end_s: float | None


@dataclass(frozen=True)
class Recording:
    """One file, or a section of one, with its labels."""

    file: Path  # of a section, such as a.wav#t=1.5,3
    spans: tuple[Span, ...]
    speaker: str  # the recording's name if no speaker is named
    source: str = ""
    split: Split | None = None
    phones: tuple[str, ...] = ()
    alignment: tuple[tuple[str, float], ...] = ()  # each phone, "" for a pause, and the second at which it ends
    soft: tuple[tuple[str, float], ...] = ()  # labels and a teacher's probabilities
    section: Section | None = None
    others: tuple[str, ...] = ()  # more speakers in it
    is_named: bool = True  # the speaker is given, not the name of the file
    name: str = ""  # of the file, relative to the manifest

    @property
    def label(self) -> str:
        """The label of a recording that has one throughout; empty where it has none at all."""
        return self.spans[0].label if self.spans else ""

    @property
    def audio(self) -> Path:
        """The file on disk."""
        return self.section.file if self.section else self.file

    @property
    def is_array(self) -> bool:
        """Whether it holds precomputed features, not sound."""
        return self.audio.suffix.lower() in ARRAY_SUFFIXES


@dataclass(frozen=True)
class Manifest:
    """Recordings, and the problems and notes of reading their labels."""

    path: Path
    kind: str  # how the path was read
    n_rows: int
    recordings: list[Recording]
    problems: list[str]  # rows that cannot be used, a line each
    notes: list[str]

    def require(self) -> list[Recording]:
        """Return the recordings.

        Raises:
            ManifestError: some rows cannot be used, or there are none; the message lists them.
        """
        if self.problems:
            n_all = self.n_rows + len(self.problems)
            raise ManifestError(f"{self.path}: {len(self.problems)} of {n_all} rows cannot be used", self.problems)
        if not self.recordings:
            raise ManifestError(f"{self.path}: there is no row in it")
        return self.recordings


def read_manifest(path: Path, reading: LabelSettings | None = None) -> list[Recording]:
    """Read labels from a manifest or any other source that `labels` knows, and group them by recording.

    Raises:
        ManifestError: they cannot be read, or some rows cannot be used; the message lists them.
    """
    manifest = load_manifest(path, reading)
    recordings = manifest.require()
    for note in manifest.notes:
        _log.warning("%s: %s", path, note)
    return recordings


def load_manifest(path: Path, reading: LabelSettings | None = None) -> Manifest:
    """Read as `read_manifest`, and list rows that cannot be used instead of raising.

    Raises:
        ManifestError: nothing can be read.
    """
    reading = reading or LabelSettings()
    try:
        found = read_rows(path, reading)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error.headline}", error.rows) from error
    missing: dict[Path, list[Row]] = {}
    is_there: dict[Path, bool] = {}
    for row in found.rows:
        if row.file not in is_there:
            is_there[row.file] = os.path.isfile(row.file)
        if not is_there[row.file]:
            missing.setdefault(row.file, []).append(row)
    problems = [*found.problems, *(_describe_missing(file, rows) for file, rows in missing.items())]
    rows = [row for row in found.rows if is_there[row.file]]
    recordings = _group(rows, path, reading, found)
    contradictions = _find_contradictions(recordings) if reading.by_row else []
    n_usable = len(rows) - len(contradictions)
    return Manifest(path, found.kind, n_usable, recordings, problems + contradictions, found.notes)


def _describe_missing(file: Path, rows: Sequence[Row]) -> str:
    more = f" ({len(rows)} rows name it)" if len(rows) > 1 else ""
    return f"{rows[0].where}: {str(file)[:_MAX_NAME]}: there is no such file{more}"


def _find_contradictions(recordings: Iterable[Recording]) -> list[str]:
    """Return a line for each row that gives a clip another label than its first."""
    return [
        f"{span.where}: {recording.audio.name[:_MAX_NAME]}: {span.label!r} here, {recording.label!r} in "
        f"{recording.spans[0].where}: a clip has one label; leave one out, give each its own start and end, or train "
        "tag, which learns both"
        for recording in recordings
        for span in recording.spans
        if span.label != recording.label
    ]


def _group(rows: Iterable[Row], root: Path, reading: LabelSettings, found: Found) -> list[Recording]:
    grouped: dict[Path, Recording] = {}
    spans: dict[Path, list[Span]] = {}
    in_two: dict[Path, Row] = {}  # splits
    for row in rows:
        recording = _record(row, root, reading)
        known = grouped.setdefault(recording.file, recording)
        spans.setdefault(recording.file, []).extend(recording.spans)
        known_speakers = (known.speaker, *known.others)
        if recording.is_named and recording.speaker not in known_speakers:
            grouped[recording.file] = replace(known, others=(*known.others, recording.speaker))
        if known.split != recording.split:
            in_two.setdefault(recording.file, row)
    for row in list(in_two.values())[:1]:
        more = f", and so are {len(in_two) - 1} more" if len(in_two) > 1 else ""
        found.notes.append(f"{row.where}: {row.file.name} is in two splits{more}; the first counts")
    return [replace(recording, spans=tuple(spans[file])) for file, recording in grouped.items()]


def _record(row: Row, root: Path, reading: LabelSettings) -> Recording:
    section = None
    file, span = row.file, Span(row.label, row.start_s, row.end_s, row.where, row.band_hz)
    if reading.by_row and (row.start_s or row.end_s is not None):
        section = Section(row.file, row.start_s, row.end_s)
        end = "" if row.end_s is None else f",{row.end_s:g}"
        file = row.file.with_name(f"{row.file.name}#t={row.start_s:g}{end}")
        length_s = None if row.end_s is None else row.end_s - row.start_s
        span = Span(row.label, 0.0, length_s, row.where)
    name = row.name or os.path.relpath(row.file, root if os.path.isdir(root) else root.parent)
    return Recording(
        file=file,
        spans=(span,) if row.label else (),
        speaker=row.speaker or name,
        source=row.source,
        split=row.split,
        phones=row.phones,
        alignment=row.alignment,
        soft=row.soft,
        section=section,
        is_named=bool(row.speaker),
        name=name,
    )


def find_labels(recordings: Iterable[Recording]) -> tuple[str, ...]:
    """Return the labels that occur, sorted."""
    return tuple(sorted({span.label for recording in recordings for span in recording.spans}))


def find_phones(recordings: Iterable[Recording]) -> tuple[str, ...]:
    """Return the phone symbols that occur, sorted."""
    return tuple(sorted({phone for recording in recordings for phone in recording.phones}))


def find_unknown_labels(recordings: Iterable[Recording], labels: Sequence[str]) -> list[str]:
    """Return a line for each row with another label than these."""
    known = set(labels)
    return [
        f"{span.where}: {recording.audio.name}: label {span.label!r}"
        for recording in recordings
        for span in recording.spans
        if span.label not in known
    ]


def check_labels(recordings: Sequence[Recording], labels: Sequence[str]) -> None:
    """Refuse labels that a model does not have.

    Raises:
        ManifestError: with a list of the rows.
    """
    if rows := find_unknown_labels(recordings, labels):
        counts = Counter(span.label for recording in recordings for span in recording.spans)
        names = sorted(counts.keys() - set(labels))
        many = f" and {len(names) - 10} more" if len(names) > 10 else ""
        known = f"{', '.join(labels[:40])}{' …' if len(labels) > 40 else ''}"
        raise ManifestError(f"unknown labels: {', '.join(names[:10])}{many}; the model has {known}", rows)
