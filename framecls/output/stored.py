"""Convert results to records of a journal and back: a writer gives the same bytes for the result that was read back.

A record may have been forged: every value is checked.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import types
import typing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls import results
from framecls.output.journal import Record
from framecls.results import NONE, Alignment, Identification, Outline, Segment, StringResult, TagResult, TieredResult

_KINDS: dict[str, type[TagResult | Identification]] = {
    kind.__name__: kind for kind in (TagResult, StringResult, Alignment, Identification)
}
_ARRAYS = ("times", "scores", "outline")  # fields that are stored as bytes
_COUNTS = ("n_frames", "n_columns")  # rows of these arrays; None: not stored
_MOST_S = 1e8  # three years
_TOLERANCE = 1e-6  # of times and scores, which were rounded or are means


def to_record(result: TagResult | Identification | TieredResult, *, frames: bool, outline: bool) -> Record:
    """Return a result as a record.

    Args:
        result: of one input.
        frames: store the times and scores of its frames.
        outline: store its outline.
    """
    values: dict[str, Any] = {"kind": type(result).__name__}
    if isinstance(result, TieredResult):
        tiers = [to_record(tier, frames=frames, outline=outline) for tier in result.tiers]
        values |= {"file": result.file, "tiers": [tier.values for tier in tiers]}
        values["sizes"] = [len(tier.arrays) for tier in tiers]
        return Record(values, b"".join(tier.arrays for tier in tiers))
    for field in dataclasses.fields(result):
        if field.name not in _ARRAYS:
            values[field.name] = _to_plain(getattr(result, field.name))
    arrays: list[NDArray[Any]] = []
    if isinstance(result, TagResult):
        values |= {"n_frames": len(result.times) if frames else None, "n_columns": None}
        if frames:
            arrays += [result.times.astype("<f8"), result.scores.astype("<f4")]
        if outline and result.outline is not None:
            shown = result.outline
            values["n_columns"] = len(shown.times)
            arrays += [shown.times.astype("<f8"), shown.means.astype("<f4"), shown.peaks.astype("<f4")]
    return Record(values, b"".join(array.tobytes() for array in arrays))


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return [_to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple | list):
        return [_to_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def from_record(record: Record) -> TagResult | Identification | TieredResult:
    """Return the result that `to_record` was given; without frames, its times are (0,) and its scores (0, label).

    Raises:
        ValueError: the record holds no result, or an impossible one.
    """
    values = dict(record.values)
    if values.get("kind") == TieredResult.__name__:
        return _read_tiers(values, record.arrays)
    kind: Any = _KINDS.get(str(values.pop("kind", "")))
    if kind is None:
        raise ValueError("no kind of result")
    hints = _hints(kind)
    names = _COUNTS if issubclass(kind, TagResult) else ()
    if values.keys() != {*hints, *names}:
        raise ValueError("fields are missing, or there are others")
    counts = [values.pop(name) for name in names]
    fields = {name: _from_plain(hints[name], value) for name, value in values.items()}
    if issubclass(kind, TagResult):
        fields |= _read_arrays(record.arrays, len(fields["labels"]), *counts)
    elif record.arrays:
        raise ValueError("arrays where there are none")
    result: TagResult | Identification = kind(**fields)
    _check(result)
    return result


def _read_tiers(values: dict[str, Any], arrays: bytes) -> TieredResult:
    """Return the result of several models."""
    if values.keys() != {"kind", "file", "tiers", "sizes"} or type(values["file"]) is not str:
        raise ValueError("fields are missing, or there are others")
    stored, sizes = values["tiers"], values["sizes"]
    good = isinstance(stored, list) and isinstance(sizes, list) and 0 < len(stored) == len(sizes)
    if not good or not all(isinstance(tier, dict) for tier in stored):
        raise ValueError("no tiers")
    if not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) != len(arrays):
        raise ValueError("its arrays have another size")
    tiers: list[TagResult] = []
    for tier, end in zip(stored, itertools.accumulate(sizes), strict=True):
        found = from_record(Record(tier, arrays[end - sizes[len(tiers)] : end])) if "tiers" not in tier else None
        if not isinstance(found, TagResult):
            raise ValueError("a tier that is none")
        tiers.append(found)
    if len({tier.model for tier in tiers}) < len(tiers) or len({tier.duration for tier in tiers}) > 1:
        raise ValueError("tiers that do not go together")
    return TieredResult(values["file"], tiers[0].duration, tuple(tiers))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of the fields that are stored as plain values."""
    hints = typing.get_type_hints(kind, vars(results), {"np": np, "NDArray": NDArray})
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.name not in _ARRAYS}


