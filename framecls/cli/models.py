"""`framecls models`: what is installed, and each model's card."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.cli.messages import DONE, open_messages
from framecls.cli.options import ModelsOptions
from framecls.cli.tables import show_figure
from framecls.config import ModelConfig
from framecls.errors import ModelError
from framecls.output.tables import make_console, make_table
from framecls.text import escape

_TRAINED = "trained with"  # the key "command" of a card, as "command" is shown for how to use the model
_ENROLLED = "people who are enrolled (framecls enroll)"
# The commands that take a model, by its task: what answers for a recording answers for parts of it, too.
_COMMANDS = {"frame": ("tag",), "pooled": ("identify", "tag")}
_LABELS_FROM = 70  # columns of a terminal that has room for them
_MANY = 12  # more labels than this are abbreviated in the list


def show_models(options: ModelsOptions) -> int:
    """Print the card of one model, or a table of those that are shipped, and return the exit status.

    Raises:
        UsageError: no model has that name.
        ModelError: there is no such file, or it is no model.
    """
    return _list_models(options) if options.model is None else _show_model(options, options.model)


def _list_models(options: ModelsOptions) -> int:
    """Print a table of the shipped models and report those that cannot be read."""
    messages = open_messages(options)
    console = make_console(sys.stdout)
    has_labels = console.width >= _LABELS_FROM  # a card has them, too
    labels: tuple[tuple[str, Literal["fold"]], ...] = (("Labels", "fold"),) if has_labels else ()
    table = make_table(("Name", "left"), ("Command", "fold"), *labels, ("Size", "right"), ("Date", "left"))
    for name in registry.names():
        path = registry.locate(name)
        try:
            config = read_config(path)
        except ModelError as error:
            messages.input_failed(name, error)
            continue
        row = [", ".join(_COMMANDS[config.task]), _summarise(config), _size(path), str(config.card.get("date", ""))]
        if not has_labels:
            del row[1]
        table.add_row(Text(name, style="bold"), *(Text(escape(cell)) for cell in row))
    if table.row_count:
        console.print(table)
    else:
        messages.note("no models are installed; give -m the path of a model file")
    return messages.status


def _show_model(options: ModelsOptions, model: str) -> int:
    open_messages(options)
    path = registry.locate(model)
    config = read_config(path)
    make_console(sys.stdout).print(
        Group(Text(escape(config.name), style="bold"), Padding(_card(path, config), (0, 0, 0, 2), expand=False))
    )
    return DONE


def _card(path: Path, config: ModelConfig) -> Table:
    overlap = " (several may hold at once)" if config.overlapping else ""
    trusted = config.decision.candidates
    # The card follows what is known from the settings, whatever keys it has.
    card = {_TRAINED if key == "command" else key: value for key, value in config.card.items() if key != "description"}
    rows: list[tuple[str, Any]] = [
        ("description", config.card.get("description", "")),
        ("command", ", ".join(f"framecls {name}" for name in _COMMANDS[config.task])),
        ("file", str(path)),
        ("size", _size(path)),
        ("labels", f"{len(config.labels)}: {', '.join(config.labels)}{overlap}" if config.labels else _ENROLLED),
        ("answers with", f"{len(trusted)}: {', '.join(trusted)}" if trusted else ""),
        ("frames", f"one every {config.hop_s * 1000:g} ms" if config.task == "frame" else ""),
        ("network", _network(config)),
        ("thresholds", ", ".join(f"{label} {value:g}" for label, value in config.decision.thresholds.items())),
        *card.items(),
    ]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", max_width=24, overflow="fold")
    table.add_column(overflow="fold")
    for key, value in rows:
        if value not in ("", None, {}, []):
            table.add_row(Text(escape(key)), _show(value))
    return table


def _network(config: ModelConfig) -> str:
    encoder, features = config.encoder, config.features
    kind = f"{encoder.kind} ({encoder.score})" if encoder.kind == "attention" else encoder.kind
    layers = f"{encoder.n_layers} layer{'s' if encoder.n_layers != 1 else ''} of {encoder.dim}"
    heard = {"precomputed": "features computed elsewhere", "pretrained": f"{features.pretrained.source} features"}
    return f"{kind}, {layers}, on {features.dim} {heard.get(features.kind, f'{features.kind} features')}"


def _show(value: Any) -> RenderableType:
    """Format a value of a card: lists one item a line, dicts as tables."""
    if isinstance(value, list):
        return Text("\n".join(escape(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for v in value))
    if isinstance(value, str):
        return Text("\n".join(map(escape, value.splitlines())))
    return show_figure(value)


def _summarise(config: ModelConfig) -> str:
    labels = config.labels or (_ENROLLED,)
    return ", ".join(labels) if len(labels) <= _MANY else f"{len(labels)}: {', '.join(labels[: _MANY - 2])}, …"


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"
