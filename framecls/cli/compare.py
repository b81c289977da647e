"""`framecls compare`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from framecls.cli import checks
from framecls.cli.messages import DONE, Messages, open_messages
from framecls.cli.options import CompareOptions
from framecls.cli.progress import ProgressBar
from framecls.cli.train import (
    cache_folder,
    change_settings,
    choose_device,
    choose_split_by,
    load_recipe,
    report_data,
    set_threads,
)
from framecls.errors import UsageError
from framecls.text import escape
from framecls.training.choices import RUNGS
from framecls.training.recipe import Recipe

if TYPE_CHECKING:
    from framecls.training.ladder import Ladder


def compare_rungs(options: CompareOptions) -> int:
    """Train and measure the rungs of the ladder, print one table, and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the recipe, the manifest or a recording cannot be used.
    """
    messages = open_messages(options)
    checks.check_report_format(options.format)
    if (options.manifest is None) != options.saw:
        raise UsageError("name a manifest or give --saw, one of the two; see framecls compare --help")
    rungs = _parse_rungs(options.rungs)
    recipe = _choose_recipe(options)
    checks.check_machine(options)
    checks.check_count("--seeds", options.seeds)
    _check_kept(options)
    set_threads(options.threads)
    with cache_folder(options.cache) as cache:
        ladder = _compare(options, recipe, rungs, cache, messages)
    if options.output is not None:
        _draw(ladder, options.output)
        messages.note(f"{escape(str(options.output))}: written")
    if options.save is not None:
        messages.note(f"models in {escape(str(options.save))}")
    _show(ladder, options.format)
    return DONE


def _check_kept(options: CompareOptions) -> None:
    """Check before training that what is to be kept can be."""
    if options.output is not None:
        if options.output.suffix.casefold() not in (".png", ".svg"):
            raise UsageError(f"-o {options.output}: a figure is wanted, .png or .svg")
        checks.check_overwrites({"-o": options.output}, {"the manifest": options.manifest})
        from framecls.output.plots import require_matplotlib

        require_matplotlib(f"-o {options.output}")
    if options.save is not None:
        try:
            options.save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--save {options.save}: no such folder can be made: {error.strerror}") from error


def _draw(ladder: Ladder, path: Path) -> None:
    from framecls.output.files import atomic_write
    from framecls.output.plots import ladder_figure, save

    curves = {rung.name: rung.curve for rung in ladder.rungs}
    rows = [
        (rung.name, rung.score, rung.spread, f"{rung.parameters:,}", f"{rung.frames_per_s:,.0f}")
        for rung in ladder.rungs
    ]
    with atomic_write(path, binary=True) as stream:
        save(ladder_figure(curves, rows, ladder.figure, ladder.seeds), stream, path.suffix.casefold()[1:])


def _compare(
    options: CompareOptions, recipe: Recipe, rungs: tuple[str, ...], cache: Path, messages: Messages
) -> Ladder:
    from framecls.training import ladder
    from framecls.training.job import Job, prepare
    from framecls.training.saw import write_saw

    device = choose_device(options.device)
    manifest = options.manifest or write_saw(cache / "saw", recipe.optim.seed)
    job = Job(
        manifest,
        cache / "compared",
        recipe,
        noise=options.noise,
        device=device,
        cache=cache,
        tier=options.tier,
        annotation=options.annotation,
        split_by=choose_split_by(options.split_by),
    )
    bar = ProgressBar(enabled=options.shows_progress)
    with bar.hidden_at_end():
        data = prepare(job, lambda done, total: bar.show("decoding", done, total))
        bar.hide()
        messages.note(
            f"{len(data.train)} recordings to train on, {len(data.dev)} to measure on, "
            f"{recipe.optim.steps} steps, device {device}"
        )
        report_data(messages, data, recipe)
        plan = ladder.Plan(options.seeds, options.batch_size, options.save, curves=options.output is not None)
        return ladder.compare(job, data, rungs, plan, lambda done, total: bar.show("training", done, total))


def _choose_recipe(options: CompareOptions) -> Recipe:
    name = options.recipe or ("saw" if options.saw else "tag")
    recipe = change_settings(load_recipe(name), options.set)
    if options.saw and (recipe.task != "frame" or recipe.mix.enabled):
        raise UsageError(f"--recipe {name}: --saw wants one label a frame and recordings that are not mixed")
    return recipe


def _parse_rungs(text: str) -> tuple[str, ...]:
    rungs = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in rungs if name not in RUNGS]
    if unknown or not rungs:
        raise UsageError(f"--rungs {text}: choose among {', '.join(RUNGS)}")
    return rungs


def _show(ladder: Ladder, format: str) -> None:
    if format == "json":
        sys.stdout.write(json.dumps(dataclasses.asdict(ladder)) + "\n")
        return
    from framecls.cli.tables import ladder_table
    from framecls.output.tables import make_console

    make_console(sys.stdout).print(ladder_table(ladder))
