"""`framecls check`: whether files of framecls are damaged, and what they contain."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from framecls.checkpoints.file import read_config
from framecls.cli import checks
from framecls.cli.messages import open_messages
from framecls.cli.options import CheckOptions
from framecls.errors import FrameclsError
from framecls.output.destination import check_folder_record, key_of_output
from framecls.output.journal import JOURNAL, Record, open_journal
from framecls.output.stored import from_record
from framecls.speakers.gallery import GALLERY, open_gallery
from framecls.statefile import check_place, read_header, read_ids
from framecls.text import escape

_SAFETENSORS_BYTES = 9  # a length, and the brace that a header begins with


@dataclass(frozen=True)
class Contents:
    """The contents of a file that framecls wrote."""

    kind: str
    version: int | None = None  # of the format
    model: str = ""  # whose results, voices or weights; several by commas
    records: int = 0  # results, clips or arrays
    invalid: int = 0  # of the records: damaged, or not as framecls writes them
    problem: str = ""  # what is wrong with the file as a whole

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problem and not self.invalid


def check_files(options: CheckOptions) -> int:
    """Print a row for each file and return the exit status; a damaged file is a failure.

    Raises:
        UsageError: there is no such format.
    """
    checks.check_report_format(options.format)
    messages = open_messages(options)
    rows: list[tuple[Path, Contents]] = []
    for path in options.files:
        try:
            contents = inspect(path)
        except FrameclsError as error:
            contents = Contents("", problem=str(error).removeprefix(f"{path}: "))
        rows.append((path, contents))
        if contents.problem:
            messages.input_failed(str(path), FrameclsError(contents.problem))
        elif contents.invalid:
            said = f"{contents.invalid:,} of {contents.records:,} records are damaged"
            messages.input_failed(str(path), FrameclsError(said))
    if options.format == "json":
        found = [{"file": str(p), **dataclasses.asdict(c), "whole": c.whole} for p, c in rows]
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _print(rows)
    return messages.status


def _print(rows: list[tuple[Path, Contents]]) -> None:
    from rich.text import Text

    from framecls.output.tables import make_console, make_table

    texts, numbers = ("File", "Kind", "Format", "Model"), ("Records", "Invalid", "Whole")
    table = make_table(*((title, "fold") for title in texts), *((title, "right") for title in numbers))
    for path, contents in rows:
        version = "" if contents.version is None else str(contents.version)
        counts = (f"{contents.records:,}", f"{contents.invalid:,}") if contents.kind else ("", "")
        cells = (
            str(path),
            contents.kind or "none",
            version,
            contents.model,
            *counts,
            "yes" if contents.whole else "no",
        )
        table.add_row(*(Text(escape(cell)) for cell in cells))
    make_console(sys.stdout).print(table)


def inspect(path: Path) -> Contents:
    """Return the contents of a file that framecls wrote.

    Raises:
        FrameclsError: it is none that framecls writes, or cannot be read.
    """
    header = read_header(path)
    if not header:
        raise FrameclsError(f"{path}: this file is empty")
    application_id, _ = read_ids(header)
    if application_id == GALLERY.application_id:
        return _inspect_gallery(path)
    if application_id == JOURNAL.application_id:
        return _inspect_journal(path)
    if len(header) >= _SAFETENSORS_BYTES and header[8:9] == b"{":
        return _inspect_weights(path)
    raise FrameclsError(f"{path}: not a file of framecls: neither a journal nor a gallery, a model or a training state")


def _inspect_journal(path: Path) -> Contents:
    check_place(path, JOURNAL)
    models: set[str] = set()
    n_records = n_invalid = 0
    with open_journal(path, exclusive=False, create=False) as journal:
        problem = journal.find_damage()
        for key, record in journal.records():
            n_records += 1
            try:
                models.add(_model_of(key, record))
            except ValueError:
                n_invalid += 1
    return Contents("journal", JOURNAL.version, ", ".join(sorted(models)), n_records, n_invalid, problem)


def _model_of(key: str, record: Record | None) -> str:
    """Return the model that gave a result.

    Raises:
        ValueError: the record is damaged, or such as framecls does not write.
    """
    if record is None:
        raise ValueError("its digest is another")
    if "output" not in record.values:
        return from_record(record).model
    check_folder_record(record)
    if key != key_of_output(record.values["output"]):
        raise ValueError("it is of another file")
    return str(record.values["model"])


def _inspect_gallery(path: Path) -> Contents:
    with open_gallery(path) as gallery:
        problem = gallery.find_damage()
        clips, damaged = gallery.read()
        models = ", ".join(gallery.models())
    return Contents("gallery", GALLERY.version, models, len(clips) + len(damaged), len(damaged), problem)


def _inspect_weights(path: Path) -> Contents:
    """Return what a safetensors file holds; its header says where each array is, and is checked against its size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            n_arrays = len(file.keys())
    except (SafetensorError, OSError) as error:
        raise FrameclsError(f"{path}: damaged or cut short: {error}") from error
    if {"facts", "step"} <= metadata.keys():
        return Contents("training state", records=n_arrays)
    config = read_config(path)
    return Contents("model", int(metadata["framecls_format"]), config.name, n_arrays)
