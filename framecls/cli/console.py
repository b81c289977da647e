"""What the command says on stderr: one line a failure or warning, notes, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

from framecls.errors import FrameclsError, ManifestError, OutputError, UsageError, is_out_of_memory
from framecls.output.text import escape as escape  # what the commands say goes through here, names in it too

PROGRAM = "framecls"

# Exit statuses, a part of the contract; the README has them in words.
DONE, FAILED, USAGE = 0, 1, 2
INCOMPLETE = 3  # everything was done, but something of an input is missing in its result, and a warning said so
# 128 and the number of the signal: what a shell reports of any program that one has ended.
SIGNALLED = 128
INTERRUPTED, BROKEN_PIPE = SIGNALLED + 2, SIGNALLED + 13  # by Ctrl-C, and by a reader of stdout that went away


def one_line(text: str) -> str:
    """Return text with every run of white space as one space, and escaped."""
    return escape(" ".join(text.split()))


def describe(error: BaseException) -> str:
    """Return what a person is told of an error: an unexpected one says its type and how to learn more."""
    message = one_line(str(error))
    if isinstance(error, FrameclsError):
        return message
    if is_out_of_memory(error):
        return "not enough memory; close other programs or lower --batch-size"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{one_line(str(error.strerror))}; close other programs or allow more (ulimit -n)"
    return f"unexpected {type(error).__name__}: {message}; run again with --debug"


class Remarked(Protocol):
    """A result, or the remarks of a recording."""

    @property
    def warnings(self) -> Sequence[str]:
        """What its result lacks."""

    @property
    def notes(self) -> Sequence[str]:
        """How it was read, where there was a choice."""


@dataclass
class Console:
    """Where messages go; counts the failures and the warnings."""

    quiet: bool = False
    debug: bool = False
    errors_file: TextIO | None = None
    failed: int = field(default=0, init=False)
    warned: int = field(default=0, init=False)

    @property
    def status(self) -> int:
        """The exit status of a run that went through all of its inputs."""
        return FAILED if self.failed else INCOMPLETE if self.warned else DONE

    def failure(self, file: str, error: BaseException) -> None:
        """Report that one input could not be done, and count it."""
        self.failed += 1
        self.show_traceback(error)
        self._write(f"{PROGRAM}: error: {escape(file)}: {describe(error)}")
        if self.errors_file is not None:
            record = {"file": file, "error": describe(error), "type": type(error).__name__}
            try:
                self.errors_file.write(json.dumps(record) + "\n")
                self.errors_file.flush()
            except OSError as full:
                path = escape(self.errors_file.name)
                self.close()
                raise OutputError(f"cannot write {path}: {full.strerror}") from full

    def warn(self, file: str, message: str) -> None:
        """Say that the result of one input lacks something, also in a quiet run, and count it."""
        self.warned += 1
        self._write(f"{PROGRAM}: warning: {escape(file)}: {one_line(message)}")

    def remark(self, file: str, read: Remarked) -> None:
        """Say what there is to say of one input that was read."""
        for warning in read.warnings:
            self.warn(file, warning)
        for note in read.notes:
            self.note(f"{escape(file)}: {one_line(note)}")

    def report(self, error: BaseException) -> None:
        """Say what stops the whole run; of a list that cannot be used, a line a row under the first."""
        if not isinstance(error, ManifestError) or not error.rows:
            self.error(describe(error))
            return
        self.error(one_line(error.headline))
        for row in error.rows:
            self._write(f"  {one_line(row)}")

    def error(self, message: str) -> None:
        """Say what stops the whole run."""
        self._write(f"{PROGRAM}: error: {message}")

    def note(self, message: str) -> None:
        """Say something that a quiet run leaves out."""
        if not self.quiet:
            self._write(f"{PROGRAM}: {message}")

    def show_traceback(self, error: BaseException) -> None:
        """Print where an error came from, when the user asked for it."""
        if self.debug:
            self._write("".join(traceback.format_exception(error)).rstrip())

    def open_errors(self, path: Path | None) -> None:
        """Start the file that gets each failure as a JSON line, empty while all goes well.

        Raises:
            UsageError: the file cannot be written.
        """
        if path is None:
            return
        try:
            self.errors_file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--errors {escape(str(path))} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file of failures."""
        if self.errors_file is not None:
            with contextlib.suppress(OSError):  # each line was flushed, and reported if that failed
                self.errors_file.close()
            self.errors_file = None

    @staticmethod
    def _write(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def set_up_logging(verbose: int, debug: bool) -> None:
    """Send the package's log to stderr: warnings always, more with -v; other libraries' warnings only with -v.

    A warning of a library is several lines with its own source in them, nothing that a user of the command can act on.
    """
    level = logging.DEBUG if debug or verbose > 1 else logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLineFormatter(f"{PROGRAM}: %(message)s"))
    logger = logging.getLogger(PROGRAM)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    logging.captureWarnings(True)
    warnings_log = logging.getLogger("py.warnings")
    warnings_log.handlers[:] = [handler if verbose or debug else logging.NullHandler()]
    warnings_log.propagate = False


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))
