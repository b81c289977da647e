"""`framecls explain`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from framecls.checkpoints import registry
from framecls.cli import checks
from framecls.cli.messages import DONE, open_messages
from framecls.cli.options import ExplainOptions
from framecls.cli.progress import ProgressBar
from framecls.config import EACH
from framecls.errors import AudioError, UsageError
from framecls.text import escape

if TYPE_CHECKING:
    from framecls.results import Explanation

_PICTURES = (".png", ".svg", ".html")


def explain_recording(options: ExplainOptions) -> int:
    """Explain one answer of a model, and return the exit status.

    Raises:
        UsageError: what is wrong with the options.
        FrameclsError: the model or the recording cannot be used.
    """
    messages = open_messages(options)
    checks.check_report_format(options.format)
    checks.check_machine(options)
    reading = checks.parse_reading(options)
    if options.channel == EACH:
        raise UsageError("--channel each: name the one that is to be explained")
    _check_what(options)
    if options.recording == "-":
        raise UsageError("explain reads a recording more than once, which standard input cannot be: give a file")
    if options.output is not None and options.output.suffix.casefold() not in _PICTURES:
        raise UsageError(f"-o {options.output}: a picture is wanted, {', '.join(_PICTURES)}")
    checks.check_overwrites(
        {"-o": options.output}, {"the recording": Path(options.recording), "the model": registry.locate(options.model)}
    )
    if options.output is not None and options.output.suffix.casefold() != ".html":
        from framecls.output.plots import require_matplotlib

        require_matplotlib(f"-o {options.output}")

    from framecls.model import load

    model = load(options.model, **options.loading())
    bar = ProgressBar(enabled=options.shows_progress)
    try:
        with bar.hidden_at_end():
            explanation = model.explain(
                options.recording,
                options.at,
                segment=options.segment,
                progress=lambda done, total: bar.show("hiding frames", done, total),
                **reading,
            )
    except AudioError as error:
        messages.input_failed(options.recording, error)
        return messages.status
    if options.output is not None:
        _draw(explanation, options.output)
        messages.note(f"{escape(str(options.output))}: written")
    _show(explanation, options.format)
    return DONE


def _check_what(options: ExplainOptions) -> None:
    """Check what is to be explained against what the model does."""
    _, config = checks.find_model(options.model)
    checks.check_seconds("--at", options.at)
    checks.check_count("--segment", options.segment)
    if config.task == "pooled" and options.segment is not None:
        raise UsageError(f"--segment: {config.name} gives one label a recording; --at chooses the window")
    if config.task == "frame" and (options.at is None) == (options.segment is None):
        raise UsageError("say what to explain: --at S or --segment N, one of the two")


def _draw(explanation: Explanation, path: Path) -> None:
    from framecls.output.files import atomic_write

    kind = path.suffix.casefold()
    with atomic_write(path, binary=kind != ".html") as stream:
        if kind == ".html":
            from framecls.output.explanation import explanation_page

            stream.write(explanation_page(explanation))
        else:
            from framecls.output.plots import explanation_figure, save

            save(explanation_figure(explanation), stream, kind[1:])


def _show(explanation: Explanation, format: str) -> None:
    if format == "json":
        from framecls.output.explanation import as_record

        sys.stdout.write(json.dumps(as_record(explanation), ensure_ascii=False) + "\n")
        return
    from framecls.cli.tables import ExplanationStrips
    from framecls.output.tables import make_console

    make_console(sys.stdout).print(ExplanationStrips(explanation))
