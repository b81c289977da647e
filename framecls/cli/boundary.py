"""The outermost layer of the command: every outcome becomes an exit status and at most one line on stderr."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from framecls.cli.interrupts import Terminated, end_on_signals
from framecls.cli.messages import BROKEN_PIPE, DONE, FAILED, INTERRUPTED, PROGRAM, USAGE, Messages, error_message
from framecls.cli.streams import guarded_streams
from framecls.errors import StdoutError, UsageError
from framecls.text import one_line


def main() -> None:
    """Run the command line of this process and end it."""
    _reserve_standard_descriptors()
    end_on_signals()
    # Not by sys.exit: to destroy the objects of torch takes half a second. And the thread of a decoder may be in the
    # middle of a block, or reading a silent pipe, where Python would stop it and then report the objects it holds.
    _exit(run(sys.argv[1:]))


def _reserve_standard_descriptors() -> None:
    """Keep the first file that is opened from taking the place of a standard stream that the caller has closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one


def _exit(status: int) -> NoReturn:
    """End the process after the exit handlers, without waiting for threads or destroying objects."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None: it was closed by the caller
            stream.flush()
    os._exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    # Not from the parsed options, because parsing can fail.
    messages = Messages(debug="--debug" in arguments)
    with guarded_streams():
        try:
            status = _dispatch(list(arguments))
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            messages.error("interrupted")
            return INTERRUPTED
        except Terminated as signal:
            messages.error("terminated")
            return signal.status
        except StdoutError as error:
            return _report_stdout(error, messages)
        except UsageError as error:
            messages.show_traceback(error)
            messages.error(error_message(error))
            return USAGE
        except Exception as error:
            messages.show_traceback(error)
            messages.fatal(error)
            return FAILED


def _report_stdout(error: StdoutError, messages: Messages) -> int:
    if error.reader_left:  # as `head` does when it has enough: no error
        return BROKEN_PIPE
    messages.show_traceback(error)
    messages.error(f"cannot write the results: {one_line(str(error))}")
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
    if command == INTERRUPTED:  # Typer caught a Ctrl-C while it read the arguments
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
