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
from framecls.cli.formats import choose_format
from framecls.cli.options import IdentifyOptions, RunOptions, TagOptions
from framecls.cli.progress import InputBar, clock
from framecls.config import ModelConfig
from framecls.errors import FrameclsError, UsageError

if TYPE_CHECKING:
    from framecls.audio import Input
    from framecls.cli.destination import Destination, Form, Plan
    from framecls.results import Identification, TagResult
    from framecls.runtime import Model
    from framecls.speakers import Enrolled

_log = logging.getLogger(__name__)


class Job(ABC):
    """What one command does with each input."""

    task: ClassVar[Literal["frame", "pooled"]]
    frames: bool = False

    def __init__(self, thresholds: dict[str, float]) -> None:
        self.thresholds = thresholds

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


class IdentifyJob(Job):
    """`framecls identify`."""

    task = "pooled"

    def __init__(self, options: IdentifyOptions) -> None:
        super().__init__(checks.parse_thresholds(options.threshold))
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

    def prepare(self, model: Model) -> Model:
        model = super().prepare(model)
        if model.config.embedding:
            self._enrolled = model.enrolled(self._gallery)
            self._among = checks.parse_names(self._among_text, self._enrolled.names)
        return model

    def run(self, model: Model, source: Any, progress: Callable[[float], None]) -> Identification:
        return model.identify(source, top_k=self._top_k, among=self._among, enrolled=self._enrolled, progress=progress)


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
    _, config = checks.find_model(options.model, job.task)
    job.check(config)

    from framecls.cli.destination import Form  # numpy: only once the options are right

    form = Form(format, job.frames)
    if not form.accepts(job.task):
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
