"""What `tag` and `identify` share: check, find, load, then each input in turn, whatever happens to the others."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framecls.cli import checks
from framecls.cli.fingerprint import take_fingerprint
from framecls.cli.interrupts import Interrupts
from framecls.cli.messages import INTERRUPTED, PROGRAM, Messages, open_messages
from framecls.cli.options import RAY, STEM, RunOptions, TagOptions
from framecls.cli.progress import InputProgress
from framecls.cli.streaming import stream_inputs
from framecls.cli.streams import open_stdout
from framecls.config import EACH, ModelConfig, ReadOptions
from framecls.errors import ClusterError, FrameclsError, OutputError, UsageError
from framecls.output.resume import History, collect_facts, observe
from framecls.text import escape, hms

if TYPE_CHECKING:
    from framecls.audio import Channel, Input, InputFailure
    from framecls.cli.operations import AnyModel, Operation, Results
    from framecls.output.destination import Destination
    from framecls.output.formats import Result

_log = logging.getLogger(__name__)


def classify(operation: Operation) -> int:
    """Run a command over all of its inputs and return the exit status.

    Raises:
        UsageError: before anything is read, what is wrong with the options.
        FrameclsError: what stops the whole run: the model, or where the results go.
    """
    options = operation.options
    messages = open_messages(options)
    checks.check_machine(options)
    checks.check_engine(options)
    checks.check_naming(options)
    if options.channel == EACH and options.engine == RAY:
        raise UsageError("--channel each is for this process alone: leave --engine ray out, or choose one channel")
    models = operation.open()
    _check_files(options, models)
    fingerprint = partial(take_fingerprint, options, operation.format, models)
    with contextlib.closing(messages):
        return _classify_inputs(operation, messages, fingerprint)


def _check_files(options: RunOptions, models: Sequence[tuple[Path, ModelConfig]]) -> None:
    """Refuse to write over a list, the gallery or a model.

    Raises:
        UsageError: an output is one of them.
    """
    output = options.output
    written = {"-o": Path(output) if output and not os.path.isdir(output) else None, "--errors": options.errors}
    read: dict[str, Path | None] = {f"the list {name}": Path(name[1:]) for name in options.inputs if name[:1] == "@"}
    if any(config.embedding for _, config in models):
        from framecls.speakers.gallery import default_path  # numpy: only once the options are right

        read["the gallery"] = getattr(options, "gallery", None) or default_path()
    for path, _ in models:
        checks.check_overwrites(written, {**read, "the model": path})


def _classify_inputs(operation: Operation, messages: Messages, fingerprint: Callable[[], str]) -> int:
    from framecls.audio import Input, find_inputs
    from framecls.output.destination import choose_destination

    options = operation.options
    found = list(find_inputs(options.inputs))
    if options.channel == EACH:
        found = list(_expand_channels(found, ReadOptions(**operation.reading)))
    inputs = [item for item in found if isinstance(item, Input)]
    output = options.output
    destination = choose_destination(
        operation.writer,
        open_stdout(for_people=operation.writer.for_people) if output is None else output,
        len(found),
        from_folder=any(item.name not in options.inputs for item in inputs),
        # A single recording leaves nothing to resume, unless the user asks for it.
        keep_journal=options.resume or len(inputs) > 1,
        kind=operation.result,
        by_stem=options.naming == STEM,
    )
    if options.resume and not destination.keeps_journal:
        raise UsageError("--resume needs a file or a folder named with -o: what was printed is not known any more")
    checks.check_not_an_input("-o", destination.file, inputs)
    checks.check_not_an_input("--errors", options.errors, inputs)
    messages.open_errors(options.errors)
    for item in found:
        if not isinstance(item, Input):
            messages.input_failed(item.name, item.error)
    if isinstance(options, TagOptions) and options.stream:
        return _stream(operation, messages, inputs)
    # What a list names is an argument, too.
    arguments = [*options.inputs, *(item.name for item in found)] if options.resume else []
    run = InputRun(operation, messages, destination, inputs)
    run.classify(fingerprint, arguments)
    if run.is_interrupted:
        return INTERRUPTED
    if len(found) > 1 or options.resume or output is not None:
        messages.note(run.summary())
    return messages.status


def _expand_channels(found: Iterable[Input | InputFailure], options: ReadOptions) -> Iterator[Input | InputFailure]:
    """Yield each channel of each recording; what cannot be opened stays one input, which will fail."""
    from framecls.audio import Input, split_channels

    for item in found:
        channels: Sequence[Channel] = ()
        if isinstance(item, Input) and item.path is not None:
            with contextlib.suppress(FrameclsError):
                channels = split_channels(item.path, options=options)
            for channel in channels:
                # The number stands where the suffix of the results' format follows: a.wav.1.TextGrid.
                relative = item.relative.with_name(f"{item.relative.name}.{channel.number}")
                yield dataclasses.replace(item, relative=relative, channel=channel.number)
        if not channels:
            yield item


def _stream(operation: Operation, messages: Messages, inputs: Sequence[Input]) -> int:
    if inputs:
        from framecls.model import Model

        model = operation.prepare(_load(operation))
        assert isinstance(model, Model)
        stream_inputs(inputs, model, operation, messages)
    return messages.status


@contextlib.contextmanager
def _open_model(operation: Operation, n_inputs: int) -> Iterator[Any]:
    """Yield the model, or the models, in this process or on a cluster.

    Args:
        operation: its options say which, and where.
        n_inputs: how many recordings it will get.
    """
    options = operation.options
    if options.engine != RAY:
        yield _load(operation)
        return
    from framecls.cluster import connect

    start = time.monotonic()
    connection = connect(
        operation.models[0],
        address=options.address,
        workers=options.workers,
        **options.loading(),
        n_inputs=n_inputs,
    )
    # What goes wrong in its processes Ray prints to `sys.stdout`; results go to the stream that was opened for them.
    with contextlib.redirect_stdout(io.StringIO()), connection as model:
        _log.info("model %s on %s, the first ready in %.1f s", model.name, model.device, time.monotonic() - start)
        yield model


def _load(operation: Operation) -> Any:
    from framecls.model import load_group

    options, start = operation.options, time.monotonic()
    group = load_group(operation.models, **options.loading())
    for model in group.models:
        _log.info("model %s on %s, loaded in %.1f s", model.name, model.device, time.monotonic() - start)
    return group if len(group.models) > 1 else group.models[0]


def _expect_length_s(item: Input, options: ReadOptions) -> float | None:
    """Return the length in the header; errors are for the run to report."""
    from framecls.audio import open_audio

    try:
        with open_audio(item.source, options=options) as stream:
            return stream.duration_s
    except Exception:
        return None


class InputRun:
    """One run: every input in turn, and the counts for its summary."""

    def __init__(
        self, operation: Operation, messages: Messages, destination: Destination, inputs: Sequence[Input]
    ) -> None:
        self.is_interrupted = False
        self._operation = operation
        self._messages = messages
        self._destination = destination
        self._inputs = inputs
        self._states = observe(inputs)
        self._pending = list(inputs)  # without those that an earlier run has done, once that is known
        self._n_skipped = 0  # inputs that an earlier run has done
        self._n_finished = 0  # pending inputs that are done or failed
        self._audio_s = 0.0
        self._start = time.monotonic()
        self._progress = InputProgress([], enabled=False)
        # A stream may never end, and a single recording leaves nothing to resume.
        finish_current = len(inputs) > 1 and len(self._states) == len(inputs)
        self._interrupts = Interrupts(self._announce_stop, finish_current=finish_current)

    def classify(self, fingerprint: Callable[[], str], arguments: Sequence[str]) -> None:
        """Classify every input and write its result; one that fails is reported and does not stop the others.

        Args:
            fingerprint: of what decides all results; called only where it is needed, because it reads the model file.
            arguments: see `History`.

        Raises:
            FrameclsError: what stops the whole run: the model, or where the results go.
        """
        options = self._operation.options
        try:
            keeps_journal = self._destination.keeps_journal
            facts = self._collect_facts(fingerprint()) if keeps_journal else {}
            history = History(facts, options.resume, arguments)
            with self._destination.open(self._inputs, history), contextlib.ExitStack() as stack:
                self._pending = self._destination.pending
                self._n_skipped = len(self._inputs) - len(self._pending)
                model = None
                if self._pending:
                    model = self._operation.prepare(
                        stack.enter_context(_open_model(self._operation, len(self._pending)))
                    )
                self._classify_pending(model)
            self._report_unwritten()
        except KeyboardInterrupt:
            self.is_interrupted = True
            self._report_unwritten()
            self._progress.hide()
            self._messages.error(self._interruption())
        except (OutputError, ClusterError) as error:
            raise type(error)(f"{error}{self._remainder()}") from error
        finally:
            self._progress.hide()

    def _collect_facts(self, fingerprint: str) -> dict[Path, str]:
        return collect_facts(self._inputs, self._states, fingerprint, self._operation.beside)

    def _classify_pending(self, model: AnyModel | None) -> None:
        self._progress = self._make_progress()
        self._start = time.monotonic()
        with self._interrupts:
            if model is None:
                return
            results = self._operation.run(model, (item.source for item in self._pending), self._progress.advance)
            # Before what is written at the end, such as a table, the bar must be gone.
            with contextlib.closing(results), self._progress.hidden_at_end():
                for item in self._pending:
                    self._interrupts.check()
                    result = self._next_result(results, item)
                    if result is not None:
                        self._destination.write(result, item.relative)
                        self._report_unwritten()
                    else:
                        self._destination.discard(item.relative)
                    self._n_finished += 1
                    self._progress.finish_input(result.duration if result is not None else 0.0)

    def _make_progress(self) -> InputProgress:
        options = self._operation.options
        sizes_bytes = [self._states[i.relative].size_bytes if i.relative in self._states else 0 for i in self._pending]
        n_failed = self._messages.n_failed  # arguments that gave no recordings
        find_length_s = None
        if len(sizes_bytes) == 1 and sizes_bytes[0] and not n_failed:  # the header of a pipe cannot be read ahead
            find_length_s = partial(_expect_length_s, self._pending[0], ReadOptions(**self._operation.reading))
        progress = InputProgress(
            [0] * n_failed + sizes_bytes,
            enabled=options.shows_progress,
            write_line=self._messages.note,
            find_length_s=find_length_s,
        )
        for _ in range(n_failed):  # the summary counts them
            progress.finish_input(0.0)
        return progress

    def _next_result(self, results: Results, item: Input) -> Result | None:
        start = time.monotonic()
        result = next(results)
        self._progress.hide()
        if isinstance(result, Exception):
            self._messages.input_failed(item.name, result)
            return None
        self._audio_s += result.duration
        self._messages.report_warnings(item.name, result)
        _log.info("%s: %.1f s of audio in %.2f s", item.name, result.duration, time.monotonic() - start)
        # The name as the user wrote it; the library may know a file object by another one, or by none.
        result = dataclasses.replace(result, file=item.name)
        shaped: Result = self._operation.shape(result)
        return shaped

    def _report_unwritten(self) -> None:
        for file, error in self._destination.failures:
            self._progress.hide()
            self._messages.input_failed(file, error)
        self._destination.failures.clear()

    def _announce_stop(self) -> None:
        line = "finishing the recording under way; Ctrl-C again stops at once"
        if not self._messages.quiet and not self._progress.print_above(f"{PROGRAM}: {line}"):
            self._messages.note(line)

    def summary(self) -> str:
        """Return what was done, for a run over several inputs."""
        elapsed_s = max(time.monotonic() - self._start, 1e-9)
        n_written, n_failed = self._destination.n_written, self._messages.n_failed
        parts = [f"{n_written:,} done"]
        parts += [f"{self._n_skipped:,} skipped"] if self._n_skipped else []
        parts += [f"{n_failed:,} failed"] if n_failed else []
        if self._n_finished:
            parts.append(f"{hms(self._audio_s)} of audio in {elapsed_s:.1f} s")
            parts.append(f"{self._audio_s / elapsed_s:.0f} times real time")
        output = self._operation.options.output
        if output is not None and n_written:
            parts.append(f"results in {escape(output)}")
        return ", ".join(parts)

    def _interruption(self) -> str:
        left = self._pending[self._n_finished :]
        first = f", from {escape(left[0].name)} on" if left else ""
        n_inputs = len(self._inputs)
        return f"interrupted: {n_inputs - len(left)} of {n_inputs} inputs done, {len(left)} left{first}{self._advice()}"

    def _remainder(self) -> str:
        """Return what was done before the results could not be written any more, and how to go on."""
        n_done = self._n_skipped + self._destination.n_written
        return f"; {n_done} of {len(self._inputs)} inputs done{self._advice()}" if n_done else ""

    def _advice(self) -> str:
        file = self._destination.file
        state = "was left alone" if file is not None and os.path.exists(file) else "is not written yet"
        kept = f"; {escape(str(file))} {state}" if file is not None else ""
        return f"{kept}; --resume goes on from there" if self._destination.keeps_journal else kept
