"""`framecls train` and `framecls evaluate`."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.cli import checks
from framecls.cli.console import DONE, FAILED, INTERRUPTED, Console, escape, set_up_logging
from framecls.cli.options import EvaluateOptions, MachineOptions, TrainOptions
from framecls.cli.progress import StepBar, clock
from framecls.config import PretrainedConfig
from framecls.errors import ConfigError, FrameclsError, ManifestError, ModelError, OutputError, UsageError
from framecls.training.recipe import (
    CODECS,
    SPLIT_BY,
    SPLITS,
    Recipe,
    SplitBy,
    change_recipe,
    find_recipe,
    read_recipe,
    with_encoder,
)

if TYPE_CHECKING:
    from framecls.training.job import Data, Job
    from framecls.training.loop import Progress
    from framecls.training.metrics.report import DevReport
    from framecls.training.team import Team

_log = logging.getLogger(__name__)
_N_PREVIEWED = 20  # examples that --preview writes
TASKS: dict[str, Literal["frame", "pooled"]] = {"tag": "frame", "identify": "pooled"}


def train_model(options: TrainOptions) -> int:
    """Train a model, report on stderr how it goes, and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the recipe, the manifest or a recording cannot be used.
    """
    set_up_logging(options.verbose, options.debug)
    recipe = _choose_recipe(options)
    _check_options(options)
    check_machine(options)
    set_threads(options.threads)
    if options.check:
        return _check(options, recipe)
    if options.preview is not None:
        return _preview(options, recipe, options.preview)

    from framecls.training.team import join_team

    team, device = join_team(options.device)
    try:
        return _train(options, recipe, team, choose_device(device))
    except FrameclsError:
        if team.local_rank > 0:  # the first process of this machine says the same
            return FAILED
        raise
    finally:
        team.close()


def _train(options: TrainOptions, recipe: Recipe, team: Team, device: str) -> int:
    from framecls.training.job import prepare
    from framecls.training.loop import train

    quiet = options.quiet or not team.is_first
    console = Console(quiet=quiet, debug=options.debug)
    job = dataclasses.replace(_make_job(options, recipe, device), team=team)
    report = TrainReport(console, StepBar(wanted=not (quiet or options.no_progress)))
    try:
        data = prepare(job, report.decoded)
        report.bar.hide()
        where = f"device {job.device}" + (f", {team.size} processes" if team.size > 1 else "")
        console.note(f"{len(data.train)} recordings to train on, {len(data.dev)} to measure on, {where}")
        tell_data(console, data, recipe)
        last = train(job, data, report.step, lambda done: _tell_resumed(console, job, done))
    except KeyboardInterrupt:
        report.bar.hide()
        if not team.is_first:
            return INTERRUPTED
        console.error(f"interrupted{report.describe_state()}")
        return INTERRUPTED
    finally:
        report.bar.hide()
    console.note(f"{escape(str(job.output))}: {_describe_kept(recipe, last)}")
    return DONE


def _describe_kept(recipe: Recipe, last: DevReport) -> str:
    if not math.isfinite(last.score):
        return "the last dev score is no number; these are the best weights before it, or, where none had one, the last"
    kept = "the last" if recipe.optim.keep == "last" else "the best"
    return f"{kept} of this run; the last dev score was {last.score:.4f}"


def _tell_resumed(console: Console, job: Job, done: int) -> None:
    """Say where a run that is resumed goes on."""
    steps = job.recipe.optim.steps
    if not done:
        console.note(f"nothing to resume in {escape(str(job.folder))}: beginning at the first step")
    elif done < steps:
        console.note(f"going on after step {done} of {steps}")
    else:
        console.note(f"all {steps} steps were done before")


def _check_options(options: TrainOptions) -> None:
    """Refuse options that do not go together, or make no sense."""
    if options.output is None and not options.check and options.preview is None:
        raise UsageError("missing option -o / --output: the model file to write; see framecls train --help")
    if options.check and options.preview is not None:
        raise UsageError("--check and --preview: choose one of them")
    if options.format not in ("table", "json"):
        raise UsageError(f"-f {options.format}: choose table or json")
    if options.output is not None:
        _check_output(options.output)
    checks.check_seconds("--save-every", options.save_every)


def _check_output(path: Path) -> None:
    """Refuse, before an hour of training and not after it, what no model can be written to, or what is none."""
    try:
        is_there = path.exists()
    except OSError as error:
        raise UsageError(f"-o {path}: cannot be written: {error.strerror}") from error
    if path.is_dir():
        raise UsageError(f"-o {path}: this is a folder: name the file, such as {path / 'model.safetensors'}")
    above = next(folder for folder in path.parents if os.path.exists(folder))
    if not above.is_dir():
        raise UsageError(f"-o {path}: {above} is no folder")
    if is_there:
        try:
            read_config(path)
        except ModelError as error:
            raise UsageError(f"-o {path}: would be overwritten, and is no model of framecls: name another") from error


def _make_job(options: TrainOptions, recipe: Recipe, device: str, folder: Path | None = None) -> Job:
    """Return the job that the options ask for; folder: where decoded recordings go if no model is to be written."""
    from framecls.training.job import Job

    return Job(
        manifest=options.manifest,
        output=options.output or (folder or Path()) / "model",
        recipe=recipe,
        noise=options.noise,
        teacher=options.teacher,
        init=registry.locate(options.init) if options.init else None,
        resume=options.resume,
        device=device,
        tier=options.tier,
        split_by=choose_split_by(options.split_by),
        save_every_s=options.save_every,
    )


def _check(options: TrainOptions, recipe: Recipe) -> int:
    """Print what the manifest holds; what is wrong with it is raised after that."""
    from framecls.training.data.survey import survey

    bar = StepBar(wanted=not (options.quiet or options.no_progress))
    try:
        job = _make_job(options, recipe, choose_device(options.device))
        found = survey(job, lambda done, total: bar.show("reading", done, total))
    finally:
        bar.hide()
    if options.format == "json":
        sys.stdout.write(json.dumps({**found.figures, "problems": found.problems}) + "\n")
    else:
        from framecls.cli.tables import make_console, survey_table

        make_console(sys.stdout).print(survey_table(found.figures))
    sys.stdout.flush()
    if found.problems:
        problems = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        raise ManifestError(f"{options.manifest}: {problems}", found.problems)
    return DONE


def _preview(options: TrainOptions, recipe: Recipe, folder: Path) -> int:
    from framecls.training.examples.preview import LIST_NAME, write_preview
    from framecls.training.job import prepare

    bar = StepBar(wanted=not (options.quiet or options.no_progress))
    with cache_folder(None) as temporary:
        try:
            job = _make_job(options, recipe, choose_device(options.device), temporary)
            data = prepare(job, lambda done, total: bar.show("decoding", done, total))
        finally:
            bar.hide()
        write_preview(data, recipe, folder, _N_PREVIEWED)
    console = Console(quiet=options.quiet, debug=options.debug)
    console.note(
        f"{escape(str(folder))}: {_N_PREVIEWED} examples; what was done to each: {escape(str(folder / LIST_NAME))}"
    )
    return DONE


def tell_data(console: Console, data: Data, recipe: Recipe) -> None:
    """Say how recordings were told apart, and what is odd about them."""
    from framecls.training.data.survey import find_warnings

    console.note(f"split {data.split}")
    if shared := data.shared_speakers:
        names = ", ".join(map(escape, shared[:5])) + (f" and {len(shared) - 5} more" if len(shared) > 5 else "")
        console.note(f"heard on both sides, so the dev figures flatter: {names}")
    for line in find_warnings(recipe, data.config.labels, data.train, data.dev, data.length_s):
        console.note(escape(line))


def choose_split_by(name: str | None) -> SplitBy | None:
    """Return what --split-by asks for.

    Raises:
        UsageError: there is no such thing.
    """
    if name is not None and name not in SPLIT_BY:
        raise UsageError(f"--split-by {name}: choose {', '.join(SPLIT_BY)}")
    return name


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
        dev = f"dev {progress.dev.score:.4f}, " if progress.dev is not None else ""
        text = f"loss {progress.loss:.4f}, {dev}{clock(progress.seconds_left)} left"
        self.bar.show("training", progress.step, progress.steps, text)

    def describe_state(self) -> str:
        """Return where an interrupted run was, and how to go on."""
        if self.at is None:
            return " before the first step"
        where = f" at step {self.at.step} of {self.at.steps}"
        return f"{where}; --resume goes on from step {self.at.saved_step}" if self.at.saved_step else where


def _choose_recipe(options: TrainOptions) -> Recipe:
    if options.task not in TASKS:
        raise UsageError(f"{options.task!r}: choose tag or identify, for what the model is to do")
    recipe = load_recipe(options.recipe or options.task)
    if recipe.task != TASKS[options.task]:
        raise UsageError(f"--recipe {options.recipe}: this recipe is not for framecls {options.task}")
    if options.encoder:
        recipe = with_encoder(recipe, options.encoder)
    recipe = change_settings(recipe, options.set)
    if recipe.features.kind != "pretrained" and recipe.features.pretrained != PretrainedConfig():
        raise UsageError("--set features.pretrained goes with --encoder: which pre-trained encoder?")
    return recipe


def change_settings(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return a recipe with the settings of --set.

    Raises:
        UsageError: one does not exist, or is out of range.
    """
    try:
        return change_recipe(recipe, changes)
    except ConfigError as error:
        raise UsageError(f"--set: {error}") from error


