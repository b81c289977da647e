"""What a run would learn from, looked through to the last sample, and what stands in its way; nothing is trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from framecls.errors import ManifestError
from framecls.training.data.clips import check_kind, late_spans, measure_lengths
from framecls.training.data.manifest import (
    Parts,
    Recording,
    find_labels,
    find_unknown_labels,
    load_manifest,
)
from framecls.training.examples.voices import find_dev_fault
from framecls.training.job import Job, find_label_fault, given_features, reading, split
from framecls.training.remarks import remark


@dataclass(frozen=True)
class Survey:
    """What is there."""

    figures: dict[str, Any]  # plain numbers and words, for tables and JSON
    problems: list[str]  # rows that cannot be used, a line each


def survey(job: Job, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Read every row and every recording of a job's manifest, and split them as a run would.

    Args:
        job: manifest and recipe.
        progress: told the number of files read, and of all.

    Raises:
        ManifestError: the manifest cannot be read at all.
    """
    manifest = load_manifest(job.manifest, reading(job))
    recordings, problems = manifest.recordings, list(manifest.problems)
    check_kind(recordings)
    # Only whether there are arrays matters: how long their vectors are, decoding will say.
    features = given_features(job.recipe, int(any(recording.is_array for recording in recordings)))
    lengths_s, unreadable = measure_lengths(recordings, features.sample_rate, progress)
    problems += unreadable
    whole = [recording for recording in recordings if recording.audio in lengths_s]
    problems += late_spans(whole, lengths_s)
    if job.recipe.labels:
        problems += [
            f"{line}: none of {', '.join(job.recipe.labels)}" for line in find_unknown_labels(whole, job.recipe.labels)
        ]
    if not (problems or manifest.recordings):
        manifest.require()
    if not whole:
        raise ManifestError(f"{job.manifest}: no row of it can be used", problems)
    parts = split(job, whole)
    labels = job.recipe.answers(find_labels(whole))
    length_s = partial(_length_s, lengths_s=lengths_s)
    faults = [parts.find_fault(), find_label_fault(job.recipe, labels)]
    if job.recipe.embedding and parts.dev:
        faults.append(find_dev_fault(parts.dev, length_s, job.recipe.voices.dev_length_s))
    problems += [fault for fault in faults if fault]
    notes = manifest.notes + remark(job.recipe, labels, parts.train, parts.dev, length_s)
    return Survey(
        {
            "read as": manifest.kind,
            "rows": manifest.n_rows,
            "files": len({recording.audio for recording in whole}),
            "seconds": round(sum(lengths_s.values()), 1),
            "speakers": _describe_speakers(whole, parts),
            "split": parts.how,
            "splits": {name: _count(side, lengths_s) for name, side in (("train", parts.train), ("dev", parts.dev))},
            "labels": _by_label(parts, lengths_s),
            **({"sources": _by_source(parts, lengths_s)} if any(recording.source for recording in whole) else {}),
            **({"notes": notes} if notes else {}),
        },
        problems,
    )


def _describe_speakers(recordings: Iterable[Recording], parts: Parts) -> str:
    named = {name for recording in recordings if recording.is_named for name in (recording.speaker, *recording.others)}
    if not named:
        return "none are named"
    both = f", {len(parts.shared)} of them on both sides of the split" if parts.shared else ""
    return f"{len(named)}{both}"


def _length_s(recording: Recording, lengths_s: Mapping[Path, float]) -> float:
    if recording.section is None:
        return lengths_s[recording.audio]
    length_s, end_s = lengths_s[recording.audio], recording.section.end_s
    return max(0.0, (length_s if end_s is None else min(end_s, length_s)) - recording.section.start_s)


def _count(recordings: Iterable[Recording], lengths_s: Mapping[Path, float]) -> dict[str, Any]:
    kept = list(recordings)
    seconds = sum(_length_s(recording, lengths_s) for recording in kept)
    return {"recordings": len(kept), "seconds": round(seconds, 1)}


def _by_label(parts: Parts, lengths_s: Mapping[Path, float]) -> dict[str, dict[str, Any]]:
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for side, recordings in (("train", parts.train), ("dev", parts.dev)):
        for recording in recordings:
            length_s = _length_s(recording, lengths_s)
            for span in recording.spans:
                end_s = length_s if span.end_s is None else min(span.end_s, length_s)
                counts[side, span.label] += 1
                seconds[side, span.label] += max(0.0, end_s - span.start_s)
    return {
        label: {
            "train rows": counts["train", label],
            "train seconds": round(seconds["train", label], 1),
            "dev rows": counts["dev", label],
            "dev seconds": round(seconds["dev", label], 1),
        }
        for label in sorted({label for _, label in counts})
    }


def _by_source(parts: Parts, lengths_s: Mapping[Path, float]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for side, recordings in (("train", parts.train), ("dev", parts.dev)):
        for source in sorted({recording.source for recording in recordings}):
            counted = _count((r for r in recordings if r.source == source), lengths_s)
            rows.setdefault(source, {}).update({f"{side} {key}": value for key, value in counted.items()})
    empty = {f"{side} {key}": 0 for side in ("train", "dev") for key in ("recordings", "seconds")}
    return {source or "(none)": empty | row for source, row in sorted(rows.items())}
