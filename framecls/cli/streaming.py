"""`framecls tag --stream`: segments of recordings that may never end, printed as soon as they are final."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from framecls.cli.messages import Messages
from framecls.cli.options import LOCAL, TagOptions
from framecls.cli.streams import open_stdout
from framecls.config import ReadOptions
from framecls.errors import StdoutError, UsageError
from framecls.output.formats import WRITERS, Writer

if TYPE_CHECKING:
    from framecls.audio import Input
    from framecls.cli.operations import Operation
    from framecls.model import Model


def check_stream(options: TagOptions, writer: Writer) -> None:
    """Refuse what does not go with --stream.

    Raises:
        UsageError: results that only a whole recording gives, or that do not go to stdout.
    """
    if options.output is not None:
        raise UsageError("--stream prints to stdout: leave -o out and redirect it, as in > FILE")
    if not writer.streams:
        wrong = "needs -f" if options.format is None else f"does not go with -f {writer.name}"
        able = [name for name, kind in WRITERS.items() if kind.streams]
        raise UsageError(f"--stream {wrong}: choose {', '.join(able)}")
    if options.frames:
        raise UsageError("--stream gives segments: leave --frames out")
    for option, given in (("exclusive", options.exclusive), ("coarse", options.coarse), ("totals", options.totals)):
        if given:
            raise UsageError(f"--{option} is about a recording as a whole, and --stream does not wait: leave one out")
    if options.engine != LOCAL:
        raise UsageError(f"--stream is about what comes in here: leave --engine {options.engine} out")
    if options.resume:
        raise UsageError("--stream keeps nothing that a later run could go on from: leave --resume out")


def stream_inputs(inputs: Sequence[Input], model: Model, operation: Operation, messages: Messages) -> None:
    """Print the segments of each input in turn; one that fails is reported and does not stop the others."""
    from framecls.output.segments import SegmentWriter

    stdout, reading = open_stdout(), operation.reading
    writer = SegmentWriter(operation.format, model.name, model.labels, model.config.hop_s, operation.shape)
    writer.begin(stdout)
    for item in inputs:
        channel = item.channel or ReadOptions(**reading).channel_number
        with closing(
            model.stream(item.source, remark=partial(messages.report_warnings, item.name), **reading)
        ) as segments:
            try:
                for segment in segments:
                    writer.write(item.name, channel, segment, stdout)
                    stdout.flush()
            except StdoutError:
                raise
            except Exception as error:
                messages.input_failed(item.name, error)