def load_recipe(name: str) -> Recipe:
    """Read the recipe that --recipe names.

    Raises:
        UsageError: there is none of that name.
        ConfigError: it cannot be used.
    """
    try:
        path = find_recipe(name)
    except ConfigError as error:
        raise UsageError(f"--recipe: {error}") from error
    return read_recipe(path)


def check_machine(options: MachineOptions) -> None:
    """Refuse numbers and devices that no machine has."""
    checks.check_device(options.device)
    checks.check_count("--threads", options.threads)
    checks.check_count("--batch-size", options.batch_size)


def choose_device(name: str) -> str:
    """Return the name of the device that --device asks for.

    Raises:
        UsageError: this machine has no such device.
    """
    from framecls.inference.engine import pick_device

    return str(pick_device(name))


def set_threads(threads: int | None) -> None:
    """Give torch the number of CPU threads that --threads asks for."""
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
    if options.split not in SPLITS:
        raise UsageError(f"--split {options.split}: choose {', '.join(SPLITS)}")
    if options.format not in ("table", "json"):
        raise UsageError(f"-f {options.format}: choose table or json")
    checks.check_seconds("--length", options.length)
    check_machine(options)
    if options.codec is not None and options.codec not in CODECS:
        raise UsageError(f"--codec {options.codec}: choose {', '.join(CODECS)}")
    recipe = load_recipe(options.recipe) if options.recipe is not None else None
    checks.check_overwrites(
        {"-o": options.output},
        {
            "the manifest": options.manifest,
            "the model": registry.locate(options.model),
            "the recipe": find_recipe(options.recipe) if options.recipe is not None else None,
        },
    )
    checks.check_measured(options.model, options.length)

    from framecls.inference.engine import load_engine
    from framecls.output.files import atomic_write
    from framecls.training.metrics import evaluate

    engine = load_engine(options.model, device=options.device, threads=options.threads, batch_size=options.batch_size)
    bar = StepBar(wanted=not (options.quiet or options.no_progress))
    with cache_folder(options.cache) as cache:
        test = evaluate.Test(
            manifest=options.manifest,
            cache=cache,
            split=options.split,
            recipe=recipe,
            length_s=options.length,
            codec=options.codec,
            tier=options.tier,
            split_by=choose_split_by(options.split_by),
        )
        try:
            report = evaluate.evaluate(engine, test, lambda done, total: bar.show("measuring", done, total))
        finally:
            bar.hide()
    figures = {"model": engine.config.name, "score": report.score, **report.figures}
    if options.output is not None:
        with atomic_write(options.output, binary=False) as stream:
            stream.write(json.dumps(figures, ensure_ascii=False, indent=2) + "\n")
        Console(quiet=options.quiet).note(f"{escape(str(options.output))}: written")
    _print_figures(figures, options.format)
    return DONE


@contextmanager
def cache_folder(folder: Path | None) -> Iterator[Path]:
    """Give the folder that --cache names, or one that is gone afterwards."""
    if folder is not None:
        yield folder
        return
    try:
        made = tempfile.TemporaryDirectory(prefix="framecls-")
    except OSError as error:
        raise OutputError(f"no temporary folder can be made: {error.strerror}; set TMPDIR to one") from error
    with made as temporary:
        yield Path(temporary)


def _print_figures(figures: dict[str, Any], format: str) -> None:
    if format == "json":
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    from framecls.cli.tables import FigureTable, make_console, summarise_confusion

    figures = {**figures, "confusion": summarise_confusion(figures["confusion"])} if "confusion" in figures else figures
    make_console(sys.stdout).print(FigureTable(figures))
