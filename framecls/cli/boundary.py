"""The outermost layer of the command: whatever happens becomes an exit status and at most one line on stderr."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

from framecls.cli.console import BROKEN_PIPE, DONE, FAILED, INTERRUPTED, PROGRAM, USAGE, Console, describe, one_line
from framecls.errors import UsageError

# What stands for the characters of our own texts where a stream has ASCII only.
_PLAIN = {"×": "x", "–": "-", "…": "...", "·": "-", "→": "->"}


def main() -> None:
    """Run the command line of this process and end it."""
    # Not by sys.exit: to take torch apart, object by object, keeps a user waiting for half a second. And a decoder may
    # be in the middle of a block, or in a read of a silent pipe, where Python would stop it and then complain, page by
    # page, of what it still holds.
    _leave(run(sys.argv[1:]))


def _leave(status: int) -> NoReturn:
    """End the process as `sys.exit` does, temporary files removed, but with no look at what threads still hold."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    _prepare_streams()
    # Asked for here, and not of the parsed options, because parsing too can fail.
    console = Console(debug="--debug" in arguments)
    try:
        status = _dispatch(list(arguments))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        console.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout)  # what is buffered has no reader; flushing it at exit would complain
        return BROKEN_PIPE
    except UsageError as error:
        console.show_traceback(error)
        console.error(describe(error))
        return USAGE
    except OSError as error:  # of stdout: inputs and result files have their own handling
        console.show_traceback(error)
        console.error(f"cannot write the results: {one_line(error.strerror or str(error))}")
        _discard(sys.stdout)
        return FAILED
    except Exception as error:
        console.show_traceback(error)
        console.report(error)
        return FAILED


def _dispatch(arguments: list[str]) -> int:
    import typer

    from framecls.cli.app import app

    try:
        command = app(arguments, prog_name=PROGRAM, standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        raise _translate(error) from error
    if callable(command):
        return int(command())
    if command == INTERRUPTED:  # Typer heard Ctrl-C while it read the arguments, and says nothing of it
        raise KeyboardInterrupt
    return command if isinstance(command, int) else DONE  # --help and --version have printed all there is


def _translate(error: Exception) -> Exception:
    """Turn Typer's own usage errors into ours; they share no public base class, only these two attributes."""
    if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
        return error
    message = str(error.format_message()).strip().rstrip(".").replace("Value error, ", "")
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    after = " See" if message.endswith("?") else "; see"
    return UsageError(f"{message[:1].lower()}{message[1:]}{after} {command} --help")


def _prepare_streams() -> None:
    """Make sure that no file name can break a message: text that a stream cannot show is made plain, or escaped."""
    codecs.register_error(PROGRAM, _make_plain)
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=PROGRAM)


def _make_plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = _PLAIN.get(error.object[error.start])
    if plain is not None:
        return plain, error.start + 1
    error.end = error.start + 1  # what follows may be ours again
    return codecs.backslashreplace_errors(error)


def _discard(stream: TextIO) -> None:
    """Send what a stream still holds nowhere."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
