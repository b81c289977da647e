"""`framecls train` and `framecls evaluate`."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from framecls.cli import checks
from framecls.cli.console import DONE, INTERRUPTED, Console, escape, set_up_logging
from framecls.cli.options import EvaluateOptions, TrainOptions
from framecls.cli.progress import StepBar, clock
from framecls.errors import ConfigError, UsageError
from framecls.training.recipe import Recipe, find_recipe, read_recipe

if TYPE_CHECKING:
    from framecls.training.loop import Job, Progress

_log = logging.getLogger(__name__)
_TASKS: dict[str, Literal["frame", "pooled"]] = {"tag": "frame", "identify": "pooled"}
_SPLITS = ("train", "dev", "all")


def train_model(options: TrainOptions) -> int:
    """Train a model, report on stderr how it goes, and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the recipe, the manifest or a recording cannot be used.
    """
    set_up_logging(options.verbose, options.debug)
    console = Console(quiet=options.quiet, debug=options.debug)
    recipe = _choose_recipe(options)
    _check_machine(options)

    from framecls.training import loop

    _set_threads(options.threads)
    job = loop.Job(
        manifest=options.manifest,
        output=options.output,
        recipe=recipe,
        noise=options.noise,
        init=options.init,
        resume=options.resume,
        device=_pick_device(options.device),
    )
    report = TrainReport(console, StepBar(wanted=not (options.quiet or options.no_progress)))
    try:
        data = loop.prepare(job, report.decoded)
        report.bar.hide()
        console.note(f"{len(data.train)} recordings to train on, {len(data.dev)} to measure on, device {job.device}")
        last = loop.train(job, data, report.step)
    except KeyboardInterrupt:
        report.bar.hide()
        console.error(f"interrupted{report.describe_state(job)}")
        return INTERRUPTED
    finally:
        report.bar.hide()
    console.note(f"{escape(str(job.output))}: the best of this run; the last dev score was {last.score:.4f}")
    return DONE


@dataclasses.dataclass
class TrainReport:
    """Tells the user how training goes."""

    console: Console
    bar: StepBar
    at: Progress | None = None

    def decoded(self, done: int, total: int) -> None:
        """Show how many recordings are decoded."""
        self.bar.show("decoding", done, total)

    def step(self, progress: Progress) -> None:
        """Show a step; a new dev measurement stays on the screen."""
        is_new = progress.dev is not None and (self.at is None or progress.dev is not self.at.dev)
        self.at = progress
        if is_new and progress.dev is not None:
            self.bar.hide()
            where = f"step {progress.step} of {progress.steps}"
            self.console.note(f"{where}: loss {progress.loss:.4f}, dev score {progress.dev.score:.4f}")
        text = f"loss {progress.loss:.4f}, {clock(progress.seconds_left)} left"
        self.bar.show("training", progress.step, progress.steps, text)

    def describe_state(self, job: Job) -> str:
        """Return where an interrupted run was, and how to go on."""
        if self.at is None:
            return " before the first step"
        where = f" at step {self.at.step} of {self.at.steps}"
        return f"{where}; --resume goes on from the last dev measurement" if self.at.dev is not None else where


def _choose_recipe(options: TrainOptions) -> Recipe:
    if options.task not in _TASKS:
        raise UsageError(f"{options.task!r}: choose tag or identify, for what the model is to do")
    checks.check_count("--steps", options.steps)
    recipe = _read_recipe(options.recipe or options.task)
    if recipe.task != _TASKS[options.task]:
        raise UsageError(f"--recipe {options.recipe}: this recipe is not for framecls {options.task}")
    changes = {key: value for key, value in (("steps", options.steps), ("seed", options.seed)) if value is not None}
    return dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, **cast(Any, changes)))


def _read_recipe(name: str) -> Recipe:
    try:
        path = find_recipe(name)
    except ConfigError as error:
        raise UsageError(f"--recipe: {error}") from error
    return read_recipe(path)


def _check_machine(options: TrainOptions | EvaluateOptions) -> None:
    checks.check_device(options.device)
    checks.check_count("--threads", options.threads)
    checks.check_count("--batch-size", options.batch_size)


def _pick_device(name: str) -> str:
    from framecls.engine import pick_device

    return str(pick_device(name))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def evaluate_model(options: EvaluateOptions) -> int:
    """Measure a model, print the figures and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the model, the manifest or a recording cannot be used.
    """
    set_up_logging(options.verbose, options.debug)
    if options.split not in _SPLITS:
        raise UsageError(f"--split {options.split}: choose {', '.join(_SPLITS)}")
    if options.format not in ("table", "json"):
        raise UsageError(f"-f {options.format}: choose table or json")
    checks.check_seconds("--length", options.length)
    _check_machine(options)
    recipe = _read_recipe(options.recipe) if options.recipe is not None else None

    from framecls.engine import load_engine
    from framecls.training import evaluate

    engine = load_engine(options.model, device=options.device, threads=options.threads, batch_size=options.batch_size)
    bar = StepBar(wanted=not (options.quiet or options.no_progress))
    with _cache_folder(options.cache) as cache:
        test = evaluate.Test(
            manifest=options.manifest,
            cache=cache,
            split=cast(Literal["train", "dev", "all"], options.split),
            recipe=recipe,
            length_s=options.length,
            only_candidates=options.only_candidates,
        )
        try:
            report = evaluate.evaluate(engine, test, lambda done, total: bar.show("measuring", done, total))
        finally:
            bar.hide()
    _print_figures({"model": engine.config.name, "score": report.score, **report.figures}, options.format)
    return DONE


@contextmanager
def _cache_folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="framecls-") as temporary:
        yield Path(temporary)


def _print_figures(figures: dict[str, Any], format: str) -> None:
    if format == "json":
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    from framecls.cli.tables import figure_table, make_console

    make_console(sys.stdout).print(figure_table(figures))