def _from_plain(hint: Any, value: Any) -> Any:
    """Return a plain value as a type of `results`, strictly: a number must be finite, a flag no number."""
    arguments = typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = _hints(hint)
        if not isinstance(value, list) or len(value) != len(hints):
            raise ValueError(f"no {hint.__name__}")
        return hint(*map(_from_plain, hints.values(), value))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError("no list")
        return tuple(_from_plain(arguments[0], item) for item in value)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        return _from_plain(next(a for a in arguments if a is not types.NoneType), value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ValueError(f"no {getattr(hint, '__name__', hint)}")
    return value


def _read_arrays(data: bytes, n_labels: int, n_frames: Any, n_columns: Any) -> dict[str, Any]:
    """Return the fields that are stored as bytes; never allocate more than these."""
    for count in (n_frames, n_columns):
        if count is not None and (type(count) is not int or not 0 <= count <= len(data) // 8):
            raise ValueError("no count of rows")
    widths = [] if n_frames is None else [(n_frames, "<f8", 1), (n_frames, "<f4", n_labels)]
    widths += [] if n_columns is None else [(n_columns, "<f8", 1), *[(n_columns, "<f4", n_labels)] * 2]
    ends = list(itertools.accumulate(rows * width * int(kind[2]) for rows, kind, width in widths))
    if (ends[-1] if ends else 0) != len(data):
        raise ValueError("its arrays have another size")
    made: list[NDArray[Any]] = []
    for (rows, kind, width), end in zip(widths, ends, strict=True):
        size = rows * width
        numbers = np.frombuffer(data, kind, size, end - size * int(kind[2]))
        if not np.isfinite(numbers).all() or (numbers < 0).any():
            raise ValueError("numbers that are not finite, or negative")
        made.append(numbers.reshape((rows,) if kind == "<f8" else (rows, width)))
    frames = made[:2] if n_frames is not None else [np.zeros(0), np.zeros((0, n_labels), np.float32)]
    outline = None if n_columns is None else Outline(*made[-3:])
    return {"times": frames[0], "scores": frames[1], "outline": outline}


def _check(result: TagResult | Identification) -> None:
    """Raise a ValueError for an impossible result."""
    good = 0 <= result.duration <= _MOST_S
    scores: list[float | None]
    if isinstance(result, Identification):
        scores = [result.score, *(candidate.score for candidate in result.top)]
    else:
        scores = [segment.score for segment in result.segments]
        good = good and 0 < result.hop <= _MOST_S and _are_in_order(result.segments, result.duration)
        if isinstance(result, Alignment):
            scores += [word.score for word in result.words]
            good = good and _are_in_order(result.words, result.duration)
        good = good and len(set(result.labels)) == len(result.labels)
        good = good and {segment.label for segment in result.segments} <= {NONE, *result.labels}
        shown = [result.scores] if result.outline is None else [result.outline.means, result.outline.peaks]
        good = good and all((array <= 1 + _TOLERANCE).all() for array in shown)
        for times in (result.times, *([result.outline.times] if result.outline is not None else [])):
            good = good and bool((np.diff(times) >= 0).all() and (times <= result.duration + 2 * result.hop).all())
    if result.audio is not None:
        good = good and result.audio.sample_rate > 0 and result.audio.channels > 0
    if not good or not all(score is None or -_TOLERANCE <= score <= 1 + _TOLERANCE for score in scores):
        raise ValueError("impossible times, scores or labels")


def _are_in_order(segments: tuple[Segment, ...], duration_s: float) -> bool:
    starts = [segment.start for segment in segments]
    return starts == sorted(starts) and all(
        -_TOLERANCE <= s.start <= s.end <= duration_s + _TOLERANCE for s in segments
    )
