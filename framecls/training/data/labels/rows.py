"""What every source of labels comes down to: rows, each a label over a stretch of one file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

from framecls.errors import ManifestError

Split = Literal["train", "dev"]

ARRAY_SUFFIXES = frozenset({".npy", ".pt"})
MAX_SECONDS = 1e9

_TRAIN_NAMES = frozenset({"train", "training"})
_DEV_NAMES = frozenset({"dev", "devel", "development", "val", "valid", "validation"})
_TEST_NAMES = frozenset({"test", "testing", "eval", "evaluation"})


@dataclass(frozen=True)
class Reading:
    """How labels are read, where what lies there leaves it open."""

    tier: str | None = None  # of TextGrids that have several; "*": all of them together
    by_row: bool = False  # each row that has times is a recording of its own, as a pooled task wants it
    vectors_per_s: float = 100.0  # of features computed elsewhere: arrays do not say how far apart their vectors are


@dataclass(frozen=True)
class Row:
    """A label over `[start_s, end_s)` of a file, and whatever else is said of it."""

    file: Path
    label: str
    where: str  # what to call this row in a message, such as "line 7"
    name: str = ""  # the file as the manifest writes it; empty: its path below the folder that was named
    start_s: float = 0.0
    end_s: float | None = None  # None: to the end of the file
    speaker: str = ""  # empty: nobody is named
    source: str = ""
    split: Split | None = None
    phones: tuple[str, ...] = ()
    alignment: tuple[tuple[str, float], ...] = ()  # each phone, "" for a pause, and the second at which it ends
    soft: tuple[tuple[str, float], ...] = ()  # labels and how likely a teacher holds them; none: nobody was asked


@dataclass
class Found:
    """What a source gave."""

    kind: str  # what it was taken for, as a noun phrase
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # a line each: rows and files that cannot be used
    notes: list[str] = field(default_factory=list)  # what was left out or supposed, for the user to know

    def add(self, row: Row) -> None:
        """Take a row, or list it as a problem if its times make no stretch."""
        if row.start_s < 0 or (row.end_s is not None and row.end_s <= row.start_s):
            self.problems.append(f"{row.where}: end {row.end_s} is not after start {row.start_s}")
        else:
            self.rows.append(row)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 as Praat writes it.

    Raises:
        ManifestError: it cannot be read, or is no text of either kind; the message does not name the file.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_fifo()):
            raise ManifestError("cannot be read: it must be a text file")
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}") from error
    is_wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError("cannot be read: it is not UTF-8 text: save it as UTF-8") from None
    if "\0" in text:
        raise ManifestError("cannot be read: it is not UTF-8 text: save it as UTF-8")
    return text


def parse_seconds(text: str) -> float:
    """Return the time that a label file gives.

    Raises:
        ManifestError: it is not a number of seconds.
    """
    try:
        seconds = float(text.replace(",", "."))  # Audacity follows the computer's language
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < MAX_SECONDS:
        raise ManifestError(f"{text[:20]!r} is not a time in seconds")
    return seconds


def split_of(name: str) -> Literal["train", "dev", "test"] | None:
    """Return which part of a corpus a folder or list of that name holds, if the name says so."""
    word = name.lower()
    if word in _TRAIN_NAMES:
        return "train"
    if word in _DEV_NAMES:
        return "dev"
    return "test" if word in _TEST_NAMES else None


def splits_of_folders(names: Iterable[str]) -> dict[str, Split | None]:
    """Return the split of each of a corpus's top folders; None: it is left out.

    A test folder is what is measured on, unless there is a dev folder too. Empty where some name is no split's, or
    where there is nothing to learn from.
    """
    found = {name: split_of(name) for name in names}
    if None in found.values() or "train" not in found.values():
        return {}
    has_dev = "dev" in found.values()
    splits: dict[str, Split | None] = {}
    for name, split in found.items():
        splits[name] = split if split in ("train", "dev") else None if has_dev else "dev"
    return splits


def index_by_stem(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the files of each name without suffix."""
    index: dict[str, list[Path]] = {}
    for file in files:
        index.setdefault(file.stem, []).append(file)
    return index


def top_folders(files: Sequence[Path], root: Path) -> list[str]:
    """Return for each file the folder under the root that it lies in, empty for one that lies in the root itself."""
    inside = [PurePath(file).relative_to(root).parts for file in files]
    return [parts[0] if len(parts) > 1 else "" for parts in inside]
