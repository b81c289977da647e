"""`framecls.train`: labelled recordings as a path, a list or a data frame in, a model file and its report out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from framecls.checkpoints import registry
from framecls.errors import UsageError
from framecls.inference.engine import pick_device
from framecls.report import TrainingReport
from framecls.training.choices import SplitBy
from framecls.training.data.labels.listing import FIELDS
from framecls.training.head.run import Listener, train_head
from framecls.training.job import Job, prepare
from framecls.training.loop import train
from framecls.training.recipe import (
    Recipe,
    change_recipe,
    check_head_settings,
    find_recipe,
    head_settings,
    preset_settings,
    read_recipe,
)

Task = Literal["tag", "identify"]
Progress = Callable[[str, float, float], None]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The options of `framecls.train`, which are those of the command.

    `settings` are such as "optim.seed=1"; `progress` is told what is being done, how much of it is, and how much there
    is.
    """

    preset: str | None = None
    recipe: str | Path | None = None
    settings: tuple[str, ...] | list[str] = ()
    precision: float | None = None
    exclusive: bool = False
    init: str | Path | None = None
    tier: str | None = None
    annotation: str | None = None
    split_by: SplitBy | None = None
    device: str = "auto"
    progress: Progress | None = None


def train_model(data: Any, task: Task, output: Path, options: TrainingOptions) -> TrainingReport | None:
    """Train a model and write it to `output`.

    Args:
        data: a manifest or folder; rows (mappings with the fields of a manifest, or pairs of file and label); or a
            pandas data frame of such rows.
        task: what the model is for.
        output: the model file.
        options: as in `TrainingOptions`.

    Returns:
        the report; None of a whole network, which a recipe trains.

    Raises:
        UsageError: there is no such task.
        FrameclsError: the data or the settings cannot be used.
    """
    recipe = choose_recipe(task, options)
    job = Job(
        manifest=_as_manifest(data, output),
        output=output,
        recipe=recipe,
        init=registry.locate(options.init) if options.init else None,
        tier=options.tier,
        annotation=options.annotation,
        split_by=options.split_by,
        device=str(pick_device(options.device)),
    )
    show = options.progress or (lambda what, done, total: None)
    if recipe.head.enabled:
        return train_head(job, Listener(show))
    train(
        job,
        prepare(job, lambda done, total: show("decoding", done, total)),
        lambda at: show("training", at.step, at.steps),
    )
    return None


def choose_recipe(task: str, options: TrainingOptions) -> Recipe:
    """Return the recipe that options ask for.

    Raises:
        UsageError: there is no such task.
        ConfigError: there is no such recipe, preset or setting, or a head has no use for a setting.
    """
    if task not in ("tag", "identify"):
        raise UsageError(f"task {task!r}: tag or identify")
    is_quick = options.recipe is None and options.init is None
    recipe = read_recipe(find_recipe(f"quick_{task}" if is_quick else str(options.recipe or task)))
    preset = preset_settings(options.preset) if options.preset else ()
    changes = head_settings(recipe, options.precision, options.exclusive)
    recipe = change_recipe(recipe, [*preset, *changes, *options.settings])
    check_head_settings(recipe, options.settings)
    return recipe


def _as_manifest(data: Any, output: Path) -> Path:
    """Return the path of a manifest; rows are written to one beside the model."""
    if isinstance(data, str | os.PathLike):
        return Path(data)
    rows = [_as_row(row) for row in (data.to_dict("records") if hasattr(data, "to_dict") else _iterate(data))]
    folder = output.with_name(f"{output.name}.training")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
    return path


def _iterate(data: Any) -> Iterable[Any]:
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise UsageError("the data are a path, a list of rows or of pairs (file, label), or a data frame")
    return data


def _as_row(row: Any) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        try:
            file, label = row
        except (TypeError, ValueError):
            raise UsageError("a row is a mapping with file and label, or a pair of them") from None
        row = {"file": file, "label": label}
    # NaN, by which a data frame says that there is nothing, is not equal to itself.
    kept = {str(key): value for key, value in row.items() if key in FIELDS and value is not None and value == value}
    return kept | {"file": os.path.abspath(os.fspath(kept["file"]))} if "file" in kept else kept
