"""Rows, which all readers of labels return: each a label over a span of one file."""

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
class LabelSettings:
    """How to read labels where the files leave it open."""

    tier: str | None = None  # of TextGrids and ELAN files that have several; "*": all of them together
    annotation: str | None = None  # the column of Raven's tables that is the label; None: found by its name
    by_row: bool = False  # each row with times is a recording of its own, for a pooled task
    vectors_per_s: float = 100.0  # of precomputed features, which do not say their rate


@dataclass(frozen=True)
class Row:
    """A label over `[start_s, end_s)` of a file, and its other properties."""

    file: Path
    label: str  # empty: the file has none at all
    where: str  # the row in messages, such as "line 7"
    name: str = ""  # the file as the manifest has it; empty: its path below the folder
    start_s: float = 0.0
    end_s: float | None = None  # None: to the end of the file
    speaker: str = ""  # empty: not named
    source: str = ""
    split: Split | None = None
    phones: tuple[str, ...] = ()
    alignment: tuple[tuple[str, float], ...] = ()  # each phone, "" for a pause, and the second at which it ends
    soft: tuple[tuple[str, float], ...] = ()  # labels and a teacher's probabilities
    band_hz: tuple[float, ...] = ()  # lowest and highest frequency, where they are marked


@dataclass
class Found:
    """The rows of a source of labels."""

    kind: str  # of source, a noun phrase
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # a line each: rows and files that cannot be used
    notes: list[str] = field(default_factory=list)  # what was left out or assumed, for the user

    def add(self, row: Row) -> None:
        """Add a row, or list it as a problem if its end is not after its start."""
        if row.start_s < 0 or (row.end_s is not None and row.end_s <= row.start_s):
            self.problems.append(f"{row.where}: end {row.end_s} is not after start {row.start_s}")
        else:
            self.rows.append(row)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 as Praat writes it.

    Raises:
        ManifestError: it cannot be read, or has another encoding; the message does not name the file.
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
    """Parse a time in seconds.

    Raises:
        ManifestError: it is not a number of seconds.
    """
    try:
        seconds = float(text.replace(",", "."))  # Audacity follows the locale
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < MAX_SECONDS:
        raise ManifestError(f"{text[:20]!r} is not a time in seconds")
    return seconds


def split_of(name: str) -> Literal["train", "dev", "test"] | None:
    """Return the split that a folder or list is named after, None if it is not."""
    word = name.lower()
    if word in _TRAIN_NAMES:
        return "train"
    if word in _DEV_NAMES:
        return "dev"
    return "test" if word in _TEST_NAMES else None


def splits_of_folders(names: Iterable[str]) -> dict[str, Split | None]:
    """Return the split of each top folder of a corpus; None: it is left out.

    A test folder is dev, unless there is a dev folder too. Empty if some folder is not named after a split, or there is
    no train folder.
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
    """Return for each file the folder below the root that it is in, empty for files in the root."""
    inside = [PurePath(file).relative_to(root).parts for file in files]
    return [parts[0] if len(parts) > 1 else "" for parts in inside]
