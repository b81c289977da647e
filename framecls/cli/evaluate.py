"""`framecls evaluate`."""

from __future__ import annotations

import json
import sys
from typing import Any

from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.cli import checks
from framecls.cli.messages import DONE, open_messages
from framecls.cli.options import EvaluateOptions
from framecls.cli.progress import ProgressBar
from framecls.cli.train import cache_folder, choose_split_by, load_recipe
from framecls.errors import UsageError
from framecls.text import escape
from framecls.training.choices import CODECS, SPLITS
from framecls.training.recipe import Recipe, find_recipe


def evaluate_model(options: EvaluateOptions) -> int:
    """Measure a model, print the figures and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the model, the manifest or a recording cannot be used.
    """
    messages = open_messages(options)
    if options.split not in SPLITS:
        raise UsageError(f"--split {options.split}: choose {', '.join(SPLITS)}")
    recipe = _check_options(options)

    from framecls.inference.engine import load_engine
    from framecls.output.files import atomic_write
    from framecls.training.metrics import evaluate
    from framecls.training.metrics.timelines import TimelineRules

    engine = load_engine(options.model, **options.loading())
    if isinstance(split := engine.config.card.get("split"), dict) and split.get("final") == "all":
        messages.note("this model learnt from all of its clips: if these are among them, the figures flatter")
    bar = ProgressBar(enabled=options.shows_progress)
    with cache_folder(options.cache) as cache:
        test = evaluate.Test(
            manifest=options.manifest,
            cache=cache,
            split=options.split,
            recipe=recipe,
            length_s=options.length,
            codec=options.codec,
            tier=options.tier,
            annotation=options.annotation,
            split_by=choose_split_by(options.split_by),
            timeline=TimelineRules(options.collar or 0.0, options.skip_overlap) if options.timeline else None,
        )
        with bar.hidden_at_end():
            report = evaluate.evaluate(
                engine, test, lambda done, total: bar.show("measuring", done, total), messages.note
            )
    figures = {"model": engine.config.name, "score": report.score, **report.figures}
    if options.output is not None:
        with atomic_write(options.output, binary=False) as stream:
            stream.write(json.dumps(figures, ensure_ascii=False, indent=2) + "\n")
        messages.note(f"{escape(str(options.output))}: written")
    if options.report is not None and report.review is not None:
        report.review.save_page(options.report)
        messages.note(f"{escape(str(options.report))}: written")
    _print_figures(figures, options.format)
    return DONE


def _check_options(options: EvaluateOptions) -> Recipe | None:
    """Check the options, and return the recipe that they name.

    Raises:
        UsageError: one is wrong, or two do not go together.
    """
    checks.check_report_format(options.format)
    checks.check_seconds("--length", options.length)
    checks.check_machine(options)
    if options.codec is not None and options.codec not in CODECS:
        raise UsageError(f"--codec {options.codec}: choose {', '.join(CODECS)}")
    recipe = load_recipe(options.recipe) if options.recipe is not None else None
    if options.report is not None and options.report.suffix.casefold() not in (".html", ".htm"):
        raise UsageError(f"--report {options.report}: a page is written, name it .html")
    checks.check_overwrites(
        {"-o": options.output, "--report": options.report},
        {
            "the manifest": options.manifest,
            "the model": registry.locate(options.model),
            "the recipe": find_recipe(options.recipe) if options.recipe is not None else None,
        },
    )
    is_frame_task = read_config(registry.locate(options.model)).task == "frame"
    if options.length is not None and is_frame_task:
        raise UsageError(f"--length is for models of framecls identify, and {options.model} gives labels to frames")
    _check_timeline(options, is_frame_task)
    return recipe


def _check_timeline(options: EvaluateOptions, is_frame_task: bool) -> None:
    """Refuse options that do not go with --timeline, or that want it.

    Raises:
        UsageError: there are some.
    """
    checks.check_seconds("--collar", options.collar)
    if not options.timeline:
        if options.collar is not None or options.skip_overlap:
            raise UsageError("--collar and --skip-overlap go with --timeline: add that, or leave them out")
        return
    if (options.length, options.codec, options.recipe) != (None, None, None):
        raise UsageError("--length, --codec and --recipe do not go with --timeline, which takes recordings as they are")
    if options.report is not None:
        raise UsageError("--report shows labels of frames or recordings: leave --timeline out")
    if is_frame_task:
        name = options.model
        raise UsageError(f"--timeline is for models of framecls identify, and {name} gives labels to frames already")


def _print_figures(figures: dict[str, Any], format: str) -> None:
    if format == "json":
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    from framecls.cli.tables import figure_table, summarise_confusion
    from framecls.output.tables import make_console

    if isinstance(confusion := figures.get("confusion"), dict):  # of a timeline it is a share of the time
        figures = {**figures, "confusion": summarise_confusion(confusion)}
    make_console(sys.stdout).print(figure_table(figures))
