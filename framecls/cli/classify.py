"""What `tag` and `identify` share: check, find, load, then each input in turn, whatever happens to the others."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from framecls.cli import checks
from framecls.cli.console import INTERRUPTED, PROGRAM, Console, escape, set_up_logging
from framecls.cli.formats import TEXT, choose_format, needs_frames
from framecls.cli.interrupts import Interrupts
from framecls.cli.options import RAY, IdentifyOptions, RunOptions, TagOptions
from framecls.cli.progress import InputBar, clock
from framecls.cli.streaming import check_stream, stream_inputs
from framecls.config import EACH, ModelConfig, ReadOptions
from framecls.errors import ClusterError, FrameclsError, OutputError, UsageError
from framecls.output.resume import InputState, Run, observe, take_fingerprint

if TYPE_CHECKING:
    from framecls.audio import Channel, Input, InputFailure, Source
    from framecls.cluster import ClusterModel
    from framecls.model import Model
    from framecls.output.destination import Destination, Form, Plan
    from framecls.results import Identification, TagResult
    from framecls.speakers.recognition import Enrolled

    AnyModel: TypeAlias = Model | ClusterModel
    Results: TypeAlias = (
        Generator[TagResult | Exception, None, None] | Generator[Identification | Exception, None, None]
    )

_log = logging.getLogger(__name__)


class Job(ABC):
    """What one command does with each input."""

    task: ClassVar[Literal["frame", "pooled"]]
    frames: bool = False
    times: bool = False
    min_duration_s: float | None = None  # None: the model's own
    min_gap_s: float | None = None

    def __init__(self, options: RunOptions) -> None:
        self.thresholds = checks.parse_thresholds(options.threshold)
        self.reading = checks.parse_reading(options)

    def check_format(self, format: str) -> None:  # noqa: B027 (identify has nothing to check)
        """Refuse what does not go with the format of the results.

        Raises:
            UsageError: it does not.
        """

    @property
    def result(self) -> type[TagResult | Identification]:
        """What `run` returns."""
        from framecls.results import Identification, TagResult

        return TagResult if self.task == "frame" else Identification

    def find(self, name: str) -> tuple[Path, ModelConfig]:
        """Return the file and the settings of the model of that name.

        Raises:
            UsageError: there is none, or it does not do what is asked for.
        """
        return checks.find_model(name, self.task)

    def check(self, config: ModelConfig) -> None:
        """Refuse options that do not fit the model.

        Raises:
            UsageError: they do not.
        """
        checks.check_decision(config, self.thresholds, self.min_duration_s, self.min_gap_s)

    def prepare(self, model: AnyModel) -> AnyModel:
        """Return the model with the decisions of this run."""
        return model.with_decision(
            thresholds=self.thresholds, min_duration_s=self.min_duration_s, min_gap_s=self.min_gap_s
        )

    @abstractmethod
    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        """Classify recordings, in order; for one that fails comes the error. `progress` is told of the present one."""


class TagJob(Job):
    """`framecls tag`."""

    task = "frame"

    def __init__(self, options: TagOptions) -> None:
        super().__init__(options)
        if options.beam is not None:
            raise UsageError("--beam goes with --string: add that, or leave it out")
        checks.check_seconds("--min-duration", options.min_duration)
        checks.check_seconds("--min-gap", options.min_gap)
        self.frames = options.frames
        self._options = options
        self._keep_scores = options.frames
        self.min_duration_s = options.min_duration
        self.min_gap_s = options.min_gap

    def check_format(self, format: str) -> None:
        self._keep_scores = needs_frames(format, self.frames)
        if self._options.stream:
            check_stream(self._options, format)

    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        return model.tag_many(sources, keep_scores=self._keep_scores, progress=progress, **self.reading)


class StringJob(Job):
    """`framecls tag --string`: any model that hears phones will do."""

    task = "frame"

    def __init__(self, options: TagOptions) -> None:
        super().__init__(options)
        checks.check_count("--beam", options.beam)
        for option, given in (
            ("--threshold", options.threshold),
            ("--min-duration", options.min_duration is not None),
            ("--min-gap", options.min_gap is not None),
            ("--stream", options.stream),
        ):
            if given:
                raise UsageError(f"{option} is about labels and does not go with --string: leave one of them out")
        self.frames = options.frames
        self._beam = options.beam

    @property
    def result(self) -> type[TagResult | Identification]:
        from framecls.results import StringResult

        return StringResult

    def find(self, name: str) -> tuple[Path, ModelConfig]:
        return checks.find_string_model(name)

    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        from framecls.config import DEFAULT_BEAM

        beam = DEFAULT_BEAM if self._beam is None else self._beam
        return model.tag_string_many(sources, beam=beam, progress=progress, **self.reading)


class IdentifyJob(Job):
    """`framecls identify`."""

    task = "pooled"

    def __init__(self, options: IdentifyOptions) -> None:
        super().__init__(options)
        checks.check_count("--top-k", options.top_k)
        self._top_k = options.top_k
        self._among_text = options.among
        self._among: tuple[str, ...] | None = None
        self._gallery = options.gallery
        self._enrolled: Enrolled | None = None

    def check(self, config: ModelConfig) -> None:
        super().check(config)
        if not config.embedding:
            if self._gallery is not None:
                raise UsageError(f"--gallery goes with a model of voices, such as -m speaker, not with {config.name}")
            self._among = checks.parse_among(self._among_text, config.labels)

    def prepare(self, model: AnyModel) -> AnyModel:
        model = super().prepare(model)
        if model.config.embedding:
            self._enrolled = model.enrolled(self._gallery)
            self._among = checks.parse_names(self._among_text, self._enrolled.names)
        return model

    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        return model.identify_many(
            sources,
            top_k=self._top_k,
            among=self._among,
            enrolled=self._enrolled,
            progress=progress,
            **self.reading,
        )


def classify(options: RunOptions, job: Job) -> int:
    """Run a command over all of its inputs and return the exit status.

    Raises:
        UsageError: before anything is read, what is wrong with the options.
        FrameclsError: what stops the whole run: the model, or where the results go.
    """
    set_up_logging(options.verbose, options.debug)
    format = choose_format(options.format, options.output, job.frames)
    job.check_format(format)
    checks.check_device(options.device)
    checks.check_count("--threads", options.threads)
    checks.check_count("--batch-size", options.batch_size)
    checks.check_engine(options)
    if options.channel == EACH and options.engine == RAY:
        raise UsageError("--channel each is for this process alone: leave --engine ray out, or choose one channel")
    model_path, config = job.find(options.model)
    job.check(config)
    _check_files(options, model_path, config)

    from framecls.output.destination import Form  # numpy: only once the options are right

    form = Form(format, job.frames, job.times)
    if not form.accepts(job.result):
        if format == TEXT:
            raise UsageError(f"-f {format} holds strings of phones: add --string to framecls tag, or choose another")
        raise UsageError(
            f"-f {format} holds the scores of frames, which framecls identify does not give: choose another"
        )
    console = Console(quiet=options.quiet, debug=options.debug)
    fingerprint = partial(take_fingerprint, options, format, model_path, config)
    try:
        return _classify_inputs(options, job, form, console, fingerprint)
    finally:
        console.close()


def _check_files(options: RunOptions, model: Path, config: ModelConfig) -> None:
    """Refuse, before anything is read, to write over what is read besides the recordings.

    Raises:
        UsageError: an output is also something else.
    """
    output = options.output
    written = {"-o": Path(output) if output and not os.path.isdir(output) else None, "--errors": options.errors}
    read: dict[str, Path | None] = {f"the list {name}": Path(name[1:]) for name in options.inputs if name[:1] == "@"}
    if config.embedding:
        from framecls.speakers.gallery import default_path  # numpy: only once the options are right

        read["the gallery"] = getattr(options, "gallery", None) or default_path()
    checks.check_overwrites(written, {**read, "the model": model})


def _classify_inputs(
    options: RunOptions, job: Job, form: Form, console: Console, fingerprint: Callable[[], str]
) -> int:
    from framecls.audio import Input, find_inputs
    from framecls.output.destination import plan_destination

    found = list(find_inputs(options.inputs))
    if options.channel == EACH:
        found = list(_expand_channels(found, ReadOptions(**job.reading)))
    inputs = [item for item in found if isinstance(item, Input)]
    from_folder = any(item.name not in options.inputs for item in inputs)
    plan = plan_destination(form, options.output, len(found), from_folder=from_folder)
    if options.resume and not plan.is_resumable:
        raise UsageError("--resume needs a file or a folder named with -o: what was printed is not known any more")
    checks.check_not_an_input("-o", plan.file, inputs)
    checks.check_not_an_input("--errors", options.errors, inputs)
    console.open_errors(options.errors)
    if isinstance(options, TagOptions) and options.stream:
        _report(found, console)
        return _stream(options, job, form, console, inputs)
    # What a list names is an argument, too.
    arguments = [*options.inputs, *(item.name for item in found)] if options.resume else []
    run = Run(inputs, observe(inputs), options.resume, fingerprint, arguments, job.result)
    batch = Batch(run, plan, console, output=options.output, wants_progress=not (options.quiet or options.no_progress))
    try:
        _report(found, console)
        with plan.open(run) as destination, contextlib.ExitStack() as stack:
            batch.begin(destination)
            n_inputs = len(batch.inputs)
            model = job.prepare(stack.enter_context(_open_model(options, n_inputs))) if n_inputs else None
            batch.run(model, job, destination)
        batch.report_failures()
    except KeyboardInterrupt:
        batch.bar.hide()
        batch.report_failures()
        console.error(batch.describe_interruption())
        return INTERRUPTED
    except (OutputError, ClusterError) as error:
        batch.bar.hide()
        raise type(error)(f"{error}{batch.describe_rest()}") from error
    finally:
        batch.bar.hide()
    if len(found) > 1 or options.resume or options.output is not None:
        console.note(batch.describe())
    return console.status


def _expand_channels(found: Iterable[Input | InputFailure], options: ReadOptions) -> Iterator[Input | InputFailure]:
    """Yield each channel of each recording; what cannot be opened stays as it is, and fails when it is its turn."""
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


def _report(found: Sequence[Input | InputFailure], console: Console) -> None:
    """Report the arguments that gave no recordings."""
    from framecls.audio import Input

    for item in found:
        if not isinstance(item, Input):
            console.failure(item.name, item.error)


def _stream(options: RunOptions, job: Job, form: Form, console: Console, inputs: Sequence[Input]) -> int:
    if inputs:
        from framecls.model import Model

        model = job.prepare(_load(options))
        assert isinstance(model, Model)
        stream_inputs(inputs, model, form.format, job.reading, console)
    return console.status


@contextlib.contextmanager
def _open_model(options: RunOptions, n_inputs: int) -> Iterator[AnyModel]:
    """Yield the model, in this process or on a cluster.

    Args:
        options: which, and where.
        n_inputs: how many recordings it will get.
    """
    if options.engine != RAY:
        yield _load(options)
        return
    from framecls.cluster import connect

    start = time.monotonic()
    with connect(
        options.model,
        address=options.address,
        workers=options.workers,
        device=options.device,
        threads=options.threads,
        batch_size=options.batch_size,
        n_inputs=n_inputs,
    ) as model:
        _log.info("model %s on %s, the first ready in %.1f s", model.name, model.device, time.monotonic() - start)
        yield model


def _load(options: RunOptions) -> Model:
    from framecls.model import load

    start = time.monotonic()
    model = load(options.model, device=options.device, threads=options.threads, batch_size=options.batch_size)
    _log.info("model %s on %s, loaded in %.1f s", model.name, model.device, time.monotonic() - start)
    return model


def _expect_length_s(item: Input, options: ReadOptions) -> float | None:
    """Return what the header says of the length; what is wrong with a recording is for the run to report."""
    from framecls.audio import open_audio

    try:
        with open_audio(item.source, options=options) as stream:
            return stream.duration_s
    except Exception:
        return None


class Batch:
    """The inputs of one run, and how far it is."""

    def __init__(
        self, run: Run, plan: Plan, console: Console, *, output: str | None = None, wants_progress: bool
    ) -> None:
        self._output = output
        self.console = console
        self.inputs = list(run.inputs)  # to be done; `begin` leaves out those that an earlier run has done
        self.n_finished = 0  # of those, done or failed
        self.n_skipped = 0
        self.audio_s = 0.0
        self.start = time.monotonic()
        self._run = run
        self._plan = plan
        self._destination: Destination | None = None
        self._wants_progress = wants_progress
        self.bar = InputBar([], wanted=False)
        # What may never end is not waited for, and a single recording leaves nothing to go on with.
        patient = len(run.inputs) > 1 and len(run.states) == len(run.inputs)
        self.interrupts = Interrupts(self._announce_stop, patient=patient)

    def begin(self, destination: Destination) -> None:
        """Leave out what the destination has already."""
        self._destination = destination
        self.inputs = destination.pending
        self.n_skipped = len(self._run.inputs) - len(self.inputs)

    def run(self, model: AnyModel | None, job: Job, destination: Destination) -> None:
        """Classify every input and write its result; one that fails is reported and does not stop the others.

        Raises:
            KeyboardInterrupt: the user stopped it; what was under way is written unless that was asked for twice.
            OutputError: nothing more can be written.
        """
        sizes_bytes = [state.size_bytes if state else 0 for state in map(self._state, self.inputs)]
        n_failed = self.console.failed  # arguments that gave no recordings
        is_single = len(sizes_bytes) == 1 and sizes_bytes[0] > 0  # and not a pipe, which nobody can look ahead in
        self.bar = InputBar(
            [0] * n_failed + sizes_bytes,
            wanted=self._wants_progress,
            write_line=self.console.note,
            find_length_s=partial(_expect_length_s, self.inputs[0], ReadOptions(**job.reading))
            if is_single and not n_failed
            else None,
        )
        for _ in range(n_failed):  # the summary counts them
            self.bar.finish_input(0.0)
        self.start = time.monotonic()
        with self.interrupts:
            if model is None:
                return
            sources = (item.source for item in self.inputs)
            # A form that is written at the end, as a table is, must not find the bar on the screen.
            with contextlib.closing(job.run(model, sources, self.bar.advance)) as results, self.bar.hidden_at_end():
                for item in self.inputs:
                    self.interrupts.check()
                    result = self._classify(results, item)
                    self.bar.hide()
                    if result is not None:
                        destination.write(result, item.relative)
                        self.report_failures()
                    else:
                        destination.discard(item.relative)
                    self.n_finished += 1
                    self.bar.finish_input(result.duration if result is not None else 0.0)

    def _state(self, item: Input) -> InputState | None:
        return self._run.states.get(item.relative)

    def _classify(self, results: Results, item: Input) -> TagResult | Identification | None:
        start = time.monotonic()
        result = next(results)
        if isinstance(result, Exception):
            self.bar.hide()
            self.console.failure(item.name, result)
            return None
        self.audio_s += result.duration
        self.bar.hide()
        self.console.remark(item.name, result)
        _log.info("%s: %.1f s of audio in %.2f s", item.name, result.duration, time.monotonic() - start)
        # The name as the user wrote it; the library may know a file object by another one, or by none.
        return dataclasses.replace(result, file=item.name)

    def report_failures(self) -> None:
        """Report the results that could not be written."""
        if self._destination is not None:
            for file, error in self._destination.failures:
                self.bar.hide()
                self.console.failure(file, error)
            self._destination.failures.clear()

    @property
    def n_done(self) -> int:
        """Inputs whose results are written."""
        return self._destination.n_written if self._destination is not None else 0

    def _announce_stop(self) -> None:
        line = f"{PROGRAM}: finishing the recording under way; Ctrl-C again stops at once"
        if not self.console.quiet and not self.bar.print_above(line):
            self.console.note(line.removeprefix(f"{PROGRAM}: "))

    def describe(self) -> str:
        """Return the summary of a run over several inputs."""
        elapsed_s = max(time.monotonic() - self.start, 1e-9)
        parts = [f"{self.n_done:,} done"]
        parts += [f"{self.n_skipped:,} skipped"] if self.n_skipped else []
        parts += [f"{self.console.failed:,} failed"] if self.console.failed else []
        if self.n_finished:
            parts.append(f"{clock(self.audio_s)} of audio in {elapsed_s:.1f} s")
            parts.append(f"{self.audio_s / elapsed_s:.0f} times real time")
        if self._output is not None and self.n_done:
            parts.append(f"results in {escape(self._output)}")
        return ", ".join(parts)

    def describe_interruption(self) -> str:
        """Return what an interrupt left undone."""
        left = self.inputs[self.n_finished :]
        first = f", from {escape(left[0].name)} on" if left else ""
        n_inputs = len(self._run.inputs)
        return f"interrupted: {n_inputs - len(left)} of {n_inputs} inputs done, {len(left)} left{first}{self._advice()}"

    def describe_rest(self) -> str:
        """Return how to go on after the results could not be written any more."""
        n_done = self.n_skipped + self.n_done
        n_inputs = len(self._run.inputs)
        return f"; {n_done} of {n_inputs} inputs done{self._advice()}" if n_done else ""

    def _advice(self) -> str:
        file = self._plan.file
        state = "was left alone" if file is not None and os.path.exists(file) else "is not written yet"
        kept = f"; {escape(str(file))} {state}" if file is not None else ""
        can_resume = self._plan.is_resumable and self._run.keeps_journal
        return f"{kept}; --resume goes on from there" if can_resume else kept
