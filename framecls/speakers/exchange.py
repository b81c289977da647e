"""Enrolled clips as JSON lines: what `framecls speakers export` writes and `import` reads. No torch here."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from framecls.errors import GalleryError, UsageError
from framecls.speakers.gallery import VECTOR_TYPE, Clip, check_name, is_unit
from framecls.text import encodable

_FIELDS = ("name", "model", "file", "heard", "added", "vector")
_MAX_LINE_BYTES = 2**20


def write_clip(clip: Clip) -> str:
    """Return the line of a clip."""
    vector = base64.b64encode(clip.vector.astype(VECTOR_TYPE).tobytes()).decode("ascii")
    values = (clip.name, clip.model, clip.file, clip.heard_s, clip.added, vector)
    return json.dumps(dict(zip(_FIELDS, values, strict=True)), ensure_ascii=False) + "\n"


def read_clips(file: BinaryIO, name: str, first: Clip | None = None) -> Iterator[Clip]:
    """Yield the clips of an export.

    Args:
        file: where it is read from.
        name: what it is called in messages.
        first: a clip that these must go with: of the same model, with a vector of the same length.

    Raises:
        GalleryError: a line is none of an export, or does not go with those before.
    """
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
        if line.strip():
            clip = _parse_line(f"{name}: line {number}", line)
            _check_model(f"{name}: line {number}", clip, first or clip)
            first = first or clip
            yield clip


def _parse_line(where: str, line: bytes) -> Clip:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise GalleryError(f"{where}: not an export of voices: it is no text") from None
    try:
        return _parse_row(json.loads(text))
    except (ValueError, RecursionError, UsageError) as error:
        raise GalleryError(f"{where} is not one that speakers export writes: {error}") from None


def _check_model(where: str, clip: Clip, first: Clip) -> None:
    if clip.model != first.model:
        raise GalleryError(f"{where}: its voice was heard by the model {clip.model}, those before by {first.model}")
    if clip.vector.size != first.vector.size:
        sizes = f"its vector has {clip.vector.size} numbers, those before it {first.vector.size}"
        raise GalleryError(f"{where}: {sizes}: they cannot be compared")


def _parse_row(row: Any) -> Clip:
    if not isinstance(row, dict) or not row.keys() >= set(_FIELDS):
        raise ValueError(f"it has no {', '.join(_FIELDS)}")
    texts = [row[key] for key in _FIELDS if key != "heard"]
    if not all(isinstance(text, str) for text in texts) or not row["model"]:
        raise ValueError("name, model, file, added and vector are no texts")
    if type(row["heard"]) not in (int, float) or not 0 <= row["heard"] < 1e9:
        raise ValueError("heard is not a time in seconds")
    vector = np.frombuffer(base64.b64decode(row["vector"], validate=True), VECTOR_TYPE).astype(np.float32)
    if not is_unit(vector):
        raise ValueError("its vector is not of unit length")
    # A surrogate, which JSON may hold, cannot be written anywhere: it becomes an escape.
    name, model, file, added = (encodable(row[key]) for key in ("name", "model", "file", "added"))
    return Clip(check_name(name), model, file, float(row["heard"]), vector, added)
