"""Manifests: JSON lines or CSV, one labelled span a row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from framecls.errors import ManifestError
from framecls.training.data.labels.arrays import frame_label_rows, read_frame_labels
from framecls.training.data.labels.rows import MAX_SECONDS, Found, LabelSettings, Row, read_text

FIELDS = ("file", "start", "end", "label", "speaker", "source", "split", "phones", "alignment", "soft", "frame_labels")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_MAX_NAMED = 8  # fields in a note
_MAX_LINE = 2**20  # characters; a row of a long recording with all its phones has fewer


def read_listing(path: Path, reading: LabelSettings) -> Found:
    """Read a manifest.

    A row has `file` (relative to the manifest's folder, or absolute) and `label`, and may have `start` and `end`
    (seconds), `speaker`, `source`, `split` ("train" or "dev"), `phones` (symbols with spaces between) and, in JSON,
    `alignment` (a list of [phone, second at which it ends], "" for a pause) and `soft` (label to a teacher's
    probability). A row of precomputed features may have `frame_labels`, a file with a label for each vector, in
    place of `label`.

    Raises:
        ManifestError: it cannot be read, or is no manifest.
    """
    found = Found("a table" if path.suffix.lower() in _SEPARATORS else "JSON lines")
    others: dict[str, None] = {}  # an ordered set
    for where, row in _read_rows(path):
        others |= dict.fromkeys(key for key in row if key and key not in FIELDS)
        try:
            for parsed in _parse_row(row, path.parent, where, reading):
                found.add(parsed)
        except ManifestError as error:
            found.problems.append(f"{where}: {error}")
    if others:
        names = ", ".join(list(others)[:_MAX_NAMED]) + (" …" if len(others) > _MAX_NAMED else "")
        found.notes.append(f"not read: {names} (fields that are read: {', '.join(FIELDS)})")
    return found


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path)
    separator = _SEPARATORS.get(path.suffix.lower())
    could_be_array = separator is None and len(text) <= _MAX_LINE and text.lstrip().startswith("[")
    if could_be_array and _is_list_of_objects(_parse(text)):
        raise ManifestError("not a manifest: it is one JSON array; write each of its objects on a line of its own")
    all_lines = text.splitlines()
    for number, line in enumerate(all_lines, start=1):
        if len(line) > _MAX_LINE:
            raise ManifestError(f"not a manifest: line {number} has {len(line):,} characters")
    if separator is not None:
        yield from _read_table(all_lines, separator)
        return
    lines = [(number, line) for number, line in enumerate(all_lines, start=1) if line.strip()]
    rows = [(number, _parse_object(line)) for number, line in lines]
    n_other = sum(row is None for _, row in rows)
    if len(rows) > 1 and n_other > len(rows) / 2:
        raise ManifestError(
            f"not a manifest: {n_other} of {len(rows)} lines are no JSON object (a table needs the suffix .csv "
            "or .tsv, a folder of recordings is given by its own name)"
        )
    for number, row in rows:
        yield f"line {number}", row or {}


def _read_table(lines: list[str], separator: str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = csv.DictReader(lines, delimiter=separator)
    names = [name or "" for name in rows.fieldnames or ()]
    if names and "file" not in names:
        what = f"it has {', '.join(names)[:100]}"
        if len(names) == 1 and ";" in names[0]:
            what += "; between columns there must be a " + ("comma, in numbers a point" if separator == "," else "tab")
        raise ManifestError(f"its first line must name the columns, such as file, start, end, label: {what}")
    try:
        for row in rows:
            yield f"line {rows.line_num}", {key: value for key, value in row.items() if value not in ("", None)}
    except csv.Error as error:
        raise ManifestError(f"not a table: {error}") from None


def _parse(text: str) -> Any:
    """Return the JSON value of a text, None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _parse_object(line: str) -> dict[str, Any] | None:
    """Return the object on a line, None if there is none."""
    row = _parse(line)
    return row if isinstance(row, dict) else None


def _parse_row(row: dict[str, Any], folder: Path, where: str, reading: LabelSettings) -> list[Row]:
    # Labels and speakers may be numbers, 0 included.
    named = {key: str(row[key]) for key in ("label", "speaker", "source") if type(row.get(key)) is int}
    row = row | named
    has_frames = isinstance(row.get("frame_labels"), str)
    for field in ("file",) if has_frames else ("file", "label"):
        if not isinstance(row.get(field), str) or not row[field]:
            raise ManifestError(f"no {field} in this row (the fields are {', '.join(FIELDS)})")
    start_s, end_s = _seconds(row, "start") or 0.0, _seconds(row, "end")
    if end_s is not None and end_s <= start_s:
        raise ManifestError(f"end {end_s} is not after start {start_s}")
    split = row.get("split")
    if split not in (None, "train", "dev"):
        raise ManifestError(f"split {split!r} is neither train nor dev; a test set is a manifest of its own")
    parsed = Row(
        file=folder / row["file"],
        label=str(row.get("label") or ""),
        where=where,
        name=row["file"],
        start_s=start_s,
        end_s=end_s,
        speaker=str(row.get("speaker") or ""),
        source=str(row.get("source") or ""),
        split=split,
        phones=tuple(str(row.get("phones") or "").split()),
        alignment=_parse_alignment(row.get("alignment")),
        soft=_parse_soft(row.get("soft")),
    )
    if not has_frames:
        return [parsed]
    return list(frame_label_rows(parsed, read_frame_labels(folder / row["frame_labels"]), reading.vectors_per_s))


def _parse_soft(value: Any) -> tuple[tuple[str, float], ...]:
    try:
        soft = tuple((str(label), float(share)) for label, share in (value or {}).items())
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ManifestError("soft is not a table of label to probability") from None
    if soft and not (all(share >= 0 for _, share in soft) and abs(sum(share for _, share in soft) - 1) < 0.05):
        raise ManifestError("soft: the probabilities do not sum to 1")
    return soft


def _parse_alignment(value: Any) -> tuple[tuple[str, float], ...]:
    try:
        alignment = tuple((str(phone), float(end)) for phone, end in value or ())
    except (TypeError, ValueError, OverflowError):
        raise ManifestError("alignment is not a list of [phone, seconds]") from None
    if not all(0 <= end < MAX_SECONDS for _, end in alignment):
        raise ManifestError("alignment: a phone does not end at a time in seconds")
    if any(before[1] > after[1] for before, after in pairwise(alignment)):
        raise ManifestError("alignment: the phones are not in order of time")
    return alignment


def _seconds(row: dict[str, Any], field: str) -> float | None:
    value = row.get(field)
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < MAX_SECONDS:
        raise ManifestError(f"{field} {value!r} is not a time in seconds")
    return seconds
