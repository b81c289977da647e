"""Every failure that a user can cause, mend, or must hear of.

The command line turns a `FrameclsError` into one line on stderr; anything else is a bug.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

# What to say of a name that nobody is enrolled by, where nobody has one like it.
WHO_IS = "; framecls speakers list shows who is"


class FrameclsError(Exception):
    """A failure whose message says what is wrong and what to do."""


_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory")  # as torch and the systems have it


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out, whoever found that: Python, the system or torch."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


class UsageError(FrameclsError):
    """An option or argument that no input could make right (exit status 2)."""


class SourceTypeError(UsageError, TypeError):
    """A recording is given as something that no recording can be."""


class PackageError(UsageError):
    """A package that only a part of framecls needs is not installed, or does not load."""


class AudioError(FrameclsError):
    """An input that cannot be found, read or decoded."""


class TextError(FrameclsError):
    """A text that cannot be placed in a recording."""


class OutputError(FrameclsError):
    """Results cannot be kept where they were to go, and the next ones could not either: no room, or no such place."""


class StdoutError(Exception):
    """Standard output cannot be written.

    It is no FrameclsError, and no OSError: nothing but the outermost layer can do anything about it.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.reader_left = isinstance(error, BrokenPipeError)


class ModelError(FrameclsError):
    """A model file that cannot be found, or that is not what it claims to be."""


class ClusterError(FrameclsError):
    """Other machines, or processes on this one, that do not do what was asked of them."""


class ConfigError(FrameclsError, ValueError):
    """A setting outside its range, or a name that no setting has; a message that quotes a giant one is cut."""

    _MOST_CHARACTERS = 500

    def __init__(self, message: str) -> None:
        is_long = len(message) > self._MOST_CHARACTERS
        super().__init__(f"{message[: self._MOST_CHARACTERS]}…" if is_long else message)


class ManifestError(FrameclsError):
    """A training list that cannot be used as it stands.

    Args:
        message: what is wrong with it.
        rows: what is wrong with each row of it, a line each; as many as fit a screen are shown, the rest are counted.
    """

    MOST_SHOWN = 10
    _LONGEST_ROW = 300

    def __init__(self, message: str, rows: Sequence[str] = ()) -> None:
        self.headline = message
        shown = [row if len(row) <= self._LONGEST_ROW else f"{row[: self._LONGEST_ROW]} …" for row in rows]
        left = len(rows) - self.MOST_SHOWN
        self.rows = (*shown[: self.MOST_SHOWN], *([f"and {left} more"] if left > 0 else []))
        super().__init__(f"{message}: {'; '.join(self.rows)}" if self.rows else message)


class GalleryError(FrameclsError):
    """A file of enrolled voices that cannot be used, or that does not have what was asked of it."""


def suggest(word: str, choices: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about a name that is not there: which of those that are may be meant, if any."""
    from difflib import get_close_matches

    names = sorted(set(choices))
    near = [name for name in names if name.casefold() == word.casefold()] or get_close_matches(word, names, n=3)
    return f": did you mean {' or '.join(near)}?" if near else otherwise
