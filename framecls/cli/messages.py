"""Messages on stderr: one line for each failure or warning, notes, and the log."""

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
from typing import TYPE_CHECKING, Protocol, TextIO

from framecls.errors import FrameclsError, ManifestError, OutputError, UsageError, is_out_of_memory
from framecls.text import escape, one_line

if TYPE_CHECKING:
    from framecls.cli.options import MessageOptions

PROGRAM = "framecls"

# Exit statuses, a part of the contract; the README has them in words.
DONE, FAILED, USAGE = 0, 1, 2
INCOMPLETE = 3  # everything was done, but something of an input is missing in its result, and a warning said so
# 128 and the number of the signal: what a shell reports of any program that one has ended.
SIGNALLED = 128
INTERRUPTED, BROKEN_PIPE = SIGNALLED + 2, SIGNALLED + 13  # by Ctrl-C, and by a reader of stdout that went away


def error_message(error: BaseException) -> str:
    """Return the message of an error for a user; that of an unexpected one names its type and --debug."""
    message = one_line(str(error))
    if isinstance(error, FrameclsError):
        return message
    if is_out_of_memory(error):
        return "not enough memory; close other programs or lower --batch-size"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{one_line(str(error.strerror))}; close other programs or allow more (ulimit -n)"
    return f"unexpected {type(error).__name__}: {message}; run again with --debug"


class HasWarnings(Protocol):
    """A result, or the remarks of a recording."""

    @property
    def warnings(self) -> Sequence[str]:
        """What its result lacks."""

    @property
    def notes(self) -> Sequence[str]:
        """How it was read, where there was a choice."""


@dataclass
class Messages:
    """Writes messages to stderr, and counts the failures and the warnings."""

    quiet: bool = False
    debug: bool = False
    errors_file: TextIO | None = None
    n_failed: int = field(default=0, init=False)
    n_warnings: int = field(default=0, init=False)

    @property
    def status(self) -> int:
        """The exit status of a run that went through all of its inputs."""
        return FAILED if self.n_failed else INCOMPLETE if self.n_warnings else DONE

    def input_failed(self, file: str, error: BaseException) -> None:
        """Report an input that could not be done, and count it."""
        self.n_failed += 1
        self.show_traceback(error)
        self._write(f"{PROGRAM}: error: {escape(file)}: {error_message(error)}")
        if self.errors_file is not None:
            record = {"file": file, "error": error_message(error), "type": type(error).__name__}
            try:
                self.errors_file.write(json.dumps(record) + "\n")
                self.errors_file.flush()
            except OSError as full:
                path = escape(self.errors_file.name)
                self.close()
                raise OutputError(f"cannot write {path}: {full.strerror}") from full

    def warn(self, file: str, message: str) -> None:
        """Report, also in a quiet run, that the result of an input lacks something, and count that."""
        self.n_warnings += 1
        self._write(f"{PROGRAM}: warning: {escape(file)}: {one_line(message)}")

    def report_warnings(self, file: str, recording: HasWarnings) -> None:
        """Report what was wrong with an input, and how it was read."""
        for warning in recording.warnings:
            self.warn(file, warning)
        for note in recording.notes:
            self.note(f"{escape(file)}: {one_line(note)}")

    def fatal(self, error: BaseException) -> None:
        """Report the error that stops the whole run; that of a manifest has a line for each bad row."""
        if not isinstance(error, ManifestError) or not error.rows:
            self.error(error_message(error))
            return
        self.error(one_line(error.headline))
        for row in error.rows:
            self._write(f"  {one_line(row)}")

    def error(self, message: str) -> None:
        """Report what stops the whole run."""
        self._write(f"{PROGRAM}: error: {message}")

    def note(self, message: str) -> None:
        """Write a line that a quiet run leaves out."""
        if not self.quiet:
            self._write(f"{PROGRAM}: {message}")

    def show_traceback(self, error: BaseException) -> None:
        """Write where an error came from, with --debug."""
        if self.debug:
            self._write("".join(traceback.format_exception(error)).rstrip())

    def open_errors(self, path: Path | None) -> None:
        """Create the file that gets each failure as a JSON line.

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


def open_messages(options: MessageOptions) -> Messages:
    """Return where a command writes its messages, and send the log of the package there too."""
    _set_up_logging(options.verbose, options.debug)
    return Messages(quiet=options.quiet, debug=options.debug)


def _set_up_logging(verbose: int, debug: bool) -> None:
    """Send the package's log to stderr: warnings always, more with -v; other libraries' warnings only with -v.

    A warning of a library has several lines, with its source in them: nothing that a user of the command can act on.
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
