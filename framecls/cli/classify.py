"""What `tag` and `identify` share: check, find, load, then each input in turn, whatever happens to the others."""

from __future__ import annotations

import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from framecls.cli import checks
from framecls.cli.console import DONE, FAILED, INTERRUPTED, Console, escape, set_up_logging
from framecls.cli.formats import TEXT, choose_format
from framecls.cli.options import IdentifyOptions, RunOptions, TagOptions
from framecls.cli.progress import InputBar, clock
from framecls.config import ModelConfig
from framecls.errors import FrameclsError, UsageError

if TYPE_CHECKING:
    from framecls.audio import Input
    from framecls.cli.destination import Destination, Form, Plan
    from framecls.results import Identification, TagResult
    from framecls.runtime import Model

_log = logging.getLogger(__name__)


class Job(ABC):
    """What one command does with each input."""

    task: ClassVar[Literal["frame", "pooled"]]
    frames: bool = False
    times: bool = False

    def __init__(self, thresholds: dict[str, float]) -> None:
        self.thresholds = thresholds

    @property
    def result(self) -> type[TagResult | Identification]:
        """What `run` returns."""
        from framecls.results import Identification, TagResult

        return TagResult if self.task == "frame" else Identification

    def find(self, name: str) -> ModelConfig:
        """Return the settings of the model of that name.

        Raises:
            UsageError: there is none, or it does not do what is asked for.
        """
        return checks.find_model(name, self.task)[1]

    def check(self, config: ModelConfig) -> None:
        """Refuse options that do not fit the model.

        Raises:
            UsageError: they do not.
        """
        decision = dataclasses.replace(config.decision, thresholds=config.decision.thresholds | self.thresholds)
        checks.check_decision(config, decision)

    def prepare(self, model: Model) -> Model:
        """Return the model with the decisions of this run."""
        return model.with_decision(thresholds=self.thresholds)

    @abstractmethod
    def run(self, model: Model, source: Any, progress: Callable[[float], None]) -> TagResult | Identification:
        """Classify one recording."""


class TagJob(Job):
    """`framecls tag`."""

    task = "frame"

    def __init__(self, options: TagOptions) -> None:
        super().__init__(checks.parse_thresholds(options.threshold))
        checks.check_seconds("--min-duration", options.min_duration)
        checks.check_seconds("--min-gap", options.min_gap)
        self.frames = options.frames
        self._min_duration_s = options.min_duration
        self._min_gap_s = options.min_gap

    def prepare(self, model: Model) -> Model:
        return model.with_decision(
            thresholds=self.thresholds, min_duration_s=self._min_duration_s, min_gap_s=self._min_gap_s
        )

    def run(self, model: Model, source: Any, progress: Callable[[float], None]) -> TagResult:
        return model.tag(source, progress=progress)


class StringJob(Job):
    """`framecls tag --string`: any model that hears phones will do."""

    task = "frame"

    def __init__(self, options: TagOptions) -> None:
        super().__init__({})
        checks.check_count("--beam", options.beam)
        for option, given in (
            ("--threshold", options.threshold),
            ("--min-duration", options.min_duration is not None),
            ("--min-gap", options.min_gap is not None),
        ):
            if given:
                raise UsageError(f"{option} is about labels and does not go with --string: leave one of them out")
        self.frames = options.frames
        self.times = options.times
        self._beam = options.beam

    @property
    def result(self) -> type[TagResult | Identification]:
        from framecls.results import StringResult

        return StringResult

    def find(self, name: str) -> ModelConfig:
        return checks.find_string_model(name)[1]

    def run(self, model: Model, source: Any, progress: Callable[[float], None]) -> TagResult:
        return model.tag_string(source, beam=self._beam, progress=progress)


class IdentifyJob(Job):
    """`framecls identify`."""

    task = "pooled"

    def __init__(self, options: IdentifyOptions) -> None:
        super().__init__(checks.parse_thresholds(options.threshold))
        checks.check_count("--top-k", options.top_k)
        self._top_k = options.top_k
        self._among_text = options.among
        self._among: tuple[str, ...] | None = None

    def check(self, config: ModelConfig) -> None:
        super().check(config)
        self._among = checks.parse_among(self._among_text, config.labels)

    def run(self, model: Model, source: Any, progress: Callable[[float], None]) -> Identification:
        return model.identify(source, top_k=self._top_k, among=self._among, progress=progress)


