"""Recordings with their labels: read from a manifest or label files, grouped by file, and split into train and dev."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from framecls.errors import ManifestError
from framecls.training.choices import SplitBy
from framecls.training.data.labels import ARRAY_SUFFIXES, Found, LabelSettings, Row, Split, read_rows

_log = logging.getLogger(__name__)

_DEV_SHARE = 0.15
# Whole sources go to dev only if that leaves enough on both sides.
_SOURCE_SHARE = (0.03, 0.4)
_MAX_NAME = 300  # characters of a file name in a message


@dataclass(frozen=True)
class Span:
    """A label over `[start_s, end_s)` of a recording; end_s None: to its end."""

    label: str
    start_s: float = 0.0
    end_s: float | None = None
    where: str = field(default="", compare=False)  # its row, for messages


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
        """The label of a recording that has one throughout."""
        return self.spans[0].label

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
            is_there[row.file] = _is_file(row.file)
        if not is_there[row.file]:
            missing.setdefault(row.file, []).append(row)
    problems = [*found.problems, *(_describe_missing(file, rows) for file, rows in missing.items())]
    rows = [row for row in found.rows if is_there[row.file]]
    n_usable = len(rows)
    return Manifest(path, found.kind, n_usable, _group(rows, path, reading, found), problems, found.notes)


def _describe_missing(file: Path, rows: Sequence[Row]) -> str:
    more = f" ({len(rows)} rows name it)" if len(rows) > 1 else ""
    return f"{rows[0].where}: {str(file)[:_MAX_NAME]}: there is no such file{more}"


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)


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
    file, span = row.file, Span(row.label, row.start_s, row.end_s, row.where)
    if reading.by_row and (row.start_s or row.end_s is not None):
        section = Section(row.file, row.start_s, row.end_s)
        end = "" if row.end_s is None else f",{row.end_s:g}"
        file = row.file.with_name(f"{row.file.name}#t={row.start_s:g}{end}")
        length_s = None if row.end_s is None else row.end_s - row.start_s
        span = Span(row.label, 0.0, length_s, row.where)
    name = row.name or os.path.relpath(row.file, root if os.path.isdir(root) else root.parent)
    return Recording(
        file=file,
        spans=(span,),
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


@dataclass(frozen=True)
class Parts:
    """The train and dev recordings, and how they were split."""

    train: list[Recording]
    dev: list[Recording]
    how: str
    shared: tuple[str, ...]  # named speakers on both sides all the same

    def find_fault(self) -> str | None:
        """Return which side is empty, in words; None if neither is."""
        for name, side in (("train", self.train), ("dev", self.dev)):
            if not side:
                return f"the {name} split is empty: name more speakers, or give each row a split, train or dev"
        return None


def split_recordings(recordings: Sequence[Recording], seed: int = 0, by: SplitBy | None = None) -> Parts:
    """Split recordings into train and dev.

    Recordings whose split is given stay there. Of the others, about one speaker in seven goes to dev with all of their
    recordings, since a speaker of the training set is no test.

    Args:
        recordings: all of them.
        seed: of the random choice.
        by: what stays together: a speaker; a source, with every speaker in it; or a file. None: the source where every
            recording names one and enough is left on both sides, else the speaker, or the file where the label itself
            is the speaker.
    """
    free = [recording for recording in recordings if recording.split is None]
    if not free:
        return _split(recordings, {}, "as given")
    given = "" if len(free) == len(recordings) else " where no split is given"
    if by is not None:
        return _split(recordings, _choose_sides(free, seed, by), f"by {by}{given}")
    if all(recording.is_named and recording.speaker == recording.label for recording in free):
        return _split(
            recordings, _choose_sides(free, seed, "file"), f"by file{given}, since the labels are the speakers"
        )
    if all(recording.source for recording in free) and len({recording.source for recording in free}) > 1:
        parts = _split(recordings, _choose_sides(free, seed, "source"), f"by speaker and source{given}")
        if _has_enough(parts):
            return parts
        given += " (whole sources would leave too little on one side, or a label on one side only)"
    named = any(recording.is_named for recording in free)
    how = "by speaker" if named else "by file, since no speakers are named"
    return _split(recordings, _choose_sides(free, seed, "speaker"), f"{how}{given}")


def choose_split_by(asked: SplitBy | None, *, voices: bool) -> SplitBy | None:
    """Return what stays together in `split_recordings`: as asked for, else as the kind of model needs.

    A model of voices is for new speakers, so none may be on both sides although the speaker is the label.
    """
    return asked or ("speaker" if voices else None)


def _split(recordings: Sequence[Recording], chosen: dict[Path, Split], how: str) -> Parts:
    sides = [recording.split or chosen[recording.file] for recording in recordings]
    train = [recording for recording, side in zip(recordings, sides, strict=True) if side == "train"]
    dev = [recording for recording, side in zip(recordings, sides, strict=True) if side == "dev"]
    return Parts(train, dev, how, tuple(sorted(_named(train) & _named(dev))))


def _named(recordings: Iterable[Recording]) -> set[str]:
    return {name for recording in recordings if recording.is_named for name in (recording.speaker, *recording.others)}


def _has_enough(parts: Parts) -> bool:
    share = len(parts.dev) / (len(parts.train) + len(parts.dev))
    is_learnt = set(find_labels(parts.dev)) <= set(find_labels(parts.train))
    return _SOURCE_SHARE[0] <= share <= _SOURCE_SHARE[1] and is_learnt


def _choose_sides(recordings: Sequence[Recording], seed: int, by: SplitBy) -> dict[Path, Split]:
    """Choose a side for each recording at random; those with a speaker (or source, or file) in common share a side."""
    groups_of = _DisjointSets()
    for recording in recordings:
        groups_of.join(_keys(recording, by))
    groups = {recording.file: groups_of.representative(_keys(recording, by)[0]) for recording in recordings}
    numbers = {key: _random_number(seed, key) for key in groups.values()}
    dev = {key for key, number in numbers.items() if number < _DEV_SHARE}
    if len(numbers) > 1 and not dev:  # of few groups none may be chosen
        dev = {min(numbers, key=numbers.__getitem__)}
    elif len(numbers) > 1 and len(dev) == len(numbers):
        dev.remove(max(numbers, key=numbers.__getitem__))
    return {file: "dev" if key in dev else "train" for file, key in groups.items()}


def _random_number(seed: int, key: str) -> float:
    """Return a random number in [0, 1) that depends on seed and name alone."""
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _keys(recording: Recording, by: SplitBy) -> list[str]:
    if by == "file":
        return [recording.name]
    speakers = [recording.speaker, *recording.others]
    return [f"source {recording.source}", *speakers] if by == "source" and recording.source else speakers


class _DisjointSets:
    """Sets of names that stay together (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def representative(self, key: str) -> str:
        """Return the alphabetically first name of the set of a name."""
        root = key
        while self._parent.setdefault(root, root) != root:
            root = self._parent[root]
        while self._parent[key] != root:
            self._parent[key], key = root, self._parent[key]
        return root

    def join(self, keys: Sequence[str]) -> None:
        first, *others = sorted({self.representative(key) for key in keys})
        for other in others:
            self._parent[other] = first


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
