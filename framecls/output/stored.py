"""Results as JSON objects that lose nothing: what a writer makes of a result read back is the same, byte for byte."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.results import AudioInfo, Candidate, Identification, Outline, Segment, StringResult, TagResult


def to_stored(result: TagResult | Identification, *, frames: bool) -> dict[str, Any]:
    """Return a result as plain data; the times and scores of frames only where they are asked for."""
    audio = [result.audio.sample_rate, result.audio.channels] if result.audio is not None else None
    stored = {"file": result.file, "model": result.model, "duration": float(result.duration), "audio": audio}
    if isinstance(result, Identification):
        top = [[c.label, float(c.score)] for c in result.top]
        score = float(result.score) if result.score is not None else None
        return stored | {"label": result.label, "score": score, "top": top, "reason": result.reason}
    segments = [[float(s.start), float(s.end), s.label, float(s.score)] for s in result.segments]
    stored |= {"hop": float(result.hop), "labels": list(result.labels), "overlapping": result.overlapping}
    stored |= {"segments": segments, "string": isinstance(result, StringResult)}
    if result.outline is not None:
        outline = result.outline
        stored["outline"] = [_pack(array) for array in (outline.times, outline.means, outline.peaks)]
    if frames:
        stored |= {"times": _pack(result.times), "scores": _pack(result.scores)}
    return stored


def from_stored(stored: dict[str, Any]) -> TagResult | Identification:
    """Return the result that `to_stored` was given; without frames, its times are (0,) and its scores (0, label)."""
    audio = AudioInfo(*stored["audio"]) if stored["audio"] is not None else None
    if "segments" not in stored:
        return Identification(
            file=stored["file"],
            model=stored["model"],
            duration=stored["duration"],
            label=stored["label"],
            score=stored["score"],
            top=tuple(Candidate(*candidate) for candidate in stored["top"]),
            audio=audio,
            reason=stored["reason"],
        )
    n_labels = len(stored["labels"])
    kind = StringResult if stored["string"] else TagResult
    return kind(
        file=stored["file"],
        model=stored["model"],
        duration=stored["duration"],
        hop=stored["hop"],
        labels=tuple(stored["labels"]),
        segments=tuple(Segment(*segment) for segment in stored["segments"]),
        times=_unpack(stored["times"]) if "times" in stored else np.zeros(0),
        scores=_unpack(stored["scores"]) if "scores" in stored else np.zeros((0, n_labels), np.float32),
        overlapping=stored["overlapping"],
        audio=audio,
        outline=Outline(*map(_unpack, stored["outline"])) if "outline" in stored else None,
    )


def _pack(array: NDArray[Any]) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _unpack(packed: dict[str, Any]) -> NDArray[Any]:
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, np.dtype(packed["dtype"])).reshape(packed["shape"])