def classify(options: RunOptions, job: Job) -> int:
    """Run a command over all of its inputs and return the exit status.

    Raises:
        UsageError: before anything is read, what is wrong with the options.
        FrameclsError: what stops the whole run: the model, or where the results go.
    """
    set_up_logging(options.verbose, options.debug)
    format = choose_format(options.format, options.output, job.frames)
    checks.check_device(options.device)
    checks.check_count("--threads", options.threads)
    checks.check_count("--batch-size", options.batch_size)
    job.check(job.find(options.model))

    from framecls.cli.destination import Form  # numpy: only once the options are right

    form = Form(format, job.frames, job.times)
    if not form.accepts(job.result):
        if format == TEXT:
            raise UsageError(f"-f {format} holds strings of phones: add --string to framecls tag, or choose another")
        raise UsageError(
            f"-f {format} holds the scores of frames, which framecls identify does not give: choose another"
        )
    console = Console(quiet=options.quiet, debug=options.debug)
    console.open_errors(options.errors)
    try:
        return _classify_inputs(options, job, form, console)
    finally:
        console.close()


def _classify_inputs(options: RunOptions, job: Job, form: Form, console: Console) -> int:
    from framecls.audio import Input, find_inputs
    from framecls.cli.destination import plan_destination

    found = list(find_inputs(options.inputs))
    plan = plan_destination(form, options.output, len(found))
    inputs = [item for item in found if isinstance(item, Input)]
    for item in found:
        if not isinstance(item, Input):
            console.failure(item.name, item.error)
    model = job.prepare(_load(options)) if inputs else None
    batch = Batch(inputs, console, InputBar(len(inputs), wanted=not (options.quiet or options.no_progress)))
    try:
        batch.run(model, job, plan)
    except KeyboardInterrupt:
        batch.bar.hide()
        console.error(batch.describe_interruption(plan))
        return INTERRUPTED
    finally:
        batch.bar.hide()
    if len(found) > 1:
        console.note(batch.describe(len(found)))
    return FAILED if console.failed else DONE


def _load(options: RunOptions) -> Model:
    from framecls.runtime import load

    start = time.monotonic()
    model = load(options.model, device=options.device, threads=options.threads, batch_size=options.batch_size)
    _log.info("model %s on %s, loaded in %.1f s", model.name, model.device, time.monotonic() - start)
    return model


@dataclass
class Batch:
    """The inputs of one run, and how far it is."""

    inputs: list[Input]
    console: Console
    bar: InputBar
    n_finished: int = field(default=0, init=False)  # done or failed
    audio_s: float = field(default=0.0, init=False)
    start: float = field(default_factory=time.monotonic, init=False)

    def run(self, model: Model | None, job: Job, plan: Plan) -> None:
        """Classify every input and write its result; one that fails is reported and does not stop the others."""
        self.start = time.monotonic()
        with plan.open() as destination:
            for item in self.inputs:
                assert model is not None
                result = self._classify(model, job, item)
                self.bar.hide()
                if result is not None:
                    self._write(destination, result, item)
                self.n_finished += 1
                self.bar.finish_input(result.duration if result is not None else 0.0)

    def _classify(self, model: Model, job: Job, item: Input) -> TagResult | Identification | None:
        start = time.monotonic()
        try:
            result = job.run(model, item.source, self.bar.advance)
        except Exception as error:
            self.bar.hide()
            self.console.failure(item.name, error)
            return None
        self.audio_s += result.duration
        _log.info("%s: %.1f s of audio in %.2f s", item.name, result.duration, time.monotonic() - start)
        # The name as the user wrote it; the library may know a file object by another one, or by none.
        return dataclasses.replace(result, file=item.name)

    def _write(self, destination: Destination, result: TagResult | Identification, item: Input) -> None:
        try:
            destination.write(result, item.relative)
        except FrameclsError as error:
            self.console.failure(item.name, error)

    def describe(self, n_found: int) -> str:
        """Return the summary of a run over several inputs."""
        elapsed_s = max(time.monotonic() - self.start, 1e-9)
        failed = f", {self.console.failed} failed" if self.console.failed else ""
        speed = f"{self.audio_s / elapsed_s:.0f} times real time"
        return f"{n_found} files{failed}, {clock(self.audio_s)} of audio in {elapsed_s:.1f} s, {speed}"

    def describe_interruption(self, plan: Plan) -> str:
        """Return what an interrupt left undone."""
        left = self.inputs[self.n_finished :]
        first = f", from {escape(left[0].name)} on" if left else ""
        kept = f"; {escape(str(plan.file))} was left alone" if plan.file is not None else ""
        return f"interrupted: {self.n_finished} of {len(self.inputs)} inputs done, {len(left)} left{first}{kept}"
