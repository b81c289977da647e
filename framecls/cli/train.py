"""`framecls train`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.cli import checks
from framecls.cli.messages import DONE, FAILED, INTERRUPTED, Messages, open_messages
from framecls.cli.options import TrainOptions
from framecls.cli.progress import ProgressBar
from framecls.cli.quick import train_quickly
from framecls.config import PretrainedConfig
from framecls.errors import ConfigError, FrameclsError, ManifestError, ModelError, OutputError, UsageError
from framecls.text import about, escape, hms
from framecls.training.choices import SPLIT_BY, SplitBy
from framecls.training.recipe import (
    Recipe,
    change_recipe,
    check_head_settings,
    find_recipe,
    head_settings,
    preset_settings,
    read_recipe,
    with_encoder,
)

if TYPE_CHECKING:
    from framecls.report import Epoch
    from framecls.training.job import Data, Job
    from framecls.training.loop import Progress
    from framecls.training.metrics.report import DevReport
    from framecls.training.team import Team

_TIMED_STEPS = 3  # after which is said how long all of them will take
_N_PREVIEWED = 20  # examples that --preview writes


def train_model(options: TrainOptions) -> int:
    """Train a model, report on stderr how it goes, and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the recipe, the manifest or a recording cannot be used.
    """
    messages = open_messages(options)
    recipe = _choose_recipe(options)
    _check_options(options)
    checks.check_machine(options)
    set_threads(options.threads)
    if options.check:
        return _check(options, recipe)
    if options.preview is not None:
        return _preview(options, recipe, options.preview, messages)

    from framecls.training.team import join_team

    team, device = join_team(options.device)
    try:
        if recipe.head.enabled:
            if team.size > 1:
                raise UsageError("torchrun is for --recipe: a head on a frozen encoder takes one process")
            job = _make_job(options, recipe, choose_device(device))
            return train_quickly(job, messages, ProgressBar(enabled=options.shows_progress))
        return _train(options, recipe, team, choose_device(device), messages)
    except FrameclsError:
        if team.local_rank > 0:  # the first process of this machine says the same
            return FAILED
        raise
    finally:
        team.close()


def _train(options: TrainOptions, recipe: Recipe, team: Team, device: str, messages: Messages) -> int:
    from framecls.report import page_path
    from framecls.training.job import prepare
    from framecls.training.loop import train
    from framecls.training.metrics.review import name_score

    messages.quiet = messages.quiet or not team.is_first
    job = dataclasses.replace(_make_job(options, recipe, device), team=team)
    report = TrainReport(messages, ProgressBar(enabled=options.shows_progress and team.is_first))
    try:
        data = prepare(job, report.decoded)
        report.score_name = name_score(data.config)
        report.bar.hide()
        where = f"device {job.device}" + (f", {team.size} processes" if team.size > 1 else "")
        messages.note(f"{len(data.train)} recordings to train on, {len(data.dev)} to measure on, {where}")
        report_data(messages, data, recipe)
        messages.note(
            f"a whole network learns by the recipe {escape(recipe.name)}, {recipe.optim.steps} steps; without --recipe "
            "and the like a small head learns in minutes"
        )
        last = train(job, data, report.step, lambda done: _report_resumed(messages, job, done), report.estimated)
    except KeyboardInterrupt:
        report.bar.hide()
        if not team.is_first:
            return INTERRUPTED
        messages.error(f"interrupted{report.describe_state()}")
        return INTERRUPTED
    finally:
        report.bar.hide()
    messages.note(f"{escape(str(job.output))}: {_describe_kept(recipe, last)}")
    if team.is_first:
        _write_page(job, report)
        messages.note(f"to look at and listen to: {escape(str(page_path(job.output)))}")
    return DONE


def _write_page(job: Job, report: TrainReport) -> None:
    """Measure the model once more, on whole recordings where there are any, and write the page of that beside it."""
    from framecls.inference.engine import load_engine
    from framecls.report import page_path
    from framecls.training.metrics.evaluate import Test, evaluate

    mixed = job.recipe if job.recipe.mix.enabled else None
    voices_s = job.recipe.voices.dev_length_s if job.recipe.embedding else None
    test = Test(job.manifest, job.folder, "dev", mixed, voices_s, job.tier, job.split_by)
    try:
        measured = evaluate(load_engine(job.output, device=job.device), test, report.measured)
    finally:
        report.bar.hide()
    assert measured.review is not None
    found = dataclasses.replace(
        measured.review, way=f"the recipe {job.recipe.name}", epochs=tuple(report.points), folds=()
    )
    found.save_page(page_path(job.output))


def _describe_kept(recipe: Recipe, last: DevReport) -> str:
    if not math.isfinite(last.score):
        return "the last dev score is no number; these are the best weights before it, or, where none had one, the last"
    kept = "the last" if recipe.optim.keep == "last" else "the best"
    return f"{kept} of this run; the last dev score was {last.score:.4f}"


def _report_resumed(messages: Messages, job: Job, done: int) -> None:
    """Report from which step a run is resumed."""
    steps = job.recipe.optim.steps
    if not done:
        messages.note(f"nothing to resume in {escape(str(job.folder))}: beginning at the first step")
    elif done < steps:
        messages.note(f"going on after step {done} of {steps}")
    else:
        messages.note(f"all {steps} steps were done before")


def _check_options(options: TrainOptions) -> None:
    """Check the options of a run against each other."""
    if options.output is None and not options.check and options.preview is None:
        raise UsageError("missing option -o / --output: the model file to write; see framecls train --help")
    if options.check and options.preview is not None:
        raise UsageError("--check and --preview: choose one of them")
    checks.check_report_format(options.format)
    if options.output is not None:
        _check_output(options.output)
    checks.check_seconds("--save-every", options.save_every)


def _check_output(path: Path) -> None:
    """Check before training that the model can be written, and replaces nothing but a model."""
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
    """Return the job of the options; `folder` holds decoded recordings if no model is to be written."""
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
        annotation=options.annotation,
        split_by=choose_split_by(options.split_by),
        save_every_s=options.save_every,
    )


def _check(options: TrainOptions, recipe: Recipe) -> int:
    """Print what the manifest holds, then raise its problems."""
    from framecls.training.data.survey import survey

    bar = ProgressBar(enabled=options.shows_progress)
    try:
        job = _make_job(options, recipe, choose_device(options.device))
        found = survey(job, lambda done, total: bar.show("reading", done, total))
    finally:
        bar.hide()
    if options.format == "json":
        sys.stdout.write(json.dumps({**found.figures, "problems": found.problems}) + "\n")
    else:
        from framecls.cli.tables import survey_table
        from framecls.output.tables import make_console

        make_console(sys.stdout).print(survey_table(found.figures))
    sys.stdout.flush()
    if found.problems:
        problems = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        raise ManifestError(f"{options.manifest}: {problems}", found.problems)
    return DONE


def _preview(options: TrainOptions, recipe: Recipe, folder: Path, messages: Messages) -> int:
    from framecls.training.examples.preview import LIST_NAME, write_preview
    from framecls.training.job import prepare

    bar = ProgressBar(enabled=options.shows_progress)
    with cache_folder(None) as temporary:
        try:
            job = _make_job(options, recipe, choose_device(options.device), temporary)
            data = prepare(job, lambda done, total: bar.show("decoding", done, total))
        finally:
            bar.hide()
        write_preview(data, recipe, folder, _N_PREVIEWED)
    messages.note(
        f"{escape(str(folder))}: {_N_PREVIEWED} examples; what was done to each: {escape(str(folder / LIST_NAME))}"
    )
    return DONE


def report_data(messages: Messages, data: Data, recipe: Recipe) -> None:
    """Report how recordings were split, and the warnings about them."""
    from framecls.training.data.band import describe_lost
    from framecls.training.data.survey import find_warnings

    messages.note(f"split {data.split}")
    if shared := data.shared_speakers:
        names = ", ".join(map(escape, shared[:5])) + (f" and {len(shared) - 5} more" if len(shared) > 5 else "")
        messages.note(f"heard on both sides, so the dev figures flatter: {names}")
    if lost := describe_lost([*data.train, *data.dev], data.config.features):
        messages.note(lost)
    for line in find_warnings(recipe, data.config.labels, data.train, data.dev, data.length_s):
        messages.note(escape(line))


def choose_split_by(name: str | None) -> SplitBy | None:
    """Return the value of --split-by.

    Raises:
        UsageError: there is no such value.
    """
    if name is not None and name not in SPLIT_BY:
        raise UsageError(f"--split-by {name}: choose {', '.join(SPLIT_BY)}")
    return name


@dataclasses.dataclass
class TrainReport:
    """Show the progress of training."""

    messages: Messages
    bar: ProgressBar
    score_name: str = "score"
    at: Progress | None = None
    points: list[Epoch] = dataclasses.field(default_factory=list)  # a step for an epoch
    n_steps: int = 0  # of this run

    def measured(self, done: int, total: int) -> None:
        """Show how much is measured after the last step."""
        self.bar.show("measuring", done, total)

    def decoded(self, done: int, total: int) -> None:
        """Show how many recordings are decoded."""
        self.bar.show("decoding", done, total)

    def estimated(self, seconds: float) -> None:
        """Show how long all steps will take, by one that was tried."""
        self.messages.note(f"about {about(seconds)} on this machine, by a trial of one step")

    def step(self, progress: Progress) -> None:
        """Show a step, and log a new dev measurement."""
        from framecls.report import Epoch

        is_new = progress.dev is not None and (self.at is None or progress.dev is not self.at.dev)
        is_step = self.at is None or progress.step > self.at.step
        self.n_steps += is_step
        if is_step and self.n_steps == _TIMED_STEPS < progress.steps:
            self.bar.hide()
            self.messages.note(f"about {about(progress.seconds_left)} more, as the first steps went")
        self.at = progress
        if is_new and progress.dev is not None:
            self.bar.hide()
            where = f"step {progress.step} of {progress.steps}"
            score = progress.dev.score if math.isfinite(progress.dev.score) else None
            self.points.append(Epoch(1, progress.step, progress.loss, score))
            self.messages.note(f"{where}: loss {progress.loss:.4f}, dev {self.score_name} {progress.dev.score:.4f}")
        dev = f"dev {progress.dev.score:.4f}, " if progress.dev is not None else ""
        text = f"loss {progress.loss:.4f}, {dev}{hms(progress.seconds_left)} left"
        self.bar.show("training", progress.step, progress.steps, text)

    def describe_state(self) -> str:
        """Return the step of an interrupted run, and how to resume it."""
        if self.at is None:
            return " before the first step"
        where = f" at step {self.at.step} of {self.at.steps}"
        return f"{where}; --resume goes on from step {self.at.saved_step}" if self.at.saved_step else where


def _choose_recipe(options: TrainOptions) -> Recipe:
    if options.task not in checks.TASKS:
        raise UsageError(f"{options.task!r}: choose tag or identify, for what the model is to do")
    recipe = load_recipe(options.recipe or (f"quick_{options.task}" if _is_quick(options) else options.task))
    if recipe.task != checks.TASKS[options.task]:
        raise UsageError(f"--recipe {options.recipe}: this recipe is not for framecls {options.task}")
    if options.encoder:
        recipe = with_encoder(recipe, options.encoder)
    recipe = change_settings(recipe, [*_preset(options), *_shorthands(options, recipe), *options.set])
    try:
        check_head_settings(recipe, options.set)
    except ConfigError as error:
        raise UsageError(f"--set {error}") from error
    if recipe.features.kind != "pretrained" and recipe.features.pretrained != PretrainedConfig():
        raise UsageError("--set features.pretrained goes with --encoder: which pre-trained encoder?")
    return recipe


def _is_quick(options: TrainOptions) -> bool:
    """Return whether nothing is asked for that only the training of a whole network can do."""
    whole = (options.encoder, options.init, options.noise, options.teacher, options.preview)
    return all(option is None for option in whole) and not options.resume


def _preset(options: TrainOptions) -> tuple[str, ...]:
    """Return the settings of --preset."""
    try:
        return preset_settings(options.preset) if options.preset else ()
    except ConfigError as error:
        raise UsageError(f"--preset: {error}") from error


def _shorthands(options: TrainOptions, recipe: Recipe) -> list[str]:
    """Return the settings that options of their own stand for."""
    try:
        return head_settings(recipe, options.wanted_precision, options.exclusive)
    except ConfigError as error:
        raise UsageError(f"--{error}") from error


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
    """Read the recipe of --recipe.

    Raises:
        UsageError: there is none of that name.
        ConfigError: it cannot be used.
    """
    try:
        path = find_recipe(name)
    except ConfigError as error:
        raise UsageError(f"--recipe: {error}") from error
    return read_recipe(path)


def choose_device(name: str) -> str:
    """Return the name of the device of --device.

    Raises:
        UsageError: this machine has no such device.
    """
    from framecls.inference.engine import pick_device

    return str(pick_device(name))


def set_threads(threads: int | None) -> None:
    """Set torch's number of CPU threads to that of --threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def cache_folder(folder: Path | None) -> Iterator[Path]:
    """Yield the folder of --cache, or a temporary one."""
    if folder is not None:
        yield folder
        return
    try:
        made = tempfile.TemporaryDirectory(prefix="framecls-")
    except OSError as error:
        raise OutputError(f"no temporary folder can be made: {error.strerror}; set TMPDIR to one") from error
    with made as temporary:
        yield Path(temporary)
